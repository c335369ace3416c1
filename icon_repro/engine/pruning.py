"""Remove the weights of finished steps that nothing needs any more, and say which must be built again.

In: the steps of a plan and their store.  Out: folders without their weights, and a note in each of what was removed.
A pruned step stays finished: its record, log and metrics are what reports read. Once a missing step needs its weights,
it counts as missing too, and is built again.
Known gap: only the given plan is asked; another experiment that shares the work folder builds such steps again.
"""

from collections.abc import Container, Iterable, Sequence
from pathlib import Path

from icon_repro.engine.artifact import Step, Store
from icon_repro.engine.folders import discard, files_of
from icon_repro.engine.records import write_json

NOTE = "pruned.json"
_WEIGHTS = ".safetensors"


def is_pruned(step: Step, store: Store) -> bool:
    """Whether the weights of a finished step were removed."""
    return (store.path(step) / NOTE).is_file()


def weights_of(folder: Path) -> dict[Path, int]:
    """Files of weights in a step's folder, with their bytes."""
    return {path: path.stat().st_size for path in files_of(folder) if path.suffix == _WEIGHTS}


def unneeded(steps: Sequence[Step], store: Store, removable: Container[str]) -> list[Step]:
    """Finished steps whose weights no missing step of the plan needs.

    Args:
        removable: folders of the steps that may lose their weights.
    """
    needed = {source.folder for step in steps if not store.complete(step) for source in step.inputs.values()}
    candidates = (step for step in steps if step.folder in removable and step.folder not in needed)
    return [s for s in candidates if store.complete(s) and not is_pruned(s, store) and weights_of(store.path(s))]


def prune(step: Step, store: Store) -> int:
    """Remove the weights of a finished step; returns the bytes that are freed."""
    folder = store.path(step)
    files = weights_of(folder)
    write_json(folder / NOTE, {path.relative_to(folder).as_posix(): size for path, size in files.items()})
    for path in files:
        path.unlink()
    return sum(files.values())


def needed_again(steps: Iterable[Step], store: Store) -> list[Step]:
    """Pruned steps that a missing step needs, or another such step; inputs first."""
    by_folder: dict[str, Step] = {}
    for step in reversed(list(steps)):  # what needs a step comes after it
        if store.complete(step) and step.folder not in by_folder:
            continue
        for source in step.inputs.values():
            if store.complete(source) and is_pruned(source, store):
                by_folder[source.folder] = source
    return list(reversed(by_folder.values()))


def renew(steps: Iterable[Step], store: Store) -> list[Step]:
    """Have pruned steps that are needed again built anew; returns them."""
    to_build = needed_again(steps, store)
    for step in to_build:
        discard(store.path(step))
    return to_build
