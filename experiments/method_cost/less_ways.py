"""LESS without a projection next to stored projections: seconds, bytes, and how far their orders agree.

In: rows and model of the experiment ``study_cpu``, and ``../shared/golden/tiny_llama``.  Out: a JSON object a model, as
lines of ``--out``. In one process, after one epoch of a warm-up on the first rows: targets and rows by each way, the
processor's seconds of both steps, bytes that they store, Spearman's correlation of the influences with the exact ones.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from scipy.stats import spearmanr

from icon_repro.config.compose import composed
from icon_repro.data.options import Dtype
from icon_repro.data.rows import Example, Score
from icon_repro.engine.artifact import Store, ordered
from icon_repro.engine.records import read_rows, write_rows
from icon_repro.engine.run import run as run_steps
from icon_repro.engine.runtime import Runtime
from icon_repro.experiment import plan
from icon_repro.methods.less import exact, projected
from icon_repro.methods.less.options import (
    Direction,
    LessConfig,
    LessExact,
    LessMeans,
    LessProducts,
    LessProjection,
    LessShard,
    less_resolved,
)
from icon_repro.train.options import TrainConfig, TrainJob, Tuning
from icon_repro.train.step import run as train


def prepared(
    folder: Path, overrides: list[str], rows: int, targets: int
) -> tuple[dict[str, Path], LessConfig, Runtime]:
    """Model, rows, targets and a warm-up of one epoch."""
    config = composed("study_cpu", ["cluster.threads=1", *overrides])
    store, cache = Store(Path(config.paths.work)), Path(config.paths.cache)
    steps = {step.label: step for step in plan(config).steps}
    needed = {
        "model": steps[f"model/{config.model.name}"],
        "rows": steps["prepare/candidates"],
        "targets": steps[f"prepare/assessment-{config.data.name}"],
    }
    if failed := run_steps(ordered(needed.values()), store, config.cluster, cache, print).failed:
        raise SystemExit(f"could not prepare: {failed}")
    made = {"model": store.path(needed["model"])}
    for name, count in (("rows", rows), ("targets", targets)):
        made[name] = folder / name
        made[name].mkdir(parents=True)
        found = read_rows(store.path(needed[name]) / "rows.jsonl", Example)
        write_rows(made[name] / "rows.jsonl", found[:: max(1, len(found) // count)][:count])
    less = config.methods["less"]
    assert isinstance(less, LessConfig)
    runtime = Runtime(config.cluster, cache, "ways", terminal=None)
    job = TrainConfig(
        Tuning.lora,
        less.learning_rate,
        epochs=1.0,
        global_batch_size=4,
        max_length=less.max_length,
        dtype=Dtype.float32,
        lora=less.lora,
        keep_epochs=True,
    )
    made["warmup"] = folder / "warmup"
    made["warmup"].mkdir()
    train(TrainJob(job, 3), {"model": made["model"], "candidates": made["rows"]}, made["warmup"], runtime)
    return made, replace(less_resolved(less), epochs=1), runtime


def way(
    folder: Path, inputs: dict[str, Path], less: LessConfig, runtime: Runtime
) -> tuple[dict[str, float], float, int]:
    """Influence of each row; the processor's seconds and the stored bytes of targets and rows."""
    base = {"model": inputs["model"], "warmup": inputs["warmup"]}
    without = less.projection is LessProjection.exact
    spent = 0.0

    def made(label: str, stage: Callable[..., Any], params: Any, given: dict[str, Path]) -> Path:
        nonlocal spent
        out = folder / label
        out.mkdir(parents=True)
        start = time.process_time()
        stage(params, given, out, runtime)
        spent += time.process_time() - start
        return out

    shots: Any = LessMeans(less, 1) if without else LessShard(less, Direction.sgd, 1, 0, None)
    targets = made(
        "assessment", exact.means if without else projected.shard, shots, {**base, "rows": inputs["targets"]}
    )
    pool: Any = LessProducts(less, 1, 0, None) if without else LessShard(less, Direction.adam, 1, 0, None)
    given = {**base, "rows": inputs["rows"], **({"assessment": targets} if without else {})}
    rows = made("rows", exact.shard if without else projected.shard, pool, given)
    stored = sum(path.stat().st_size for part in (targets, rows) for path in part.iterdir())
    ends = {"warmup": inputs["warmup"], "epoch1-shard-0000": rows, "epoch1-assessment": targets}
    if without:
        del ends["epoch1-assessment"]
        out = made("scores", exact.run, LessExact(1), ends)
    else:
        out = made("scores", projected.run, less, ends)
    return {row.id: row.score for row in read_rows(out / "scores.jsonl", Score)}, spent, stored


def compared(folder: Path, overrides: list[str], rows: int, targets: int) -> dict[str, Any]:
    """All ways on one model."""
    inputs, less, runtime = prepared(folder, overrides, rows, targets)
    expected, seconds, stored = way(folder / "exact", inputs, less, runtime)
    found: dict[str, Any] = {"rows": rows, "targets": targets, "exact": {"seconds": seconds, "bytes": stored}}
    for dimensions in (1024, 8192):
        other = replace(less, projection=LessProjection.rademacher, dimensions=dimensions)
        scores, spent, size = way(folder / str(dimensions), inputs, other, runtime)
        ids = sorted(expected.keys() & scores.keys())
        agreement = spearmanr([expected[i] for i in ids], [scores[i] for i in ids]).statistic
        found[str(dimensions)] = {
            "seconds": spent,
            "bytes": size,
            "ratio": spent / seconds,
            "spearman_to_exact": float(agreement),
        }
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n\n")[0])
    parser.add_argument("overrides", nargs="*", help="of the experiment study_cpu, key=value")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--targets", type=int, default=24)
    parser.add_argument("--tiny", type=Path, default=Path("../shared/golden/tiny_llama"), help="folder of a tiny model")
    parser.add_argument("--out", type=Path, help="JSON lines, one a model")
    given = parser.parse_args()
    tiny = [f"model.{key}" for key in ("kind=local", f"path={given.tiny}", f"name={given.tiny.name}")]
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for name, overrides, factor in ((given.tiny.name, tiny, 4), ("smollm2", [], 1)):
            found = compared(Path(folder) / name, [*overrides, *given.overrides], factor * given.rows, given.targets)
            lines.append({"model": name, **found})
            print(json.dumps(lines[-1]), flush=True)
    if given.out is not None:
        write_rows(given.out, lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
