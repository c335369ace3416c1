"""Rank the pilot's candidates by ICon's selection model with LoRA, each by a model that hasn't seen it.

Run: ``python experiments/price/lora.py`` in a checkout.
In: the pilot's matrix (results/pilot), the experiment ``pilot`` for model and texts.  Out, in results/price: lora.json,
the settings and, by id, the score that a candidate gets from the model trained on the other half.
Known gap: one training seed, halves and a single, untuned setting (as study_cpu's, with smaller batches and a larger
learning rate for 96 rows): a model of more rows and epochs may rank better. Two cores don't do more in an hour.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from experiments.pilot.pilot import load
from experiments.pilot.pilot_findings import tasks_of
from experiments.price.inputs import PILOT, prepared
from icon_repro.data.options import Dtype
from icon_repro.data.rows import Example, Score
from icon_repro.engine.records import read_json, read_lines, read_rows, write_json, write_rows
from icon_repro.engine.schema import plain
from icon_repro.methods.icon import selector
from icon_repro.methods.icon.options import SelectorConfig, SelectorHead, SelectorJob, SelectorKind, SelectorTarget

FOLDS = 2
MODEL = SelectorConfig(
    kind=SelectorKind.lora,
    target=SelectorTarget.rank,
    head=SelectorHead.trained,
    learning_rate=5e-4,
    epochs=3,
    batch_size=8,
    held_out=1 / FOLDS,
    max_length=256,
    pool_max_length=256,
    dtype=Dtype.bfloat16,
)


def folds(count: int, seed: int = 0) -> list[list[int]]:
    """Seeded parts of equal size."""
    return [part.tolist() for part in np.array_split(np.random.default_rng(seed).permutation(count), FOLDS)]


def main(arguments: list[str] | None = None) -> int:
    """Train and test a model for each fold."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n\n")[0])
    parser.add_argument("overrides", nargs="*", help="of the experiment pilot, key=value")
    parser.add_argument("--out", type=Path, default=Path("results/price"))
    given = parser.parse_args(arguments)
    try:
        inputs, runtime = prepared(given.overrides, ("model", "order"))
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    pilot = load(PILOT)
    scores = dict(zip(pilot.candidates, tasks_of(pilot).bank.mean(axis=1).tolist(), strict=True))
    examples = {row.id: row for row in read_rows(inputs["order"] / "rows.jsonl", Example)}
    predicted, tokens, started = dict[str, float](), 0, time.monotonic()
    parts = folds(len(pilot.candidates))
    for number, held in enumerate(parts):
        order = [i for part in [*parts[:number], *parts[number + 1 :]] for i in part] + held
        with tempfile.TemporaryDirectory() as scratch:
            folder = {name: Path(scratch) / name for name in ("order", "scores", "out")}
            for path in folder.values():
                path.mkdir()
            names = [pilot.candidates[i] for i in order]
            write_rows(folder["order"] / "rows.jsonl", (examples[name] for name in names))
            write_rows(folder["scores"] / "scores.jsonl", (Score(name, scores[name]) for name in names))
            parts_of = {"model": inputs["model"], "order": folder["order"], "scores": folder["scores"]}
            metrics = selector.train(SelectorJob(MODEL, [0.15], 0), parts_of, folder["out"], runtime)
            predicted |= {row["id"]: row["predicted"] for _, row in read_lines(folder["out"] / "held_out.jsonl")}
        tokens += metrics["tokens"]
        print(f"fold {number + 1} of {FOLDS}: Spearman {metrics['spearman']:.3f}, {time.monotonic() - started:.0f} s")
    assert predicted.keys() == scores.keys()
    given.out.mkdir(parents=True, exist_ok=True)
    ordered_scores = {name: round(predicted[name], 6) for name in pilot.candidates}
    settings = {key: value for key, value in plain(MODEL).items() if key != "probe"}
    found = {"folds": FOLDS, "training_tokens": tokens, "settings": settings, "predicted": ordered_scores}
    write_json(given.out / "lora.json", found)
    print(read_json(given.out / "lora.json")["training_tokens"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
