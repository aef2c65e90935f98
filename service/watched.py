"""A file that an operator may edit while the service runs."""

from __future__ import annotations

from pathlib import Path

Stamp = tuple[int, int] | None


class WatchedFile:
    """Tells when a file has changed: once it has been the same for two looks, since one that is being written may be empty for a moment."""

    def __init__(self, path: Path | None) -> None:
        """It is as it should be now; without a path it never changes."""
        self.path = path
        self._known = self._seen = stamp_of(path)

    def changed(self) -> bool:
        """Whether it is another file than at the last time that this was true, or at the start."""
        before, self._seen = self._seen, stamp_of(self.path)
        if self._seen == self._known or self._seen != before:
            return False
        self._known = self._seen
        return True


def stamp_of(path: Path | None) -> Stamp:
    """What changes with a file; None where there is none."""
    try:
        found = None if path is None else path.stat()
    except OSError:
        return None
    return None if found is None else (found.st_mtime_ns, found.st_size)
