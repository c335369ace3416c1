"""Say what LESS takes before it starts: memory, or what a projection costs its ranking.

In: a LessConfig with all options set.  Out: lines for the plan. Imports no stage and no torch.
Known gap: see ``lm.sizes``, of a model that isn't here yet.
"""

from pathlib import Path

from icon_repro.data.options import RowsConfig, SourceKind
from icon_repro.data.planner import PlanError, Planned
from icon_repro.data.stand_ins import GROUPS
from icon_repro.engine.records import RecordError, read_lines
from icon_repro.lm.sizes import lora_weights
from icon_repro.methods.less.options import LessConfig, LessProjection

_SPREAD = 0.02  # of exact influences over rows: their standard deviation, see ``expected_agreement``
_ENOUGH = 0.8  # a lower rank correlation is warned of
_COUNTED_BYTES = 2**25  # groups of a larger file aren't counted in the plan


def expected_agreement(dimensions: int) -> float:
    """The rank correlation that influences from random projections are expected to have with the exact ones.

    A cosine of two projected vectors has noise of about 1 / sqrt(dimensions), whatever the number of weights. With a
    spread of the exact influences of ``_SPREAD`` over the rows the correlation is spread / sqrt(spread^2 + noise^2).
    An estimate: the spread was fitted to Spearman's 0.45 to 0.63 at 1,024 and 0.83 to 0.92 at 8,192 dimensions, with
    7,168 and with about 900,000 LoRA weights (tiny_llama, SmolLM2-135M).
    """
    return float(_SPREAD / (_SPREAD**2 + 1 / dimensions) ** 0.5)


def tasks_of(rows: RowsConfig) -> int | None:
    """At most so many tasks there are among the targets: groups of a local file; None: only the rows can tell."""
    if rows.source.fields.group is None:
        return 1
    if (made := rows.source.stand_in) is not None:
        return min(made.rows, len(GROUPS))
    path = Path(rows.source.path or "").expanduser()
    if rows.source.kind is not SourceKind.file or path.suffix != ".jsonl" or path.stat().st_size > _COUNTED_BYTES:
        return None
    try:
        return max(1, len({str(row.get(rows.source.fields.group)) for _, row in read_lines(path)}))
    except RecordError:
        return None  # the step that reads the rows says what is wrong


def notes(where: str, method: LessConfig, config: Planned) -> list[str]:
    """What one should know of the chosen projection.

    Args:
        where: key of the method.

    Raises:
        PlanError: the tasks need more memory than they may.
    """
    if method.projection is LessProjection.rademacher:
        expected = expected_agreement(method.dimensions)
        kind = "warning" if expected < _ENOUGH else "note"
        return [
            f"{kind}: {where}.dimensions={method.dimensions}: the order of the rows is expected to have a rank "
            f"correlation of about {expected:.2f} with that of the exact influence (an estimate, of a pool whose rows "
            "have influences near each other; 0.45 to 0.89 were measured with 1,024, 0.83 to 0.98 with 8,192). Set "
            f"{where}.projection=exact, which has no such noise, or more dimensions."
        ]
    weights, known = lora_weights(config.model, method.lora)
    counts = [tasks_of(rows) for rows in method.targets.values()] or [tasks_of(config.data.assessment)]
    tasks = sum(count or 1 for count in counts)
    size = tasks * weights * 4 / 2**30
    counted = f"{'' if all(counts) else 'at least '}{tasks} task{'s' if tasks > 1 else ''}"
    text = (
        f"{where}.projection=exact: mean gradients of {counted} and {'' if known else 'about '}{weights:,} LoRA "
        f"weights take {size:.2g} GiB of memory, and of disk for each of {method.epochs} epochs"
    )
    if size <= method.max_gib:
        return [f"note: {text}."]
    text = (
        f"{text}; {where}.max_gib={method.max_gib:g} allows less. Raise it if there is room; or set {where}.projection="
        "rademacher, lora.targets to fewer modules or lora.r lower; or give fewer tasks (groups of the targets)."
    )
    if known:
        raise PlanError(text)
    return [f"warning: {text}"]
