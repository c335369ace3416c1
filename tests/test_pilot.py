"""The pilot's analysis on matrices with known answers, and what it refuses."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.pilot.pilot import PilotError, load, main
from experiments.pilot.pilot_checks import find_bfloat16, find_control, find_length, find_tails
from experiments.pilot.pilot_findings import Finding, Pilot, Tasks, tasks_of
from icon_repro.methods.icon.control import bank_control
from icon_repro.methods.icon.matrices import task_scores

LENGTHS = [8, 32, 128, 512]


def write_pilot(
    folder: Path,
    c: int = 60,
    n: int = 64,
    true_sd: float = 0.05,
    noise_sd: float = 0.2,
    draw_sd: float = 0.0,
    length_slope: float = 0.0,
    draws: int = 3,
    bfloat16: float | None = None,
    heavy_rows: int = 0,
) -> Path:
    """A pilot whose contributions are known.

    contribution = candidate's mean (sd ``true_sd``, plus ``length_slope`` a unit of log length) + noise of the cell;
    a random context multiplies perplexity by 1.5 + 0.1 log(length / 8), +- ``draw_sd`` from text to text.
    """
    generator = np.random.default_rng(7)
    folder.mkdir(parents=True, exist_ok=True)
    tokens = np.exp(generator.uniform(np.log(8), np.log(512), c)).astype(int).clip(8, 512)
    logs = np.log(tokens / 8)
    means = true_sd * generator.standard_normal(c) + length_slope * (logs - logs.mean())
    noise = noise_sd * generator.standard_normal((c, n))
    alone = generator.uniform(3, 4, n)
    if heavy_rows:
        alone[:heavy_rows] += 2
        noise[:, :heavy_rows] *= 4
    task = means[:, None] + noise
    context = 1.5 + 0.1 * logs[:, None]
    own = np.arange(0, c, 2)
    bank = 1.5 + 0.1 * np.log(np.array(LENGTHS) / 8)[:, None, None] + np.zeros((1, draws, n))
    control = context[own] + np.zeros((1, n))
    if draw_sd:  # one factor a text, as a text is shared by all rows
        bank = bank + draw_sd * generator.standard_normal((len(LENGTHS), draws, 1))
        control = control + draw_sd * generator.standard_normal((len(own), 1))
    arrays = {
        "baseline": alone,
        "candidate": np.log((context - task).clip(0.05)) + alone,
        "control": np.log(control) + alone,
        "bank": np.log(bank) + alone,
    }
    if bfloat16 is not None:
        some = arrays["candidate"][:12, : n // 2]
        arrays["candidate_bfloat16"] = some + bfloat16 * generator.standard_normal(some.shape)
        arrays["baseline_bfloat16"] = alone[: n // 2]
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", values.astype(np.float32))
    ids = {
        "candidates": [f"c{i:04d}" for i in range(c)],
        "assessment": [f"a{i:04d}" for i in range(n)],
        "groups": ["one" if i % 2 else "two" for i in range(n)],
        "response_chars": (4 * tokens).tolist(),
        "context_tokens": tokens.tolist(),
        "control_candidates": own.tolist(),
        "bf16_candidates": list(range(12)),
        "bf16_rows": list(range(n // 2)),
    }
    (folder / "ids.json").write_text(json.dumps(ids))
    (folder / "bank_lengths.json").write_text(json.dumps(LENGTHS))
    return folder


def findings(folder: Path) -> dict[str, dict[str, Any]]:
    assert main([str(folder)]) == 0
    return json.loads((folder / "summary.json").read_text())["findings"]


def loaded(folder: Path, **settings: Any) -> tuple[Pilot, Tasks]:
    pilot = load(write_pilot(folder, **settings))
    return pilot, tasks_of(pilot)


def bfloat16(folder: Path, noise: float) -> Finding:
    pilot, tasks = loaded(folder, bfloat16=noise)
    assert pilot.bfloat16 is not None
    return find_bfloat16(pilot, tasks, pilot.bfloat16)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, Any]]]:
    """A pilot without surprises: reliability .8, no tie to length, no noise of texts, bfloat16 nearly exact."""
    folder = write_pilot(tmp_path_factory.mktemp("pilot"), c=160, bfloat16=1e-3)
    return folder, findings(folder)


def read_csv(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_reliability_is_what_was_put_in(plain: tuple[Path, dict[str, dict[str, Any]]]) -> None:
    folder, found = plain
    numbers = found["reliability"]
    expected = 0.05**2 / (0.05**2 + 0.2**2 / 64)
    assert numbers["generalizability"] == pytest.approx(expected, abs=0.05)
    assert numbers["split_half"] == pytest.approx(numbers["generalizability"], abs=0.03)
    assert numbers["generalizability_low"] < expected < numbers["generalizability_high"]
    assert numbers["rows_for_0.9"] == pytest.approx(0.2**2 / 0.05**2 * 9, rel=0.3)
    rows = read_csv(folder, "reliability")
    assert [float(r["x"]) for r in rows if r["series"].startswith("Spearman-Brown")] == [8, 16, 32, 64]
    measured = {float(r["x"]): float(r["y"]) for r in rows if r["series"].startswith("two disjoint")}
    assert measured.keys() == {8, 16, 32}
    for k, value in measured.items():
        assert value == pytest.approx(0.05**2 / (0.05**2 + 0.2**2 / k), abs=0.08)


def test_overlap_of_disjoint_rows_lies_below_that_with_all_rows(plain: tuple[Path, dict[str, dict[str, Any]]]) -> None:
    folder, found = plain
    numbers = found["overlap"]
    assert numbers["selected"] == 24 and numbers["half_rows"] == 32
    assert 0.15 < numbers["halves_overlap"] < numbers["half_with_all_overlap"] < 1
    assert numbers["halves_overlap"] < numbers["expected_overlap_with_as_many_new_rows"] < 1
    rows = read_csv(folder, "overlap")
    model = {r["x"]: float(r["y"]) for r in rows if r["series"].endswith("model")}
    for row in rows:
        if row["series"].startswith("k rows and k other rows"):
            assert float(row["y"]) == pytest.approx(model[row["x"]], abs=0.08)


def test_scores_are_the_papers_with_the_banks_control(plain: tuple[Path, dict[str, dict[str, Any]]]) -> None:
    pilot = load(plain[0])
    control = bank_control(pilot.bank, pilot.bank_lengths, pilot.context_tokens)
    expected = task_scores(pilot.candidate, control, pilot.baseline, 1e-6)
    assert np.array_equal(tasks_of(pilot).bank, expected)
    drawn = {r["label"]: float(r["y"]) for r in read_csv(plain[0], "length") if r["series"] == "bank's control"}
    mean = expected.mean(axis=1)
    scaled = dict(zip(pilot.candidates, (mean - mean.mean()) / mean.std(), strict=True))
    assert drawn == pytest.approx(scaled, abs=1e-4)


def test_control_without_noise_of_texts_ranks_alike(plain: tuple[Path, dict[str, dict[str, Any]]]) -> None:
    numbers = plain[1]["control"]
    assert numbers["spearman_bank_own"] > 0.999 and numbers["overlap_bank_own"] == 1
    assert numbers["rms_over_sd_of_score"] < 0.01 and numbers["variance_share_of_single_draw"] < 1e-6
    assert numbers["spearman_random_context_tokens"] > 0.99  # 0.1 a unit of log length
    assert numbers["spearman_bank_none"] < 0.8


def test_control_noise_of_single_texts_is_measured(tmp_path: Path) -> None:
    numbers = find_control(*loaded(tmp_path, c=160, draw_sd=0.05, draws=30)).numbers
    variance = 0.05**2 + 0.2**2 / 64
    assert numbers["variance_share_of_single_draw"] == pytest.approx(0.05**2 / (variance + 0.05**2), abs=0.12)
    assert numbers["rms_difference_own_bank"] == pytest.approx(0.05, rel=0.25)
    assert numbers["rms_over_standard_error"] == pytest.approx(0.05 / (0.2 / 8), rel=0.25)
    assert numbers["spearman_bank_own"] < 0.9


def test_control_one_draw_leaves_its_share_unknown(tmp_path: Path) -> None:
    found = find_control(*loaded(tmp_path, draws=1))
    assert found.numbers["variance_share_of_single_draw"] is None and "unknown share" in found.text


@pytest.mark.parametrize("noise, word", [(1e-3, "Yes"), (0.2, "No")])
def test_bfloat16_is_judged_by_the_standard_error(noise: float, word: str, tmp_path: Path) -> None:
    found = bfloat16(tmp_path, noise)
    numbers = found.numbers
    assert found.text.startswith(word)
    # NLL noise times the ratio of perplexities, about 1.7 here, over the noise of a cell
    assert numbers["rms_over_standard_error"] == pytest.approx(1.7 * noise / 0.2, rel=0.5)
    assert (numbers["rms_over_standard_error_at_all_rows"] <= numbers["limit"]) == (word == "Yes")
    assert noise < numbers["largest_nll_difference"] < 5 * noise


def test_bfloat16_not_tried_is_said_and_old_figures_go(tmp_path: Path) -> None:
    write_pilot(tmp_path, c=16, n=16, true_sd=0.0)  # nothing but noise is analysed too
    (tmp_path / "bfloat16.png").write_bytes(b"old")
    assert "bfloat16" not in findings(tmp_path)
    assert "Not measured" in (tmp_path / "summary.md").read_text()
    assert not (tmp_path / "bfloat16.png").exists()


def test_length_tie_is_found_and_control_takes_it_away(
    plain: tuple[Path, dict[str, dict[str, Any]]], tmp_path: Path
) -> None:
    without = plain[1]["length"]
    assert without["spearman_bank_context_tokens_low"] < 0 < without["spearman_bank_context_tokens_high"]
    assert without["spearman_none_context_tokens"] < -0.5 and "weakens" in without["finding"]
    assert without["variance_explained_by_tokens"] < 0.1
    assert without["reliability_within_length"] == pytest.approx(plain[1]["reliability"]["generalizability"], abs=0.05)
    tied = find_length(*loaded(tmp_path, length_slope=0.2), np.random.default_rng(0)).numbers
    assert tied["spearman_bank_response_chars"] > 0.9 and tied["auc_bank_response_chars"] > 0.9
    assert tied["variance_explained_by_tokens"] > 0.8


def test_tails_rows_that_hold_the_noise_are_found(
    plain: tuple[Path, dict[str, dict[str, Any]]], tmp_path: Path
) -> None:
    even = plain[1]["tails"]
    assert even["tail_rows"] == 3 and even["tail_share_of_noise"] == pytest.approx(3 / 64, abs=0.02)
    assert even["spearman_paper_paper"] == pytest.approx(1)
    found = find_tails(*loaded(tmp_path, heavy_rows=3), np.random.default_rng(0))
    heavy = found.numbers
    assert heavy["tail_share_of_noise"] == pytest.approx(3 * 16 / (61 + 3 * 16), abs=0.06)
    assert "far more than" in found.text
    assert heavy["reliability_clipped"] > heavy["reliability_paper"] + 0.05
    assert heavy["half_of_clipped_predicts_paper"] > heavy["half_of_paper_predicts_paper"]
    assert all(line.y[-1] == pytest.approx(1) for line in found.panels[0].series)


def test_rerun_gives_the_same_bytes(plain: tuple[Path, dict[str, dict[str, Any]]]) -> None:
    folder, found = plain
    made = sorted([*folder.glob("*.csv"), *folder.glob("*.png"), *folder.glob("summary.*")])
    assert {p.name for p in made} == {"summary.json", "summary.md"} | {
        f"{n}.{s}" for n in found for s in ("csv", "png")
    }
    before = [path.read_bytes() for path in made]
    assert main([str(folder)]) == 0
    assert [path.read_bytes() for path in made] == before
    text = (folder / "summary.md").read_text()
    assert all(numbers["finding"] in text and f"({name}.png)" in text for name, numbers in found.items())
    assert str(folder) not in text + (folder / "summary.json").read_text()


def edit(name: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    """Change a stored array, or the object of a JSON file in place."""

    def apply(folder: Path) -> None:
        path = folder / name
        if path.suffix == ".npy":
            np.save(path, change(np.load(path)))
        else:
            value = json.loads(path.read_text())
            result = change(value)
            path.write_text(json.dumps(value if result is None else result))

    return apply


def spoilt(place: tuple[int, ...], value: float) -> Callable[[Any], Any]:
    def change(array: Any) -> Any:
        array[place] = value
        return array

    return change


@pytest.mark.parametrize(
    "damage, parts",
    [
        (lambda folder: (folder / "ids.json").unlink(), ["ids.json", "no such file"]),
        (lambda folder: (folder / "bank.npy").unlink(), ["bank.npy", "no such file"]),
        (lambda folder: (folder / "bank_lengths.json").unlink(), ["bank_lengths.json", "no such file"]),
        (lambda folder: (folder / "baseline_bfloat16.npy").unlink(), ["baseline_bfloat16.npy", "no such file"]),
        (lambda folder: (folder / "candidate.npy").write_bytes(b"no"), ["candidate.npy", "not a readable npy"]),
        (edit("candidate.npy", lambda a: a.T), ["candidate.npy", "(64, 60)", "60 x 64"]),
        (edit("control.npy", lambda a: a[:-1]), ["control.npy", "(29, 64)", "30 x 64"]),
        (edit("bank.npy", lambda a: a[1:]), ["bank.npy", "(3, 3, 64)", "4 x any x 64"]),
        (edit("bank.npy", lambda a: a[:, :0]), ["bank.npy", "(4, 0, 64)"]),
        (edit("baseline.npy", lambda a: a.astype(int)), ["baseline.npy", "floating-point"]),
        (edit("candidate.npy", spoilt((2, 5), np.nan)), ["candidate.npy", "1 values", "nan", "(2, 5)"]),
        (edit("bank.npy", spoilt((1, 0, 3), np.inf)), ["bank.npy", "inf", "(1, 0, 3)"]),
        (edit("baseline.npy", lambda a: -a), ["baseline.npy", "64 values", "at least 0"]),
        (edit("candidate.npy", lambda a: 0 * a + a[:1]), ["candidate.npy", "same NLLs"]),
        (edit("ids.json", lambda ids: ids.pop("groups") and None), ["ids.json", "groups", "a list is needed"]),
        (edit("ids.json", lambda ids: ids["groups"].pop() and None), ["groups has 63", "64 ids"]),
        (edit("ids.json", lambda ids: ids["response_chars"].pop() and None), ["response_chars has 59", "60 ids"]),
        (edit("ids.json", lambda ids: ids["candidates"].pop() and None), ["59 ids"]),
        (edit("ids.json", lambda ids: ids["candidates"].__setitem__(1, "c0000")), ["'c0000' more than once"]),
        (edit("ids.json", lambda ids: ids["candidates"].__setitem__(1, 7)), ["candidates holds 7", "strings"]),
        (edit("ids.json", lambda ids: ids["control_candidates"].__setitem__(1, 60)), ["holds 60", "0 to 59"]),
        (edit("ids.json", lambda ids: ids["context_tokens"].__setitem__(1, 0)), ["context_tokens holds 0"]),
        (edit("ids.json", lambda ids: ids.update(control_candidates=[0, 1])), ["2 entries", "at least 4"]),
        (edit("ids.json", lambda ids: [1]), ["ids.json", "list"]),
        (
            edit("bank_lengths.json", lambda lengths: lengths[::-1]),
            ["bank_lengths.json", "[512, 128, 32, 8]", "ascend"],
        ),
    ],
)
def test_load_damaged_folder_is_refused(
    damage: Callable[[Path], object], parts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pilot(tmp_path, bfloat16=1e-3)
    damage(tmp_path)
    with pytest.raises(PilotError) as caught:
        load(tmp_path)
    for part in parts:
        assert re.search(re.escape(part), str(caught.value)), str(caught.value)
    assert "again" in str(caught.value)  # what to do
    assert main([str(tmp_path)]) == 2
    assert "error: PilotError: " in capsys.readouterr().err
    assert not (tmp_path / "summary.json").exists()
