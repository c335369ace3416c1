"""The price of a ranking: costs, ranks over parts, intervals, and what is refused."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from experiments.price.price import (
    ROWS,
    PriceError,
    Way,
    among_best,
    analyse,
    as_text,
    by_part,
    line,
    main,
    overlap,
    share_of_full,
)

ROOT = Path(__file__).resolve().parents[1]
TOKENS = {"row": 50.0, "context": 100.0, "text": 90.0, "bank": 200.0}


def test_share_counts_contexts_rows_bank_baseline_and_what_a_probe_reads() -> None:
    full = 10 * (100 + 20 * 50) + 16 * (200 + 20 * 50) + 20 * 50
    few = Way(ROWS, "", 4, 8, True, [])
    expected = 10 * (100 + 4 * 50) + 16 * (200 + 8 * 50) + 8 * 50 + 10 * 90
    assert share_of_full(few, 10, 20, TOKENS, 16) == pytest.approx(expected / full)
    assert share_of_full(Way(ROWS, "", 20, 20, False, []), 10, 20, TOKENS, 16) == 1
    assert share_of_full(Way("length", "", 0, 0, False, []), 10, 20, TOKENS, 16) == 0
    assert share_of_full(Way("model", "", 0, 0, True, []), 10, 20, TOKENS, 16) == pytest.approx(900 / full)


def test_scores_of_models_that_each_rank_a_part_are_put_on_one_scale() -> None:
    scores = np.array([100.0, 0.1, 101.0, 0.2])
    assert by_part(scores, [[0, 2], [1, 3]]).tolist() == [0.25, 0.25, 0.75, 0.75]


def test_best_found_and_auc_are_those_of_the_truths_best() -> None:
    truth = np.arange(20.0)  # the best 15 % are 17, 18, 19
    found = truth.copy()
    found[17] = -1
    assert overlap(found, truth) == pytest.approx(2 / 3) and overlap(truth, truth) == 1
    assert among_best(truth, truth) == 1 and among_best(found, truth) == pytest.approx(1 - 17 / (3 * 17))


def test_line_says_the_mean_over_replays_within_its_interval_and_how_often_the_bound_held() -> None:
    draw = np.random.default_rng(0)
    truth = draw.standard_normal(60)
    scores = [truth + 0.5 * draw.standard_normal(60) for _ in range(4)]
    differ = [1 - overlap(each, truth) for each in scores]
    bounds = [differ[0], differ[1] - 0.1, differ[2] + 0.1, 1.0]
    units = draw.integers(60, size=(50, 60))
    found = line(Way(ROWS, "some", 4, 8, True, scores, bounds), truth, (0.1, 0.2), units)
    assert found["bound held"] == 0.75 and found["share"] == 0.1
    low, mean, high = (float(found[key] or 0) for key in ("spearman low", "spearman", "spearman high"))
    assert 0.6 < low < mean < high < 1
    assert "in 75%" in as_text([found], 60, 8)


def test_committed_table_has_the_probe_above_lora_on_the_same_rows() -> None:
    lines = (ROOT / "results" / "price" / "price.md").read_text(encoding="utf-8").splitlines()
    spearman = {
        cells[1].strip(): float(cells[5].split()[0]) for one in lines if len(cells := one.split("|")) > 6 and "[" in one
    }
    assert spearman["probe, from the other half"] > spearman["LoRA, from the other half"] + 0.1  # why it is the default
    assert json.loads((ROOT / "results" / "price" / "lora.json").read_text())["folds"] == 2


def test_second_matrix_is_of_other_candidates_and_says_the_same_of_chosen_rows() -> None:
    first, second = ROOT / "results" / "pilot", ROOT / "results" / "price" / "second"
    ids, others = (json.loads((folder / "ids.json").read_text()) for folder in (first, second))
    assert ids["assessment"] == others["assessment"]
    assert len(others["candidates"]) == 128 and not set(ids["candidates"]) & set(others["candidates"])
    for folder in (second.parent, second):
        with (folder / "price.csv").open(encoding="utf-8", newline="") as file:
            spearman = {line["way"]: float(line["spearman"]) for line in csv.DictReader(file)}
        (chosen,) = [value for way, value in spearman.items() if way.startswith("4 rows that a pilot chose")]
        assert chosen >= 0.85 and chosen > spearman["4 rows of its own and probe"]  # why budget=auto chooses rows


def test_folder_without_what_the_model_said_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(PriceError, match=r"alike\.npy: no such file; inputs\.py"):
        analyse(tmp_path, ROOT / "results" / "pilot")
    assert main([str(tmp_path)]) == 2 and "PriceError" in capsys.readouterr().err
