"""load(): a minimal config is accepted; every mistake is refused with its key, all in one message."""

import copy
import itertools
from typing import Any

import pytest

from icon_repro.config.compose import composed
from icon_repro.config.load import Config, ConfigError, load
from icon_repro.engine.schema import plain
from icon_repro.methods.icon.options import AdaptiveConfig, IconConfig, round_ends
from icon_repro.methods.random import RandomConfig

HUB = {"kind": "hub", "name": "h"}  # without an id and a revision
TINY = {"kind": "random", "name": "t", "random": {}}


def held_out(**more: Any) -> dict[str, Any]:
    """A task of held-out rows."""
    source = {"kind": "file", "format": "prompt_response", "name": "held", "path": "held.jsonl"}
    return {"kind": "nll", "metric": "nll", "rows": {"source": source}, **more}


READY_POOL = {"data.pool.source.format": "prompt_response"}


def less(task: str = "arc", **source: Any) -> dict[str, Any]:
    """LESS with shots of one task as its targets."""
    made = {"kind": "file", "format": "multiple_choice", "name": "shots", "path": "arc_dev.jsonl", **source}
    return {"kind": "less", "global_batch_size": 4, "targets": {task: {"source": made, "sample": 5}}}


def minimal() -> dict[str, Any]:
    source = {"kind": "file", "format": "alpaca", "name": "toy", "path": "toy.jsonl"}
    return {
        "name": "toy",
        "description": "a toy",
        "model": {"kind": "random", "name": "tiny", "random": {}},
        "data": {"name": "toy", "pool": {"source": source}, "assessment": {"source": copy.deepcopy(source)}},
        "methods": {"icon": {"kind": "icon"}, "random": {"kind": "random", "seed": 3}},
        "training": {"tuning": "lora", "learning_rate": 1e-4},
        "evaluation": {
            "name": "toy",
            "tasks": {
                "arc": {
                    "kind": "multiple_choice",
                    "metric": "acc",
                    "source": {"kind": "file", "format": "multiple_choice", "name": "arc", "path": "arc.jsonl"},
                }
            },
        },
        "fractions": [0.15],
    }


def changed(changes: dict[str, Any]) -> dict[str, Any]:
    """``minimal`` with dotted keys set."""
    data = minimal()
    for key, value in changes.items():
        *parents, last = key.split(".")
        target = data
        for parent in parents:
            target = target.setdefault(parent, {})
        target[last] = value
    return data


def message(data: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        load(data)
    return str(caught.value)


def test_load_minimal_config_is_typed() -> None:
    config = load(minimal())
    assert isinstance(config, Config)
    assert config.methods == {"icon": IconConfig(), "random": RandomConfig(seed=3)}
    assert config.fractions == [0.15] and config.seeds == [0]


@pytest.mark.parametrize(
    "changes",
    [
        {"fractions": [1]},
        {"fractions": [0.001, 1.0]},
        {"methods": {}, "fractions": []},
        {"seeds": [3, 1, 2]},
        {"data.candidates.size": 100, "training.epochs": 1},
        {"cluster.micro_batch_size": 128},
        {"cluster": {"device": "xpu:1", "attention": "paged|sdpa"}},
        {"cluster.attention": "flash_attention_4"},
        {"model": {"kind": "hub", "name": "m", "hub_id": "a/b", "revision": "0" * 40}},
        {"model": {"kind": "local", "name": "m", "path": "m"}},
        {"methods.mine": {"kind": "deita", "complexity": TINY, "quality": TINY}},
        {"methods.mine": {"kind": "armorm", "reward": TINY, "architecture": "classifier"}},
        {"evaluation.tasks.arc": {"kind": "lm_eval", "metric": "acc", "task": "arc_easy"}},
        {"evaluation.tasks.held": held_out(short_tokens=0), "evaluation.tasks.web": held_out(template="as_is")},
        {**READY_POOL, "evaluation.tasks.held": held_out(template="as_is")},
        {"methods.mine": less()},
        {"methods.mine": less(format="prompt_response")},
        {"data.pool.source": {"kind": "hub", "format": "alpaca", "name": "p", "hub_id": "a/b", "revision": "main"}},
    ],
    ids=str,
)
def test_load_valid_config_is_accepted(changes: dict[str, Any]) -> None:
    load(changed(changes))


@pytest.mark.parametrize(
    "changes, parts",
    [
        ({"methods.mine": {"kind": "icno"}}, ["methods.mine.kind='icno'", "'icon'"]),
        ({"methods.mine": {"kind": ["icon"]}}, ["methods.mine.kind=['icon']"]),
        ({"methods.mine": "icon"}, ["methods.mine.kind=None"]),
        ({"methods.icon": {"kind": "icon", "epsilom": 1}}, ["methods.icon.epsilom", "'epsilon'"]),
        ({"methods": ["icon"]}, ["methods=['icon']", "mapping"]),
        ({"methods.base": {"kind": "random"}}, ["methods.base", "taken"]),
        ({"evaluation.tasks.held": held_out(short_tokens=-1)}, ["evaluation.tasks.held.short_tokens=-1", "at least 0"]),
        (
            {"evaluation.tasks.held": held_out(template="scoring")},
            ["evaluation.tasks.held.template='scoring'", "as_is"],
        ),
        (
            {"evaluation.tasks.held": held_out(), "evaluation.tasks.held_rows": held_out()},
            ["evaluation.tasks.held_rows: is a measure of the held-out task 'held'", "rename"],
        ),
        (
            {**READY_POOL, "evaluation.tasks.held": held_out()},
            ["evaluation.tasks.held.template='tuning'", "ready prompts", "template: as_is"],
        ),
        ({"evaluation.tasks.arc.short_tokens": 3}, ["evaluation.tasks.arc: template and short_tokens", "kind nll"]),
        ({"methods.full": {"kind": "random"}}, ["methods.full", "taken"]),
        ({"methods.a/b": {"kind": "random"}}, ["'a/b'"]),
        ({"name": "../x"}, ["'../x'"]),
        ({"model.name": "org/m"}, ["'org/m'"]),
        ({"data.name": ".hidden"}, ["'.hidden'"]),
        (
            {"methods.mine": less(path="arc.jsonl")},
            ["methods.mine.targets.arc.source", "evaluation.tasks.arc.source", "would see what is evaluated"],
        ),
        ({"methods.mine": less(path=None)}, ["methods.mine.targets.arc.source.path"]),
        ({"methods.mine": less(task="a/b")}, ["methods.mine.targets", "'a/b'"]),
        ({"methods.mine": less(kind="hub", hub_id="a/b")}, ["methods.mine.targets.arc.source.revision"]),
        ({"fractions": [0]}, ["fractions[0]=0.0", "above 0"]),
        ({"fractions": [0.1, 1.2]}, ["fractions[1]=1.2", "at most 1"]),
        ({"fractions": []}, ["fractions=[]"]),
        ({"fractions": 0.15}, ["fractions=0.15", "[0.15]"]),
        ({"data.pool.source.fields": {"input": "output"}}, ["data.pool.source.fields.input=output", "give it away"]),
        ({"methods.mine": {"kind": "external", "path": "a.py", "options": {"k": float("inf")}}}, ["options.k=inf"]),
        (
            {"methods.icon": {"kind": "icon", "budget": "auto"}, "data.candidates.size": 7},
            ["budget=auto: 7 candidates"],
        ),
        ({"cluster.device": "gpu"}, ["cluster.device='gpu'", "'cuda'"]),
        ({"cluster.attention": "flash_attention"}, ["cluster.attention='flash_attention'", "'flash_attention_2'"]),
        ({"training.schedule": "constant"}, ["training.schedule='constant'", "mean 'constant_with_warmup'"]),
        ({"data.pool.source.format": "sharegpt"}, ["format='sharegpt'", "mean 'messages'"]),
        ({"training.lora.targets": []}, ["training.lora.targets=[]: name layers", "targets=[q_proj,"]),
        ({"training.lora.targets": ["all-linear"]}, ["training.lora.targets=['all-linear']: name layers"]),
        ({"seeds": []}, ["seeds=[]"]),
        ({"seeds": [1, 1]}, ["seeds=[1, 1]", "twice"]),
        ({"cluster.micro_batch_size": 3}, ["global_batch_size=128", "micro_batch_size=3"]),
        ({"training.dtype": "float16"}, ["training.dtype", "bfloat16"]),
        ({"training.learning_rate": "1e-4"}, ["training.learning_rate='1e-4'", "float"]),
        ({"training.learning_rate": "???"}, ["training.learning_rate", "required"]),
        ({"data.pool.source.path": None}, ["data.pool.source.path", "file"]),
        ({"data.pool.source.kind": "hub"}, ["data.pool.source.hub_id", "hub"]),
        ({"data.pool.source": {"kind": "hub", "format": "alpaca", "name": "p", "hub_id": "a/b"}}, ["revision"]),
        ({"data.assessment.source.kind": "registry"}, ["data.assessment.source.registry"]),
        ({"data.pool.source.format": "multiple_choice"}, ["data.pool.source.format", "benchmarks"]),
        ({"evaluation.tasks.arc.source.format": "alpaca"}, ["evaluation.tasks.arc.source.format='alpaca'"]),
        ({"evaluation.tasks.arc.source": None}, ["evaluation.tasks.arc.source"]),
        ({"evaluation.tasks.arc.metric": "acc+f1"}, ["evaluation.tasks.arc.metric='acc+f1'", "'f1' isn't acc"]),
        ({"evaluation.tasks.arc": {"kind": "lm_eval", "metric": "acc"}}, ["evaluation.tasks.arc.task"]),
        ({"evaluation.tasks.arc.source.path": None}, ["evaluation.tasks.arc.source.path"]),
        ({"model.random": None}, ["model.random"]),
        ({"model.random.heads": 5}, ["model.random", "heads"]),
        ({"model.kind": "hub"}, ["model.hub_id", "model.revision"]),
        ({"model.kind": "local"}, ["model.path"]),
        ({"model.kind": "registry"}, ["model.registry"]),
        ({"methods.mine": {"kind": "ifd", "proxy": HUB}}, ["methods.mine.proxy.hub_id", "methods.mine.proxy.revision"]),
        ({"methods.mine": {"kind": "deita", "complexity": HUB, "quality": TINY}}, ["methods.mine.complexity.hub_id"]),
        ({"methods.mine": {"kind": "deita", "complexity": TINY, "quality": HUB}}, ["methods.mine.quality.hub_id"]),
        (
            {"methods.mine": {"kind": "deita", "complexity": TINY, "quality": TINY, "embedding": HUB}},
            ["methods.mine.embedding.hub_id"],
        ),
        ({"methods.mine": {"kind": "deita", "quality": TINY}}, ["methods.mine.complexity: a value is required"]),
        ({"methods.mine": {"kind": "armorm", "reward": {**TINY, "kind": "local"}}}, ["methods.mine.reward.path"]),
        ({"methods.mine": {"kind": "armorm", "reward": {**TINY, "kind": "registry"}}}, ["mine.reward.registry"]),
        ({"methods.mine": {"kind": "armorm", "reward": {**TINY, "random": {"heads": 5}}}}, ["reward.random", "heads"]),
        ({"methods.mine": {"kind": "armorm", "reward": {**TINY, "name": "org/m"}}}, ["'org/m'"]),
        ({"methods.mine": {"kind": "armorm"}}, ["methods.mine.reward: a value is required"]),
        ({"clutser": {}}, ["clutser", "'cluster'"]),
        ({"action": "runn"}, ["action='runn'", "'run'"]),
    ],
    ids=str,
)
def test_load_mistake_is_refused_with_its_key(changes: dict[str, Any], parts: list[str]) -> None:
    text = message(changed(changes))
    for part in parts:
        assert part in text


def test_load_missing_methods_is_refused() -> None:
    data = minimal()
    del data["methods"]
    assert "methods: a value is required" in message(data)


def test_load_reports_all_problems_at_once() -> None:
    text = message(
        changed(
            {
                "methods.mine": {"kind": "rnadom"},
                "methods.icon": {"kind": "icon", "epsilon": -1},
                "fractions": [2.0],
                "cluster.gpus": 8,
                "training.epochs": "3",
            }
        )
    )
    assert text.startswith("5 problems")
    for key in ("methods.mine.kind", "methods.icon.epsilon", "fractions[0]", "cluster.gpus", "training.epochs"):
        assert key in text


def test_load_reports_all_wrong_combinations_at_once() -> None:
    text = message(changed({"seeds": [1, 1], "model.random": None, "cluster.micro_batch_size": 5}))
    assert text.startswith("3 problems")


def test_load_seed_of_a_sweep_is_the_only_one_and_ends_the_name() -> None:
    config = load(changed({"seed": 3, "seeds": [0, 1], "name": "trial"}))
    assert (config.name, config.seeds, config.seed) == ("trial_s3", [3], None)


# ---------------------------------------------------------------- ICon

POOL = {"select_from": "pool", "methods.icon.selector": {}}


@pytest.mark.parametrize(
    "changes",
    [
        POOL,
        {**POOL, "methods.icon.budget": "auto"},
        {"methods.icon.budget": "adaptive"},
        {"methods.icon.candidates": 3, "methods.icon.selector": {}},
        {"methods.icon.budget": "adaptive", "methods.icon.control": "none"},
        {"methods.icon.budget": "auto", "methods.icon.dtype": "auto"},
        {"methods.icon.compat": "official"},
        {"methods.icon.compat": "official", "methods.icon.control": "bank"},
        {
            "methods.icon.compat": "official",
            "methods.icon.control": "bank",
            "methods.icon.empty_pairs": "error",
            "methods.icon.budget": "adaptive",
        },
        {"methods.icon.bank": {"lengths": [1, 2040], "draws": 1}},
    ],
    ids=str,
)
def test_load_icon_options_that_go_together_are_accepted(changes: dict[str, Any]) -> None:
    load(changed(changes))


@pytest.mark.parametrize(
    "changes, parts",
    [
        ({"select_from": "pool"}, ["methods.icon.selector", "select_from=pool needs"]),
        ({"methods.icon.selector": {}}, ["methods.icon.selector", "methods.icon.candidates", "select_from=pool"]),
        ({"methods.icon.candidates": 1}, ["methods.icon.candidates=1", "methods.icon.selector={}"]),
        (
            {"methods.icon.candidates": 100, "methods.icon.selector": {}, "data.candidates.size": 99},
            ["methods.icon.candidates=100", "data.candidates.size=99"],
        ),
        (
            {**POOL, "methods.icon.selector": {"kind": "lora", "dtype": "float16"}},
            ["methods.icon.selector.dtype='float16'", "loss scaling"],
        ),
        (
            {**POOL, "methods.icon.selector": {"epochs": 2}},
            ["methods.icon.selector.epochs=2.0: is of kind=lora", "methods.icon.selector.kind=lora"],
        ),
        (
            {"methods.icon.budget": "adaptive", "methods.icon.control": "per_candidate"},
            ["methods.icon.budget='adaptive'", "control=bank or none", "budget=full"],
        ),
        ({"methods.icon.budget": "auto", "methods.icon.control": "per_pair"}, ["methods.icon.budget='auto'"]),
        (
            {**POOL, "methods.icon.selector": {"near": 5}},
            ["selector.near=5", "methods.icon.budget=auto", "near=0"],
        ),
        ({"methods.icon.budget": "auto", "methods.icon.control": "none"}, ["budget='auto'", "needs control=bank"]),
        (
            {"methods.icon.budget": "adaptive", "methods.icon.empty_pairs": "nan"},
            ["budget='adaptive'", "empty_pairs=error"],
        ),
        # as ``compat`` fills them in
        (
            {"methods.icon.budget": "adaptive", "methods.icon.compat": "official"},
            ["2 problems", "control=bank or none", "empty_pairs=error"],
        ),
        ({"methods.icon.bank": {"draws": 0}}, ["methods.icon.bank.draws=0", "at least 1"]),
        ({"methods.icon.bank": {"lengths": [8, 0]}}, ["methods.icon.bank.lengths[1]=0"]),
        ({"methods.icon.adaptive": {"first_rows": 3}}, ["methods.icon.adaptive.first_rows=3", "at least 4"]),
        ({"methods.icon.adaptive": {"seed": -1}}, ["methods.icon.adaptive.seed=-1", "at least 0"]),
        ({"methods.icon.adaptive": {"growth": 1.0}}, ["methods.icon.adaptive.growth=1.0", "above 1"]),
        ({"methods.icon.adaptive": {"error": 1.0}}, ["methods.icon.adaptive.error=1.0", "below 1"]),
        ({"methods.icon.auto": {"growth": 1.0}}, ["methods.icon.auto.growth=1.0"]),
        ({"methods.icon.auto": {"least_candidates": 7}}, ["methods.icon.auto.least_candidates=7", "at least 8"]),
        ({"methods.icon.fidelity": {"candidates": 2}}, ["methods.icon.fidelity.candidates=2", "at least 3"]),
        ({"methods.icon.dtype": "float64"}, ["methods.icon.dtype='float64'"]),
        ({"methods.icon.budget": "atuo"}, ["methods.icon.budget='atuo'", "'auto'"]),
        ({"cluster.score_batch_tokens": 0}, ["cluster.score_batch_tokens=0", "at least 1"]),
        ({"methods.icon.noise_unit": "characters"}, ["methods.icon.noise_unit='characters'", "per_candidate"]),
        ({"methods.icon.bank": {"lengths": []}}, ["methods.icon.bank.lengths=[]", "at least one"]),
    ],
    ids=str,
)
def test_load_icon_options_that_dont_are_refused(changes: dict[str, Any], parts: list[str]) -> None:
    text = message(changed(changes))
    for part in parts:
        assert part in text


@pytest.mark.parametrize("first, growth", [(4, 1.01), (4, 1.5), (16, 1.5), (16, 2.0), (100, 10.0)])
def test_round_ends_grow_as_asked_and_end_with_all_rows(first: int, growth: float) -> None:
    cfg = AdaptiveConfig(first_rows=first, growth=growth)
    for rows in (*range(1, 60), 1020):
        ends = round_ends(rows, cfg)
        assert ends[0] == min(first, rows) and ends[-1] == rows
        for before, end in itertools.pairwise(ends):
            assert before < end <= max(before + 1, before * growth + 1)
            assert end == rows or end >= before * growth  # no more rounds than the growth makes
        for most in range(1, len(ends) + 2):
            fewer = round_ends(rows, cfg, most)
            assert len(fewer) == min(most, len(ends)) and fewer[-1] == rows
            assert fewer[:-1] == ends[: len(fewer) - 1]


@pytest.mark.parametrize(
    "primary, part",
    [
        ({"measure": "nll_of_all", "comparison": ["icon", "random"]}, "primary.measure='nll_of_all': no such measure"),
        ({"measure": "average", "comparison": ["icon", "randon"]}, "no method 'randon'. Did you mean 'random'?"),
        ({"measure": "average", "comparison": ["icon"]}, "must be two methods, e.g. [icon, random]"),
        ({"measure": "average", "comparison": ["random", "icon"]}, "verdicts are against random, longest"),
        ({"measure": "average", "comparison": ["icon", "random"], "unit": "row"}, "primary.unit='row'"),
        ({"measure": "average", "comparison": ["icon", "random"], "fraction": 0.5}, "isn't in fractions=[0.15]"),
    ],
)
def test_load_primary_that_isnt_compared_is_refused(primary: dict[str, Any], part: str) -> None:
    methods = {"random": {"kind": "random"}, "icon": {"kind": "icon"}}
    assert part in message({**minimal(), "methods": methods, "primary": primary})


def test_load_primary_enters_no_fingerprint() -> None:
    methods = {"random": {"kind": "random"}, "icon": {"kind": "icon"}}
    primary = {"measure": "average", "comparison": ["icon", "random"]}
    plain_config, named = (load({**minimal(), "methods": methods, "primary": own}) for own in (None, primary))
    assert plain(plain_config, hashed_only=True) == plain(named, hashed_only=True) and plain_config != named


def test_a_key_of_a_method_that_is_not_there_is_named_with_the_remedy() -> None:
    with pytest.raises(
        ConfigError, match=r"methods\.less\.shard_rows: the experiment has no method 'less'\."
    ) as caught:
        composed("smoke_tiny", ["methods.less.shard_rows=3"])
    assert "methods=[random,longest,icon,less]" in str(caught.value) and "kind=None" not in str(caught.value)
    made = composed("smoke_tiny", ["+method@methods.less=less", "methods.less.shard_rows=3"])
    assert made.methods["less"].shard_rows == 3


def test_load_methods_named_by_numbers_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"methods\.0\.x: the experiment has no method 0"):
        load({"methods": {0: {"x": 1}, 1: {"kind": "random"}}})


def test_evaluation_limit_is_that_of_every_task_unless_its_own_is_smaller() -> None:
    one = minimal()["evaluation"]["tasks"]["arc"]
    tasks = {"arc": one, "few": {**one, "limit": 3}, "many": {**one, "limit": 50}, "held": held_out()}
    config = load(changed({"evaluation.tasks": copy.deepcopy(tasks), "evaluation.limit": 7}))
    by_hand = {**tasks, "arc": {**one, "limit": 7}, "many": {**one, "limit": 7}, "held": held_out()}
    by_hand["held"]["rows"]["sample"] = 7
    same = load(changed({"evaluation.tasks": copy.deepcopy(by_hand)}))
    assert plain(config.evaluation, hashed_only=True) == plain(same.evaluation, hashed_only=True)
    assert {name: task.limit for name, task in config.evaluation.tasks.items()} == {
        "arc": 7,
        "few": 3,
        "many": 7,
        "held": None,
    }
    assert {task.expected_items for task in config.evaluation.tasks.values()} == {7}  # what the plan's cost goes by
    with pytest.raises(ConfigError, match=r"evaluation\.limit=0"):
        load(changed({"evaluation.limit": 0}))


def test_place_that_a_file_leaves_over_is_no_problem_of_a_kind_that_is_chosen() -> None:
    hub = ["data.pool.source.kind=hub", "data.pool.source.hub_id=org/rows", "data.pool.source.revision=main"]
    assert composed("smoke_tiny", hub).data.pool.source.hub_id == "org/rows"
    with pytest.raises(ConfigError, match=r"data\.pool\.source\.path='mine\.jsonl': isn't read with .*kind=hub"):
        composed("smoke_tiny", [*hub, "data.pool.source.path=mine.jsonl"])
