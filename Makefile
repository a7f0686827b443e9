# The commands of daily work; `make help` lists them. Needs Python 3.11 or newer, make and a compiler.
# Every target first brings the project's own virtual environment up to date, when it has to.

VENV := .venv
STAMP := $(VENV)/.installed
# Name an interpreter with PYTHON=...; otherwise the first of these that is new enough makes the environment.
PYTHON ?=
CANDIDATES = $(or $(PYTHON),python3.11 python3 python)
# More words for the command behind a target, e.g. make test ARGS="tests/store -x".
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test check format bench setup

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 18

demo: $(STAMP) ## build a store from the bundled sample, serve it, ask five questions
	@$(VENV)/bin/memstore demo $(ARGS)

test: $(STAMP) ## every test (ARGS="..." goes to pytest)
	@$(VENV)/bin/python -m pytest $(ARGS)

check: $(STAMP) ## format, lint, types and import contracts; changes nothing
	$(VENV)/bin/ruff format --check --quiet .
	$(VENV)/bin/ruff check --quiet .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

format: $(STAMP) ## format, and mend what the linter can
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

bench: $(STAMP) ## all benchmarks, and benchmarks/README.md made of them (ARGS="NAME ..." runs some, no page)
	@$(VENV)/bin/python -m benchmarks $(ARGS)

setup: $(STAMP) ## only set up .venv

$(STAMP): pyproject.toml constraints.txt
	@$(find_python); \
	if ! $(VENV)/bin/python -m pip --version >/dev/null 2>&1; then \
	  echo "Making $(VENV) with $$("$$python" --version)"; \
	  "$$python" -m venv --clear $(VENV) || exit 1; \
	fi
	@echo "Installing memstore with the versions in constraints.txt into $(VENV); the first time this takes minutes"
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt setuptools
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	  --no-build-isolation -e '.[all,dev]'
	@touch $@
	@echo "$(VENV) is ready"

# Shell: sets $python to the first candidate that is new enough and can make environments, or says why none is.
define find_python
python=; seen=; \
for name in $(CANDIDATES); do \
  version=$$("$$name" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) \
    || { seen="$$seen $$name does not run;"; continue; }; \
  "$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
    || { seen="$$seen $$name is Python $$version;"; continue; }; \
  "$$name" -c 'import ensurepip, venv' 2>/dev/null \
    || { seen="$$seen $$name ($$version) lacks venv or ensurepip (Debian: the package python$$version-venv);"; continue; }; \
  python=$$name; break; \
done; \
if [ -z "$$python" ]; then \
  echo "memstore needs Python 3.11 or newer:$$seen install one, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; \
fi
endef
