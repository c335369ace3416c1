"""Stored results of an experiment as flat rows: what tables and trackers are made from.

In: an Experiment and its store.  Out: one dict a table row (method, fraction, seed) with every benchmark, the steps
that made them, and what selection and tuning cost. Holds nothing that differs between two runs of the same steps.
"""

from typing import Any

from icon_repro.engine.artifact import Cost, Step, Store, ancestors
from icon_repro.engine.plan import Arm, Experiment
from icon_repro.engine.run import status


def collect(experiment: Experiment, store: Store) -> list[dict[str, Any]]:
    """One row an arm; a benchmark without a result is named under ``missing`` with the reason."""
    return [_row(experiment, arm, store) for arm in experiment.arms]


def _row(experiment: Experiment, arm: Arm, store: Store) -> dict[str, Any]:
    benchmarks: dict[str, Any] = {}
    missing: dict[str, str] = {}
    for name, step in arm.evaluations.items():
        if store.complete(step):
            metrics = store.record(step)["metrics"]
            benchmarks[name] = {**metrics, "step": step.folder}
        else:
            missing[name] = _reason(step, store)
    scored = [s for s in ancestors(arm.select) if s.stage == "score"] if arm.select else []
    return {
        "experiment": experiment.config.name,
        "model": experiment.config.model.name,
        "method": arm.method,
        "fraction": arm.fraction,
        "seed": arm.seed,
        "benchmarks": benchmarks,
        "missing": missing,
        "selected": _metric(arm.select, store, "selected"),
        "trained": _metric(arm.train, store, "rows"),
        "selection": _total(scored, store),
        "tuning": _total([arm.train] if arm.train else [], store),
        "steps": {"select": arm.select and arm.select.folder, "train": arm.train and arm.train.folder},
    }


def _reason(step: Step, store: Store) -> str:
    """What keeps ``step`` from being there: the first step it needs that failed or is under way, else nothing yet.

    No process or host is named: the text is stored with the results.
    """
    for needed in [*ancestors(step), step]:
        state = status(needed, store)
        if state.state == "failed":
            return f"{needed.label} failed: {state.why}"
        if state.state in ("running", "interrupted"):
            return f"{needed.label} {state.state}"
    return "not run yet"


def _metric(step: Step | None, store: Store, key: str) -> Any:
    return store.record(step)["metrics"][key] if step is not None and store.complete(step) else None


def _total(steps: list[Step], store: Store) -> dict[str, float] | None:
    """Tokens and operations of finished steps; None if one of them isn't finished."""
    if not all(store.complete(step) for step in steps):
        return None
    metrics = [store.record(step)["metrics"] for step in steps]
    return {"tokens": sum(m["tokens"] for m in metrics), "flops": sum(m["flops"] for m in metrics)}


def estimate(steps: list[Step]) -> Cost:
    """What the plan expects ``steps`` to take together."""
    return Cost(sum(step.cost.tokens for step in steps), sum(step.cost.flops for step in steps))
