"""The plan of selections: controls that are matched to another method follow it, and errors name what is wrong."""

from pathlib import Path
from typing import Any

import pytest
from small import small

from icon_repro.config.load import ConfigError
from icon_repro.engine.artifact import Step
from icon_repro.experiment import Arm, plan

TWO = {"fractions": [0.25, 0.5]}


def control(to: str, **more: Any) -> dict[str, Any]:
    return {"methods.like": {"kind": "random", "matched_to": to, **more}}


def arms_of(work: Path, changes: dict[str, Any], method: str) -> list[Arm]:
    return [arm for arm in plan(small(work, {**TWO, **changes})).arms if arm.method == method]


def selected(arm: Arm) -> Step:
    assert arm.select is not None
    return arm.select


def followed(arm: Arm) -> Step:
    """The selection whose lengths an arm's selection has."""
    return selected(arm).inputs["scores"].inputs["selection"]


def test_matched_control_follows_the_selection_of_the_same_fraction(tmp_path: Path) -> None:
    others = {arm.fraction: selected(arm) for arm in arms_of(tmp_path, control("longest"), "longest")}
    own = arms_of(tmp_path, control("longest"), "like")
    assert [(arm.fraction, followed(arm).folder) for arm in own] == [(f, others[f].folder) for f in (0.25, 0.5)]


def test_matched_control_may_come_before_its_method(tmp_path: Path) -> None:
    methods = {"methods": {"like": {"kind": "random", "matched_to": "long"}, "long": {"kind": "longest"}}}
    arms = [arm for arm in plan(small(tmp_path, methods)).arms if arm.select]
    assert [arm.method for arm in arms] == ["like", "long"]
    assert followed(arms[0]).folder == selected(arms[1]).folder


@pytest.mark.parametrize(
    "repeats, others, expected", [(3, 1, [0, 0, 0]), (3, 3, [0, 1, 2]), (1, 3, [0]), (3, 2, [0, 1, 0])]
)
def test_matched_control_follows_its_methods_repeats_in_turn(
    tmp_path: Path, repeats: int, others: int, expected: list[int]
) -> None:
    changes = {**control("random", repeats=repeats, seed=7), "methods.random.repeats": others, "fractions": [0.25]}
    there = [selected(arm).folder for arm in arms_of(tmp_path, changes, "random")]
    own = arms_of(tmp_path, changes, "like")
    assert [there.index(followed(arm).folder) for arm in own] == expected
    assert len({selected(arm).folder for arm in own}) == repeats
    assert [arm.selection_seed for arm in own] == ([None] if repeats == 1 else [7, 8, 9])


def test_matched_control_leaves_all_other_steps_as_they_are(tmp_path: Path) -> None:
    before, after = plan(small(tmp_path)), plan(small(tmp_path, control("icon")))
    assert {step.folder for step in before.steps} < {step.folder for step in after.steps}


def test_matched_controls_name_isnt_hashed_but_its_selection_is(tmp_path: Path) -> None:
    methods = {"a": {"kind": "longest"}, "b": {"kind": "longest"}, "c": {"kind": "perplexity"}}
    made = {}
    for to in ("a", "b", "c"):
        (arm, _) = arms_of(tmp_path, {"methods": {**methods, "like": control(to)["methods.like"]}}, "like")
        made[to] = selected(arm).fingerprint
    assert made["a"] == made["b"] != made["c"]


@pytest.mark.parametrize(
    "changes, says",
    [
        (control("longst"), r"methods\.like\.matched_to='longst': no method of that name\. Did you mean 'longest'\?"),
        (control("like"), r"methods\.like\.matched_to='like': is the control itself; name a method"),
        (
            control("other") | {"methods.other": {"kind": "random", "matched_to": "longest"}},
            r"methods\.like\.matched_to='other': is a matched control too; .*e\.g\. 'longest'\.",
        ),
    ],
    ids=["unknown", "itself", "another control"],
)
def test_matched_control_with_nothing_to_match_is_refused(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        small(tmp_path, changes)


# ---------------------------------------------------------------- a budget of tokens


def test_budget_of_tokens_is_that_of_every_method_and_counted_once(tmp_path: Path) -> None:
    rows, tokens = plan(small(tmp_path)), plan(small(tmp_path, {"budget": "tokens", "training.max_length": 333}))
    counted = {selected(arm).inputs["tokens"].folder for arm in tokens.arms if arm.select}
    (step,) = [step for step in tokens.steps if step.folder in counted]
    assert step.params.max_length == 333
    assert all("tokens" not in selected(arm).inputs for arm in rows.arms if arm.select)
    same = {step.folder for step in rows.steps} & {step.folder for step in tokens.steps}
    assert {step.split("/")[0] for step in same} >= {"model", "prepare", "score"}
    assert not any(step.startswith("select/") for step in same)


def test_budget_of_rows_is_the_default_and_in_no_hash(tmp_path: Path) -> None:
    named = plan(small(tmp_path, {"budget": "rows"}))
    assert [step.folder for step in named.steps] == [step.folder for step in plan(small(tmp_path)).steps]
    (hashed,) = {str(step.hashed["params"]) for step in named.steps if step.stage == "select"}
    assert hashed == "{'fraction': 0.25}"
