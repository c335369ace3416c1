"""Find the commit that a branch or tag of the hub is at: asked once, then remembered in the work folder.

In: a repository and a revision.  Out: its commit; what was found is kept in ``.revisions.json`` of the work folder.
A revision is part of a step's fingerprint as its commit. Were it asked for at every plan, a branch that moves, or a
network that is gone, would rename finished steps: their results would seem to be of another configuration.
What is asked, in this order: the notes; the steps that were built from the revision, whose records hold its commit;
the hub, if the plan may ask it; the hub's cache on this machine.
"""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from icon_repro.engine.artifact import ArtifactError, read_record
from icon_repro.engine.records import RecordError, read_json, write_json

FILE = ".revisions.json"


class Revisions:
    """What is known of revisions.

    Args:
        work: the work folder.
        ask: whether the hub may be asked; a report or a status must not depend on a network.
    """

    def __init__(self, work: Path, *, ask: bool) -> None:
        self._work, self._ask = work, ask
        path = work / FILE
        self._noted: dict[str, str] = dict(read_json(path)) if path.is_file() else {}
        self._built: dict[str, str] | None = None
        self._new = False

    def commit(self, kind: str, hub_id: str, revision: str) -> tuple[str | None, str]:
        """The commit, or None if nobody knows it; and then why.

        Args:
            kind: model or dataset.
        """
        key = _key(kind, hub_id, revision)
        if key in self._noted:
            return self._noted[key], ""
        if self._built is None:
            self._built = _built(self._work)
        commit, reason = self._built.get(key), ""
        if commit is None:
            commit, reason = resolve_revision(kind, hub_id, revision, ask=self._ask)
        if commit is not None:
            self._noted[key], self._new = commit, True
        return commit, reason

    def save(self) -> None:
        """Keep what was found. To take a branch's present commit, one deletes its line of the file."""
        if self._new:
            with contextlib.suppress(OSError):  # one may plan over a work folder that can't be written
                path = self._work / FILE
                path.parent.mkdir(parents=True, exist_ok=True)
                before = dict(read_json(path)) if path.is_file() else {}  # of another process
                write_json(path, {**self._noted, **before})
            self._new = False


def _key(kind: str, hub_id: str, revision: str) -> str:
    return f"{kind} {hub_id} {revision}"


def _built(work: Path) -> dict[str, str]:
    """The commit of each revision that steps of the work folder were made from; of several, that of the newest step."""
    found: dict[str, tuple[int, str]] = {}
    for path in (path for stage in ("model", "prepare") for path in sorted(work.glob(f"{stage}/*/record.json"))):
        try:
            hashed = read_record(path.parent)["hashed"]
        except (ArtifactError, RecordError, OSError):
            continue
        commit = hashed.get("extra", {}).get("commit")
        for source, kind in _sources(hashed.get("params", {})):
            if commit and source.get("hub_id") and source.get("revision"):
                key = _key(kind, source["hub_id"], source["revision"])
                found[key] = max(found.get(key, (0, "")), (path.stat().st_mtime_ns, str(commit)))
    return {key: commit for key, (_, commit) in found.items()}


def _sources(params: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], str]]:
    """What a step read from a hub: a model, or the source of its rows."""
    source, task = params.get("source"), params.get("task")
    if isinstance(task, Mapping):  # of lm-eval, with rows of the hub
        return [(dataset, "dataset")] if isinstance(dataset := task.get("dataset"), Mapping) else []
    return [(source, "dataset")] if isinstance(source, Mapping) else [(params, "model"), (params, "dataset")]


def offline() -> bool:
    """Whether the environment says that there is no network."""
    return os.environ.get("HF_HUB_OFFLINE", "0").upper() in {"1", "TRUE", "YES", "ON"}


def resolve_revision(kind: str, hub_id: str, revision: str, *, ask: bool = True) -> tuple[str | None, str]:
    """The commit that a branch or tag is at: as the hub says, else as its local cache says.

    Returns:
        The commit, or None if neither knows; and why the hub didn't say.
    """
    from huggingface_hub import constants

    reason = "HF_HUB_OFFLINE is set" if offline() else "action=plan or run asks the hub; this doesn't"
    if ask and not offline():
        from huggingface_hub import HfApi  # takes a while to import

        try:
            return str(HfApi().repo_info(hub_id, repo_type=kind, revision=revision, timeout=10).sha), ""
        except Exception as error:  # no network, no access, no such id: the cache may still know
            reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    folder = constants.REPO_ID_SEPARATOR.join([f"{kind}s", *hub_id.split("/")])  # the hub's own name of it
    cached = Path(constants.HF_HUB_CACHE) / folder / "refs" / revision
    return (cached.read_text(encoding="utf-8").strip() if cached.is_file() else None), reason
