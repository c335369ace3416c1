"""The plan of judging: who is compared with whom, what is shared, what it is expected to take, what is refused."""

import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from small import composed, small

from icon_repro.config.compose import composed as whole
from icon_repro.config.load import Config, ConfigError, load
from icon_repro.engine.artifact import Step
from icon_repro.engine.schema import build, plain
from icon_repro.engine.targets import function_of
from icon_repro.evaluate.judge.plan import Contestant, expected_calls, opponent
from icon_repro.experiment import Arm, plan

TINY = {
    "source": {
        "kind": "file",
        "format": "alpaca",
        "name": "tiny_prompts",
        "path": str(Path(__file__).parents[2] / "icon_repro/data/tiny/assessment.jsonl"),
        "fields": {"response": None},
    },
    "sample": 4,
    "expected_rows": 4,
}
REFERENCE = {**TINY, "source": {**TINY["source"], "fields": {}}}  # type: ignore[dict-item]
ENDPOINT = {"model": "toy", "base_url": "http://127.0.0.1:1/v1", "price_in": 10.0, "price_out": 30.0}
NLL = {"kind": "nll", "sets": {"one": TINY, "two": {**TINY, "seed": 1}}}


def judging(tmp_path: Path, judge: Mapping[str, Any], **changes: Any) -> Config:
    return small(tmp_path, {"judge": dict(judge), **changes})


def arms(config: Config) -> dict[str, Arm]:
    found = {}
    for arm in plan(config).arms:
        found["base" if arm.train is None else arm.train.name] = arm
    return found


def test_plan_without_a_judge_is_as_before(tmp_path: Path) -> None:
    experiment = plan(small(tmp_path))
    assert all(arm.judged == {} for arm in experiment.arms)
    assert not any(step.stage == "judge" for step in experiment.steps)


def test_plan_each_arm_meets_full_of_its_seed_on_every_set(tmp_path: Path) -> None:
    found = arms(judging(tmp_path, NLL, seeds=[0, 1]))
    assert found["full-s0"].judged == found["full-s1"].judged == {}
    for name, other in {"base": "full-s0", "random-f0.25-s0": "full-s0", "random-f0.25-s1": "full-s1"}.items():
        judged = found[name].judged
        assert list(judged) == ["one", "two", "overall"]
        assert judged["one"].name == f"verdicts-{name}-vs-{other}-one"
        own, theirs = judged["one"].inputs["a"], judged["one"].inputs["b"]
        assert own.inputs.get("tuned") is found[name].train
        assert theirs.inputs["tuned"] is found[other].train
        assert own.inputs["prompts"] is not None and own.inputs["prompts"].folder == theirs.inputs["prompts"].folder
        assert dict(judged["overall"].inputs) == {"one": judged["one"], "two": judged["two"]}


def test_plan_answers_are_made_once_for_all_comparisons(tmp_path: Path) -> None:
    steps = plan(judging(tmp_path, NLL)).steps
    answers = [step.name for step in steps if step.name.startswith("answers-")]
    assert len(answers) == len(set(answers)) == 2 * 5  # sets x (base, full, random, longest, icon)
    assert {s.target for s in steps if s.stage == "judge"} == {
        "icon_repro.judge.answers:run",
        "icon_repro.judge.likelihood:run",
        "icon_repro.judge.pairwise:pooled",
    }


def test_plan_prompts_are_read_before_anything_is_trained(tmp_path: Path) -> None:
    """Two prompts of one id, say, are to be known then, not days later."""
    stages = [step.stage for step in plan(judging(tmp_path, {**NLL, "references": {"r": REFERENCE}})).steps]
    assert stages.count("prepare") >= 6
    last = max(place for place, stage in enumerate(stages) if stage == "prepare")
    assert last < min(place for place, stage in enumerate(stages) if stage in ("train", "score", "evaluate", "judge"))


def test_plan_filters_of_methods_and_fractions(tmp_path: Path) -> None:
    judge = {**NLL, "methods": ["random"], "fractions": [0.5]}
    found = arms(judging(tmp_path, judge, fractions=[0.25, 0.5]))
    assert [name for name, arm in found.items() if arm.judged] == ["random-f0.5-s0"]


def test_plan_reference_is_met_by_every_arm_and_isnt_pooled(tmp_path: Path) -> None:
    judge = {"kind": "nll", "sets": {"one": TINY}, "references": {"alpaca_eval": REFERENCE}}
    found = arms(judging(tmp_path, judge))
    assert list(found["icon-f0.25-s0"].judged) == ["one", "alpaca_eval"]
    assert list(found["full-s0"].judged) == ["alpaca_eval"]
    assert found["full-s0"].judged["alpaca_eval"].inputs["b"].target == "icon_repro.judge.answers:reference"


def test_plan_served_opponent_answers_each_set_once(tmp_path: Path) -> None:
    judge = {**NLL, "against": "served", "served": ENDPOINT}
    experiment = plan(judging(tmp_path, judge, full=False))
    served = [step for step in experiment.steps if step.target.endswith(":served")]
    assert [step.name for step in served] == ["answers-served-one", "answers-served-two"]
    assert all(step.resumable for step in served)
    assert all(arm.judged["one"].inputs["b"].folder == served[0].folder for arm in experiment.arms)


def test_plan_each_arm_has_its_own_opponent_at_the_price_of_one(tmp_path: Path) -> None:
    """As the paper: the method against full, all others against it."""
    judge = {**NLL, "against": "icon", "opponents": {"icon": "full", "base": "full", "full": "full"}}
    changes = {"fractions": [0.25, 0.5]}
    found = arms(judging(tmp_path, judge, **changes))
    names = {
        name: {verdict.name.split("-vs-")[1].rpartition("-")[0] for verdict in arm.judged.values()}
        for name, arm in found.items()
    }
    assert names == {
        "base": {"full-s0"},
        "full-s0": set(),
        "icon-f0.25-s0": {"full-s0"},
        "icon-f0.5-s0": {"full-s0"},
        **{f"{m}-f{f:g}-s0": {f"icon-f{f:g}-s0"} for m in ("random", "longest") for f in (0.25, 0.5)},
    }
    one = [step for arm in arms(judging(tmp_path, NLL, **changes)).values() for step in arm.judged.values()]
    assert len([step for arm in found.values() for step in arm.judged.values()]) == len(one)


def test_plan_references_are_asked_at_fractions_of_their_own(tmp_path: Path) -> None:
    judge = {"kind": "nll", "sets": {"one": TINY}, "references": {"alpaca_eval": REFERENCE}, "fractions": [0.25]}
    judge |= {"references_at": {"icon": []}}
    changes = {"fractions": [0.25, 0.5], "more_fractions": {"icon": [0.75]}}
    found = {name: list(arm.judged) for name, arm in arms(judging(tmp_path, judge, **changes)).items()}
    assert found["icon-f0.25-s0"] == ["one", "alpaca_eval"] == found["random-f0.25-s0"]
    assert found["icon-f0.5-s0"] == ["alpaca_eval"] == found["icon-f0.75-s0"] == found["full-s0"]
    assert found["random-f0.5-s0"] == [] and "random-f0.75-s0" not in found


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"judge": {**NLL, "opponents": {"icon": "served"}}}, "judge.served: judge.opponents.icon=served needs"),
        ({"judge": {**NLL, "opponents": {"icon": "nobody"}}}, "judge.opponents.icon='nobody': the experiment has no"),
        ({"judge": {**NLL, "opponents": {"icno": "full"}}}, "judge.opponents.icno: .* Did you mean 'icon'?"),
        ({"judge": {**NLL, "references_at": {"icno": []}}}, "judge.references_at.icno: .* Did you mean 'icon'?"),
        ({"more_fractions": {"icno": [0.5]}}, "more_fractions.icno: no such method. Did you mean 'icon'?"),
        ({"more_fractions": {"icon": [0.25]}}, r"more_fractions.icon=\[0.25\]: 0.25 is given twice"),
        (
            {"more_fractions": {"like": [0.5]}, "methods.like": {"kind": "random", "matched_to": "icon"}},
            "more_fractions.like: follows icon, which doesn't select 0.5",
        ),
    ],
    ids=str,
)
def test_opponents_and_fractions_that_cant_be_are_refused(tmp_path: Path, changes: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        small(tmp_path, changes)


def contestant(method: str, fraction: float | None, seed: int | None, selection: int | None = None) -> Contestant:
    return Contestant(method, fraction, seed, selection, None)


def test_opponent_of_a_method_has_the_same_fraction_and_seeds() -> None:
    others = [contestant("random", f, s, r) for f in (0.1, 0.2) for s in (0, 1) for r in (0, 1)]
    everyone = [contestant("base", None, None), *others]
    assert opponent(contestant("icon", 0.2, 1, 1), everyone, "random") == contestant("random", 0.2, 1, 1)
    assert opponent(contestant("icon", 0.2, 1), everyone, "random") == contestant("random", 0.2, 1, 0)
    assert opponent(contestant("icon", 0.3, 1), everyone, "random") is None  # no such fraction
    assert opponent(everyone[0], everyone, "random") is None  # two fractions: neither is meant
    assert opponent(others[0], everyone, "random") is None  # itself
    assert opponent(others[0], everyone, "base") == everyone[0]


@pytest.mark.parametrize(
    "judge",
    [
        {**NLL, "references": {"alpaca_eval": REFERENCE}},
        {**NLL, "kind": "local", "protocol": "pair_v2", "reading": "letters"},
        {**NLL, "kind": "endpoint", "endpoint": ENDPOINT, "against": "served", "served": ENDPOINT},
    ],
)
def test_plan_settings_reach_the_stage_as_they_are(tmp_path: Path, judge: Any) -> None:
    steps = [step for step in plan(judging(tmp_path, judge)).steps if step.stage == "judge"]
    assert steps
    for step in steps:
        function = function_of(step.target)
        kind = next(iter(typing.get_type_hints(function).values()))
        assert build(kind, plain(step.params)) == step.params


# ---------------------------------------------------------------- estimates and fingerprints


def endpoint_steps(tmp_path: Path, **changes: Any) -> list[Step]:
    judge = {"kind": "endpoint", "sets": {"one": TINY}, "endpoint": {**ENDPOINT, **changes}, "methods": ["random"]}
    return plan(judging(tmp_path, judge)).steps


def test_expected_calls_of_an_endpoint_by_hand(tmp_path: Path) -> None:
    steps = endpoint_steps(tmp_path)
    (verdict,) = [step for step in steps if step.target.endswith(":endpoint")]
    params = verdict.params
    assert params.expected_calls == 8  # 4 prompts, both orders
    assert params.expected_tokens_out == 8 * 200
    assert verdict.cost.tokens == params.expected_tokens_in + params.expected_tokens_out and verdict.cost.flops == 0
    money = (params.expected_tokens_in * 10 + 1600 * 30) / 1e6
    (line,) = expected_calls(steps)
    assert line.startswith("toy at http://127.0.0.1:1/v1: about 8 calls,") and line.endswith(f"cost {money:.4g}")
    (line,) = expected_calls(endpoint_steps(tmp_path, prices_of="toy at https://api.example/v1"))
    assert line.endswith("prices are known of toy at https://api.example/v1 alone")
    assert expected_calls([]) == [] == expected_calls(plan(judging(tmp_path, NLL)).steps)


def test_all_that_the_papers_experiment_pays_for_is_counted(tmp_path: Path) -> None:
    asking = plan(whole("llama31_8b", [f"paths.work={tmp_path}", "methods=[random,alpagasus,icon]"])).steps
    lines = {line.partition(" at ")[0]: line for line in expected_calls(asking)}
    assert set(lines) == {"gpt-4", "gpt-3.5-turbo"}
    assert "about 52,000 calls" in lines["gpt-3.5-turbo"] and " cost " in lines["gpt-3.5-turbo"]


def test_fingerprints_of_verdicts_hold_who_answers_and_not_what_it_costs(tmp_path: Path) -> None:
    def prints(**changes: Any) -> list[str]:
        return [step.fingerprint for step in endpoint_steps(tmp_path, **changes)]

    assert prints() == prints(price_in=1.0, concurrency=3, api_key_env="OTHER", base_url=f"{ENDPOINT['base_url']}/")
    for other in ({"model": "another"}, {"base_url": "http://127.0.0.1:2/v1"}, {"served_as": "toy-2"}):
        assert prints() != prints(**other)
    # a server of one's own may change its address
    assert prints(server="mine") == prints(server="mine", base_url="http://127.0.0.1:2/v1") != prints(server="hers")


def test_fingerprint_of_verdicts_depends_on_both_sides(tmp_path: Path) -> None:
    one = arms(judging(tmp_path, NLL))["icon-f0.25-s0"].judged["one"]
    other = arms(judging(tmp_path, {**NLL, "against": "random"}))["icon-f0.25-s0"].judged["one"]
    assert one.inputs["a"].fingerprint == other.inputs["a"].fingerprint
    assert one.fingerprint != other.fingerprint


# ---------------------------------------------------------------- configurations


@pytest.mark.parametrize(
    "judge, problem",
    [
        ({"kind": "nll"}, "judge.sets: give at least one set"),
        ({**NLL, "against": "randm"}, "judge.against='randm': the experiment has no such row"),
        ({**NLL, "against": "served"}, "judge.served: judge.against=served needs the endpoint"),
        ({**NLL, "methods": ["icn"]}, "judge.methods: the experiment has no row 'icn'. Did you mean 'icon'"),
        ({**NLL, "kind": "endpoint"}, "judge.endpoint: kind endpoint needs it"),
        ({**NLL, "kind": "local", "reading": "letters"}, "judge.reading='letters': needs protocol=pair_v2"),
        ({**NLL, "sets": {"one": REFERENCE}}, "judge.sets.one.source.fields.response='output': must be null"),
        ({**NLL, "references": {"two": REFERENCE}}, "judge.references.two: is a name in judge.sets too"),
        ({**NLL, "references": {"r": TINY}}, "judge.references.r.source.fields.response=None: must name"),
        ({**NLL, "benchmarks": {"r": "IF"}}, "judge.benchmarks.r: judge.references has no 'r'"),
        ({**NLL, "sets": {"overall": TINY}}, "judge.sets.overall: the name must be"),
        ({**NLL, "generation": {"max_new_tokens": 99, "max_length": 99}}, "judge.generation.max_new_tokens: must be"),
        ({**NLL, "kind": "endpoint", "endpoint": {**ENDPOINT, "base_url": "ftp://x"}}, "judge.endpoint.base_url"),
        ({**NLL, "protocol": "vicuna"}, "judge.protocol='vicuna': must be one of"),
    ],
)
def test_load_combinations_that_cannot_work_are_refused(tmp_path: Path, judge: Any, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        judging(tmp_path, judge)
    assert problem in str(caught.value)


def test_load_prompts_alone_arent_a_pool(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data.pool.source.fields.response=null: prompts alone are for judging"):
        small(tmp_path, {"data.pool.source.fields.response": None})


JUDGES = sorted(path.stem for path in (Path(__file__).parents[2] / "conf" / "judge").glob("*.yaml"))


@pytest.mark.parametrize("name", JUDGES)
def test_every_judge_in_conf_loads(name: str) -> None:
    config = load(composed("experiment=smoke_tiny", f"judge={name}"))
    assert (config.judge.kind.value == "none") == (name == "none")
    if name in ("vicuna10", "paper", "pair_v2", "nll", "local"):
        sizes = {key: rows.expected_rows for key, rows in config.judge.sets.items()}
        assert sizes == {"vicuna": 80, "koala": 180, "wizardlm": 218, "self_instruct": 252, "lima": 300}
