"""Give every part of the plan what it needs: steps by target, commits of revisions, hashes of files.

In: a checked configuration.  Out: steps. Imports no stage and no torch.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from icon_repro.data.file_sets import SourceError, files_of
from icon_repro.data.options import (
    DataConfig,
    HubData,
    ModelConfig,
    ModelKind,
    RowsConfig,
    SelectFrom,
    SourceConfig,
    SourceKind,
)
from icon_repro.data.revisions import Revisions
from icon_repro.data.rows import selected_count
from icon_repro.engine.artifact import SourceFile, Step
from icon_repro.engine.hashes import FileHashes
from icon_repro.engine.options import PathsConfig
from icon_repro.engine.targets import TARGETS


class Planned(Protocol):
    """What the planner reads of a configuration, whatever else that holds."""

    model: ModelConfig  # the one that is tuned
    data: DataConfig
    select_from: SelectFrom
    paths: PathsConfig


_COUNTED_BYTES = 2**25  # rows of a larger file aren't counted in a plan


class PlanError(ValueError):
    """An input that the plan needs isn't there."""


class Planner:
    """Builds steps; remembers file hashes and what couldn't be resolved."""

    def __init__(self, config: Planned, *, ask_hub: bool = True) -> None:
        self.config = config
        self.warnings: list[str] = []  # what ``run`` refuses to start with
        self.notes: list[str] = []  # what one should know before it starts
        self.unresolved: list[str] = []  # keys of revisions whose commit isn't known
        self.revisions = Revisions(Path(config.paths.work), ask=ask_hub)
        self.hashes = FileHashes(Path(config.paths.work) / ".hashes.json")

    def step(self, target: str, stage: str, name: str, params: Any, **more: Any) -> Step:
        function, version = TARGETS[target]
        return Step(stage, name, function, version, params, **more)

    def commit(self, where: str, kind: str, hub_id: str, revision: str) -> dict[str, str]:
        """The commit of a revision: itself if it is one, else what ``Revisions`` knows."""
        if re.fullmatch(r"[0-9a-f]{40}", revision):
            return {"commit": revision}
        found, reason = self.revisions.commit(kind, hub_id, revision)
        if found is None:
            self.unresolved.append(f"{where}.revision={revision!r}")
            self.warnings.append(
                f"{where}.revision={revision!r} of {hub_id}: is a branch or tag, and which commit it is can't be found "
                f"out ({reason}). Connect to the network, or set the commit itself."
            )
        return {"commit": found or f"unresolved:{revision}"}

    def source(self, where: str, source: SourceConfig) -> dict[str, Any]:
        """The ``files``, ``extra`` and ``where`` of a step that reads ``source``."""
        return {**self._source(where, source), "where": where}

    def _source(self, where: str, source: SourceConfig) -> dict[str, Any]:
        if source.kind is SourceKind.file:
            assert source.path is not None
            try:
                paths = files_of(source.path, source.split)
                if len(paths) == 1:
                    return {"files": {"source": self.hashes.of(paths[0])}}
                return {"files": {f"source.{at:05}": self.hashes.of(path) for at, path in enumerate(paths)}}
            except SourceError as error:
                raise PlanError(f"{where}.path={error}") from error
            except OSError as error:
                raise PlanError(f"{where}.path={source.path!r}: can't be read ({error.strerror}).") from error
        if source.kind is SourceKind.hub:
            assert source.hub_id is not None and source.revision is not None
            return {"extra": self.commit(where, "dataset", source.hub_id, source.revision)}
        return {}

    def file(self, where: str, path: str) -> SourceFile:
        """A file that a key names, with its checksum.

        Raises:
            PlanError: there is none.
        """
        found = Path(path).expanduser()
        if not found.is_file():
            raise PlanError(f"{where}={path!r}: no such file (looked in {Path.cwd()}).")
        return self.hashes.of(found)

    def task_data(self, where: str, files: Mapping[str, str], dataset: HubData | None) -> dict[str, Any]:
        """What a step that evaluates by lm-eval is made of: files of rows, or the commit of the hub data set."""
        if files:
            paths = {split: Path(path).expanduser() for split, path in files.items()}
            there = {f"rows.{split}": self.hashes.of(path) for split, path in paths.items() if path.is_file()}
            return {"files": there, "extra": {f"rows.{s}": "missing" for s in paths if f"rows.{s}" not in there}}
        if dataset is None:
            return {}
        where = f"{where}.dataset"
        return {"extra": self.commit(where, "dataset", dataset.hub_id, dataset.revision), "where": where}

    def model(self, model: ModelConfig, where: str = "model") -> Step:
        more: dict[str, Any] = {"where": where}
        if model.kind is ModelKind.hub:
            assert model.hub_id is not None and model.revision is not None
            more["extra"] = self.commit(where, "model", model.hub_id, model.revision)
        elif model.kind is ModelKind.local:
            assert model.path is not None
            folder = Path(model.path).expanduser()
            if not (folder / "config.json").is_file():
                raise PlanError(f"{where}.path={model.path!r}: no config.json there; {_model_remedy(where, folder)}")
            more["files"] = {p.name: self.hashes.of(p) for p in sorted(folder.iterdir()) if p.is_file()}
        return self.step("model", "model", model.name, model, **more)

    def rows(self, where: str, name: str, rows: RowsConfig) -> Step:
        return self.step("rows", "prepare", name, rows, **self.source(f"{where}.source", rows.source))

    @property
    def whole(self) -> bool:
        """Whether methods rank the pool, not the candidates."""
        return self.config.select_from is SelectFrom.pool

    def bound(self, whole: bool = False) -> int | None:
        """At most so many candidates (``whole``: rows to select from) there are; None if only the data can tell."""
        data = self.config.data
        sizes = (data.selected_from.sample,) if whole else (data.pool.sample, data.candidates.size)
        return min((n for n in sizes if n is not None), default=None)

    def expected(self, whole: bool = False) -> int:
        """As many candidates (``whole``: rows to select from) as are expected: for estimates only."""
        data = self.config.data
        bound, rows = self.bound(whole), (data.selected_from if whole else data.pool).expected_rows
        return rows if bound is None else min(bound, rows)

    def slices(
        self, size: int, whole: bool = False, head: int | None = None, share: float = 1.0
    ) -> list[tuple[int, int, int | None]]:
        """Slices of ``size`` that cover all candidates (``whole``: the pool), however many there are.

        Args:
            head: only the first so many.
            share: as many as this fraction of them selects.

        Returns:
            First, end as the plan expects it for the cost, and end (None: open, where the number isn't bounded).
        """
        bound = min((n for n in (self.bound(whole), head) if n is not None), default=None)
        expected = self.expected(whole)
        if share < 1:
            expected = selected_count(share, expected)
            bound = None if bound is None else selected_count(share, bound)
        total = expected if bound is None else bound
        slices: list[tuple[int, int, int | None]] = []
        for first in range(0, total, size):
            end = min(first + size, total)
            slices.append((first, max(first, min(end, expected)), end))
        if bound is None:
            slices[-1] = (*slices[-1][:2], None)
        return slices

    def assessment(self) -> int:
        """As many assessment rows as are expected."""
        rows = self.config.data.assessment
        return min(rows.sample or rows.expected_rows, rows.expected_rows)


def _model_remedy(where: str, folder: Path) -> str:
    """What to give in the place of a folder that isn't one of a model."""
    if snapshots := sorted(folder.glob("snapshots/*/config.json")):  # as the hub's cache is laid out
        return f"set {where}.path={snapshots[-1].parent}"
    if (folder / "adapter_config.json").is_file():
        return "it holds an adapter: merge it into its model first (peft: merge_and_unload), and save that."
    return "give a folder saved by transformers."


def counted(source: SourceConfig) -> tuple[int, float] | None:
    """Rows of a small local file of JSON lines, and their mean bytes; None for any other source, and for no rows."""
    path = Path(source.path or "").expanduser()
    if source.kind is not SourceKind.file or path.suffix != ".jsonl" or not path.is_file():
        return None
    size = path.stat().st_size
    lines = path.read_bytes().count(b"\n") if size < _COUNTED_BYTES else 0
    return (lines, size / lines) if lines else None
