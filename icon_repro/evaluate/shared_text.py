"""Which items of a benchmark share text with the rows that methods select from: contamination.

In: a benchmark's items (rows of ours, held-out rows, or lm-eval's documents) and the rows that are selected from.
Out: shared.json {item: ids of the rows that share text with it}, counts.
An item shares text with a row if ``ngram`` (13) consecutive words of one of its texts (question, passage, choice, ..)
stand in the row's instruction, input and response. Of an item without so long a text, a whole text of ``_LEAST`` words
or more counts; what is shorter still can't be told. Runs of words that stand in more than ``_COMMON`` items are a
benchmark's own phrases and don't count.
Source: the overlap of arXiv:2005.14165, appendix C (8 to 13 words; runs that stand in more than 10 documents are left
out); there N is chosen for each data set, here for each item.
Known gap: reworded and translated items aren't found.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from icon_repro.config_evaluation import SharedTextJob
from icon_repro.engine.runtime import Runtime
from icon_repro.overlap import SHARED, Words, runs, words
from icon_repro.prompts import QUESTION
from icon_repro.records import Example, read_lines, read_rows, write_json

_LEAST = 8
_COMMON = 10


def run(cfg: SharedTextJob, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Compare. Needs inputs["candidates"], for rows of ours or held-out ones ["rows"], for these ["assessment"]."""
    rows = read_rows(inputs["candidates"] / "rows.jsonl", Example)
    items = dict(_items(cfg, inputs, runtime, rows))
    with runtime.progress(len(rows), "row") as progress:
        found, short, common = shared(items, rows, cfg.ngram, progress.advance)
    write_json(out / SHARED, found)
    return {
        "items": len(items),
        "too_short": short,
        "items_shared": len(found),
        "rows_shared": len({row for ids in found.values() for row in ids}),
        "common_runs": common,
    }


def shared(
    items: Mapping[str, Sequence[str]], rows: Sequence[Example], ngram: int, advance: Callable[[], None] = lambda: None
) -> tuple[dict[str, list[str]], int, int]:
    """Items with the ids of the rows that they share text with; see the module.

    Args:
        items: name -> its texts.
        advance: called after each row.

    Returns:
        Sorted names -> sorted ids; how many items are too short to tell; how many runs were left out as common.
    """
    short = 0
    standing: dict[Words, list[str]] = {}
    for name, texts in items.items():
        made = _runs(texts, ngram)
        short += not made
        for one in made:
            standing.setdefault(one, []).append(name)
    kept = {one: names for one, names in standing.items() if len(names) <= _COMMON}
    lengths = sorted({len(one) for one in kept})
    found: dict[str, set[str]] = {}
    for row in rows:
        text = words(f"{row.instruction} {row.input} {row.response}")
        for length in lengths:
            for one in runs(text, length) & kept.keys():
                for name in kept[one]:
                    found.setdefault(name, set()).add(row.id)
        advance()
    return {name: sorted(found[name]) for name in sorted(found)}, short, len(standing) - len(kept)


def _runs(texts: Sequence[str], ngram: int) -> set[Words]:
    """What of an item has to stand in a row."""
    split = [words(text) for text in texts]
    if long := {one for text in split for one in runs(text, ngram)}:
        return long
    return {text for text in split if len(text) >= min(_LEAST, ngram)}


def _items(
    cfg: SharedTextJob, inputs: Mapping[str, Path], runtime: Runtime, rows: Sequence[Example]
) -> Iterator[tuple[str, list[str]]]:
    """Each item that is evaluated with its texts."""
    if cfg.evaluation is not None:
        from icon_repro.evaluate.tasks import load  # with lm-eval seconds to import

        for name, task in load(cfg.evaluation, inputs, runtime)[0].items():
            for number, document in enumerate(list(task.eval_docs)[: cfg.limit]):
                yield f"{name}:{number}", list(_texts(document))
    elif "assessment" in inputs:
        seen = {row.id for row in rows} | {row.id for row in read_rows(inputs["assessment"] / "rows.jsonl", Example)}
        for row in read_rows(inputs["rows"] / "rows.jsonl", Example):
            if row.id not in seen:  # those aren't evaluated
                yield row.id, [row.instruction, row.input, row.response]
    else:
        for _, item in list(read_lines(inputs["rows"] / "rows.jsonl"))[: cfg.limit]:
            question = item["query"].removeprefix(QUESTION[0]).removesuffix(QUESTION[1])
            yield item["id"], [question, *item["choices"]]


def _texts(value: Any) -> Iterator[str]:
    """Every text in a document, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _texts(one)
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _texts(one)
