"""The first pass over a corpus, as `build` and `plan` both make it: opened, fitted to the model, spooled; and whether
the corpus still says what it said then.
"""

from __future__ import annotations

from pathlib import Path

from memstore_builders.content import Content, same_content
from memstore_builders.corpus import open_corpus
from memstore_builders.corpus_files import corpus_files, stamp
from memstore_builders.job import Job
from memstore_builders.long_passages import Fitter
from memstore_builders.progress import Progress
from memstore_builders.spool import Spool, write_spool


def read_corpus(job: Job, folder: Path, progress: Progress) -> Spool:
    """Read the job's corpus into `folder`; see `write_spool`.

    Raises:
        CorpusError, CorpusFormatError, CorpusNotFound, CorpusUnreadable: from the corpus.
        ConfigError: two passages have one id, or one is too long and `on_long` is "fail".
        DiskSpaceError: the passages do not fit on the disk.
    """
    o = job.options
    corpus = open_corpus(
        list(o.corpus), format=o.corpus_format, on_error=o.on_error, max_words=o.max_words, limit=o.limit
    )
    fit = Fitter(job.encoder.tokenizer, o.on_long)
    progress.begin("read", None)
    spool = write_spool(corpus, folder, fit=fit, limit=o.limit, tick=progress.advance)
    progress.end()
    return spool


def unchanged(job: Job, content: Content, progress: Progress, *, stamped: str | None = None) -> bool:
    """Whether the job's corpus still says what was read of it. It is read again for that, unless its files have the
    stamp that they had.

    Raises:
        CorpusNotFound, CorpusUnreadable, CorpusFormatError: from the corpus.
    """
    files = corpus_files(job.options.corpus)
    if stamped == stamp(files):
        return True
    progress.begin("compare", None)
    same = same_content(files, content, whole=job.options.limit is None, tick=progress.advance)
    progress.end()
    return same
