"""What people read is true and readable: paths that are named exist, links lead somewhere, lines and entries are short.

The reports' `report.md` are made by `memstore compare`, with tables as wide as they need, and are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("docs", "benchmarks", "builders", "memstore", "recipes", "reports")
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (*ROOT.glob("*.md"), *(p for folder in FOLDERS for p in ROOT.glob(f"{folder}/**/*.md")))
    if path.name != "report.md"
)
CODE = ("memstore", "server", "builders", "clients", "benchmarks")
ELSEWHERE = {"PIP_EXTRA_INDEX_URL"}  # names of other programs
LONGEST_LINE = 120
SUFFIXES = "py|md|toml|sh|yml|json|jsonl"
MADE = re.compile(
    # by the commands shown
    r"^(store|new-store|my-store|cache|made-cache|asker-cache|asked|labelled|run|my-model|generations|segments)/"
    r"|^(config|tokenizer|calibration|report)\.json$|jsonl$|^(run|compare|server)\.\w+$|^(gold|predictions|out|gpu)\b"
    r"|^dense/$|^wrong\.md$"
)
"""Names of files that commands make or are given: examples, and what lies in a store or a checkpoint."""


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def sections(page: str) -> Iterator[str]:
    """The page's parts, each from a heading of the second level to the next; fenced code stays in."""
    return iter(re.split(r"^## ", text_of(page), flags=re.MULTILINE))


def named_paths(section: str) -> set[str]:
    """Words that look like a path of this repository: with a folder, or with a suffix of its files."""
    words = re.findall(r"[\w.@*<>{}$~/-]+", re.sub(r"https?://\S+", " ", section))
    return {
        word.rstrip(".")
        for word in words
        if re.fullmatch(rf"\.?[\w-]+(/[\w.-]+)*(/|\.({SUFFIXES}))", word.rstrip(".")) and not MADE.search(word)
    }


def test_the_pages_are_found() -> None:
    assert {"README.md", "ARCHITECTURE.md", "DECISIONS.md", "docs/serving.md", "recipes/default/LOG.md"} <= set(PAGES)


@pytest.mark.parametrize(
    "page", ["ARCHITECTURE.md", "CONTRIBUTING.md", "DECISIONS.md", "README.md", "docs/training.md"]
)
def test_every_path_that_is_named_exists(page: str) -> None:
    """A name without a folder is of a folder that its section names, or of the root."""
    missing = []
    for section in sections(page):
        paths = named_paths(section)
        homes = {ROOT, ROOT / "memstore"}
        homes |= {ROOT / p if p.endswith("/") else (ROOT / p).parent for p in paths if "/" in p}
        missing += [p for p in sorted(paths) if not any((home / p).exists() for home in homes)]
    assert missing == []


def test_a_path_that_does_not_exist_is_seen() -> None:
    assert named_paths("`memstore/gone.py`, in `memstore/` (`here.py`); e.g. 4 + 2. Of `run.toml`.") == {
        "memstore/gone.py", "memstore/", "here.py"
    }  # fmt: skip


@pytest.mark.parametrize("page", ["ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_every_name_that_is_written_as_code_is_in_the_code(page: str) -> None:
    sources = [path for folder in CODE for path in ROOT.glob(f"{folder}/**/*.py")]
    code = "\n".join(p.read_text(encoding="utf-8") for p in [*sources, ROOT / "pyproject.toml", ROOT / "Makefile"])
    prose = re.sub(r"^```.*?^```", "", text_of(page), flags=re.MULTILINE | re.DOTALL)
    names = set(re.findall(r"`([A-Za-z_][\w.]*\w)(?:\(\))?`", prose))
    names -= {name for name in names if re.search(rf"\.({SUFFIXES}|txt|safetensors)$", name)}
    known = set(re.findall(r"\w+", code))
    assert [name for name in sorted(names - ELSEWHERE) if not set(name.split(".")) <= known] == []


def test_architecture_has_every_folder_of_the_library() -> None:
    folders = {p.parent.relative_to(ROOT / "memstore").as_posix() for p in (ROOT / "memstore").rglob("__init__.py")}
    page = text_of("ARCHITECTURE.md")
    assert [folder for folder in sorted(folders - {"."}) if f"{folder}/" not in page] == []


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        found = (ROOT / page).parent / path if path else ROOT / page
        assert found.exists(), target
        if anchor:
            assert anchor in anchors(found.read_text(encoding="utf-8")), target


def anchors(text: str) -> set[str]:
    """GitHub's anchors of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_no_line_is_longer_than_a_screen(page: str) -> None:
    assert [line for line in text_of(page).splitlines() if len(line) > LONGEST_LINE] == []


def test_the_readme_is_a_page() -> None:
    assert len(text_of("README.md").splitlines()) <= 150


def test_a_decision_has_a_date_and_ten_lines() -> None:
    entries = re.split(r"^### ", text_of("DECISIONS.md"), flags=re.MULTILINE)[1:]
    assert len(entries) > 30
    for entry in entries:
        heading, *lines = re.split(r"^## ", entry, flags=re.MULTILINE)[0].splitlines()
        assert re.search(r" \(\d{4}-\d\d-\d\d\)$", heading), heading
        assert 1 <= len([line for line in lines if line.strip()]) <= 10, heading


def test_a_change_has_a_bullet_of_two_lines() -> None:
    bullets = re.split(r"^(?=- )", text_of("CHANGELOG.md"), flags=re.MULTILINE)[1:]
    assert len(bullets) > 50
    for bullet in bullets:
        assert len(bullet.split("\n\n")[0].strip().splitlines()) <= 2, bullet
