"""Remember the checksums of files for as long as the files stay as they are."""

import contextlib
import json
import time
from pathlib import Path
from typing import Any

from icon_repro.engine.artifact import SourceFile, file_sha256
from icon_repro.engine.records import RecordError, read_sealed, write_sealed

_SETTLED_NS = 2_000_000_000


class FileHashes:
    """sha256 of files, remembered by inode, size and times: a file that was touched is read again.

    A file changed in the last seconds isn't remembered: a second change within the clock's tick would go unseen.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[str, Any] = {}
        # RecordError: it is damaged, or has no checksum; the files are read again
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, RecordError):
            self.known = read_sealed(path)
        self._changed = False

    def of(self, path: Path) -> SourceFile:
        stat = path.stat()
        key = str(path.absolute())
        state = json.dumps([stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns])
        if key in self.known and self.known[key]["state"] == state:
            return SourceFile(key, self.known[key]["sha256"])
        digest = file_sha256(path)
        if time.time_ns() - stat.st_ctime_ns > _SETTLED_NS:
            self.known[key] = {"state": state, "sha256": digest}
            self._changed = True
        return SourceFile(key, digest)

    def save(self) -> None:
        if self._changed:
            with contextlib.suppress(OSError):  # one may plan over a work folder that can't be written
                self.path.parent.mkdir(parents=True, exist_ok=True)
                write_sealed(self.path, self.known)
