"""Find a finished step that did the same to inputs of the same content: its result is this one's too.

A step's fingerprint names its inputs by how they were made. Two methods that select the same rows, or a selection that
was made again as one more fraction was asked for, are other inputs with the same content. What is trained, evaluated
or asked of a judge from there on is the same, so it isn't done twice: the finished folder's files get a second name
(hard links; copies where the file system has none), and a record of their own that says ``same_as``.
Steps over rows ``start`` to ``stop`` of their input are planned for as many rows as are expected. Those that begin
behind the last row do the same, whatever their ``start``: nothing. One of them is done, the others are its twins.
In: a step's spec, its inputs' folders.  Out: the twin's folder, or a new folder made from it.
The key of a step covers all that its fingerprint covers, with the checksums of the inputs' files in place of their
fingerprints, and the numbers of their records that steps read (tokens, pairs). Keys lie in ``.contents`` of the store.
Of two such steps that run at the same time (jobs of Slurm) one waits for the other: a key is claimed as a step is.
Known gap: steps that were built before keys were kept are no twins.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from icon_repro.engine.artifact import MISSING, ArtifactError, damage, read_record
from icon_repro.engine.leases import take_claim
from icon_repro.engine.records import RecordError, read_json, write_json

STAGES = ("score", "train", "evaluate", "judge")  # others take less than looking for a twin
_SLICED = ("candidates", "rows", "order")  # inputs of which a step takes the rows from ``start`` to ``stop``
_READ = ("tokens", "pairs")  # of an input's metrics, by steps that reckon what has been spent


def key_of(spec: Mapping[str, Any], inputs: Mapping[str, Path]) -> str | None:
    """What a step does and to which content; None if twins of its kind aren't looked for.

    Raises:
        ArtifactError, RecordError, OSError: an input's record can't be read.
    """
    if spec["hashed"]["stage"] not in STAGES:
        return None
    hashed = dict(spec["hashed"])
    if _behind_the_rows(hashed["params"], inputs):
        hashed["params"] = {key: value for key, value in hashed["params"].items() if key not in ("start", "stop")}
    contents = {name: _content(folder, as_set=name in spec.get("as_sets", ())) for name, folder in inputs.items()}
    text = json.dumps({**hashed, "inputs": contents}, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def of(spec: Mapping[str, Any]) -> str | None:
    """The folder of an undamaged twin of the step, below its root; None if there is none, or that can't be told."""
    key = _key_if_known(spec)
    return None if key is None else find(Path(spec["root"]), key, spec["folder"])


@contextlib.contextmanager
def alone(spec: Mapping[str, Any], lease_s: float) -> Iterator[bool]:
    """Whether no other process is at a step with the same key; none begins one until the end of the block.

    Args:
        lease_s: see ``leases.take_claim``.
    """
    key, root = _key_if_known(spec), Path(spec["root"])
    if key is None or find(root, key, spec["folder"]) is not None:
        yield True
        return
    place = _place(root, key).with_suffix("")
    try:
        place.mkdir(parents=True, exist_ok=True)
        lease = take_claim(place, lease_s)
    except OSError:  # what can't be claimed is at worst done twice
        yield True
        return
    try:
        yield lease is not None
    finally:
        if lease is not None:
            lease.release()
            with contextlib.suppress(OSError):  # another process may have come
                place.rmdir()


def _key_if_known(spec: Mapping[str, Any]) -> str | None:
    """The step's key; None if it has none, or an input's record can't be read."""
    root = Path(spec["root"])
    with contextlib.suppress(OSError, RecordError, ArtifactError, KeyError):
        return key_of(spec, {name: root / folder for name, folder in spec["inputs"].items()})
    return None


def _behind_the_rows(params: Any, inputs: Mapping[str, Path]) -> bool:
    """Whether a step is over rows of an input from a place on that this doesn't reach."""
    start = params.get("start") if isinstance(params, Mapping) else None
    if not isinstance(start, int) or start <= 0:
        return False
    counts = [read_record(inputs[name])["metrics"].get("rows") for name in _SLICED if name in inputs]
    return bool(counts) and all(isinstance(count, int) and count <= start for count in counts)


def _content(folder: Path, *, as_set: bool) -> Any:
    record = read_record(folder)
    files = {name: file["sha256"] for name, file in record["files"].items()}
    if as_set:  # lists whose order nothing comes from, such as the selected ids of a training
        files = {name: _unordered(folder / name) if name.endswith(".json") else sha for name, sha in files.items()}
    return {"files": files, **{name: record["metrics"].get(name) for name in _READ}}


def _unordered(path: Path) -> str:
    value = read_json(path)
    listed = sorted(value) if isinstance(value, list) else value
    return hashlib.sha256(json.dumps(listed, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()


def note(root: Path, key: str, folder: str) -> None:
    """Remember a finished step by its key; what can't be remembered is done again some day."""
    with contextlib.suppress(OSError):
        path = _place(root, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"folder": folder})


def find(root: Path, key: str, own: str) -> str | None:
    """The folder of an undamaged twin, below ``root``; None if there is none.

    Args:
        own: folder of the step that looks for one.
    """
    with contextlib.suppress(OSError, RecordError, ArtifactError, KeyError, TypeError):
        folder = str(read_json(_place(root, key))["folder"])
        if folder != own and damage(root / folder) is None:
            return folder
    return None


def _place(root: Path, key: str) -> Path:
    return root / ".contents" / key[:2] / f"{key[2:]}.json"


def give_second_name(twin: Path, part: Path) -> dict[str, Any]:
    """Have the files of a finished folder in ``part`` too; returns its record.

    Raises:
        ArtifactError: the twin's record can't be read.
        OSError: no link and no copy can be made.
    """
    record = read_record(twin)
    for name in record["files"]:
        target = part / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not (twin / name).is_file():
            raise ArtifactError(f"{twin / name} {MISSING}.")
        try:
            os.link(twin / name, target)
        except OSError:
            shutil.copyfile(twin / name, target)
    return record
