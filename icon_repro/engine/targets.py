"""Name the function of each step, and say where it lives today.

A step's target, for instance "icon_repro.select:run", is a name: fingerprints, stored records and the specs of queued
jobs hold it, so it never changes. It began as the import path of the function. When the function moves, MOVED says
where to; a target that MOVED doesn't name is still an import path.
In: a target.  Out: the function, imported.
Known gap: ``engine.task`` itself is named in the batch scripts of queued jobs; it must stay where it is.
"""

import importlib
from collections.abc import Callable
from typing import Any

# key in the plan -> target and version. Raise the version when the meaning of the output changes: results of the
# old one are then rebuilt
TARGETS = {
    "model": ("icon_repro.data.weights:run", 1),
    "rows": ("icon_repro.data.prepare:run", 1),
    "order": ("icon_repro.data.candidates:run", 1),
    "candidates": ("icon_repro.data.candidates:head", 1),
    "benchmark": ("icon_repro.data.benchmark:run", 1),
    "icon_baseline": ("icon_repro.methods.icon.pairs:baseline", 2),
    "icon_dtype": ("icon_repro.methods.icon.fidelity:run", 1),
    "icon_bank": ("icon_repro.methods.icon.pairs:bank", 1),
    "icon_shard": ("icon_repro.methods.icon.pairs:shard", 1),
    "icon_control": ("icon_repro.methods.icon.pairs:control_shard", 1),
    "icon_pilot": ("icon_repro.methods.icon.rounds:pilot", 1),
    "icon_start": ("icon_repro.methods.icon.rounds:start", 1),
    "icon_round": ("icon_repro.methods.icon.rounds:decide", 1),
    "icon": ("icon_repro.methods.icon.score:run", 2),
    "icon_adaptive": ("icon_repro.methods.icon.score:adaptive", 1),
    "selector": ("icon_repro.methods.icon.selector:train", 1),
    "selector_pool": ("icon_repro.methods.icon.selector:pool", 1),
    "probe": ("icon_repro.methods.icon.probe:train", 1),
    "probe_pool": ("icon_repro.methods.icon.probe:pool", 1),
    "selector_scores": ("icon_repro.methods.icon.selector:run", 1),
    "random": ("icon_repro.methods.random:run", 1),
    "random_matched": ("icon_repro.methods.random:matched", 1),
    "longest": ("icon_repro.methods.longest:run", 1),
    "answers": ("icon_repro.methods.common.answers:shard", 1),
    "perplexity": ("icon_repro.methods.perplexity:run", 1),
    "ifd": ("icon_repro.methods.ifd:run", 1),
    "pre_experienced": ("icon_repro.methods.pre_experienced:run", 1),
    "ifd_share": ("icon_repro.methods.diversity:share", 1),
    "ifd_diversity": ("icon_repro.methods.diversity:run", 1),
    "embeddings": ("icon_repro.methods.common.embeddings:shard", 1),
    "rds": ("icon_repro.methods.rds:run", 1),
    "nuggets_anchors": ("icon_repro.methods.nuggets:anchors", 1),
    "nuggets_shard": ("icon_repro.methods.nuggets:shard", 1),
    "nuggets": ("icon_repro.methods.nuggets:run", 1),
    "selectit_shard": ("icon_repro.methods.selectit:shard", 1),
    "selectit": ("icon_repro.methods.selectit:run", 1),
    "less_shard": ("icon_repro.methods.less:shard", 2),  # 2: lengths of targets
    "less": ("icon_repro.methods.less:run", 2),  # 2: tasks come with the targets
    "less_means": ("icon_repro.methods.less_exact:means", 1),
    "less_products": ("icon_repro.methods.less_exact:shard", 1),
    "less_exact": ("icon_repro.methods.less_exact:run", 1),
    "deita_shard": ("icon_repro.methods.deita:shard", 1),
    "deita": ("icon_repro.methods.deita:run", 1),
    "armorm_shard": ("icon_repro.methods.armorm:shard", 1),
    "armorm": ("icon_repro.methods.armorm:run", 1),
    "alpagasus_ratings": ("icon_repro.methods.alpagasus:ratings", 1),
    "alpagasus": ("icon_repro.methods.alpagasus:run", 1),
    "external": ("icon_repro.methods.external:run", 1),
    "ids": ("icon_repro.methods.ids:run", 1),
    "select": ("icon_repro.select:run", 2),  # 2: the fraction is of all rows, not of those that have a score
    "row_tokens": ("icon_repro.row_tokens:run", 1),
    "train": ("icon_repro.train:run", 1),
    "evaluate": ("icon_repro.evaluate:run", 1),
    "shared_text": ("icon_repro.shared_text:run", 1),
    "judge_answers": ("icon_repro.judge.answers:run", 1),
    "judge_served": ("icon_repro.judge.answers:served", 1),
    "judge_reference": ("icon_repro.judge.answers:reference", 1),
    # 2: numbers after other words and a colon aren't scores; a reason or sentence may follow them
    "judge_endpoint": ("icon_repro.judge.pairwise:endpoint", 2),
    "judge_local": ("icon_repro.judge.local:run", 2),
    "judge_nll": ("icon_repro.judge.likelihood:run", 1),
    "judge_pooled": ("icon_repro.judge.pairwise:pooled", 1),
    "held_out": ("icon_repro.held_out:run", 1),
    "held_out_rows": ("icon_repro.held_out:facts", 1),
}


# target, as fingerprints hold it -> "module:function" of today
MOVED: dict[str, str] = {
    "icon_repro.evaluate:run": "icon_repro.evaluate.step:run",
    "icon_repro.held_out:facts": "icon_repro.evaluate.held_out:facts",
    "icon_repro.held_out:run": "icon_repro.evaluate.held_out:run",
    "icon_repro.judge.answers:reference": "icon_repro.evaluate.judge.answers:reference",
    "icon_repro.judge.answers:run": "icon_repro.evaluate.judge.answers:run",
    "icon_repro.judge.answers:served": "icon_repro.evaluate.judge.answers:served",
    "icon_repro.judge.likelihood:run": "icon_repro.evaluate.judge.likelihood:run",
    "icon_repro.judge.local:run": "icon_repro.evaluate.judge.local:run",
    "icon_repro.judge.pairwise:endpoint": "icon_repro.evaluate.judge.pairwise:endpoint",
    "icon_repro.judge.pairwise:pooled": "icon_repro.evaluate.judge.pairwise:pooled",
    "icon_repro.row_tokens:run": "icon_repro.methods.row_tokens:run",
    "icon_repro.select:run": "icon_repro.methods.select:run",
    "icon_repro.shared_text:run": "icon_repro.evaluate.shared_text:run",
    "icon_repro.train:run": "icon_repro.train.step:run",
}


class TargetError(LookupError):
    """This version of the code has no function for a target."""


def module_of(target: str) -> str:
    """Name of the module that holds the function of ``target`` today."""
    return MOVED.get(target, target).partition(":")[0]


def function_of(target: str) -> Callable[..., Any]:
    """The function of ``target``, imported from where it lives today.

    Raises:
        TargetError: there is none. A module that the function's own module imports and that isn't installed is an
            ImportError as ever.
    """
    module, _, name = MOVED.get(target, target).partition(":")
    try:
        function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise TargetError(f"target {target!r}: this version of the code has no module {error.name!r}.") from error
    except AttributeError as error:
        if error.name != name or getattr(error.obj, "__name__", None) != module:
            raise
        raise TargetError(f"target {target!r}: this version of the code has no {name!r} in {module!r}.") from error
    return function
