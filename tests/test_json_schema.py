"""The JSON schema for editors takes every file of conf/, and refuses what load() refuses."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from cli import Done
from jsonschema import Draft202012Validator
from small import composed

from icon_repro.config.json_schema import json_schema
from icon_repro.config.load import ConfigError, conf_dir, load
from icon_repro.engine.schema import plain

GROUPS = {"model": "ModelConfig", "data": "DataConfig", "training": "TrainConfig", "evaluation": "EvaluationConfig"}
GROUPS |= {"cluster": "ClusterConfig", "tracking": "TrackingConfig"}
SCHEMA = json_schema()


def problems(data: Any, definition: str | None = None) -> list[str]:
    schema = SCHEMA if definition is None else {"$ref": f"#/$defs/{definition}", "$defs": SCHEMA["$defs"]}
    return [f"{list(error.path)}: {error.message[:200]}" for error in Draft202012Validator(schema).iter_errors(data)]


def test_schema_is_one() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert {"IconConfig", "LessConfig", "TrainConfig"} <= set(SCHEMA["$defs"])
    assert SCHEMA["$defs"]["TrainConfig"]["properties"]["dtype"]["description"].startswith("of the forward pass")


@pytest.mark.parametrize("path", sorted((conf_dir() / "experiment").glob("*.yaml")), ids=lambda path: path.stem)
def test_schema_takes_every_experiment(path: Path) -> None:
    assert problems(yaml.safe_load(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("group", GROUPS)
def test_schema_takes_the_files_of_a_group(group: str) -> None:
    for path in (conf_dir() / group).glob("*.yaml"):
        settings = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        settings.pop("defaults", None)
        assert problems(settings, GROUPS[group]) == [], path


def test_schema_takes_a_whole_configuration() -> None:
    assert problems(plain(load(dict(composed("experiment=smoke_tiny"))))) == []


@pytest.mark.parametrize(
    "settings",
    [
        {"fractions": [2]},
        {"fractions": [0.0]},
        {"seeds": 0},
        {"seeds": [-1]},
        {"until": "slect"},
        {"training": {"learing_rate": 1.0}},
        {"training": {"epochs": "many"}},
        {"training": {"warmup_ratio": 1}},
        {"methods": {"random": {"kind": "random", "sed": 1}}},
        {"cluster": {"slurm": {"training": {"gpus": -1}}}},
        {"modle": {}},
    ],
    ids=str,
)
def test_schema_refuses_what_load_refuses(settings: dict[str, Any]) -> None:
    def merged(below: Any, above: Any) -> Any:
        both = isinstance(below, dict) and isinstance(above, dict)
        return {**below, **{k: merged(below.get(k), v) for k, v in above.items()}} if both else above

    assert problems(settings)
    with pytest.raises(ConfigError):
        load(merged(composed("experiment=smoke_tiny"), settings))


def test_action_schema_prints_it(inside: Callable[..., Done]) -> None:
    done = inside("experiment=smoke_tiny", "action=schema")
    assert done.code == 0 and json.loads(done.out) == SCHEMA
