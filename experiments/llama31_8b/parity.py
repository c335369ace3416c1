"""Does ``compat=official`` give what the authors' released scripts gave?

Run: ``python experiments/llama31_8b/parity.py DIR`` in a checkout.
In: a folder with candidates.jsonl, assessment.jsonl, and for each model a folder <name>/ with <name>_baseline.csv,
<name>_pairs.csv (with the random texts, which are injected) and <name>_scores.csv.  Out: a table; exit code 1 beyond
the tolerances: NLL 1e-5 and the same NaN set; scores aggregated from the stored NLLs 1e-6; end to end 5e-4 and the same
ranks (significance magnifies the rounding of NLLs about 25 times).
"""

import argparse
import csv
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from icon_repro.data.options import Dtype
from icon_repro.data.rows import Example
from icon_repro.engine.records import read_lines, write_json
from icon_repro.lm.budget import TokenBudget
from icon_repro.lm.load import load_model, load_tokenizer
from icon_repro.methods.icon.layout import Layout
from icon_repro.methods.icon.matrices import task_scores
from icon_repro.methods.icon.options import Compat, IconConfig, ScoreDtype, resolved
from icon_repro.methods.icon.pairs import Engine
from icon_repro.methods.icon.score import aggregate

Matrix = NDArray[np.float64]
TOLERANCES = {"baseline NLL": 1e-5, "context NLL": 1e-5, "random NLL": 1e-5, "aggregated": 1e-6, "end to end": 5e-4}
_PARTS = ("significance", "consistency", "variance", "coverage")


class ParityError(ValueError):
    """The folder isn't laid out as it should be."""


def _table(path: Path, *columns: str) -> list[dict[str, str]]:
    if not path.is_file():
        raise ParityError(f"{path}: no such file; each model needs <name>_baseline.csv, _pairs.csv and _scores.csv.")
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or not set(columns) <= set(rows[0]):
        raise ParityError(f"{path}: needs rows with the columns {', '.join(columns)}.")
    return rows


def _matrix(rows: list[dict[str, str]], column: str, candidates: list[str], assessment: list[str]) -> Matrix:
    """(candidates, assessment) values of a column of pairs, placed by id."""
    found = {(row["candidate_id"], row["assessment_id"]): float(row[column]) for row in rows}
    try:
        return np.array([[found[c, a] for a in assessment] for c in candidates])
    except KeyError as error:
        raise ParityError(f"pairs: {error} is missing.") from error


def check(folder: Path, name: str) -> dict[str, Any]:
    """Compare one model; returns the largest differences, the NaN sets' agreement and the ranks'."""
    candidates = [row for _, row in read_lines(folder / "candidates.jsonl")]
    assessment = [row for _, row in read_lines(folder / "assessment.jsonl")]
    candidate_ids, ids = [row["id"] for row in candidates], [row["id"] for row in assessment]
    baseline_rows = _table(folder / f"{name}_baseline.csv", "assessment_id", "nll_s")
    pairs = _table(folder / f"{name}_pairs.csv", "candidate_id", "assessment_id", "nll_context", "nll_random", "noise")
    scores = {row["candidate_id"]: row for row in _table(folder / f"{name}_scores.csv", "candidate_id", *_PARTS)}
    by_id = {row["assessment_id"]: float(row["nll_s"]) for row in baseline_rows}
    golden = {
        "baseline NLL": np.array([by_id[i] for i in ids]),
        "context NLL": _matrix(pairs, "nll_context", candidate_ids, ids),
        "random NLL": _matrix(pairs, "nll_random", candidate_ids, ids),
    }
    noise = {(row["candidate_id"], row["assessment_id"]): row["noise"] for row in pairs}
    cfg = resolved(IconConfig(compat=Compat.official, dtype=ScoreDtype.float32))
    with tempfile.TemporaryDirectory() as temporary:
        model_step = Path(temporary)
        (model_step / "weights").symlink_to((folder / name).absolute())
        write_json(model_step / "model.json", {"hub_id": None, "commit": None})
        layout = Layout(load_tokenizer(model_step), cfg)
        model = load_model(model_step, Dtype.float32, torch.device("cpu"))
        engine = Engine(model, layout, cfg, TokenBudget(model, 4096), lambda c, a: noise[c, a])
    rows = [layout.row(Example(r["id"], r["inputs"], "", r["response"], ready=True)) for r in assessment]
    examples = [Example(r["id"], r["instruction"], r["input"], r["output"]) for r in candidates]
    ours = {
        "baseline NLL": engine.mean_nll([], [row.alone for row in rows]),
        "context NLL": np.array([engine.candidate(example, rows) for example in examples]),
        "random NLL": np.array([engine.control(example, rows, ids) for example in examples]),
    }
    result: dict[str, Any] = {"model": name, "pairs": golden["context NLL"].size}
    for key, values in golden.items():
        result[key] = _largest(ours[key], values)
    result["same NaN set"] = all(np.array_equal(np.isnan(ours[k]), np.isnan(golden[k])) for k in golden)
    result["NaN pairs"] = int(np.isnan(golden["context NLL"]).sum())
    printed = {part: np.array([float(scores[c][part]) for c in candidate_ids]) for part in _PARTS}
    for key, source in (("aggregated", golden), ("end to end", ours)):
        task = task_scores(source["context NLL"], source["random NLL"], source["baseline NLL"], cfg.epsilon)
        made = aggregate(task, skip_nan=True)
        result[key] = max(_largest(made[part], printed[part]) for part in _PARTS)
    result["same ranks"] = _same_order(made["significance"], printed["significance"])
    return result


def _largest(ours: Matrix, theirs: Matrix) -> float:
    """Largest absolute difference where both are numbers; 0 if nowhere."""
    both = ~(np.isnan(ours) | np.isnan(theirs))
    return float(np.abs(ours - theirs)[both].max(initial=0.0))


def _same_order(ours: Matrix, theirs: Matrix) -> bool:
    """Whether no two candidates stand the other way round; the csv holds 10 digits, closer ones are ties."""
    apart = theirs[:, None] - theirs[None, :] > 1e-9
    return bool((ours[:, None] > ours[None, :])[apart].all())


def main(arguments: list[str] | None = None) -> int:
    """Check every model of a folder; 0 if all are within the tolerances."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n\n")[0])
    parser.add_argument("folder", type=Path, help="laid out as described in the module's docstring")
    folder = parser.parse_args(arguments).folder
    names = sorted(path.parent.name for path in folder.glob("*/config.json"))
    if not names:
        sys.stderr.write(f"error: {folder}: holds no model (a folder with config.json).\n")
        return 2
    code = 0
    for name in names:
        try:
            result = check(folder, name)
        except (ValueError, KeyError, OSError) as error:
            sys.stderr.write(f"error: {name}: {type(error).__name__}: {error}\n")
            return 2
        bad = [key for key, limit in TOLERANCES.items() if not result[key] <= limit]
        bad += [key for key in ("same NaN set", "same ranks") if not result[key]]
        print(f"{name}: {result['pairs']} pairs, {result['NaN pairs']} of them NaN")
        for key, limit in TOLERANCES.items():
            print(f"  {key:<13} largest difference {result[key]:.2e}  (limit {limit:.0e})")
        print(f"  same NaN set: {result['same NaN set']}; same ranks: {result['same ranks']}")
        print(f"  {'FAILED: ' + ', '.join(bad) if bad else 'ok'}")
        code = code or int(bool(bad))
    return code


if __name__ == "__main__":
    sys.exit(main())
