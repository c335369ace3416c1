"""LESS's gradients and influence against two independent libraries, on a tiny model.

In: ``../shared/golden/tiny_llama``, the package's own rows; dattri and bergson on PYTHONPATH (README.md beside this).
Out: results.json beside this file, and a failure if anything differs by more than its tolerance.

bergson takes the gradient of a row from hooks (output gradients times inputs of each LoRA layer), dattri by torch.func
over one flat vector of weights, torch.optim.Adam takes its own step: none shares code with ``icon_repro.lm.gradients``.
"""

import argparse
import importlib.metadata
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bergson import GradientProcessor, IndexConfig, InMemoryCollector
from bergson.collector.collector import CollectorComputer
from datasets import Dataset
from dattri.algorithm.tracin import TracInAttributor
from dattri.task import AttributionTask
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from icon_repro.config.load import conf_dir
from icon_repro.data.options import Dtype
from icon_repro.data.rows import Example, Score
from icon_repro.engine.options import ClusterConfig
from icon_repro.engine.records import read_json, read_lines, read_rows, write_json, write_rows
from icon_repro.engine.runtime import Runtime
from icon_repro.lm.gradients import adam_direction, row_gradients
from icon_repro.lm.labels import tokenise
from icon_repro.lm.load import load_tokenizer
from icon_repro.lm.options import LoraConfig
from icon_repro.lm.tokens import IGNORED
from icon_repro.methods.less.influence import Warmed, warmed
from icon_repro.methods.less.options import Direction, LessConfig, LessShard, less_resolved
from icon_repro.methods.less.projected import run, shard
from icon_repro.train.options import TrainConfig, TrainJob, Tuning
from icon_repro.train.step import run as train

HERE = Path(__file__).resolve().parent
ROWS = 12  # of the pool, and of the targets
LESS = less_resolved(
    LessConfig(epochs=2, lora=LoraConfig(r=4, alpha=8, dropout=0.1), max_length=256, learning_rate=1e-2)
)
Rows = list[dict[str, list[int]]]


def examples(name: str) -> list[Example]:
    """The first rows of one of the package's own files."""
    path = conf_dir().parent / "icon_repro" / "data" / "tiny" / name
    found = [row for _, row in read_lines(path)][:ROWS]
    return [
        Example(f"{Path(name).stem}{i:02d}", row["instruction"], row["input"], row["output"], row.get("group", ""))
        for i, row in enumerate(found)
    ]


def warm_up(folder: Path, inputs: dict[str, Path], runtime: Runtime) -> Path:
    job = TrainConfig(
        Tuning.lora,
        LESS.learning_rate,
        epochs=float(LESS.epochs),
        global_batch_size=4,
        max_length=LESS.max_length,
        dtype=Dtype.float32,
        lora=LESS.lora,
        keep_epochs=True,
    )
    out = folder / "warmup"
    out.mkdir()
    train(TrainJob(job, LESS.warmup_seed), {"model": inputs["model"], "candidates": inputs["pool"]}, out, runtime)
    return out


def by_bergson(at: Warmed, rows: Rows, folder: Path) -> torch.Tensor:
    """(rows, weights) in the order of ``row_gradients``."""
    names = sorted(name for name, p in at.model.named_parameters() if p.requires_grad)
    modules = [name.removeprefix("base_model.").removesuffix(".weight") for name in names]
    cfg = IndexConfig(run_path=str(folder / "bergson"), loss_reduction="mean")
    cfg.partial_run_path.mkdir(exist_ok=True)
    data = Dataset.from_list(rows)
    collector = InMemoryCollector(
        model=at.model.base_model, cfg=cfg, processor=GradientProcessor(), target_modules=set(modules), data=data
    )
    computer = CollectorComputer(model=at.model, data=data, collector=collector, cfg=cfg)
    computer.run_with_collector_hooks(desc="gradients")
    return torch.cat([collector.gradients[name].float() for name in modules], dim=1)


def by_dattri(states: list[Warmed], weights: list[float], pool: Rows, targets: Rows) -> NDArray[np.float64]:
    """(pool, targets) sums over checkpoints of weight x cosine of gradients, without a projection."""
    model = states[0].model
    checkpoints = [{name: value.clone() for name, value in s.model.state_dict().items()} for s in states]

    def loss(params: dict[str, torch.Tensor], data: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        ids, labels = data
        output = torch.func.functional_call(model, params, kwargs={"input_ids": ids[None], "use_cache": False})
        losses = cross_entropy(output.logits[0, :-1], labels[1:], ignore_index=IGNORED, reduction="none")
        return losses.sum() / (labels[1:] != IGNORED).sum()

    def loader(rows: Rows) -> DataLoader[Any]:
        width = max(len(row["input_ids"]) for row in rows)
        ids = torch.tensor([row["input_ids"] + [0] * (width - len(row["input_ids"])) for row in rows])
        labels = torch.tensor([row["labels"] + [IGNORED] * (width - len(row["labels"])) for row in rows])
        return DataLoader(TensorDataset(ids, labels), batch_size=6)

    task = AttributionTask(loss, model, checkpoints)
    attributor = TracInAttributor(task, torch.tensor(weights), normalized_grad=True)
    attributor.projector_kwargs = None  # its constructor would project to 512 numbers
    made: NDArray[np.float64] = attributor.attribute(loader(pool), loader(targets)).double().numpy()
    return made


def by_torch(at: Warmed, gradients: torch.Tensor) -> torch.Tensor:
    """(rows, weights): the next step of torch's Adam for each row's gradient, from the state of the warm-up.

    All numbers are scaled up by a million, so that 1e-8 counts for nothing: torch adds it outside the root.
    """
    found = []
    for gradient in gradients:
        weights = torch.zeros(len(at.mean), dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.Adam([weights], lr=1.0, eps=0.0)
        optimizer.state[weights] = {
            "step": torch.tensor(float(at.step)),
            "exp_avg": at.mean.double() * 1e6,
            "exp_avg_sq": at.square.double() * 1e12,
        }
        weights.grad = gradient.double() * 1e6
        optimizer.step()
        found.append(-weights.detach())
    return torch.stack(found)


def cosines(a: torch.Tensor, b: torch.Tensor) -> NDArray[np.float64]:
    a, b = (torch.nn.functional.normalize(x.double(), dim=1) for x in (a, b))
    return np.asarray(a @ b.T)


def stored(folder: Path, inputs: dict[str, Path], runtime: Runtime) -> list[Score]:
    """Scores of the stages as an experiment runs them: projected, in float16."""
    made = {"warmup": inputs["warmup"]}
    for epoch in range(1, LESS.epochs + 1):
        for label, direction, rows in (
            ("shard-0000", Direction.adam, "pool"),
            ("assessment", Direction.sgd, "targets"),
        ):
            out = folder / f"epoch{epoch}-{label}"
            out.mkdir()
            needed = {"model": inputs["model"], "warmup": inputs["warmup"], "rows": inputs[rows]}
            shard(LessShard(LESS, direction, epoch, 0, None), needed, out, runtime)
            made[out.name] = out
    out = folder / "scores"
    out.mkdir()
    run(LESS, made, out, runtime)
    return read_rows(out / "scores.jsonl", Score)


def check(model: Path, folder: Path) -> dict[str, Any]:
    """All comparisons; largest differences."""
    runtime = Runtime(ClusterConfig(device="cpu", threads=1), folder / "cache", terminal=None)
    inputs = {"model": folder / "model", "pool": folder / "pool", "targets": folder / "targets"}
    for path in inputs.values():
        path.mkdir()
    (inputs["model"] / "weights").symlink_to(model.resolve())
    write_json(inputs["model"] / "model.json", {"hub_id": None, "commit": None})
    rows = {"pool": examples("pool.jsonl"), "targets": examples("assessment.jsonl")}
    for name, found in rows.items():
        write_rows(inputs[name] / "rows.jsonl", found)
    inputs["warmup"] = warm_up(folder, inputs, runtime)
    tokenizer = load_tokenizer(inputs["model"])
    pool, targets = (tokenise(rows[name], tokenizer, LESS.max_length)[0] for name in ("pool", "targets"))
    notes = [read_json(inputs["warmup"] / "epochs" / f"epoch-{e}" / "epoch.json") for e in range(1, LESS.epochs + 1)]
    weights = [note["learning_rate"] / sum(other["learning_rate"] for other in notes) for note in notes]
    states = [warmed(LESS, inputs["model"], inputs["warmup"], e, runtime) for e in range(1, LESS.epochs + 1)]

    worst = {"gradients, bergson": 0.0, "Adam's direction, torch": 0.0}
    plain, adam = np.zeros((ROWS, ROWS)), np.zeros((ROWS, ROWS))
    plain_bergson, adam_bergson = np.zeros((ROWS, ROWS)), np.zeros((ROWS, ROWS))
    for at, weight in zip(states, weights, strict=True):
        gradients = row_gradients(at.model)
        ours, shots = gradients(pool), gradients(targets)
        theirs, theirs_shots = by_bergson(at, pool, folder), by_bergson(at, targets, folder)
        for a, b in ((ours, theirs), (shots, theirs_shots)):
            worst["gradients, bergson"] = max(worst["gradients, bergson"], float((a - b).abs().max() / b.abs().max()))
        scaled = adam_direction(ours.double() * 1e6, at.mean.double() * 1e6, at.square.double() * 1e12, at.step)
        steps = by_torch(at, theirs)
        difference = float((scaled - steps).abs().max() / steps.abs().max())
        worst["Adam's direction, torch"] = max(worst["Adam's direction, torch"], difference)
        plain += weight * cosines(ours, shots)
        plain_bergson += weight * cosines(theirs, theirs_shots)
        adam += weight * cosines(adam_direction(ours, at.mean, at.square, at.step), shots)
        theirs_adam = adam_direction(theirs.double(), at.mean.double(), at.square.double(), at.step)
        adam_bergson += weight * cosines(theirs_adam, theirs_shots)
    dattri = by_dattri(states, weights, pool, targets)
    worst["influence with plain gradients, dattri"] = float(np.abs(plain - dattri).max())
    worst["influence with plain gradients, bergson"] = float(np.abs(plain - plain_bergson).max())
    worst["influence with Adam's direction, bergson's gradients"] = float(np.abs(adam - adam_bergson).max())

    groups = [row.group for row in rows["targets"]]
    tasks = {group: [i for i, other in enumerate(groups) if other == group] for group in sorted(set(groups))}
    exact = np.max([adam_bergson[:, members].mean(axis=1) for members in tasks.values()], axis=0)
    made = {score.id: score.score for score in stored(folder, inputs, runtime)}
    stored_scores = np.array([made[row.id] for row in rows["pool"]])
    return {
        "model": model.name,
        "rows": ROWS,
        "targets": {group: len(members) for group, members in tasks.items()},
        "checkpoints": LESS.epochs,
        "weights": len(states[0].mean),
        "largest_difference": worst,
        "spread_of_influence": {"plain": float(plain.std()), "adam": float(adam.std())},
        "stored_scores": {
            "dimensions": LESS.dimensions,
            "largest_difference": float(np.abs(stored_scores - exact).max()),
            "standard_deviation_of_scores": float(exact.std()),
            "rank_correlation": float(spearmanr(found, exact).statistic),
        },
        "versions": {
            name: importlib.metadata.version(name) for name in ("bergson", "dattri", "torch", "transformers", "peft")
        },
    }


TOLERANCES = {
    "gradients, bergson": 1e-5,  # of the largest number
    "Adam's direction, torch": 1e-4,  # of the largest number; where a moment is small the division magnifies rounding
    "influence with plain gradients, dattri": 1e-5,
    "influence with plain gradients, bergson": 1e-5,
    "influence with Adam's direction, bergson's gradients": 1e-5,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n\n")[0])
    parser.add_argument("--model", type=Path, default=Path("../shared/golden/tiny_llama"), help="folder of a model")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = check(given.model, Path(folder))
    write_json(HERE / "results.json", result)
    print(json.dumps(result, indent=1))
    bad = {k: v for k, v in result["largest_difference"].items() if not v <= TOLERANCES[k]}
    for name, value in bad.items():
        sys.stderr.write(f"error: {name}: differs by {value:.1e}, more than {TOLERANCES[name]:.0e}\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
