"""Read a matrix' candidates once with the model, for ``price``: how alike they are, and what texts take in tokens.

Run: ``python experiments/price/inputs.py`` in a checkout.
In: the experiment ``pilot``, ids.json and bank_lengths.json of a matrix.  Out, in results/price: alike.npy, (c, c)
float32, inner products of candidates' hidden states as budget auto uses them; tokens.json with mean tokens of a
context, an assessment row and a text as a probe reads it, and the noise bank's.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from icon_repro.config.compose import composed
from icon_repro.data.rows import Example
from icon_repro.engine.artifact import Store, ordered
from icon_repro.engine.records import read_json, read_rows, write_json
from icon_repro.engine.run import run
from icon_repro.engine.runtime import Runtime
from icon_repro.experiment import plan
from icon_repro.lm.load import load_tokenizer
from icon_repro.methods.icon.few import likeness
from icon_repro.methods.icon.layout import Layout
from icon_repro.methods.icon.options import ProbeConfig, resolved
from icon_repro.methods.icon.pairs import candidate_text
from icon_repro.methods.icon.probe import features
from icon_repro.methods.icon.selector_data import token_ids

PILOT = Path("results/pilot")


def prepared(overrides: list[str], names: tuple[str, ...]) -> tuple[dict[str, Path], Runtime]:
    """Folders of the pilot's steps with these names, made if they aren't there.

    Raises:
        ValueError: one of them failed.
    """
    config = composed("pilot", overrides)
    store, cache = Store(Path(config.paths.work)), Path(config.paths.cache)
    shard = next(step for step in plan(config).steps if step.label == "score/icon-shard-0000")
    needed = {name: shard.inputs[name] for name in names}
    summary = run(ordered(needed.values()), store, config.cluster, cache, print)
    if summary.failed:
        raise ValueError(f"could not prepare: {summary.failed}")
    return {name: store.path(step) for name, step in needed.items()}, Runtime(
        config.cluster, cache, "price", terminal=None
    )


def main(arguments: list[str] | None = None) -> int:
    """Write alike.npy and tokens.json."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n\n")[0])
    parser.add_argument("overrides", nargs="*", help="of the experiment pilot, key=value")
    parser.add_argument("--matrix", type=Path, default=PILOT, help="folder with ids.json and bank_lengths.json")
    parser.add_argument("--out", type=Path, default=Path("results/price"))
    given = parser.parse_args(arguments)
    try:
        inputs, runtime = prepared(given.overrides, ("model", "order", "assessment"))
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    ids = read_json(given.matrix / "ids.json")["candidates"]
    given.out.mkdir(parents=True, exist_ok=True)
    layout = Layout(load_tokenizer(inputs["model"]), resolved(composed("pilot", []).methods["icon"]))
    in_order = {row.id: row for row in read_rows(inputs["order"] / "rows.jsonl", Example)}
    if unknown := [i for i in ids if i not in in_order]:
        sys.stderr.write(
            f"error: {given.matrix / 'ids.json'}: candidate {unknown[0]!r} isn't in the order; export it again.\n"
        )
        return 1
    pool = [in_order[i] for i in ids]
    rows = [layout.row(row).after_context for row in read_rows(inputs["assessment"] / "rows.jsonl", Example)]
    separator = len(layout.separator())
    contexts = [len(layout.context(candidate_text(row))[0]) + separator for row in pool]
    texts, _ = token_ids(layout.tokenizer, pool, 1024)
    bank = read_json(given.matrix / "bank_lengths.json")
    lengths = {
        "row": float(np.mean([len(row.ids) for row in rows if row is not None])),
        "context": float(np.mean(contexts)),
        "text": float(np.mean([len(text) for text in texts])),
        "bank": float(np.mean(bank)) + separator + len(layout.bos),
    }
    write_json(given.out / "tokens.json", {name: round(value, 2) for name, value in lengths.items()})
    values, widths, _ = features(ProbeConfig(), 1024, inputs, pool, runtime)
    np.save(given.out / "alike.npy", likeness(values, widths).astype(np.float32), allow_pickle=False)
    print(lengths)
    return 0


if __name__ == "__main__":
    sys.exit(main())
