"""A small corpus for tests of the index, and what a folder holds."""

from pathlib import Path

from hsae_hub.recipes import DataConfig, DataSource

LINES = [
    f"{i} sheep and {i * i % 97} goats went up hill {i % 7}; the town of {'ABCDE'[i % 5]} saw a {i} and slept."
    for i in range(60)
] + ['<script>alert("x")</script> said the <b>sheep</b> & slept.'] * 2
SOURCE = DataSource(lines=LINES)
DATA = DataConfig(train=[SOURCE], heldout=[SOURCE], context_length=24, batch_contexts=7)


def files(folder: Path) -> dict[str, bytes]:
    """Everything in a folder, by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
