"""Define what a method is, and build its steps.

A method is one file, ``methods/<kind>.py``, or a folder ``methods/<kind>/`` of the same form. The file holds the
method's options, its steps, the plan that puts the steps together, and ``METHOD``, which names them. Nothing else has
to be edited: the kind is the file's name. ``methods/longest.py`` is the shortest example; the same file works from
outside the package (``kind: external``).
A plan must not load torch: a step imports what is heavy inside its function.
"""

import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any, Protocol

from icon_repro.data.cost import forward_flops, tokens_of
from icon_repro.data.options import DataConfig, ModelConfig, RowFormat, SelectFrom
from icon_repro.data.planner import PlanError, Planner
from icon_repro.engine.artifact import Cost, SourceFile, Step
from icon_repro.engine.options import ClusterConfig
from icon_repro.engine.targets import TargetError, target_of
from icon_repro.methods.common import answers as common_answers
from icon_repro.methods.common import embeddings as common_embeddings
from icon_repro.methods.common.options import (
    AnswerPart,
    AnswersConfig,
    AnswersShard,
    EmbeddedText,
    EmbeddingConfig,
    EmbeddingShard,
)
from icon_repro.train.options import TrainConfig

# of a row's tokens, about
_PASSES = {AnswerPart.conditioned: 1.0, AnswerPart.direct: 0.8, AnswerPart.whole: 1.0, AnswerPart.prompt: 0.4}
OUTSIDE = "icon_repro.methods.external:step"  # runs a step of a file outside the package


@dataclass
class Options:
    """The settings of a method: its keys in YAML under ``methods.NAME``. Subclasses add fields with types."""

    kind: str = ""


class Setting(Protocol):
    """What a method's check of its options may read of the experiment."""

    data: DataConfig
    select_from: SelectFrom
    methods: dict[str, Any]  # name -> options of each method
    cluster: ClusterConfig


def _no_problems(where: str, options: Any, setting: Setting) -> list[str]:
    return []


def _as_it_is(options: Any) -> Any:
    return options


@dataclass(frozen=True)
class Method:
    """All that the project knows of a method.

    Args:
        options: dataclass of the settings. A field ``kind`` is needed (``Options`` has it).
        plan: from builder, name and options to the step with the scores, or to one for each fraction.
        meaning: what a score is, in one clause for the card of an exported selection; may depend on the options.
        problems: what no single value of the options shows, each with key, value, rule and remedy. It is given the
            method's key, its options, and the experiment.
        reseed: the seed and the options of a selection that is repeated, for each number from 0 on; the options need a
            field ``repeats`` (``repeats_field``). None: the method can't be repeated.
        resolve: the options with all that a preset such as ``compat`` decides filled in, as a report stores them.
    """

    options: type
    plan: Callable[["Build", str, Any], Step | dict[float, Step]]
    meaning: str | Callable[[Any], str]
    problems: Callable[[str, Any, Setting], list[str]] = _no_problems
    reseed: Callable[[Any, int], tuple[int, Any]] | None = None
    resolve: Callable[[Any], Any] = _as_it_is

    def meaning_of(self, options: Any) -> str:
        """What a score is, with these options."""
        return self.meaning if isinstance(self.meaning, str) else self.meaning(options)


def repeats_field() -> Any:
    """A field for how many selections are made, with seeds from the method's own on; see ``Method.reseed``."""
    return field(default=1, metadata={"hash": False, "at_least": 1})


def reseed_by(path: str) -> Callable[[Any, int], tuple[int, Any]]:
    """A ``Method.reseed`` that counts up the seed at ``path``, e.g. "seed" or "anchors.seed"."""
    *parents, last = path.split(".")

    def reseed(options: Any, number: int) -> tuple[int, Any]:
        seed = attrgetter(path)(options) + number
        inner: Any = {last: seed}
        for depth in range(len(parents), 0, -1):
            inner = {parents[depth - 1]: replace(attrgetter(".".join(parents[:depth]))(options), **inner)}
        return seed, replace(options, repeats=1, **inner)

    return reseed


@cache
def check_step(function: Callable[..., Any]) -> None:
    """Refuse what a worker couldn't call.

    Raises:
        PlanError: not a function of a module with four parameters, the first annotated with the dataclass of its own
            options; says file and line.
    """
    where = place_of(function)
    rule = "a step is a function NAME(options: CLASS, inputs, out, runtime) of the file itself, CLASS a dataclass"
    if not inspect.isfunction(function) or "<" in function.__qualname__ or "." in function.__qualname__:
        raise PlanError(f"{where}: {getattr(function, '__qualname__', function)!r} can't be a step: {rule}.")
    parameters = list(inspect.signature(function).parameters.values())
    positional = {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY}
    if len(parameters) != 4 or any(parameter.kind not in positional for parameter in parameters):
        raise PlanError(f"{where}: {function.__name__}{inspect.signature(function)} can't be called: {rule}.")
    try:
        kind = typing.get_type_hints(function).get(parameters[0].name)
    except (NameError, TypeError) as error:
        raise PlanError(f"{where}: types of {function.__name__}() can't be read ({error}): {rule}.") from error
    if not is_dataclass(kind):
        raise PlanError(f"{where}: {parameters[0].name} of {function.__name__}() has no dataclass as its type: {rule}.")


def place_of(function: Any) -> str:
    """File and line of a function, as far as they are known."""
    code = getattr(function, "__code__", None)
    return "?" if code is None else f"{Path(code.co_filename).name}:{code.co_firstlineno}"


@dataclass(frozen=True)
class Inputs:
    """The steps that selections are made from."""

    model: Step  # the one that is tuned
    order: Step  # of the pool whose first rows are the candidates
    assessment: Step  # the rows that a selection should help with
    selected_from: Step  # order of the pool that is selected from


@dataclass(frozen=True)
class Outside:
    """A file outside the package whose method is planned."""

    module: str  # name in sys.modules
    files: Mapping[str, SourceFile]  # itself as ``method``, and what it imports beside it


class Build:
    """Builds the steps of methods that rank the same rows.

    Args:
        read: what selections are made from; ``model``, ``order``, ``assessment``, ``selected_from`` are its steps.
        universe: the rows that all methods rank.
        training: of the models that are tuned on selections.
        fractions: that are selected.
        common: those that all methods select, where this one selects more.
        selected: the selection that another method makes at a fraction.
    """

    outside: Outside | None = None

    def __init__(
        self,
        planner: Planner,
        read: Inputs,
        universe: Step,
        training: TrainConfig,
        fractions: Sequence[float],
        selected: Callable[[str, float], Step] | None = None,
        common: Sequence[float] | None = None,
    ) -> None:
        self.common = list(fractions if common is None else common)
        self.planner, self.read, self.universe, self.whole = planner, read, universe, planner.whole
        self.model, self.assessment = read.model, read.assessment
        self.order, self.selected_from = read.order, read.selected_from
        self.training, self.fractions, self.selected = training, list(fractions), selected
        rows = planner.config.data.selected_from if self.whole else planner.config.data.pool
        self.row_tokens = tokens_of(rows.expected_prompt_chars + rows.expected_response_chars)
        self.prompt_tokens = tokens_of(rows.expected_prompt_chars)
        self.ready = rows.source.format is RowFormat.prompt_response  # tuning takes their prompts as they stand
        self.rows = planner.expected(self.whole)  # as many as are expected

    def step(
        self,
        function: Callable[..., Any] | str,
        name: str,
        params: Any,
        inputs: Mapping[str, Step] | None = None,
        tokens: float = 0.0,
        *,
        version: int = 1,
        model: ModelConfig | None = None,
        files: Mapping[str, SourceFile] | None = None,
        cost: Cost | None = None,
        resumable: bool = False,
    ) -> Step:
        """A step that calls ``function``.

        Args:
            function: or, if its module is too heavy for a plan, its stable name "module:function".
            params: the dataclass instance that it takes; its hashed fields are part of the step's fingerprint.
            tokens: that go through the model, for the cost: that of a forward pass.
            version: raised when the meaning of the output changes; stored results of other versions are rebuilt.
            model: that computes; None: the one that is tuned.
            cost: in place of that of ``tokens``.
            resumable: what an attempt left in ``out`` is of use to the next.
        """
        if cost is None:
            parameters = (model or self.planner.config.model).parameters
            cost = Cost(tokens, forward_flops(parameters, tokens))
        files = dict(files or {})
        if isinstance(function, str):
            target = function
        else:
            check_step(function)
            if self.outside is not None and function.__module__ == self.outside.module:
                target, files = OUTSIDE, {**files, **self.outside.files}
                params = OutsideStep(function.__name__, params)
            else:
                try:
                    target = target_of(function)
                except TargetError as error:
                    raise PlanError(f"{place_of(function)}: {error}") from error
        return Step("score", name, target, version, params, dict(inputs or {}), files, cost=cost, resumable=resumable)

    def parts(
        self,
        function: Callable[..., Any],
        name: str,
        size: int,
        params: Callable[[int, int | None], Any],
        inputs: Mapping[str, Step],
        tokens: float,
        *,
        label: str = "part",
        version: int = 1,
        model: ModelConfig | None = None,
        files: Mapping[str, SourceFile] | None = None,
    ) -> dict[str, Step]:
        """Steps ``<label>-NNNN`` over slices of ``size`` rows, so that a crash loses no more than one of them.

        Args:
            params: of a slice, from its first row and its end (exclusive; None: as far as rows go).
            tokens: of one row.
        """
        steps = {}
        for number, (first, end, stop) in enumerate(self.planner.slices(size, self.whole)):
            key = f"{label}-{number:04d}"
            steps[key] = self.step(
                function,
                f"{name}-{key}",
                params(first, stop),
                inputs,
                (end - first) * tokens,
                version=version,
                model=model,
                files=files,
            )
        return steps

    def answers(
        self, answers: AnswersConfig, config: ModelConfig, model: Step, size: int, tuned: Step | None = None
    ) -> dict[str, Step]:
        """Shards of NLLs over all rows, under a model or what a training made of it; methods share them."""
        passes = sum(_PASSES[part] for part in answers.parts)
        owner = config.name if tuned is None else f"{config.name}-tuned"
        label = f"answers-{owner}-{'-'.join(part.value for part in answers.parts)}"
        inputs = {"model": model, "candidates": self.universe, **({"tuned": tuned} if tuned else {})}
        steps = {}
        for number, (first, end, stop) in enumerate(self.planner.slices(size, self.whole)):
            tokens = (end - first) * min(self.row_tokens, answers.max_length) * passes
            params = AnswersShard(answers, first, stop)
            steps[f"shard-{number:04d}"] = self.step(
                common_answers.shard, f"{label}-{number:04d}", params, inputs, tokens, model=config
            )
        return steps

    def embeddings(
        self,
        embedding: EmbeddingConfig,
        size: int,
        config: ModelConfig | None = None,
        where: str = "",
        *,
        tuned: Step | None = None,
        rows: Step | None = None,
        share: float = 1.0,
    ) -> dict[str, Step]:
        """Shards of vectors over all rows, of the model that is tuned or of ``config``, named by its key ``where``.

        Args:
            tuned: the training that the model comes from.
            rows: in place of all rows; as many as ``share`` selects of them.
        """
        model = self.model if config is None else self.planner.model(config, where)
        owner = "" if config is None else f"{config.name}-"
        owner += "tuned-" if tuned else ""
        owner += "prompts-" if embedding.text is EmbeddedText.prompt else "share-" if rows else ""
        length = self.prompt_tokens if embedding.text is EmbeddedText.prompt else self.row_tokens
        inputs = {"model": model, "rows": rows or self.universe, **({"tuned": tuned} if tuned else {})}
        steps = {}
        for number, (first, end, stop) in enumerate(self.planner.slices(size, self.whole, share=share)):
            tokens = (end - first) * min(length, embedding.max_length)
            name = f"embeddings-{owner}{embedding.pooling.value}-{number:04d}"
            params = EmbeddingShard(embedding, first, stop)
            steps[f"shard-{number:04d}"] = self.step(
                common_embeddings.shard, name, params, inputs, tokens, model=config
            )
        return steps


@dataclass
class OutsideStep:
    """A step of a file outside the package: the name of its function, and the options that this takes."""

    function: str
    params: Any
