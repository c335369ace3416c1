"""Figures, samples and page of an experiment from its store: what is read is what was stored, and once is enough."""

import contextlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small import publish_fake, small

from icon_repro.data.rows import Example, Score
from icon_repro.engine.artifact import Step, Store, ancestors
from icon_repro.engine.records import read_json, write_json, write_rows
from icon_repro.experiment import Experiment, plan
from icon_repro.report.checksums import DRAWN, NEEDED
from icon_repro.report.collect import collect
from icon_repro.report.compare import compare
from icon_repro.report.figures.from_store import gathered
from icon_repro.report.presentation import _behind, _current, present
from icon_repro.report.results import report
from icon_repro.report.rows import read_result_rows

ROWS = [Example(f"r{i}", "Say it.", "", "word " * (i + 1)) for i in range(12)]
IDS = [row.id for row in ROWS]
ASSESSMENT = [f"a{i}" for i in range(8)]
METRICS: dict[str, dict[str, Any]] = {
    "score": {"tokens": 10, "flops": 30.0},
    "select": {"selected": 3},
    "train": {"rows": 3, "tokens": 500, "flops": 700.0},
    "evaluate": {"metric": "acc", "value": 0.5, "stderr": 0.1, "items": 20, "version": "1"},
}
IFD = {"kind": "ifd", "drop_above_one": True}


def candidate(shape: tuple[int, int]) -> np.ndarray[Any, Any]:
    return np.random.default_rng(5).normal(2, 0.3, shape).astype(np.float32)


def fill(step: Step, folder: Path) -> None:
    """What the steps that figures read write, with numbers of our own."""
    kind = step.target.rpartition("icon_repro.")[2]
    if step.stage == "select":
        write_json(folder / "ids.json", IDS[:3])
    elif kind in ("methods.icon.score:run", "methods.random:run", "methods.longest:run", "methods.ifd:run"):
        write_rows(folder / "scores.jsonl", [Score(i, float(-place)) for place, i in enumerate(IDS)])
    elif step.name in ("universe", "candidates"):
        write_rows(folder / "rows.jsonl", ROWS)
    elif kind == "methods.icon.pairs:baseline":
        np.save(folder / "nll.npy", np.full(len(ASSESSMENT), 2.0))
        write_json(folder / "ids.json", {"assessment": ASSESSMENT, "groups": [""] * len(ASSESSMENT)})
    elif kind == "methods.icon.pairs:shard":
        start, stop = step.params.start, step.params.stop
        order = list(range(len(ASSESSMENT)))[::-1]  # stored in another order than the baseline's
        names = IDS[start:stop]
        np.save(folder / "candidate.npy", candidate((12, 8))[start:stop][:, order])
        write_json(folder / "ids.json", {"candidates": names, "assessment": [ASSESSMENT[i] for i in order]})
    elif kind == "methods.icon.pairs:bank":
        np.save(folder / "bank.npy", np.full((1, 1, len(ASSESSMENT)), 2.5))
        write_json(folder / "bank.json", {"lengths": [8], "contexts": dict.fromkeys(IDS, 8)})
        write_json(folder / "ids.json", {"assessment": ASSESSMENT})
    elif kind == "methods.common.answers:shard":
        write_json(folder / "ids.json", {"rows": IDS, "reasons": {"r0": "no token"}})
        np.save(folder / "conditioned.npy", np.array([np.nan, *np.linspace(1, 3, 11)]))
        np.save(folder / "direct.npy", np.array([np.nan, *[2.0] * 11]))


def made(tmp_path: Path, changes: dict[str, Any] | None = None) -> tuple[Experiment, Store]:
    """A finished experiment with ICon (without control), random and IFD."""
    places = {"paths.results": str(tmp_path / "outputs"), "tracking.wandb": "disabled"}
    icon = {"methods.icon.control": "none", "methods.icon.dtype": "float32", "methods.ifd": IFD}
    experiment = plan(small(tmp_path / "work", {**places, **icon, **(changes or {})}))
    store = Store(tmp_path / "work")
    for step in experiment.steps:
        if not store.complete(step):
            publish_fake(step, store, METRICS.get(step.stage, {}))
            fill(step, store.path(step))
    return experiment, store


def material(experiment: Experiment, store: Store) -> Any:
    return gathered(experiment, _behind(experiment, store), store, lambda: {row.id: row for row in ROWS})


def test_gathered_scores_and_selections_are_those_stored(tmp_path: Path) -> None:
    found = material(*made(tmp_path, {"fractions": [0.25, 0.5]}))
    by_label = {ranked.label: ranked for ranked in found.ranked}
    assert (
        set(by_label) == {"random", "longest", "icon", "ifd"}
        and by_label["random"].random
        and not by_label["icon"].random
    )
    assert by_label["icon"].selected == {0.25: IDS[:3], 0.5: IDS[:3]}
    assert by_label["icon"].scores["r4"] == Score("r4", -4.0)


def test_gathered_contributions_are_joined_by_id_in_the_baselines_order(tmp_path: Path) -> None:
    experiment, store = made(tmp_path)
    (task,) = material(experiment, store).contributions.values()
    epsilon = experiment.config.methods["icon"].epsilon
    for i, row in enumerate(candidate((12, 8))):
        for j, nll in enumerate(row):
            expected = (np.exp(2.0) - np.exp(float(nll))) / (np.exp(2.0) + epsilon)
            assert task[i, j] == pytest.approx(expected, abs=1e-6)


def test_gathered_ifd_has_rows_above_one_and_none_without_a_loss(tmp_path: Path) -> None:
    (values,) = material(*made(tmp_path)).ifd.values()
    assert sorted(values) == sorted(IDS[1:]) and max(values.values()) == pytest.approx(1.5)


def test_gathered_file_that_is_gone_is_a_reason_not_an_error(tmp_path: Path) -> None:
    experiment, store = made(tmp_path)
    arms = {arm.method: arm.select for arm in experiment.arms if arm.select is not None}
    for step in ancestors(arms["icon"]):
        if step.name == "icon-baseline":
            (store.path(step) / "nll.npy").unlink()
    (store.path(arms["longest"].inputs["scores"]) / "scores.jsonl").unlink()
    found = material(experiment, store)
    assert not found.contributions and {ranked.label for ranked in found.ranked} == {"random", "icon", "ifd"}
    assert found.absent["reliability"].startswith("icon-baseline-") and "nll.npy" in found.absent["reliability"]
    assert found.absent["scores of longest"].endswith("scores.jsonl is no longer in the work folder")


@contextlib.contextmanager
def opened() -> Iterator[list[Path]]:
    """The files that this process opens."""
    found: list[Path] = []
    active = True

    def hook(event: str, given: tuple[Any, ...]) -> None:  # can't be removed again
        if active and event == "open" and isinstance(given[0], str):
            found.append(Path(given[0]))

    sys.addaudithook(hook)
    try:
        yield found
    finally:
        active = False


def test_report_and_comparison_read_of_a_step_what_is_compared_with_its_checksum(tmp_path: Path) -> None:
    experiment, store = made(tmp_path, {"methods.icon.control": "bank"})
    with opened() as files:
        gathered_from = material(experiment, store)
        compare(experiment, store, lambda line: None, figures=False)
        report(experiment, store, lambda line: None, figures=False)
    assert gathered_from.contributions and gathered_from.ifd
    steps = {store.path(step) for step in experiment.steps}
    read = {path.name for path in files if path.parent in steps}
    assert {"scores.jsonl", "rows.jsonl", "ids.json", "items.json", "candidate.npy", "bank.npy", "direct.npy"} <= read
    assert read <= NEEDED | DRAWN | {"record.json"}


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Experiment, Store, list[str]]:
    """A report with figures, which takes seconds."""
    folder = tmp_path_factory.mktemp("reported")
    experiment, store = made(folder, {"fractions": [0.25, 0.5]})
    lines: list[str] = []
    assert report(experiment, store, lines.append)
    return folder, experiment, store, lines


def test_report_writes_figures_samples_and_page(reported: tuple[Path, Experiment, Store, list[str]]) -> None:
    folder, _, _, lines = reported
    results = folder / "outputs" / "smoke_tiny"
    described = read_json(results / "figures" / "figures.json")
    names = {one["name"] for one in described["figures"]}
    assert names == {"differences", "scale", "pareto", "length", "overlap", "ifd", "reliability"}
    assert {one["name"] for one in described["not_made"]} == {"judged", "tsne", "position"}
    assert all((results / "figures" / f"{n}.{s}").is_file() for n in names for s in ("png", "svg", "csv"))
    page, whole = results / "index.html", folder / "work" / "pages" / "smoke_tiny.html"
    assert "word word" not in page.read_text() and "word word" in whole.read_text()
    (told,) = [line for line in lines if "/figures: " in line]
    assert told.endswith("7 figures; the page says why there is none of judged, tsne, position")
    assert "no method embeds the rows" in page.read_text()


def test_report_again_makes_no_figure_and_no_page(
    reported: tuple[Path, Experiment, Store, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, experiment, store, _ = reported
    results = folder / "outputs" / "smoke_tiny"
    before = {path: path.stat().st_mtime_ns for path in (*results.glob("figures/*"), results / "index.html")}
    monkeypatch.setattr("icon_repro.report.figures.from_store.draw", None)  # would fail if it were called
    assert report(experiment, store, lambda line: None)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_present_with_a_lost_picture_or_other_rows_draws_again(
    reported: tuple[Path, Experiment, Store, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, experiment, store, _ = reported
    drawn: list[int] = []

    def draw(*given: Any) -> dict[str, Any]:
        drawn.append(1)
        (given[0]).mkdir(exist_ok=True)
        return {"figures": [], "not_made": []}

    monkeypatch.setattr("icon_repro.report.figures.from_store.draw", draw)
    out = folder / "other"
    one = collect(experiment, store)[:1]
    for rows in ([], [], one, one):
        (out / "figures").mkdir(parents=True, exist_ok=True)
        present(experiment, store, rows, out, lambda line: None)
    assert len(drawn) == 2
    write_json(
        out / "figures" / "figures.json",
        {**read_json(out / "figures" / "figures.json"), "figures": [{"name": "scale"}]},
    )
    present(experiment, store, one, out, lambda line: None)
    assert len(drawn) == 3


def test_present_makes_altered_figures_samples_and_texts_again(
    reported: tuple[Path, Experiment, Store, list[str]], tmp_path: Path
) -> None:
    folder, experiment, store, _ = reported
    results = tmp_path / "smoke_tiny"
    shutil.copytree(folder / "outputs" / "smoke_tiny", results)
    made_of = read_json(results / "figures" / "figures.json")["made_of"]
    first = {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
    names = ("figures/scale.png", "figures/overlap.csv", "samples.jsonl", "figures/figures.json")
    altered = {}
    for name in names:
        data = bytearray(first[results / name])
        data[len(data) // 2] ^= 1
        (results / name).write_bytes(data)
        assert not _current(results, made_of), name
        altered[name] = bytes(data)
        (results / name).write_bytes(first[results / name])
        assert _current(results, made_of)
    for name in names:
        (results / name).write_bytes(altered[name])
    rows = read_result_rows(results / "metrics.jsonl")
    present(experiment, store, rows, results, lambda line: None)
    assert {path: path.read_bytes() for path in results.rglob("*") if path.is_file()} == first
