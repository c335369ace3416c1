"""Find the items of a benchmark that share text with the rows that methods select from, or by (contamination).

In: a benchmark's items (rows of ours, held-out rows, or lm-eval's documents) and the rows that are selected from, or
those that decide what is selected (assessment set, targets): of these also rows that a filter left out, as they show
where the rows come from; not so for held-out rows, which may be of the same file on purpose.
Out: shared.json {item: ids of the rows that share text with it}, counts.
An item shares text with a row if ``ngram`` (13) consecutive words of one of its texts (question, passage, choice, ..)
stand in the row's instruction, input and response. A shorter text has to stand there whole, if it has ``_LEAST`` words
or more; an item whose texts are all shorter can't be told. Runs of words that stand in more than ``_COMMON`` rows, or
in more than as many held-out rows, are phrases (a system prompt, say) and don't count.
Source: the overlap of arXiv:2005.14165, appendix C (8 to 13 words; runs that match more than 10 documents are ignored).
Differs: there N is chosen for each data set, here for each text.
Known gap: reworded and translated items aren't found. Every text of an lm-eval document counts, also a remark on it.
A template around finished prompts on both sides counts as shared. Prompts of judged sets aren't compared.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from icon_repro.data.overlap import SHARED, Words, row_words, runs, words
from icon_repro.data.prepare import LEFT_OUT
from icon_repro.data.prompts import QUESTION
from icon_repro.data.rows import Example, texts_of
from icon_repro.engine.records import read_lines, read_rows, write_json
from icon_repro.engine.runtime import Runtime
from icon_repro.evaluate.options import SharedTextJob

_LEAST = 8
_COMMON = 10


def run(cfg: SharedTextJob, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Compare. Needs inputs["candidates"], ["rows"] (a benchmark's or held-out), for held-out ones ["assessment"]."""
    rows = read_rows(inputs["candidates"] / "rows.jsonl", Example)
    if (left_out := inputs["candidates"] / LEFT_OUT).is_file() and "assessment" not in inputs:
        rows += read_rows(left_out, Example)
    items = dict(_items(cfg, inputs, runtime, rows))
    with runtime.progress(len(rows), "row") as progress:
        most = _COMMON if "assessment" in inputs else None  # questions of a benchmark may share a long passage
        rows_by_item, short, common = shared(items, rows, cfg.ngram, progress.advance, most)
    write_json(out / SHARED, rows_by_item)
    return {
        "items": len(items),
        "too_short": short,
        "items_shared": len(rows_by_item),
        "rows_shared": len({row for ids in rows_by_item.values() for row in ids}),
        "common_runs": common,
    }


def shared(
    items: Mapping[str, Sequence[str]],
    rows: Sequence[Example],
    ngram: int,
    advance: Callable[[], None] = lambda: None,
    most_items: int | None = None,
) -> tuple[dict[str, list[str]], int, int]:
    """Items with the ids of the rows that they share text with; see the module.

    Args:
        items: name -> its texts.
        advance: called after each row.
        most_items: a run that stands in more items is a phrase; None: no such limit.

    Returns:
        Sorted names -> sorted ids; how many items are too short to tell; how many runs were left out as phrases.
    """
    short = 0
    standing: dict[Words, list[str]] = {}
    for name, texts in items.items():
        wanted = _runs(texts, ngram)
        short += not wanted
        for phrase in wanted:
            standing.setdefault(phrase, []).append(name)
    lengths = sorted({len(phrase) for phrase in standing})
    matched: dict[Words, list[str]] = {}
    for row in rows:
        text = row_words(row)
        for length in lengths:
            for phrase in runs(text, length) & standing.keys():
                matched.setdefault(phrase, []).append(row.id)
        advance()
    limit = math.inf if most_items is None else most_items
    common = {phrase for phrase, ids in matched.items() if len(ids) > _COMMON or len(standing[phrase]) > limit}
    rows_by_item: dict[str, set[str]] = {}
    for phrase in matched.keys() - common:
        for name in standing[phrase]:
            rows_by_item.setdefault(name, set()).update(matched[phrase])
    return {name: sorted(rows_by_item[name]) for name in sorted(rows_by_item)}, short, len(common)


def _runs(texts: Sequence[str], ngram: int) -> set[Words]:
    """What of an item has to stand in a row."""
    wanted: set[Words] = set()
    for text in map(words, texts):
        if len(text) >= ngram:
            wanted |= runs(text, ngram)
        elif len(text) >= _LEAST:
            wanted.add(text)
    return wanted


def _items(
    cfg: SharedTextJob, inputs: Mapping[str, Path], runtime: Runtime, rows: Sequence[Example]
) -> Iterator[tuple[str, list[str]]]:
    """Each item with its texts; of held-out rows also those that are too long for the model."""
    if cfg.evaluation is not None:
        from icon_repro.evaluate.tasks import load  # with lm-eval seconds to import

        for name, task in load(cfg.evaluation, inputs, runtime).tasks.items():
            for number, document in enumerate(list(task.eval_docs)[: cfg.limit]):
                yield f"{name}:{number}", list(_texts(document))
    elif "assessment" in inputs:
        seen = {texts_of(row) for row in [*rows, *read_rows(inputs["assessment"] / "rows.jsonl", Example)]}
        for row in read_rows(inputs["rows"] / "rows.jsonl", Example):
            if texts_of(row) not in seen:  # those aren't evaluated
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
