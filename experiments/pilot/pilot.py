"""What the pair matrices of a pilot say about the score itself.

Run: ``python experiments/pilot/pilot.py DIR`` in a checkout.
In, in DIR (NLL: mean over scored tokens, nats; axes as in ids.json):
    ids.json           candidates, assessment: ids; groups of the assessment rows; response_chars, context_tokens of
                       the candidates; control_candidates, bf16_candidates, bf16_rows: indices
    baseline.npy       (n,) NLL of each assessment row alone
    candidate.npy      (c, n) after each candidate
    control.npy        (control_candidates, n) after the candidate's own random context
    bank.npy           (bins, draws, n) after random contexts of bank_lengths.json's tokens, which ascend
    candidate_bfloat16.npy (bf16_candidates, bf16_rows), baseline_bfloat16.npy (bf16_rows,): only if that was tried
Out, in DIR: <finding>.png and .csv for each finding, summary.json, summary.md, figures.json with the figures' texts,
index.html; the same bytes on every run.
Known gap: one sample of candidates and of rows from one pool; the intervals are over candidates, not over pools.
"""

import argparse
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.pilot.pilot_checks import find_bfloat16, find_control, find_length, find_tails
from experiments.pilot.pilot_findings import (
    BFLOAT16,
    SEED,
    SHARE,
    Bfloat16,
    Numbers,
    Pilot,
    find_adaptive,
    find_overlap,
    find_reliability,
    tasks_of,
)
from icon_repro.engine.artifact import file_sha256
from icon_repro.engine.records import read_json, write_json
from icon_repro.report import page
from icon_repro.report.figures.draw import write_described, write_figure, write_points
from icon_repro.report.figures.series import rounded

Indices = NDArray[np.intp]
Matrix = NDArray[np.float64]
LEAST = {"candidates": 8, "assessment": 16, "control_candidates": 4, "bf16_candidates": 3, "bf16_rows": 8}
AGAIN = "Export the pilot's matrices into this folder again."


class PilotError(ValueError):
    """The folder doesn't hold a pilot's matrices that belong together."""


def load(folder: Path) -> Pilot:
    """Read and check a pilot's folder.

    Raises:
        PilotError: a file is missing, or isn't what the ids say.
    """
    path = folder / "ids.json"
    ids = _json(path)
    if not isinstance(ids, dict):
        raise PilotError(f"{path}: holds a {type(ids).__name__}; an object with lists is needed. {AGAIN}")
    candidates, assessment = (_strings(path, ids, key, distinct=True) for key in ("candidates", "assessment"))
    c, n = len(candidates), len(assessment)
    _strings(path, ids, "groups", length=n)
    own = _integers(path, ids, "control_candidates", below=c)
    lengths = _integers(folder / "bank_lengths.json", {"lengths": _json(folder / "bank_lengths.json")}, "lengths")
    if (np.diff(lengths) <= 0).any():
        raise PilotError(f"{folder / 'bank_lengths.json'}: {lengths.tolist()} must ascend, as bank.npy's bins. {AGAIN}")
    block = None
    if any((folder / f"{name}_bfloat16.npy").exists() for name in ("candidate", "baseline")):
        some, rows = _integers(path, ids, "bf16_candidates", below=c), _integers(path, ids, "bf16_rows", below=n)
        block = Bfloat16(
            some,
            rows,
            _array(folder / "baseline_bfloat16.npy", "bf16_rows", len(rows)),
            _array(folder / "candidate_bfloat16.npy", "bf16_candidates x bf16_rows", len(some), len(rows)),
        )
    pilot = Pilot(
        candidates=candidates,
        assessment=assessment,
        response_chars=_integers(path, ids, "response_chars", length=c).astype(np.float64),
        context_tokens=_integers(path, ids, "context_tokens", length=c).astype(np.float64),
        control_candidates=own,
        baseline=_array(folder / "baseline.npy", "assessment", n),
        candidate=_array(folder / "candidate.npy", "candidates x assessment", c, n),
        control=_array(folder / "control.npy", "control_candidates x assessment", len(own), n),
        bank=_array(folder / "bank.npy", "bank_lengths x draws x assessment", len(lengths), None, n),
        bank_lengths=lengths.astype(np.float64),
        bfloat16=block,
    )
    if not np.ptp(pilot.candidate, axis=0).any():
        raise PilotError(f"{folder / 'candidate.npy'}: all {c} candidates have the same NLLs. {AGAIN}")
    return pilot


def _json(path: Path) -> Any:
    if not path.is_file():
        raise PilotError(f"{path}: no such file, and every pilot has it. {AGAIN}")
    return read_json(path)


def _list(path: Path, ids: dict[str, Any], key: str, length: int | None, distinct: bool) -> list[Any]:
    if not isinstance(ids.get(key), list):
        raise PilotError(f"{path}: {key} is {type(ids.get(key)).__name__}; a list is needed. {AGAIN}")
    found: list[Any] = ids[key]
    if length is not None and len(found) != length:
        raise PilotError(f"{path}: {key} has {len(found)} entries, but there are {length} ids to it. {AGAIN}")
    if len(found) < LEAST.get(key, 1):
        raise PilotError(f"{path}: {key} has {len(found)} entries; at least {LEAST.get(key, 1)} are needed. {AGAIN}")
    if distinct and (twice := [x for x in found if found.count(x) > 1]):
        raise PilotError(f"{path}: {key} names {twice[0]!r} more than once; each may stand there once. {AGAIN}")
    return found


def _strings(path: Path, ids: dict[str, Any], key: str, length: int | None = None, distinct: bool = False) -> list[str]:
    found = _list(path, ids, key, length, distinct)
    if bad := [x for x in found if not isinstance(x, str)]:
        raise PilotError(f"{path}: {key} holds {bad[0]!r}; strings are needed. {AGAIN}")
    return found


def _integers(
    path: Path, ids: dict[str, Any], key: str, length: int | None = None, below: int | None = None
) -> Indices:
    """Whole numbers: distinct indices if ``below`` is given, at least 1 otherwise."""
    found = _list(path, ids, key, length, distinct=below is not None)
    least, most = (1, math.inf) if below is None else (0, below - 1)
    if bad := [x for x in found if type(x) is not int or not least <= x <= most]:
        raise PilotError(f"{path}: {key} holds {bad[0]!r}; whole numbers from {least} to {most} are needed. {AGAIN}")
    return np.array(found, np.intp)


def _array(path: Path, axes: str, *shape: int | None) -> Matrix:
    """A matrix of NLLs; None in ``shape`` is any length but 0."""
    if not path.is_file():
        raise PilotError(f"{path}: no such file; it holds the NLLs of {axes}. {AGAIN}")
    try:
        found = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise PilotError(f"{path}: not a readable npy file ({error}). {AGAIN}") from error
    if not isinstance(found, np.ndarray) or not np.issubdtype(found.dtype, np.floating):
        raise PilotError(f"{path}: holds no floating-point array; NLLs of {axes} are needed. {AGAIN}")
    fits = len(found.shape) == len(shape) and all(
        have == want if want is not None else have > 0 for have, want in zip(found.shape, shape, strict=True)
    )
    if not fits:
        wanted = " x ".join("any" if size is None else str(size) for size in shape)
        raise PilotError(f"{path}: shape {found.shape}, but ids.json makes {axes} = {wanted}. {AGAIN}")
    # Rounding may leave -1e-8 where the model is certain; perplexities overflow beyond exp(700).
    bad = np.argwhere(~((found >= -1e-4) & (found < 700)))
    if len(bad):
        place = tuple(int(i) for i in bad[0])
        raise PilotError(
            f"{path}: {len(bad)} values aren't NLLs (first: {found[place]} at {place}, of {axes}); each must be "
            f"finite, at least 0 and below 700 nats. Score these pairs again in float32. {AGAIN}"
        )
    return np.asarray(found, np.float64)


def analyse(folder: Path, *, pictures: bool = True) -> str:
    """Write every finding's figure and csv, summary.json and summary.md; returns the summary as text.

    Args:
        pictures: False leaves out the png files.
    """
    pilot = load(folder)
    tasks = tasks_of(pilot)
    block, seeds = pilot.bfloat16, np.random.SeedSequence(SEED).spawn(5)
    generators = [np.random.default_rng(seed) for seed in seeds]  # one each: findings don't depend on one another
    findings = [
        find_reliability(tasks, generators[0]),
        find_overlap(pilot, tasks, generators[1]),
        find_control(pilot, tasks),
        *([] if block is None else [find_bfloat16(pilot, tasks, block)]),
        find_length(pilot, tasks, generators[2]),
        find_tails(pilot, tasks, generators[3]),
        find_adaptive(tasks, generators[4]),
    ]
    for suffix in ("png", "csv") if block is None else ():
        (folder / f"bfloat16.{suffix}").unlink(missing_ok=True)  # of an earlier export
    for finding in findings:
        if pictures:
            write_figure(folder, finding.name, finding.title, finding.panels)
        else:
            write_points(folder, finding.name, finding.panels)
    write_described(folder, [(f.name, f.title, f.text, f.panels) for f in findings])
    c, n, (bins, draws) = len(pilot.candidates), len(pilot.assessment), pilot.bank.shape[:2]
    write_json(
        folder / "summary.json",
        {
            "candidates": c,
            "assessment_rows": n,
            "bank": {"lengths": pilot.bank_lengths.astype(int).tolist(), "draws": draws},
            "share": SHARE,
            "seed": SEED,
            "inputs": {path.name: file_sha256(path) for path in _inputs(folder)},
            "findings": {f.name: {"finding": f.text, **_plain(f.numbers)} for f in findings},
        },
    )
    rows = [[f.question, f.text, f"[png]({f.name}.png) [csv]({f.name}.csv)"] for f in findings]
    if block is None:
        rows.append([BFLOAT16, "Not measured: there is no candidate_bfloat16.npy.", "-"])
    table = "\n".join(
        "| " + " | ".join(cells) + " |" for cells in [["question", "finding", "figure"], ["---"] * 3, *rows]
    )
    text = (
        f"# Pilot: {c} candidates x {n} assessment rows\n\n"
        f"The score is the paper's, its control the bank: {bins} lengths x {draws} draws. Standard errors are over "
        "rows, with what all candidates share on a row taken out; intervals are 95 %, over candidates. Numbers: "
        "summary.json; made by `python experiments/pilot/pilot.py`.\n\n"
        f"{table}\n"
    )
    (folder / "summary.md").write_text(text, encoding="utf-8")
    return text


def _inputs(folder: Path) -> list[Path]:
    names = ["ids", "bank_lengths"]
    arrays = ["baseline", "candidate", "control", "bank", "baseline_bfloat16", "candidate_bfloat16"]
    paths = [folder / f"{name}.json" for name in names] + [folder / f"{name}.npy" for name in arrays]
    return [path for path in paths if path.is_file()]


def _plain(numbers: Numbers) -> Numbers:
    """As stored: six digits, null where a number isn't defined (a side that doesn't vary)."""
    return {
        name: value if value is None or isinstance(value, int) else rounded(value) if math.isfinite(value) else None
        for name, value in numbers.items()
    }


def main(arguments: list[str] | None = None) -> int:
    """Analyse a folder; 0 if it was complete, 2 if not."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n\n")[0])
    parser.add_argument("folder", type=Path, help="laid out as described in the module's docstring")
    folder = parser.parse_args(arguments).folder
    try:
        print(analyse(folder), end="")
        page.write(folder, folder / "index.html")
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {type(error).__name__}: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
