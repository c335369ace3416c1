"""What every part of the plan uses: steps by target, commits of revisions, hashes of files.

In: a checked Config.  Out: steps. Imports no stage and no torch.
Raise a target's version when the meaning of its output changes; results of the old one are then rebuilt.
"""

import contextlib
import json
import os
import re
import time
from pathlib import Path
from typing import Any

from icon_repro.config import Config
from icon_repro.config_data import ModelConfig, ModelKind, RowsConfig, SourceConfig, SourceKind
from icon_repro.config_evaluation import TaskConfig
from icon_repro.config_methods import SelectFrom
from icon_repro.data.files import SourceError, files_of
from icon_repro.engine.artifact import SourceFile, Step, file_sha256
from icon_repro.records import RecordError, read_sealed, selected_count, write_sealed

TARGETS = {
    "model": ("icon_repro.data.weights:run", 1),
    "rows": ("icon_repro.data.prepare:run", 1),
    "order": ("icon_repro.data.candidates:run", 1),
    "candidates": ("icon_repro.data.candidates:head", 1),
    "benchmark": ("icon_repro.data.benchmark:run", 1),
    "icon_baseline": ("icon_repro.methods.icon.pairs:baseline", 2),
    "icon_dtype": ("icon_repro.methods.icon.fidelity:run", 1),
    "icon_bank": ("icon_repro.methods.icon.pairs:bank", 1),
    "icon_shard": ("icon_repro.methods.icon.pairs:shard", 1),
    "icon_control": ("icon_repro.methods.icon.pairs:control_shard", 1),
    "icon_pilot": ("icon_repro.methods.icon.rounds:pilot", 1),
    "icon_start": ("icon_repro.methods.icon.rounds:start", 1),
    "icon_round": ("icon_repro.methods.icon.rounds:decide", 1),
    "icon": ("icon_repro.methods.icon.score:run", 2),
    "icon_adaptive": ("icon_repro.methods.icon.score:adaptive", 1),
    "selector": ("icon_repro.methods.icon.selector:train", 1),
    "selector_pool": ("icon_repro.methods.icon.selector:pool", 1),
    "probe": ("icon_repro.methods.icon.probe:train", 1),
    "probe_pool": ("icon_repro.methods.icon.probe:pool", 1),
    "selector_scores": ("icon_repro.methods.icon.selector:run", 1),
    "random": ("icon_repro.methods.random:run", 1),
    "random_matched": ("icon_repro.methods.random:matched", 1),
    "longest": ("icon_repro.methods.longest:run", 1),
    "answers": ("icon_repro.methods.common.answers:shard", 1),
    "perplexity": ("icon_repro.methods.perplexity:run", 1),
    "ifd": ("icon_repro.methods.ifd:run", 1),
    "pre_experienced": ("icon_repro.methods.pre_experienced:run", 1),
    "ifd_share": ("icon_repro.methods.diversity:share", 1),
    "ifd_diversity": ("icon_repro.methods.diversity:run", 1),
    "embeddings": ("icon_repro.methods.common.embeddings:shard", 1),
    "rds": ("icon_repro.methods.rds:run", 1),
    "nuggets_anchors": ("icon_repro.methods.nuggets:anchors", 1),
    "nuggets_shard": ("icon_repro.methods.nuggets:shard", 1),
    "nuggets": ("icon_repro.methods.nuggets:run", 1),
    "selectit_shard": ("icon_repro.methods.selectit:shard", 1),
    "selectit": ("icon_repro.methods.selectit:run", 1),
    "less_shard": ("icon_repro.methods.less:shard", 2),  # 2: lengths of targets
    "less": ("icon_repro.methods.less:run", 2),  # 2: tasks come with the targets
    "less_means": ("icon_repro.methods.less_exact:means", 1),
    "less_products": ("icon_repro.methods.less_exact:shard", 1),
    "less_exact": ("icon_repro.methods.less_exact:run", 1),
    "deita_shard": ("icon_repro.methods.deita:shard", 1),
    "deita": ("icon_repro.methods.deita:run", 1),
    "armorm_shard": ("icon_repro.methods.armorm:shard", 1),
    "armorm": ("icon_repro.methods.armorm:run", 1),
    "alpagasus_ratings": ("icon_repro.methods.alpagasus:ratings", 1),
    "alpagasus": ("icon_repro.methods.alpagasus:run", 1),
    "external": ("icon_repro.methods.external:run", 1),
    "ids": ("icon_repro.methods.ids:run", 1),
    "select": ("icon_repro.select:run", 2),  # 2: the fraction is of all rows, not of those that have a score
    "row_tokens": ("icon_repro.row_tokens:run", 1),
    "train": ("icon_repro.train:run", 1),
    "evaluate": ("icon_repro.evaluate:run", 1),
    "shared_text": ("icon_repro.shared_text:run", 1),
    "judge_answers": ("icon_repro.judge.answers:run", 1),
    "judge_served": ("icon_repro.judge.answers:served", 1),
    "judge_reference": ("icon_repro.judge.answers:reference", 1),
    # 2: numbers after other words and a colon aren't scores; a reason or sentence may follow them
    "judge_endpoint": ("icon_repro.judge.pairwise:endpoint", 2),
    "judge_local": ("icon_repro.judge.local:run", 2),
    "judge_nll": ("icon_repro.judge.likelihood:run", 1),
    "judge_pooled": ("icon_repro.judge.pairwise:pooled", 1),
    "held_out": ("icon_repro.held_out:run", 1),
    "held_out_rows": ("icon_repro.held_out:facts", 1),
}
_SETTLED_NS = 2_000_000_000


class PlanError(ValueError):
    """An input that the plan needs isn't there."""


class Planner:
    """Builds steps; remembers file hashes and what couldn't be resolved."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.warnings: list[str] = []  # what ``run`` refuses to start with
        self.notes: list[str] = []  # what one should know before it starts
        self.commits: dict[tuple[str, str, str], tuple[str | None, str]] = {}
        self.hashes = FileHashes(Path(config.paths.work) / ".hashes.json")

    def step(self, target: str, stage: str, name: str, params: Any, **more: Any) -> Step:
        function, version = TARGETS[target]
        return Step(stage, name, function, version, params, **more)

    def commit(self, where: str, kind: str, hub_id: str, revision: str) -> dict[str, str]:
        """The commit of a revision: itself if it is one, else what the hub (or its cache) says."""
        if re.fullmatch(r"[0-9a-f]{40}", revision):
            return {"commit": revision}
        key = (kind, hub_id, revision)
        if key not in self.commits:
            self.commits[key] = resolve_revision(*key)
        found, reason = self.commits[key]
        if found is None:
            self.warnings.append(
                f"{where}.revision={revision!r} of {hub_id}: is a branch or tag, and which commit it is can't be found "
                f"out ({reason}). Connect to the network, or set the commit itself."
            )
        return {"commit": found or f"unresolved:{revision}"}

    def source(self, where: str, source: SourceConfig) -> dict[str, Any]:
        """The ``files`` and ``extra`` of a step that reads ``source``."""
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

    def task_data(self, where: str, task: TaskConfig) -> dict[str, Any]:
        """The ``files`` and ``extra`` of an evaluation by lm-eval: its rows, or the commit of its hub data set."""
        if task.files:
            paths = {split: Path(path).expanduser() for split, path in task.files.items()}
            there = {f"rows.{split}": self.hashes.of(path) for split, path in paths.items() if path.is_file()}
            return {"files": there, "extra": {f"rows.{s}": "missing" for s in paths if f"rows.{s}" not in there}}
        if task.dataset is None:
            return {}
        return {"extra": self.commit(f"{where}.dataset", "dataset", task.dataset.hub_id, task.dataset.revision)}

    def model(self, model: ModelConfig, where: str = "model") -> Step:
        more: dict[str, Any] = {}
        if model.kind is ModelKind.hub:
            assert model.hub_id is not None and model.revision is not None
            more["extra"] = self.commit(where, "model", model.hub_id, model.revision)
        elif model.kind is ModelKind.local:
            assert model.path is not None
            folder = Path(model.path).expanduser()
            if not (folder / "config.json").is_file():
                raise PlanError(
                    f"{where}.path={model.path!r}: no config.json there; give a folder saved by transformers."
                )
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
        made: list[tuple[int, int, int | None]] = []
        for first in range(0, total, size):
            end = min(first + size, total)
            made.append((first, max(first, min(end, expected)), end))
        if bound is None:
            made[-1] = (*made[-1][:2], None)
        return made

    def assessment(self) -> int:
        """As many assessment rows as are expected."""
        rows = self.config.data.assessment
        return min(rows.sample or rows.expected_rows, rows.expected_rows)


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


def resolve_revision(kind: str, hub_id: str, revision: str) -> tuple[str | None, str]:
    """The commit that a branch or tag is at: as the hub says, else as its local cache says.

    Returns:
        The commit, or None if neither knows; and why the hub didn't say.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.file_download import repo_folder_name

    reason = "HF_HUB_OFFLINE is set"
    if os.environ.get("HF_HUB_OFFLINE", "0").upper() not in {"1", "TRUE", "YES", "ON"}:
        try:
            return str(HfApi().repo_info(hub_id, repo_type=kind, revision=revision, timeout=10).sha), ""
        except Exception as error:  # no network, no access, no such id: the cache may still know
            reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    cached = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=hub_id, repo_type=kind) / "refs" / revision
    return (cached.read_text(encoding="utf-8").strip() if cached.is_file() else None), reason
