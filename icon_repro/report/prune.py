"""Say which weights a plan doesn't need any more, and remove them when that is confirmed.

In: a plan, its store.  Out: lines for action=prune.
"""

from icon_repro.config.actions import Keep
from icon_repro.engine.artifact import Step, Store
from icon_repro.engine.pruning import prune, unneeded, weights_of
from icon_repro.experiment import Experiment
from icon_repro.report.disk import removable, size

_SHOWN = 10


def lines(experiment: Experiment, store: Store) -> list[str]:
    """What would be freed, or was."""
    config = experiment.config
    if config.keep is Keep.all:
        found = ["keep=all: no weights are removed."]
        for keep in (Keep.selected, Keep.none):
            steps = unneeded(experiment.steps, store, removable(experiment, keep))
            found.append(
                f"keep={keep.value} would free {size(_bytes(steps, store))} of {len(steps)} steps: "
                f"action=prune keep={keep.value} confirm=true"
            )
        return found
    steps = unneeded(experiment.steps, store, removable(experiment, config.keep))
    if not steps:
        return [f"keep={config.keep.value}: nothing to remove; weights that missing steps need stay."]
    named = [f"  {step.label}: {size(_bytes([step], store))}" for step in steps[:_SHOWN]]
    more = [f"  and {len(steps) - _SHOWN} more"] if len(steps) > _SHOWN else []
    total = size(_bytes(steps, store))
    if not config.confirm:
        return [
            f"would free {total}: the weights of {len(steps)} steps that nothing in this experiment needs any more",
            *named,
            *more,
            "Their records and results stay. Another experiment in this work folder that needs such weights trains "
            "them again. confirm=true removes the weights.",
        ]
    for step in steps:
        prune(step, store)
    return [f"freed {total}: the weights of {len(steps)} steps", *named, *more]


def _bytes(steps: list[Step], store: Store) -> int:
    return sum(sum(weights_of(store.path(step)).values()) for step in steps)


class Remover:
    """Removes weights during a run, as soon as nothing needs them."""

    def __init__(self, experiment: Experiment, store: Store) -> None:
        self.steps, self.store = experiment.steps, store
        self.folders = removable(experiment, experiment.config.keep)

    def __call__(self) -> list[str]:
        """Remove what nothing needs now; a line for each step."""
        if not self.folders:
            return []
        steps = unneeded(self.steps, self.store, self.folders)
        self.folders -= {step.folder for step in steps}
        return [f"{step.label}: {size(prune(step, self.store))} of weights removed, as keep says" for step in steps]
