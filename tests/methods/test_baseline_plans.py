"""The plan of the baselines: slices cover all rows, and only what changes a step's result changes its fingerprint."""

import itertools
from pathlib import Path
from typing import Any

import pytest
from slow_baselines import shards_of, step_of
from small import small

from icon_repro.engine.artifact import Step, ordered
from icon_repro.experiment import plan

SLICED = {  # method -> stage function of the slices
    "perplexity": "answers:shard",
    "ifd": "answers:shard",
    "rds": "embeddings:shard",
    "nuggets": "nuggets:shard",
    "selectit": "selectit:shard",
    "deita": "deita:shard",
    "armorm": "armorm:shard",
}
_OTHER = {"kind": "random", "name": "other", "random": {}}
REQUIRED = {"deita": {"complexity": _OTHER, "quality": _OTHER}, "armorm": {"reward": _OTHER}}


def score_step(work: Path, method: dict[str, Any], **changes: Any) -> Step:
    keys = {key.replace("__", "."): value for key, value in changes.items()}
    return step_of(plan(small(work, {"methods": {"mine": whole(method)}, **keys})))


def whole(method: dict[str, Any]) -> dict[str, Any]:
    """``method`` with the models that its kind can't do without."""
    return {**REQUIRED.get(method["kind"], {}), **method}


@pytest.mark.parametrize("kind", sorted(SLICED))
@pytest.mark.parametrize(
    "changes, total",
    [
        ({"data__candidates__size": 20}, 20),
        ({"data__candidates__size": 20, "data__pool__sample": 12}, 12),
        ({"data__candidates__size": None, "data__pool__sample": 12}, 12),
        ({"data__candidates__size": None, "data__pool__expected_rows": 30}, None),
        ({"data__candidates__size": 20, "select_from": "pool"}, None),
        ({"data__candidates__size": 20, "data__pool__sample": 50, "select_from": "pool"}, 50),
    ],
    ids=str,
)
def test_slices_cover_all_rows(tmp_path: Path, kind: str, changes: dict[str, Any], total: int | None) -> None:
    step = score_step(tmp_path, {"kind": kind, "shard_rows": 7}, **changes)
    shards = [s for s in shards_of(step, SLICED[kind]) if "queries" not in s.name and "quality" not in s.name]
    slices = [(s.params.start, s.params.stop) for s in shards]
    assert slices[0][0] == 0 and slices[-1][1] == total and len(slices) > 1
    assert all(stop == start for (_, stop), (start, _) in itertools.pairwise(slices))
    assert all(0 < stop - start <= 7 for start, stop in slices if stop is not None)
    labels = [s.label for s in ordered([step])]
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize("kind", sorted(SLICED))
def test_pool_is_ranked_when_selected_from(tmp_path: Path, kind: str) -> None:
    for whole, name, size in ((True, "universe", None), (False, "candidates", 24)):
        step = score_step(tmp_path, {"kind": kind}, select_from="pool" if whole else "candidates")
        (universe,) = [s for s in ordered([step]) if s.name in ("universe", "candidates")]
        assert (universe.name, universe.params.size) == (name, size)


PROXY = {"kind": "random", "name": "proxy", "random": {"seed": 5}}
ANSWERS, EMBEDDINGS, ANCHORS = "answers:shard", "embeddings:shard", "nuggets:anchors"
NUGGETS, SELECTIT = "nuggets:shard", "selectit:shard"


@pytest.mark.parametrize(
    "kind, change, rebuilt",
    [
        ("perplexity", {"best": "highest"}, ""),
        ("perplexity", {"text": "whole"}, ANSWERS),
        ("perplexity", {"template": "scoring"}, ANSWERS),
        ("perplexity", {"max_length": 99}, ANSWERS),
        ("perplexity", {"dtype": "bfloat16"}, ANSWERS),
        ("ifd", {"ratio": "perplexity"}, ""),
        ("ifd", {"drop_above_one": False}, ""),
        ("ifd", {"template": "plain"}, ANSWERS),
        ("ifd", {"direct": ""}, ANSWERS),
        ("ifd", {"max_length": 99}, ANSWERS),
        ("ifd", {"dtype": "bfloat16"}, ANSWERS),
        ("ifd", {"proxy": PROXY}, ANSWERS),
        ("rds", {"template": "scoring"}, EMBEDDINGS),
        ("rds", {"max_length": 99}, EMBEDDINGS),
        ("rds", {"dtype": "bfloat16"}, EMBEDDINGS),
        ("nuggets", {"separator": " "}, NUGGETS),
        ("nuggets", {"anchor_tokens": 99}, NUGGETS),
        ("nuggets", {"shot_tokens": 99}, NUGGETS),
        ("nuggets", {"anchors": {"count": 5}}, f"{ANCHORS} {NUGGETS}"),
        ("nuggets", {"anchors": {"seed": 5}}, f"{ANCHORS} {NUGGETS}"),
        ("nuggets", {"template": "plain"}, f"{EMBEDDINGS} {ANCHORS} {NUGGETS}"),
        ("nuggets", {"max_length": 99}, f"{EMBEDDINGS} {ANCHORS} {NUGGETS}"),
        ("nuggets", {"dtype": "bfloat16"}, f"{EMBEDDINGS} {ANCHORS} {NUGGETS}"),
        ("selectit", {"alpha": 0.5}, ""),
        ("selectit", {"max_length": 99}, SELECTIT),
        ("selectit", {"dtype": "bfloat16"}, SELECTIT),
    ],
    ids=str,
)
def test_setting_rebuilds_only_what_it_changes(tmp_path: Path, kind: str, change: dict[str, Any], rebuilt: str) -> None:
    before, after = (score_step(tmp_path, {"kind": kind, **more}) for more in ({}, change))
    assert before.fingerprint != after.fingerprint
    for target in (ANSWERS, EMBEDDINGS, ANCHORS, NUGGETS, SELECTIT):
        old, new = ({s.folder for s in shards_of(step, target)} for step in (before, after))
        if target in rebuilt.split():
            assert old and new and not old & new, target
        else:
            assert old == new, target


@pytest.mark.parametrize("kind", sorted(SLICED))
def test_name_of_the_method_isnt_in_the_fingerprint_of_its_shards(tmp_path: Path, kind: str) -> None:
    names = ("one", "two")
    experiment = plan(small(tmp_path, {"methods": {name: whole({"kind": kind}) for name in names}}))
    one, two = ([s.fingerprint for s in shards_of(step_of(experiment, name), SLICED[kind])] for name in names)
    assert one == two


def test_settings_of_slices_are_the_only_difference_of_another_shard_size(tmp_path: Path) -> None:
    same, other = (score_step(tmp_path, {"kind": "nuggets", "shard_rows": size}) for size in (64, 5))
    assert {s.folder for s in shards_of(same, ANCHORS)} == {s.folder for s in shards_of(other, ANCHORS)}
    assert len(shards_of(other, NUGGETS)) == 5
