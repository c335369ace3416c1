"""Filter and sample the rows of a source: the pool, the assessment set, or shots of a benchmark.

In: a RowsConfig.  Out: rows.jsonl (Example, sorted by id), report.json (what was read, dropped and kept, and why),
left_out.jsonl (rows that could be read and were dropped, if there are some).
Source: the URL filter is that of arXiv:2505.05327 ("http://" or "https://" in instruction or input).
A row is counted under the first reason that applies: what ``data.benchmark`` can't read of multiple-choice rows,
duplicate, url, empty_prompt (of prompts alone), empty_response, short_response, too_long, long_prompt.
The result doesn't depend on the order of the source's rows.  Known gap: none.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from icon_repro.data.benchmark import BenchmarkError, shot
from icon_repro.data.options import RowFormat, RowsConfig, SourceConfig
from icon_repro.data.rows import Example, texts_of
from icon_repro.data.sources import RowError, SourceError, read_all, read_raw
from icon_repro.engine.console import LOG
from icon_repro.engine.records import write_json, write_rows
from icon_repro.engine.runtime import Runtime

LEFT_OUT = "left_out.jsonl"
_NAMED_IDS = 5  # of each reason, in the report


class PrepareError(ValueError):
    """The rows of a source can't be used together."""


def run(cfg: RowsConfig, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write rows.jsonl and report.json. Needs files["source"] for kind file, extra["commit"] for kind hub."""
    if cfg.stratify and cfg.source.fields.group is None:
        raise PrepareError(
            f"{cfg.source.name}: stratify=true draws evenly over groups, and no column says them. Set "
            "source.fields.group, or stratify=false."
        )
    read, dropped = examples(cfg.source, runtime, drop_unreadable=cfg.drop_unreadable)
    total = len(read) + sum(map(len, dropped.values()))
    rows, dropped["duplicate"] = unique(read, texts=cfg.source.fields.response is not None)
    if cfg.source.fields.response is None and cfg.source.fields.id is not None and dropped["duplicate"]:
        raise PrepareError(
            f"{cfg.source.name}: {len(dropped['duplicate'])} prompts have the id of another (first: "
            f"{dropped['duplicate'][0]!r}); each needs its own. Remove the copies, or set fields.id to null."
        )
    passed, left_out = [], []
    for row in rows:
        reason = reject(row, cfg)
        if reason is None:
            passed.append(row)
        else:
            left_out.append(row)
            dropped.setdefault(reason, []).append(row.id)
    counts = {reason: len(ids) for reason, ids in dropped.items() if ids}
    if not passed:
        text = ", ".join(f"{reason} {count}" for reason, count in counts.items()) or "the source is empty"
        raise PrepareError(
            f"{cfg.source.name}: none of {total} rows is left (dropped: {text}). "
            "Relax the filters (max_chars, max_prompt_chars, min_response_chars, drop_urls) or check the source."
        )
    if counts:
        text = ", ".join(f"{reason}: {count:,}" for reason, count in sorted(counts.items()))
        LOG.warning("%s", f"{cfg.source.name}: {sum(counts.values()):,} of {total:,} rows are left out ({text}).")
    sampled = passed if cfg.sample is None else draw(passed, cfg.sample, cfg.seed, stratify=cfg.stratify)
    short_by = max(0, (cfg.sample or 0) - len(passed))
    if short_by:
        LOG.warning("%s", f"{cfg.source.name}: {short_by:,} rows fewer than sample={cfg.sample} are there.")
    if alike := len(passed) - len({_loosely(row) for row in passed}):
        LOG.warning(
            "%s", f"{cfg.source.name}: {alike:,} rows are copies of others but for spaces and capitals; they are kept."
        )
    metrics = {
        "rows": len(sampled),
        "prompt_chars": round(fmean(prompt_chars(row) for row in sampled), 1),
        "response_chars": round(fmean(len(row.response) for row in sampled), 1),
        "dropped": counts,
        "short_by": short_by,
        "alike": alike,
    }
    report = {
        "read": total,
        "passed": len(passed),
        "kept": len(sampled),
        "short_by": short_by,
        "dropped": {r: {"count": len(ids), "first_ids": ids[:_NAMED_IDS]} for r, ids in dropped.items() if ids},
        "groups": len({row.group for row in sampled}),
        "rows_by_group": dict(Counter(row.group for row in sampled)),
        "prompt_chars": metrics["prompt_chars"],
        "response_chars": metrics["response_chars"],
    }
    write_rows(out / "rows.jsonl", sampled)
    write_json(out / "report.json", report)
    if left_out:
        write_rows(out / LEFT_OUT, left_out)
    return metrics


def examples(
    source: SourceConfig, runtime: Runtime, *, drop_unreadable: bool = False
) -> tuple[list[tuple[str, Example]], dict[str, list[str]]]:
    """Rows, each with its place; and by reason the places (without folders) of rows that can't be read.

    Args:
        drop_unreadable: leave them out; multiple-choice rows are left out always.

    Raises:
        SourceError: rows can't be read, and aren't to be left out; or none can be. Names the first, counts all.
        SourceError, HubError: see ``read_all``.
    """
    rows, unreadable = list[tuple[str, Example]](), dict[str, list[str]]()
    if source.format is not RowFormat.multiple_choice:
        first: RowError | None = None
        for place, row in read_all(source, runtime):
            if isinstance(row, RowError):
                first = first or row
                unreadable.setdefault(row.reason, []).append(Path(place).name)
            else:
                rows.append((place, row))
        if first is not None and not (drop_unreadable and rows):
            bad = sum(map(len, unreadable.values()))
            counts = ", ".join(f"{reason}: {len(places)}" for reason, places in sorted(unreadable.items())[:_NAMED_IDS])
            remedy = (
                " Rows like it are left out and counted with drop_unreadable=true beside source (the pool's: "
                "data.pool.drop_unreadable=true)."
            )
            remedy = remedy if rows else ""
            raise SourceError(f"{first} {bad} of {bad + len(rows)} rows can't be read ({counts}).{remedy}") from first
        return rows, unreadable
    for place, raw in read_raw(source, runtime):
        try:
            rows.append((place, shot(source, raw, place)))
        except BenchmarkError as error:
            unreadable.setdefault(str(error), []).append(Path(place).name)
    return rows, unreadable


def prompt_chars(row: Example) -> int:
    """Characters of instruction and input, without any template."""
    return len(row.instruction) + len(row.input)


def unique(read: Iterable[tuple[str, Example]], *, texts: bool = True) -> tuple[list[Example], list[str]]:
    """Rows sorted by id, each text once, and the ids of the copies left out (of groups, the first name stays).

    Args:
        texts: whether rows with other ids are copies, too, if their texts are the same; the smallest id stays.

    Raises:
        PrepareError: two rows share an id and have other texts; names both places.
    """
    rows: list[tuple[str, Example]] = []
    copies = []
    for place, row in sorted(read, key=lambda item: (item[1].id, item[1].group)):
        if not rows or rows[-1][1].id != row.id:
            rows.append((place, row))
            continue
        other_place, other = rows[-1]
        if texts_of(other) != texts_of(row):
            raise PrepareError(
                f"id {row.id!r} stands for two texts: {other_place} and {place}. "
                "Make the ids unique, or set fields.id to null: ids are then made from the texts."
            )
        copies.append(row.id)
    distinct, seen = list[Example](), set[tuple[str, str, str]]()
    for _, row in rows:
        if texts and texts_of(row) in seen:
            copies.append(row.id)
        else:
            seen.add(texts_of(row))
            distinct.append(row)
    return distinct, copies


def _loosely(row: Example) -> tuple[str, ...]:
    """The row's texts, the same for rows that differ in spaces and capitals alone."""
    return tuple(" ".join(text.split()).casefold() for text in (row.instruction, row.input, row.response))


def reject(row: Example, cfg: RowsConfig) -> str | None:
    """Why a row is left out, or None."""
    prompt = f"{row.instruction}\n{row.input}"
    if cfg.drop_urls and ("http://" in prompt or "https://" in prompt):
        return "url"
    if cfg.source.fields.response is None:
        if not prompt.strip():
            return "empty_prompt"
    elif not row.response.strip():
        return "empty_response"
    elif len(row.response) < cfg.min_response_chars:
        return "short_response"
    if cfg.max_chars is not None and prompt_chars(row) + len(row.response) > cfg.max_chars:
        return "too_long"
    if cfg.max_prompt_chars is not None and prompt_chars(row) > cfg.max_prompt_chars:
        return "long_prompt"
    return None


def draw(rows: Sequence[Example], count: int, seed: int, *, stratify: bool) -> list[Example]:
    """``count`` rows at random (all, if there are fewer), sorted by id.

    With ``stratify``, groups take turns in a random order, so that their shares differ by one at most, unless a group
    has run out. A larger ``count`` extends a smaller one.
    """
    generator = np.random.default_rng(seed)
    groups: dict[str, list[Example]] = {}
    for row in sorted(rows, key=lambda row: row.id):
        groups.setdefault(row.group if stratify else "", []).append(row)
    names = sorted(groups)
    turns = []
    for turn, at in enumerate(generator.permutation(len(names))):
        members = groups[names[at]]
        turns += [(rank, turn, members[i]) for rank, i in enumerate(generator.permutation(len(members)))]
    turns.sort(key=lambda item: item[:2])
    return sorted((row for _, _, row in turns[:count]), key=lambda row: row.id)
