"""Small experiments that together hold every kind of step, and stores in which all of their steps have a result."""

import fnmatch
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from small import small

import icon_repro
from icon_repro.engine.artifact import Step, Store
from icon_repro.experiment import plan

TINY = Path(icon_repro.__file__).parent / "data" / "tiny"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
ENDPOINT = {"model": "toy", "base_url": "http://127.0.0.1:1/v1", "api_key_env": "A"}
OTHER = {"kind": "random", "name": "other", "random": {"seed": 1}}


def prompts(**more: Any) -> dict[str, Any]:
    source = {"kind": "file", "format": "alpaca", "name": "p", "path": "{data}/assessment.jsonl"}
    return {"source": {**source, "fields": {"response": None}}, "sample": 4, "expected_rows": 4, **more}


MODEL_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "model.safetensors")
LOCAL = {"kind": "local", "name": "mine", "path": "{data}/model"}
LM_EVAL = {"kind": "lm_eval", "metric": "acc", "task": "piqa", "files": {"validation": "{data}/benchmark.jsonl"}}
METHODS = {
    "random": {"kind": "random"},
    "longest": {"kind": "longest"},
    "like": {"kind": "random", "matched_to": "longest"},
    "ppl": {"kind": "perplexity", "shard_rows": 12},
    "ifd": {"kind": "ifd", "proxy": OTHER, "pre_experienced": {}, "diversity": {}},
    "rds": {"kind": "rds"},
    "nuggets": {"kind": "nuggets"},
    "selectit": {"kind": "selectit"},
    "less": {"kind": "less", "epochs": 1},
    "less_stored": {"kind": "less", "epochs": 1, "compat": "published"},
    "deita": {"kind": "deita", "complexity": OTHER, "quality": {**OTHER, "name": "third"}},
    "armorm": {"kind": "armorm", "reward": OTHER},
    "asked": {"kind": "alpagasus", "endpoint": ENDPOINT},
    "rated": {"kind": "alpagasus", "ratings": "{data}/ratings.json"},
    "own": {"kind": "external", "path": "{data}/own.py", "options": {"x": 1}},
    "listed": {"kind": "ids", "path": "{data}/ids.json"},
}
JUDGE = {"sets": {"one": prompts(), "two": prompts(seed=1)}, "methods": ["random"]}
# what experiments are made of here: small ones that together hold every kind of step
WORLDS: dict[str, dict[str, Any]] = {
    "methods": {"methods": METHODS, "base": False, "full": False, "until": "select"},
    "icon": {"methods": {"icon": {"kind": "icon", "dtype": "bfloat16", "shard_candidates": 8}}, "until": "select"},
    "noise": {"methods": {"icon": {"kind": "icon", "dtype": "float32", "control": "per_candidate"}}, "until": "select"},
    "adaptive": {
        "methods": {"icon": {"kind": "icon", "dtype": "float32", "budget": "adaptive", "adaptive": {"first_rows": 4}}},
        "until": "select",
    },
    "few": {"methods": {"icon": {"kind": "icon", "dtype": "float32", "budget": "auto"}}, "until": "select"},
    "pool": {
        "methods": {
            "icon": {"kind": "icon", "dtype": "float32", "budget": "auto", "selector": {"kind": "lora", "epochs": 1.0}}
        },
        "select_from": "pool",
        "until": "select",
    },
    "probe": {
        "methods": {"icon": {"kind": "icon", "dtype": "float32", "selector": {"kind": "probe"}}},
        "select_from": "pool",
        "until": "select",
    },
    "tuned": {
        "model": LOCAL,
        "methods": {"random": {"kind": "random"}},
        "evaluation.tasks.piqa": LM_EVAL,
        "evaluation.tasks.held": {"kind": "nll", "metric": "nll", "rows": {**prompts(), "sample": 5}},
    },
    "near": {
        "methods": {
            "icon": {"kind": "icon", "dtype": "float32", "budget": "auto", "selector": {"kind": "probe", "near": 4}}
        },
        "select_from": "pool",
        "until": "select",
    },
    "tokens": {"methods": {"random": {"kind": "random"}}, "budget": "tokens", "until": "select"},
    "pools": {
        "methods": {"random": {"kind": "random"}, "longest": {"kind": "longest"}},
        "full": False,
        "data.candidates.size": 20,
        "data.pools": 2,
        "training.kept_epochs": [1],
        "evaluation.tasks.held": {"kind": "nll", "metric": "nll", "epoch": 1, "rows": {**prompts(), "sample": 5}},
    },
    "hub": {
        "model": {"kind": "hub", "name": "m", "hub_id": "org/model", "revision": COMMIT},
        "methods": {"random": {"kind": "random"}},
        "evaluation.tasks.piqa": {**LM_EVAL, "files": {}, "dataset": {"hub_id": "org/piqa", "revision": COMMIT}},
    },
    "endpoint": {
        "methods": {"random": {"kind": "random"}},
        "judge": {**JUDGE, "kind": "endpoint", "endpoint": ENDPOINT, "against": "served", "served": ENDPOINT},
    },
    "local": {
        "methods": {"random": {"kind": "random"}},
        "judge": {
            **JUDGE,
            "kind": "local",
            "protocol": "pair_v2",
            "model": OTHER,
            "references": {"ref": {**prompts(), "source": {**prompts()["source"], "fields": {}}}},
        },
    },
    "nll": {"methods": {"random": {"kind": "random"}}, "judge": {**JUDGE, "kind": "nll"}},
}
for world in ("tuned", "pools"):
    WORLDS[world]["evaluation.tasks.held"]["rows"]["source"] = {**prompts()["source"], "fields": {}}


class World:
    """A plan whose steps all have a result, in a store, and files that may be changed."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        data = folder / "data"
        shutil.copytree(TINY, data)
        (data / "model").mkdir()
        for file in MODEL_FILES:
            (data / "model" / file).write_text(f"{{}} {file}")
        (data / "ratings.json").write_text('[{"id": "a", "rating": 4}]')
        (data / "ids.json").write_text('["a"]')
        (data / "own.py").write_text("def score(rows, options, inputs, runtime): return {}\n")
        self.store = Store(folder / "work")
        for step in self.steps({}):
            self.store.path(step).mkdir(parents=True, exist_ok=True)
            (self.store.path(step) / "record.json").touch()

    def steps(self, changes: Mapping[str, Any]) -> list[Step]:
        places = {
            "data.pool.source.path": "{data}/pool.jsonl",
            "data.assessment.source.path": "{data}/assessment.jsonl",
            "evaluation.tasks.tiny.source.path": "{data}/benchmark.jsonl",
        }
        values = self._placed({"judge": {}, **places, **WORLDS[self.name], **changes})
        return plan(small(self.folder / "work", values)).steps

    def _placed(self, value: Any) -> Any:
        if isinstance(value, str):
            return value.replace("{data}", str(self.folder / "data"))
        if isinstance(value, list):
            return [self._placed(item) for item in value]
        return {k: self._placed(v) for k, v in value.items()} if isinstance(value, dict) else value

    def check(self, changes: Mapping[str, Any], roots: str) -> None:
        """Expect misses for the steps that match a pattern in ``roots`` and for what follows from them, no others."""
        steps = self.steps(changes)
        concerned = {step.folder for step in steps if matches(step.label, roots.split())}
        for pattern in roots.split():
            assert any(matches(step.label, [pattern]) for step in steps), f"{pattern} is no step"
        for step in steps:
            if concerned & {needed.folder for name, needed in step.inputs.items() if name not in step.carried}:
                concerned.add(step.folder)
        missed = {step.folder for step in steps if not self.store.complete(step)}
        assert (labels(steps, missed - concerned), labels(steps, concerned - missed)) == ("", "")


def matches(label: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(label, pattern) for pattern in patterns)


def labels(steps: list[Step], folders: set[str]) -> str:
    return " ".join(sorted(step.label for step in steps if step.folder in folders))
