"""Read the data sets of one of lm-eval's tasks from a hub once, for the evaluations of every model.

In: lm-eval's task, the commit of its hub data set.  Out: the rows of all its data sets (``evaluate.row_sets``).
An evaluation then asks no hub, and its rows are known by their content: MMLU alone is 57 data sets, each of which took
three to five requests for each model. Compute nodes need no network.
Known gap: what a task gets by other means than ``datasets.load_dataset`` it gets in each evaluation.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from icon_repro.engine.runtime import Runtime
from icon_repro.evaluate.options import EvaluationJob
from icon_repro.evaluate.requirements import missing
from icon_repro.evaluate.row_sets import RowSetError, write_sets
from icon_repro.evaluate.tasks import EvaluationError, read


def run(cfg: EvaluationJob, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write the data sets. ``extra["commit"]`` is that of the hub's.

    Args:
        cfg: as ``options.rows_job`` makes it.

    Raises:
        EvaluationError: a data set can't be had or kept.
    """
    if problems := missing(cfg, []):
        raise EvaluationError("\n".join(problems))
    benchmark = read(cfg, inputs, runtime)
    try:
        rows = write_sets(out, benchmark.sets, benchmark.origins)
    except RowSetError as error:
        raise EvaluationError(f"evaluation.tasks.{cfg.name}.task={cfg.task.task!r}: {error} Choose another.") from error
    return {"tasks": len(benchmark.tasks), "sets": len(benchmark.sets), "rows": rows}
