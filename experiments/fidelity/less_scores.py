"""LESS's scores of the 24 golden rows under the warm-up that its published code was run with.

In: ``../shared/golden``: rows, targets, a tiny model, the warm-up's weights and Adam moments.  Out: {id: score} under
any options, by the steps of the package; and the table's rows of LESS.
"""

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from icon_repro.data.rows import Example, Score
from icon_repro.engine.options import ClusterConfig
from icon_repro.engine.records import read_json, read_rows, write_json, write_rows
from icon_repro.engine.runtime import Runtime
from icon_repro.lm.options import LoraConfig
from icon_repro.methods.less import exact, projected
from icon_repro.methods.less.options import (
    AdamFormula,
    Direction,
    LessCompat,
    LessConfig,
    LessExact,
    LessMeans,
    LessProducts,
    LessProjection,
    LessShard,
    TargetTemplate,
    less_resolved,
)

EPOCHS = (1, 2)
CODE = {"adam": AdamFormula.code, "target_template": TargetTemplate.as_is}
NOISE, PROJECTED = "random projection is noise", LessProjection.rademacher
# option, ours, published, cause, what changes
OPTIONS: tuple[tuple[str, str, str, str, dict[str, Any]], ...] = (
    ("adam", "paper", "code", "moments corrected for their start at 0", {"adam": AdamFormula.code}),
    ("target_template", "tuning", "as_is", "one format on both sides", {"target_template": TargetTemplate.as_is}),
    ("dimensions", "exact", "8192", NOISE, {"projection": PROJECTED, "dimensions": 8192}),
    ("dimensions of study_cpu", "exact", "1024 (no code's)", NOISE, {"projection": PROJECTED, "dimensions": 1024}),
    ("compat", "ours", "published", "all options together", {"compat": LessCompat.published}),
)
Agreement = Callable[[Mapping[str, float], Mapping[str, float]], dict[str, Any]]


def less_rows(golden: Path, work: Path, agreement: Agreement) -> list[dict[str, Any]]:
    """LESS on the golden rows, under the golden warm-up: each option, and against the values of its code."""
    work.mkdir(parents=True, exist_ok=True)
    exact, projected = (read_json(golden / "methods" / f"less_{name}.json") for name in ("exact", "8192"))

    def made(**options: Any) -> dict[str, float]:
        with tempfile.TemporaryDirectory(dir=work) as folder:
            return less_scores(golden, Path(folder) / "less", **options)

    def row(option: str, ours: str, published: str, cause: str, values: Mapping[str, Any]) -> dict[str, Any]:
        side = {"ours": ours, "published": published, "cause": cause}
        return {"data": "golden", "method": "less", "option": option, **side, **values}

    ours, published = made(), made(compat=LessCompat.published)
    table = [
        row(option, mine, theirs, cause, agreement(ours, made(**change)))
        for option, mine, theirs, cause, change in OPTIONS
    ]
    against = (
        ("default", "values of its code, exact", "", ours, exact),
        ("adam and target_template as its code", "values of its code, exact", "", made(**CODE), exact),
        ("compat=published, 8192", "values of its code, 8192", "other random signs", published, projected),
        ("its code, 8192", "values of its code, exact", NOISE, projected, exact),
    )
    for mine, theirs, cause, one, other in against:
        table.append(row("against its code", mine, theirs, cause, agreement(one, other)))
    return table


def less_scores(golden: Path, work: Path, **options: Any) -> dict[str, float]:
    """Scores of the golden rows; what isn't in ``options`` is our default, with the golden warm-up's sizes."""
    less = less_resolved(LessConfig(epochs=2, lora=LoraConfig(r=8, alpha=32), max_length=512, **options))
    inputs = _inputs(golden, work)
    runtime = Runtime(ClusterConfig(device="cpu"), work / "cache", terminal=None)
    made = {"warmup": inputs["warmup"]}
    needed = {"model": inputs["model"], "warmup": inputs["warmup"]}
    for epoch in EPOCHS:
        targets, pool = (_new(work / f"epoch{epoch}-{name}") for name in ("assessment", "shard-0000"))
        if less.projection is LessProjection.exact:
            exact.means(LessMeans(less, epoch), {**needed, "rows": inputs["targets"]}, targets, runtime)
            read = {**needed, "rows": inputs["pool"], "assessment": targets}
            exact.shard(LessProducts(less, epoch, 0, None), read, pool, runtime)
        else:
            for direction, name, out in ((Direction.sgd, "targets", targets), (Direction.adam, "pool", pool)):
                shard = LessShard(less, direction, epoch, 0, None)
                projected.shard(shard, {**needed, "rows": inputs[name]}, out, runtime)
            made[targets.name] = targets
        made[pool.name] = pool
    out = _new(work / "scores")
    if less.projection is LessProjection.exact:
        exact.run(LessExact(len(EPOCHS)), made, out, runtime)
    else:
        projected.run(less, made, out, runtime)
    return {row.id: row.score for row in read_rows(out / "scores.jsonl", Score)}


def _inputs(golden: Path, work: Path) -> dict[str, Path]:
    """Folders of the steps that LESS reads, made of the golden files."""
    source = golden / "methods"
    model, warmup = _new(work / "model"), _new(work / "warmup")
    (model / "weights").symlink_to(golden / "tiny_llama")
    (warmup / "epochs").symlink_to(source / "less_warmup")
    write_json(model / "model.json", {"hub_id": None, "commit": None})
    pool = [Example(row["id"], row["instruction"], row["input"], row["output"]) for row in _lines(source, "candidates")]
    shots = [
        Example(row["id"], row["inputs"], "", row["response"], row["group"], ready=True)
        for row in _lines(source, "assessment")
    ]
    folders = {"model": model, "warmup": warmup}
    for name, rows in (("pool", pool), ("targets", shots)):
        folders[name] = _new(work / name)
        write_rows(folders[name] / "rows.jsonl", rows)
    return folders


def _lines(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def _new(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder
