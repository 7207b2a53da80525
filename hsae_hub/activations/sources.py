"""Where text comes from: documents, in an order that never changes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from glob import glob
from itertools import islice
from pathlib import Path
from typing import Any

from hsae_hub.errors import DeniedError, NetworkError, NotFoundError, UsageError
from hsae_hub.recipes import DataSource

IN_MEMORY = 64 << 20
"""Text files of up to so many bytes together are tokenised once and kept; larger ones are read again each epoch."""
PASSAGE = 2_000
"""Characters after which a document of a text file ends, at the next blank line."""
LONGEST_PASSAGE = 8 * PASSAGE
"""Characters after which it ends without one, at the next line."""


def documents(source: DataSource, *, start: int = 0) -> Iterator[str]:
    """The documents of a source of text, from number `start` on; a `sample` source has none.

    Raises:
        NotFoundError: no such file, data set or column.
        DeniedError: a data set is gated.
        UsageError: a file is not UTF-8 text.
        NetworkError: a data set cannot be reached.
    """
    if source.text is not None:
        return islice(_passages(text_files(source.text)), start, None)
    if source.dataset is not None:
        return _rows(source, start)
    if source.builtin is not None:
        return iter(python_docs()[start:])
    return iter((source.lines or [])[start:])


def fits_in_memory(source: DataSource) -> bool:
    """Whether a source of text is small enough to be tokenised once and kept."""
    if source.text is not None:
        return sum(path.stat().st_size for path in text_files(source.text)) <= IN_MEMORY
    return source.dataset is None


def digest(document: str) -> bytes:
    """Names a document by its text, whichever source it came from."""
    return hashlib.sha256(document.encode()).digest()


def is_heldout(document: str, fraction: float) -> bool:
    """Whether a document is in the `fraction` that training never sees; the same text always gets the same answer."""
    return int.from_bytes(digest(document)[:8], "big") < fraction * 2**64


def text_files(patterns: Iterable[str]) -> list[Path]:
    """The files that paths and globs (`**` for any depth) name, sorted, each once.

    Raises:
        NotFoundError: a pattern matches no file.
    """
    found: set[Path] = set()
    for pattern in patterns:
        path = Path(pattern).expanduser()
        matches = [path] if path.is_file() else map(Path, glob(str(path), recursive=True))
        files = {match for match in matches if match.is_file()}
        if not files:
            raise NotFoundError(
                f"no text file matches {pattern!r}", why=f"looked from {Path.cwd()}"
            )
        found |= files
    return sorted(found)


def python_docs() -> list[str]:
    """The prose of Python's own language reference (`pydoc_data.topics`); it differs a little between Python versions.

    Topics quote each other at length: every paragraph is taken once, so that none is on both sides of a held-out split.
    """
    from pydoc_data.topics import topics

    seen: set[str] = set()
    kept: list[str] = []
    for topic in topics.values():
        fresh = []
        for block in re.split(r"\n\s*\n", topic):
            paragraph = " ".join(block.split())
            if paragraph not in seen and _is_prose(paragraph):
                fresh.append(paragraph)
            seen.add(paragraph)
        kept += _grouped(line for paragraph in fresh for line in (paragraph, ""))
    return kept


def _is_prose(paragraph: str) -> bool:
    # tables, grammar, code and signatures have fewer letters; headings fewer words
    letters = sum(c.isalpha() or c == " " for c in paragraph)
    is_code = paragraph.startswith((">>>", "+--"))
    return not is_code and paragraph.count(" ") >= 5 and letters >= 0.8 * len(paragraph)


def _passages(paths: Iterable[Path]) -> Iterator[str]:
    for path in paths:
        try:
            with path.open(encoding="utf-8") as file:
                yield from _grouped(file)
        except UnicodeDecodeError as error:
            raise UsageError(f"{path} is not UTF-8 text: {error.reason}") from None


def _grouped(lines: Iterable[str]) -> Iterator[str]:
    """Consecutive lines as documents of at least PASSAGE characters where there are as many."""
    kept: list[str] = []
    size = 0
    for line in lines:
        kept.append(line.rstrip())
        size += len(kept[-1])
        if size >= (LONGEST_PASSAGE if kept[-1] else PASSAGE):
            yield "\n".join(kept).strip()
            kept, size = [], 0
    if size:
        yield "\n".join(kept).strip()


def _rows(source: DataSource, start: int) -> Iterator[str]:
    import datasets

    name = source.dataset or ""
    with told_of_dataset(name, source.describe()):
        rows: Any = datasets.load_dataset(
            name, source.config, split=source.split, revision=source.revision, streaming=True
        )
        for row in rows.skip(start) if start else rows:
            if not isinstance(row.get(source.column), str):
                raise NotFoundError(
                    f"{name} has no column {source.column!r} of text",
                    why=f"its columns: {', '.join(map(str, row))}",
                    fix="give the right one as its `column`",
                )
            yield row[source.column]


@contextmanager
def told_of_dataset(name: str, described: str) -> Iterator[None]:
    """What can go wrong while a data set of the hub is read, as errors for users.

    Raises:
        NotFoundError: no such data set, configuration, split or revision.
        DeniedError: it is gated.
        NetworkError: it cannot be reached.
    """
    import datasets
    import httpx

    try:
        yield
    except (datasets.exceptions.DatasetNotFoundError, FileNotFoundError, ValueError) as error:
        if "gated" in str(error):
            raise DeniedError(
                f"{name} is gated: {_first_line(error)}",
                fix=f"accept its terms at https://huggingface.co/datasets/{name}\nhf auth login",
            ) from None
        raise NotFoundError(
            f"cannot read {described}: {_first_line(error)}",
            fix="check its name, config, split and revision",
        ) from None
    except (OSError, httpx.HTTPError) as error:
        raise NetworkError(f"cannot reach {described}: {_first_line(error)}") from None


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
