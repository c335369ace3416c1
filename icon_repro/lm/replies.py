"""Store the replies of a chat endpoint: one line each, on disk before anybody reads it.

In: a file that may end in the middle of a line, as kill -9 leaves it.  Out: whole replies by request; more are added.
A file that is appended to, unlike any other output here: a reply costs money and isn't to be had a second time.
"""

import asyncio
import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path

from icon_repro.engine.records import CHECKSUM, seal_holds, sealed


class RepliesError(ValueError):
    """A line in the middle of the file isn't a reply."""


@dataclass(frozen=True)
class Reply:
    """What an endpoint answered, once."""

    digest: str  # of all that was sent: messages and settings
    key: str
    text: str
    finish: str | None  # why the text ends, in the endpoint's words
    model: str | None  # in the endpoint's words
    tokens_in: int
    tokens_out: int
    counted: bool  # by the endpoint; else the tokens are estimates
    time: float  # of arrival, seconds since 1970
    seconds: float  # that the answer took
    server: str
    refused: bool = False  # without text, and would be again


def _read(line: bytes) -> Reply:
    fields = json.loads(line)
    if not isinstance(fields, dict):
        raise ValueError(f"an object is needed, found {type(fields).__name__}")
    if not seal_holds(fields):
        raise ValueError("altered since it was written")
    del fields[CHECKSUM]
    return Reply(**fields)


class Replies:
    """The replies in ``path``; those of a torn last line are cut off, which loses nothing that ``add`` had stored.

    Raises:
        RepliesError: another line is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._found: dict[tuple[str, str], list[Reply]] = {}
        self.tokens_in = self.tokens_out = self.calls = 0
        self.models: list[str | None] = []  # that replies with a text name
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._writer: asyncio.Task[None] | None = None
        data = path.read_bytes() if path.exists() else b""
        whole = data.rfind(b"\n") + 1
        for number, line in enumerate(data[:whole].splitlines(), start=1):
            try:
                self._take(_read(line))
            except (ValueError, TypeError) as error:
                raise RepliesError(f"{path}:{number}: isn't a reply ({error}). Mend or remove the line.") from error
        self._file = path.open("ab", buffering=0)
        self.cut = len(data) - whole  # bytes
        if self.cut:
            self._file.truncate(whole)
        self._sync_folder()

    def _sync_folder(self) -> None:
        os.fsync(self._file.fileno())
        descriptor = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def of(self, key: str, digest: str, server: str) -> list[Reply]:
        """Replies of ``server`` to a request, oldest first; none if its text or its settings were others."""
        return [reply for reply in self._found.get((key, digest), []) if reply.server == server]

    async def add(self, reply: Reply) -> None:
        """Store a reply; returns when it is on disk. Those that arrive meanwhile go to disk together."""
        line = json.dumps(sealed(dataclasses.asdict(reply)), ensure_ascii=False, allow_nan=False) + "\n"
        stored = asyncio.get_running_loop().create_future()
        # a lone surrogate, which JSON may hold and UTF-8 may not, becomes its JSON escape
        self._waiting.append((line.encode("utf-8", "backslashreplace"), stored))
        if self._writer is None:
            self._writer = asyncio.create_task(self._write())
        await stored
        self._take(reply)

    async def _write(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                try:
                    await asyncio.to_thread(self._append, b"".join(line for line, _ in batch))
                except OSError as error:  # a full disk; what follows would stand behind half a line
                    for _, stored in [*batch, *self._waiting]:
                        if not stored.done():
                            stored.set_exception(error)
                    self._waiting = []
                    return
                for _, stored in batch:
                    if not stored.done():
                        stored.set_result(None)
        finally:
            self._writer = None

    def _append(self, data: bytes) -> None:
        size = os.fstat(self._file.fileno()).st_size
        try:
            if (written := self._file.write(data)) != len(data):
                raise OSError(f"{self.path}: {written} of {len(data)} bytes written.")
            os.fsync(self._file.fileno())
        except OSError:
            self._file.truncate(size)
            raise

    def _take(self, reply: Reply) -> None:
        self._found.setdefault((reply.key, reply.digest), []).append(reply)
        self.calls += 1
        if not reply.refused:
            self.models.append(reply.model)
        self.tokens_in += reply.tokens_in
        self.tokens_out += reply.tokens_out

    async def drain(self) -> None:
        """Wait until all that was given to ``add`` is on disk, whoever still waits for it."""
        while self._writer is not None:
            await self._writer

    def close(self) -> None:
        self._file.close()
