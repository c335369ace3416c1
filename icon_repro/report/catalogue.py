"""List the methods, models, data sets and benchmarks of conf/, a line each: what it needs, and about what it costs.

In: the folder of configurations; an experiment, for whose rows and model costs are.  Out: lines for action=methods,
models, data and benchmarks.
Known gap: what a hub asks before it gives something (terms, a login) isn't known here.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from icon_repro.config.load import Config, Until
from icon_repro.data.cost import training_flops
from icon_repro.data.planner import PlanError
from icon_repro.engine.artifact import Step, ancestors
from icon_repro.engine.schema import SchemaError
from icon_repro.evaluate.judge.options import JudgeConfig
from icon_repro.experiment import plan
from icon_repro.methods.kinds import typed
from icon_repro.report.disk import size
from icon_repro.report.plan_text import hours, si

_SMALL = 1e9  # parameters that a CPU can do with
_BYTES = 2  # of a weight, as hubs have them
_GPU_HOURS = 0.05  # of an H100; more is days of two cores


def methods(config: Config, conf: Path) -> list[str]:
    """Methods, by what they cost in an experiment, with its own options for those that it has.

    ``x tuning`` is in operations of a tuning on all rows.
    """
    entries = []
    tuning = _tuning(config)
    for path in sorted((conf / "method").glob("*.yaml")):
        settings = _read(path)
        steps = _scoring(config, path.stem, settings)
        flops = sum(step.cost.flops for step in steps or [])
        tokens = sum(step.cost.tokens for step in steps or [])
        needs = [*_needs(settings), *_required(path.stem, settings)]
        taken = hours(steps or [])
        if taken != "-" and float(taken) >= _GPU_HOURS:
            needs.append(f"a GPU ({taken} H100 hours)")
        ratio = f"{flops / tuning:.2g} x tuning" if flops else "asked"
        cost = "?" if steps is None else f"{si(tokens).strip()} tokens, {ratio}" if tokens else "nothing"
        entries.append((flops if steps is not None else float("inf"), path.stem, cost, _joined(needs), about(path)))
    lines = [f"Costs are those in {config.name}, with {config.model.name}. Choose: methods=[random,icon]", ""]
    return lines + _aligned([one[1:] for one in sorted(entries)])


def models(conf: Path) -> list[str]:
    """Models to tune; any of them is the one of an experiment by ``model=NAME``."""
    rows = []
    for path in sorted((conf / "model").glob("*.yaml")):
        model = _read(path)
        parameters = float(model.get("parameters", 0))
        needs = [*_needs(model), *(["a GPU"] if parameters > _SMALL else [])]
        cost = f"{si(parameters).strip()} weights, {size(parameters * _BYTES)}" if parameters else "tiny"
        rows.append((path.stem, cost, _joined(needs), f"licence {model.get('licence', 'as this project')}"))
    return ["Choose: model=NAME", "", *_aligned(rows)]


def data(conf: Path) -> list[str]:
    """Pools with their assessment sets."""
    rows = []
    for path in sorted((conf / "data").glob("*.yaml")):
        settings = _read(path)
        pool, assessment = settings.get("pool", {}), settings.get("assessment", {})
        count = f"{pool.get('expected_rows', '?')} rows, {assessment.get('expected_rows', '?')} to assess by"
        rows.append((path.stem, count, _joined(_needs(settings)), about(path)))
    return ["Choose: data=NAME", "", *_aligned(rows)]


def benchmarks(conf: Path) -> list[str]:
    """Benchmarks, by the evaluation that holds them; cost is of one model."""
    rows = []
    for path in sorted((conf / "evaluation").glob("*.yaml")):
        for name, task in _read(path).get("tasks", {}).items():
            items = min(task.get("limit") or 10**9, task.get("expected_items", 1000))
            tokens = items * task.get("expected_item_tokens", 150)
            needs = [*_needs(task), *(["lm-eval's task"] if task["kind"] == "lm_eval" else [])]
            cost = f"{items} items, {si(tokens).strip()} tokens"
            rows.append((f"{path.stem}.{name}", cost, _joined(needs), f"{task['kind']}, {task['metric']}"))
    return ["Choose: evaluation=NAME has those that begin with it", "", *_aligned(rows)]


def _scoring(config: Config, name: str, settings: Mapping[str, Any]) -> list[Step] | None:
    """The steps that a method's scores take in an experiment; None where its settings aren't whole."""
    try:
        options = config.methods.get(name) or typed(f"methods.{name}", settings)
        planned = plan(
            dataclasses.replace(config, methods={name: options}, until=Until.select, judge=JudgeConfig(), primary=None)
        )
    except (SchemaError, PlanError, KeyError):
        return None
    selects = [arm.select for arm in planned.arms if arm.select is not None]
    steps = {step.folder: step for select in selects for step in ancestors(select) if step.stage == "score"}
    return list(steps.values())


def _tuning(config: Config) -> float:
    """Operations of a tuning on all rows."""
    without = dataclasses.replace(config, until=Until.select, judge=JudgeConfig(), primary=None)
    return plan(without).full_tuning.flops or training_flops(config.model.parameters, 1.0, frozen=False)


def _read(path: Path) -> dict[str, Any]:
    """A file of conf/ with the files of its folder that it builds on."""
    content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    inherited: dict[str, Any] = {}
    for one in content.pop("defaults", []):
        if isinstance(one, str) and one != "_self_":
            inherited = _merged(inherited, _read(path.with_name(f"{one}.yaml")))
    return _merged(inherited, content)


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    both = {k: _merged(below[k], v) for k, v in above.items() if isinstance(v, dict) and isinstance(below.get(k), dict)}
    return {**below, **above, **both}


def _needs(value: Any) -> Iterator[str]:
    """What settings name that isn't in the package: of a hub, a registry, an endpoint, a file; each once."""
    yield from dict.fromkeys(_each_need(value))


def _each_need(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for one in value:
            yield from _each_need(one)
    if not isinstance(value, dict):
        return
    if value.get("hub_id"):
        weights = value.get("parameters")
        yield f"hub {value['hub_id']}" + (f" ({si(float(weights)).replace(' ', '')})" if weights else "")
    elif isinstance(value.get("registry"), dict):
        yield f"PyPI {value['registry']['package']}"
    elif isinstance(value.get("endpoint"), dict):
        key = value["endpoint"].get("api_key_env", "OPENAI_API_KEY")
        yield f"endpoint {value['endpoint'].get('model', '')} ({key})"
    elif isinstance(value.get("path"), str) and value["path"] != "???" and "package_dir" not in value["path"]:
        yield f"file {value['path']}"
    for name, path in (value.get("files") or {}).items() if isinstance(value.get("files"), dict) else ():
        yield f"file {path} ({name})"
    for key, inner in value.items():
        if key not in ("registry", "endpoint", "files"):
            yield from _each_need(inner)


def _required(name: str, settings: Mapping[str, Any]) -> list[str]:
    """Keys that have no value yet."""
    return [f"methods.{name}.{key}=..." for key, value in settings.items() if value == "???"]


def _joined(needs: list[str] | Iterator[str]) -> str:
    return ", ".join(needs)


def about(path: Path) -> str:
    """The first sentence of the comment that a file begins with."""
    text = path.read_text(encoding="utf-8")
    comment = " ".join(line.lstrip("# ") for line in re.match(r"(?:#.*\n)*", text)[0].splitlines())  # type: ignore[index]
    return re.split(r"(?<=[a-z0-9)])[.;] ", comment, maxsplit=1)[0].rstrip(".")


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Columns, the last two as wide as they are."""
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    needs = [f"needs {row[2]}; " if row[2] else "" for row in rows]
    return [f"{r[0]:<{widths[0]}}  {r[1]:<{widths[1]}}  {n}{r[3]}" for r, n in zip(rows, needs, strict=True)]
