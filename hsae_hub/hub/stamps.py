"""Which pulled files were hashed, and how they looked on the disk then: what looks the same is not hashed again."""

from __future__ import annotations

import json
from pathlib import Path

Look = tuple[int, int, int, int]
"""Size, times of the last change of content and of the file itself in ns, and inode."""


def look(path: Path) -> Look | None:
    """How a file looks; None if there is none."""
    try:
        at = path.stat()
    except FileNotFoundError:
        return None
    return (at.st_size, at.st_mtime_ns, at.st_ctime_ns, at.st_ino)


class Stamps:
    """The stamps of a commit's files. Whoever writes to a file changes how it looks, whatever he does to its times."""

    def __init__(self, known: dict[str, object]) -> None:
        self._known = known
        self.changed = False

    @classmethod
    def parse(cls, text: str) -> Stamps:
        """Reads what `text` gave; whatever else it is stands for no stamps."""
        try:
            data = json.loads(text)
        except ValueError:
            data = None
        return cls(data if isinstance(data, dict) else {})

    def hold(self, name: str, digest: str, path: Path) -> bool:
        """Whether the file of that name was found to have that hash, and has not been touched since."""
        seen = look(path)
        return seen is not None and self._known.get(name) == [digest, *seen]

    def add(self, name: str, digest: str, seen: Look) -> None:
        """Notes that a file has a hash; `seen` is how it looked before it was read."""
        stamp: list[object] = [digest, *seen]
        if self._known.get(name) != stamp:
            self._known[name] = stamp
            self.changed = True

    def text(self) -> str:
        """What is kept of them."""
        return json.dumps(self._known)
