"""What a ranking costs and what it is worth, for each way to it.

Run: ``python experiments/price/price.py results/price`` in a checkout.
In: the pilot's matrix (results/pilot), or another of the same form; alike.npy, tokens.json (``inputs``) and, if it was
made, lora.json (``lora``) in the folder.
Out, in the folder: price.csv with a line for each way, price.md, figure.png and figure.csv, figures.json.
Each way ranks the matrix' candidates; the truth is the mean over all assessment rows. Scoring is replayed ``REPLAYS``
times with rows and candidates in a random order; selection models rank the half (or tenth) of the candidates that they
haven't seen. Where a pilot chooses rows, the candidates after it are ranked. Intervals: 95 %, bootstrap over candidates
of the mean over replays; the replays aren't units.
Costs are forward passes in tokens: of full scoring, contexts, rows, noise bank and baseline all counted.
Known gap: one small model and one set of rows, responses cut at 16 tokens; the truth is the score itself, whose rows
the replays draw from, as budget auto knows; a selection model costs what a row that it ranks does, its training apart.
"""

import argparse
import csv
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from experiments.pilot.pilot import load
from experiments.pilot.pilot_findings import Pilot, tasks_of
from experiments.price import near
from icon_repro.data.rows import selected_count
from icon_repro.engine.records import read_json
from icon_repro.methods.agreement import auc, spearman
from icon_repro.methods.icon import adaptive, chosen, few
from icon_repro.methods.icon.options import POOL_ROWS, AdaptiveConfig, AutoConfig, round_ends, rows_in_use
from icon_repro.methods.icon.ridge import fit
from icon_repro.report.figures.draw import write_described, write_figure, write_points
from icon_repro.report.figures.series import Curve, Panel, Scatter, Series
from icon_repro.report.tables import markdown

Matrix = NDArray[np.float64]
SHARE = 0.15
MANY = 5000  # the paper's candidates, over whom a pilot's cost is spread
REPLAYS, BOOTSTRAPS = 20, 100
COUNTS = (2, 4, 8, 16)
PAPER = {"row": 296.0, "context": 78.0, "text": 78.0, "bank": 545.0}  # mean tokens with Llama 3: shared/spec/paper.md
ROWS, OWN, ADAPTIVE, AUTO, PROBE = "rows only", "few rows and probe", "adaptive", "budget=auto", "probe"
CHOSEN = "rows that a pilot chose"


class PriceError(ValueError):
    """The folder doesn't hold what a pilot's candidates are ranked by."""


@dataclass
class Way:
    """One way to a ranking."""

    kind: str
    name: str
    pairs: float  # a candidate, mean
    used: int  # assessment rows in use: the bank's
    reads: bool  # a forward pass of each candidate's own text
    scores: list[Matrix]  # (c,) of each replay
    bounds: list[float] | None = None  # of each replay: share of the selection that may differ
    ranked: list[NDArray[np.bool_]] | None = None  # of each replay: (c,) who is ranked; None: all


def share_of_full(way: Way, count: int, rows: int, tokens: dict[str, float], bank: int) -> float:
    """Tokens of a way over those of full scoring."""

    def scoring(pairs: float, used: int) -> float:
        if not pairs:
            return 0.0
        shared = bank * (tokens["bank"] + used * tokens["row"]) + used * tokens["row"]
        return count * (tokens["context"] + pairs * tokens["row"]) + shared

    return (scoring(way.pairs, way.used) + way.reads * count * tokens["text"]) / scoring(rows, rows)


def models(
    pilot: Pilot, truth: Matrix, alike: Matrix, lora: dict[str, float] | None, halves: list[list[int]]
) -> list[Way]:
    """Selection models on candidates that they haven't seen, and length."""
    values, axes = np.linalg.eigh(alike)
    features = axes * np.sqrt(np.maximum(values, 0))  # any features with these inner products give the same ridge

    def probe(parts: Sequence[Sequence[int]]) -> Matrix:
        found = np.empty(len(truth))
        for part in parts:
            held = np.array(part)
            known = np.setdiff1d(np.arange(len(truth)), held)
            ranks = np.argsort(np.argsort(truth[known])) / (len(known) - 1)
            predicted, _ = fit(features[known], ranks)[0].predict(features[held])
            found[held] = predicted
        return found

    tenths = [part.tolist() for part in np.array_split(np.random.default_rng(1).permutation(len(truth)), 10)]
    trained = [np.array([lora[i] for i in pilot.candidates])] if lora else []
    return [
        Way("length", "length: response characters", 0, 0, False, [pilot.response_chars]),
        Way("length", "length: context tokens", 0, 0, False, [pilot.context_tokens]),
        *(Way("LoRA", "LoRA, from the other half", 0, 0, True, [by_part(one, halves)]) for one in trained),
        Way(PROBE, "probe, from the other half", 0, 0, True, [by_part(probe(halves), halves)]),
        Way(PROBE, "probe, from the other nine tenths", 0, 0, True, [by_part(probe(tenths), tenths)]),
    ]


def taught(task: Matrix, alike: Matrix, rows: int, own: bool) -> list[Matrix]:
    """What the others say about each candidate, all with a few rows: of their own, or the same for all."""
    count, total = task.shape
    used, generator = rows_in_use(total, count, AutoConfig()), np.random.default_rng(rows + own)
    found = []
    for _ in range(REPLAYS):
        order, columns = generator.permutation(count), generator.permutation(total)[:used]
        places = (np.arange(count)[:, None] * rows * own + np.arange(rows)) % used
        cells = np.full((count, used), np.nan)
        np.put_along_axis(cells, places, np.take_along_axis(task[np.ix_(order, columns)], places, axis=1), axis=1)
        predicted = np.empty(count)
        predicted[order] = few.estimate(cells, alike[np.ix_(order, order)], total).predicted
        found.append(predicted)
    return found


def piloted(task: Matrix, alike: Matrix) -> list[Way]:
    """Rows that a pilot chooses, the same for all further candidates; what the probe learns from these."""
    count, pilot = len(task), AutoConfig().pilot_candidates
    ways: list[Way] = []
    for each in COUNTS[:3]:
        generator = np.random.default_rng(3000 + each)
        rows = min(POOL_ROWS, task.shape[1])
        found = [chosen.replay(task, [SHARE], generator, rows=rows, pilot=pilot, each=each) for _ in range(REPLAYS)]
        ranked = [one.met < rows for one in found]
        bounds = [one.disagreement[SHARE]["bound"] for one in found]
        of_many = each + pilot * (rows - each) / MANY
        name = f"{each} rows that a pilot chose ({of_many:.1f} of {MANY:,})"
        scores = [one.mean for one in found]
        ways.append(Way(CHOSEN, name, found[0].pairs / count, rows, False, scores, bounds, ranked))
        if each < COUNTS[2]:
            goals = [np.argsort(np.argsort(one)) / count for one in scores]
            predicted = [few.left_out(alike, one, np.ones(count))[0] for one in goals]
            name = f"probe, from {each} rows of the others that a pilot chose"
            ways.append(Way(PROBE, name, 0, 0, True, predicted, None, ranked))
    return ways


def by_part(scores: Matrix, parts: Sequence[Sequence[int]]) -> Matrix:
    """Scores of models that each rank one part, on one scale: ranks within the part."""
    found = np.empty(len(scores))
    for part in parts:
        found[part] = (np.argsort(np.argsort(scores[part])) + 0.5) / len(part)
    return found


def scored(task: Matrix, alike: Matrix) -> list[Way]:
    """Replays of all ways that score pairs."""
    count, total = task.shape
    used = rows_in_use(total, count, AutoConfig())
    ways = [
        Way(PROBE, f"probe, from 4 rows of {whose}", 0, 0, True, taught(task, alike, 4, own))
        for own, whose in ((False, "the others, the same for all"), (True, "each other's own"))
    ]
    for rows in (*COUNTS, 32, 64, 128):
        generator = np.random.default_rng(rows)
        drawn = [task[:, generator.permutation(total)[:rows]].mean(axis=1) for _ in range(REPLAYS)]
        ways.append(Way(ROWS, f"{rows} rows for all", rows, rows, False, drawn))
    plans = [(OWN, f"{rows} rows of its own and probe", [rows], used) for rows in COUNTS]
    plans += [(AUTO, f"{AUTO}, {n} rows in use", round_ends(n, AutoConfig()), n) for n in (used, 2 * used, total)]
    for number, (kind, name, ends, n) in enumerate(plans):
        generator = np.random.default_rng(1000 + number)
        found = [few.replay(task, alike, [SHARE], ends, generator, n) for _ in range(REPLAYS)]
        pairs = float(np.mean([one.pairs for one in found])) / count
        bounds = [one.disagreement[SHARE]["bound"] for one in found]
        ways.append(Way(kind, name, pairs, n, True, [one.mean for one in found], bounds))
    generator = np.random.default_rng(2000)
    races = [adaptive.replay(task, [SHARE], AdaptiveConfig(), generator) for _ in range(REPLAYS)]
    pairs = float(np.mean([one.pairs for one in races])) / count
    bounds = [one.disagreement[SHARE]["bound"] for one in races]
    ways.append(Way(ADAPTIVE, "budget=adaptive", pairs, total, False, [one.mean for one in races], bounds))
    return ways


def overlap(found: Matrix, truth: Matrix) -> float:
    """Share of the truth's best that are among the found best."""
    cut = selected_count(SHARE, len(truth))
    best = [set(np.argsort(-values, kind="stable")[:cut].tolist()) for values in (found, truth)]
    return len(best[0] & best[1]) / cut


def among_best(found: Matrix, truth: Matrix) -> float:
    """Probability that one of the truth's best is above another candidate."""
    positive = np.zeros(len(truth), dtype=bool)
    positive[np.argsort(-truth, kind="stable")[: selected_count(SHARE, len(truth))]] = True
    return auc(found, positive)


MEASURES: dict[str, Callable[[Matrix, Matrix], float]] = {"spearman": spearman, "overlap": overlap, "auc": among_best}


def line(
    way: Way, truth: Matrix, shares: tuple[float, float], units: NDArray[np.intp]
) -> dict[str, float | str | None]:
    """The numbers of one way; intervals over ``units``, (draws, c) resampled candidates."""
    masks = way.ranked or [np.ones(len(truth), dtype=bool)] * len(way.scores)
    replays = list(zip(way.scores, masks, strict=True))
    found: dict[str, float | str | None] = {
        "kind": way.kind,
        "way": way.name,
        "rows a candidate": round(way.pairs, 2),
        "share": round(shares[0], 4),
        "share at the paper's lengths": round(shares[1], 4),
    }
    for name, measure in MEASURES.items():
        found[name] = round(float(np.mean([measure(scores[some], truth[some]) for scores, some in replays])), 3)
        drawn = []
        for unit in units:
            parts = [(scores, unit[some[unit]]) for scores, some in replays]
            drawn.append(np.mean([measure(scores[part], truth[part]) for scores, part in parts]))
        low, high = np.quantile(drawn, [0.025, 0.975])
        found |= {f"{name} low": round(float(low), 3), f"{name} high": round(float(high), 3)}
    held = bound = None
    if way.bounds is not None:
        differ = [1 - overlap(scores, truth) for scores in way.scores]
        held = float(np.mean([d <= b + 1e-9 for d, b in zip(differ, way.bounds, strict=True)]))
        bound = round(1 - float(np.mean(way.bounds)), 3)
    return {**found, "bound": bound, "bound held": held}


def analyse(folder: Path, matrices: Path, *, pictures: bool = True) -> str:
    """Write all files into ``folder``; returns the table.

    Raises:
        PriceError: a file is missing or belongs to other candidates.
    """
    for name in ("alike.npy", "tokens.json"):
        if not (folder / name).is_file():
            raise PriceError(f"{folder / name}: no such file; inputs.py beside this script makes it.")
    pilot = load(matrices)
    task = tasks_of(pilot).bank
    count, total = task.shape
    alike = np.load(folder / "alike.npy", allow_pickle=False).astype(np.float64)
    lora = read_json(folder / "lora.json") if (folder / "lora.json").is_file() else None
    if alike.shape != (count, count) or (lora and lora["predicted"].keys() != set(pilot.candidates)):
        raise PriceError(
            f"{folder}: alike.npy or lora.json isn't of the {count} candidates of {matrices}; make it again."
        )
    tokens: dict[str, float] = read_json(folder / "tokens.json")
    bank = pilot.bank.shape[0] * pilot.bank.shape[1]
    truth = task.mean(axis=1)
    units = np.random.default_rng(7).integers(count, size=(BOOTSTRAPS, count))
    parts = [
        p.tolist() for p in np.array_split(np.random.default_rng(0).permutation(count), lora["folds"] if lora else 2)
    ]
    lines = [
        line(
            way,
            truth,
            (share_of_full(way, count, total, tokens, bank), share_of_full(way, count, total, PAPER, bank)),
            units,
        )
        for way in [
            *models(pilot, truth, alike, lora and lora["predicted"], parts),
            *scored(task, alike),
            *piloted(task, alike),
        ]
    ]
    with (folder / "price.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    text = as_text(lines, count, total) + near_text(near.lines(task, alike, SHARE))
    (folder / "price.md").write_text(text, encoding="utf-8")
    drawn = panels(lines)
    shows = f"Spearman and overlap of the best {SHARE:.0%} with full scoring against the share of its operations"
    write_described(folder, [("figure", "The price of a ranking", shows, drawn)])
    if pictures:
        write_figure(folder, "figure", "The price of a ranking", drawn)
    else:
        write_points(folder, "figure", drawn)
    return text


def panels(lines: Sequence[dict[str, float | str | None]]) -> list[Panel]:
    """Two: Spearman, overlap."""
    made: list[Panel] = []
    for measure, label in (
        ("spearman", "Spearman to full scoring"),
        ("overlap", f"share of the best {SHARE:.0%} found"),
    ):
        series: list[Series] = []
        for kind in (ROWS, OWN, CHOSEN, AUTO, ADAPTIVE, PROBE, "length", "LoRA"):
            some = sorted((one for one in lines if one["kind"] == kind), key=lambda one: float(one["share"] or 0))
            if not some:  # a matrix without a selection model with LoRA
                continue
            x = [max(float(one["share at the paper's lengths"] or 0), 5e-4) for one in some]  # length costs nothing
            y, low, high = (
                [float(one[key] or 0) for one in some] for key in (measure, f"{measure} low", f"{measure} high")
            )
            if kind in (ROWS, OWN, CHOSEN, AUTO):
                series.append(Curve(kind, x, y, low, high, whiskers=True))
            else:
                series.append(Scatter(kind, x, y, [str(one["way"]) for one in some], low=low, high=high))
        made.append(
            Panel(
                "share of full scoring's operations, paper's lengths",
                label,
                series,
                decades_x=True,
                legend=not made,
                y_range=(0, 1.02),
            )
        )
    return made


def as_text(lines: Sequence[dict[str, float | str | None]], count: int, total: int) -> str:
    """The table as Markdown."""
    header = ["way", "rows a candidate", "share of operations", "at the paper's lengths", "Spearman"]
    header += [f"best {SHARE:.0%} found", "AUC", "bound held"]
    rows = []
    for one in lines:
        told = [f"{one[m]:.2f} [{one[f'{m} low']:.2f}, {one[f'{m} high']:.2f}]" for m in MEASURES]
        held = "" if one["bound held"] is None else f"{one['bound']:.2f} in {float(one['bound held'] or 0):.0%}"
        shares = [f"{float(one[key] or 0):.2g}" for key in ("share", "share at the paper's lengths")]
        rows.append([str(one["way"]), f"{one['rows a candidate']:g}", *shares, *told, held])
    return (
        f"# The price of a ranking: {count} candidates x {total} assessment rows\n\n"
        f"Made by `python experiments/price/price.py`; means of {REPLAYS} replays. Intervals: 95 %, bootstrap over "
        "candidates. Bound held: the share of the best that is surely found by the method's own 95 % bound, and in how "
        "many replays that was true. A pilot's pairs are counted; in brackets the rows a candidate if there were "
        f"{MANY:,}: its own and its share of the pilot's.\n\n" + markdown(header, rows) + "\n"
    )


def near_text(rows: list[list[str]]) -> str:
    """The second table: what scoring some of the pool adds to its ranking by a probe."""
    header = ["rows of the pool scored", "which", "Spearman of the pool", f"best {SHARE:.0%} found"]
    return (
        f"\n## Rows near the cut\n\n{near.LEARNED} candidates are scored with the {AutoConfig().first_rows} rows that "
        f"{AutoConfig().pilot_candidates} of them chose, and a probe ranks the others, the pool. Means of "
        f"{near.REPLAYS} replays, +- 1.96 standard errors over the replays.\n\n" + markdown(header, rows) + "\n"
    )


def main(arguments: list[str] | None = None) -> int:
    """Analyse a folder; 0 if it was complete, 2 if not."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pilot", type=Path, default=Path("results/pilot"))
    given = parser.parse_args(arguments)
    try:
        print(analyse(given.folder, given.pilot), end="")
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {type(error).__name__}: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
