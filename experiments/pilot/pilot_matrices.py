"""Score the pilot's pairs and store them compactly for ``pilot``.

Run: ``python experiments/pilot/pilot_matrices.py`` in a checkout.
In: the experiment ``pilot`` and its work folder.  Out: the npy and json files that ``pilot`` describes.
Missing steps are run first: all candidates with the noise bank; the first ``--own`` candidates with random contexts of
their own; the first ``--bfloat16`` candidates in bfloat16. Several of these commands may share the work.
With ``--after N`` the first N candidates of the order are left out everywhere: another folder holds them; ``--count``
says how many are then scored.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from icon_repro.config.compose import composed
from icon_repro.config.load import Config
from icon_repro.data.rows import Example
from icon_repro.engine.artifact import Step, Store, ordered
from icon_repro.engine.records import read_json, read_rows, write_json
from icon_repro.engine.run import run
from icon_repro.experiment import plan


class MatricesError(ValueError):
    """The pairs couldn't be scored."""


def needed(
    config: Config, own: int, bfloat16: int, after: int = 0, count: int | None = None
) -> dict[str, dict[str, Step]]:
    """By method of the experiment the steps whose pairs are stored.

    Raises:
        MatricesError: ``after`` isn't a whole number of shards.
    """
    scores = {arm.method: arm.select.inputs["scores"] for arm in plan(config).arms if arm.select is not None}
    size = config.methods["icon"].shard_candidates
    if after % size or not 0 <= after < (config.data.candidates.size or after + 1):
        raise MatricesError(
            f"--after {after}: must be a multiple of methods.icon.shard_candidates={size}, below "
            f"data.candidates.size={config.data.candidates.size}."
        )

    def first(steps: dict[str, Step], prefix: str, candidates: int) -> dict[str, Step]:
        names = sorted(name for name in steps if name.startswith(prefix))[after // size :]
        return {name: steps[name] for name in names[: -(-candidates // size)]}

    own_steps, low = dict(scores["own"].inputs), dict(scores["bfloat16"].inputs)
    low_shards = first(low, "shard-", bfloat16)
    icon_steps = dict(scores["icon"].inputs)
    read = {name: step for name, step in icon_steps.items() if not name.startswith("shard-")}
    return {
        "icon": {**read, **first(icon_steps, "shard-", len(icon_steps) * size if count is None else count)},
        "own": first(own_steps, "control-", own),
        "bfloat16": {**low_shards, "baseline": low["baseline"]} if low_shards else {},
    }


def export(steps: dict[str, dict[str, Step]], store: Store, out: Path) -> dict[str, Any]:
    """Write the matrices into ``out``; returns their shapes."""
    icon = {name: store.path(step) for name, step in steps["icon"].items()}
    shards = [icon[name] for name in sorted(icon) if name.startswith("shard-")]
    candidates = [i for shard in shards for i in read_json(shard / "ids.json")["candidates"]]
    described = read_json(icon["baseline"] / "ids.json")
    bank = read_json(icon["bank"] / "bank.json")
    order = store.path(steps["icon"][min(n for n in steps["icon"] if n.startswith("shard-"))].inputs["order"])
    examples = {row.id: row for row in read_rows(order / "rows.jsonl", Example)}
    place = {identifier: i for i, identifier in enumerate(candidates)}
    arrays = {
        "baseline": np.load(icon["baseline"] / "nll.npy").astype(np.float32),
        "candidate": np.concatenate([np.load(shard / "candidate.npy") for shard in shards]),
        "bank": np.load(icon["bank"] / "bank.npy"),
    }
    controls = [store.path(steps["own"][name]) for name in sorted(steps["own"])]
    own = [place[i] for folder in controls for i in read_json(folder / "ids.json")["candidates"]]
    arrays["control"] = np.concatenate([np.load(folder / "control.npy") for folder in controls])
    low = {name: store.path(step) for name, step in steps["bfloat16"].items()}
    low_shards = [low[name] for name in sorted(low) if name.startswith("shard-")]
    low_candidates = [place[i] for folder in low_shards for i in read_json(folder / "ids.json")["candidates"]]
    if low_shards:
        arrays["candidate_bfloat16"] = np.concatenate([np.load(folder / "candidate.npy") for folder in low_shards])
        arrays["baseline_bfloat16"] = np.load(low["baseline"] / "nll.npy").astype(np.float32)
    out.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        np.save(out / f"{name}.npy", array, allow_pickle=False)
    write_json(out / "bank_lengths.json", bank["lengths"])
    write_json(
        out / "ids.json",
        {
            "candidates": candidates,
            "assessment": described["assessment"],
            "groups": described["groups"],
            "response_chars": [len(examples[i].response) for i in candidates],
            "context_tokens": [max(1, bank["contexts"][i]) for i in candidates],
            "control_candidates": own,
            "bf16_candidates": low_candidates,
            "bf16_rows": list(range(len(described["assessment"]))) if low_shards else [],
        },
    )
    flat = {f"{method}/{name}": step.folder for method, parts in steps.items() for name, step in parts.items()}
    write_json(out / "steps.json", flat)
    return {name: list(array.shape) for name, array in arrays.items()}


def main(arguments: list[str] | None = None) -> int:
    """Run what is missing, and export."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n\n")[0])
    parser.add_argument("overrides", nargs="*", help="of the experiment pilot, key=value")
    parser.add_argument("--own", type=int, default=48, help="candidates with random contexts of their own")
    parser.add_argument("--bfloat16", type=int, default=8, help="candidates that are scored in bfloat16 as well")
    parser.add_argument("--after", type=int, default=0, help="candidates of the order that are left out")
    parser.add_argument("--count", type=int, help="candidates that are scored; all by default")
    parser.add_argument("--out", type=Path, default=Path("results/pilot"))
    given = parser.parse_args(arguments)
    try:
        config = composed("pilot", given.overrides)
        store = Store(Path(config.paths.work))
        steps = needed(config, given.own, given.bfloat16, given.after, given.count)
        wanted = ordered(step for parts in steps.values() for step in parts.values())
        summary = run(wanted, store, config.cluster, Path(config.paths.cache), print)
        if summary.failed:
            raise MatricesError(f"steps failed: {summary.failed}")
        print(export(steps, store, given.out))
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
