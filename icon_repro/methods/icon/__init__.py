"""ICon, in-context contribution (arXiv 2505.05327): zero-shot baseline, shards of the pair matrices, aggregation."""

from icon_repro.data.options import Dtype, SelectFrom
from icon_repro.engine.schema import plain
from icon_repro.methods.base import Method, Setting, reseed_by
from icon_repro.methods.icon.options import (
    LEAST,
    LORA_ONLY,
    Budget,
    Control,
    EmptyPair,
    IconConfig,
    NoiseUnit,
    SelectorConfig,
    SelectorKind,
    SelectorTarget,
    resolved,
)
from icon_repro.methods.icon.plan import plan


def problems(where: str, options: IconConfig, setting: Setting) -> list[str]:
    """Combinations that don't go together, with the options that ``compat`` decides filled in."""
    icon = resolved(options)
    texts = []
    pool = setting.select_from is SelectFrom.pool
    if pool and icon.selector is None:
        texts.append(
            f"{where}.selector: select_from=pool needs the selection model, which extends the scores to the pool; "
            f"set {where}.selector={{}}, or select_from=candidates."
        )
    if not pool and icon.selector is not None and icon.candidates is None:
        texts.append(
            f"{where}.selector: select_from=candidates scores them all; set {where}.candidates to how many it scores "
            f"(the selection model ranks the rest), {where}.selector=null, or select_from=pool."
        )
    if icon.candidates is not None and icon.selector is None:
        texts.append(
            f"{where}.candidates={icon.candidates}: the others have no score without the selection model; set "
            f"{where}.selector={{}}, or {where}.candidates=null."
        )
    size = setting.data.candidates.size
    if icon.candidates is not None and size is not None and icon.candidates > size:
        texts.append(f"{where}.candidates={icon.candidates}: is more than data.candidates.size={size}; lower it.")
    scored = icon.candidates or size
    if icon.budget is Budget.auto and scored is not None and scored < LEAST:
        texts.append(f"{where}.budget=auto: {scored} candidates, and it learns from {LEAST} at least; set budget=full.")
    if icon.control is Control.bank and not icon.bank.lengths:
        texts.append(f"{where}.bank.lengths=[]: give at least one length in tokens.")
    if icon.selector is not None and icon.selector.kind is SelectorKind.probe:
        if icon.selector.repeats > 1:
            texts.append(f"{where}.selector.repeats={icon.selector.repeats}: a probe has no seed; set 1.")
        if unused := [name for name in LORA_ONLY if getattr(icon.selector, name) != getattr(SelectorConfig(), name)]:
            texts.append(
                f"{where}.selector.{unused[0]}={plain(getattr(icon.selector, unused[0]))!r}: is of kind=lora; a probe "
                f"isn't trained. Set {where}.selector.kind=lora, or leave it out."
            )
        if icon.selector.target is SelectorTarget.top_fraction:
            texts.append(f"{where}.selector.target=top_fraction: a probe learns ranks; set rank, or kind=lora.")
        if icon.selector.probe.dtype is Dtype.float16:
            texts.append(f"{where}.selector.probe.dtype='float16': may overflow; use float32 or bfloat16.")
    by_probe = icon.selector is not None and icon.selector.kind is SelectorKind.probe
    if icon.selector is not None and icon.selector.near and not (by_probe and icon.budget is Budget.auto):
        texts.append(
            f"{where}.selector.near={icon.selector.near}: rows near a cut are scored by the assessment rows that "
            f"budget=auto chooses, where a probe's errors say they are near; set {where}.budget=auto and "
            f"{where}.selector.kind=probe, or near=0."
        )
    if icon.selector is not None and icon.selector.dtype is Dtype.float16:
        texts.append(f"{where}.selector.dtype='float16': needs loss scaling, which isn't built; use bfloat16.")
    if icon.budget is not Budget.full:
        if icon.control not in (None, Control.bank, Control.none):
            texts.append(
                f"{where}.budget={icon.budget.value!r}: needs control=bank or none, not {icon.control.value}: the "
                "others score a random context for each candidate. Set budget=full, or the control."
            )
        if icon.empty_pairs is EmptyPair.nan:
            texts.append(f"{where}.budget={icon.budget.value!r}: can't leave pairs out; set empty_pairs=error.")
    if icon.budget is Budget.auto and icon.control is not Control.bank:
        texts.append(f"{where}.budget='auto': needs control=bank, whose lengths it reads.")
    if icon.control is Control.bank and options.noise_unit is NoiseUnit.characters:
        texts.append(
            f"{where}.noise_unit='characters': the bank's texts are counted in tokens; set "
            "control=per_candidate or per_pair."
        )
    return texts


def meaning(options: IconConfig) -> str:
    if options.selector is not None:
        return (
            "what a selection model, trained on scored candidates, predicts from the row's text; an order, not a "
            "contribution"
        )
    text = (
        "by how much the row, shown in context, lowers the perplexity of assessment rows against a meaningless context"
    )
    if options.budget is Budget.full:
        return f"{text}, relative to their perplexity alone; mean over the assessment rows"
    return f"{text}; estimated from as many of them as were needed to place the row"


METHOD = Method(IconConfig, plan, meaning, problems, reseed_by("seed"), resolved)
