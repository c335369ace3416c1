"""Make the page of a results folder: one HTML file with tables, figures, claims, samples, costs and environment in it.

In: the folder's files: tables and other texts (md), figures (figures.json in figures/ or beside the tables),
samples.jsonl, metrics.jsonl, run.json; what isn't there is left out.
Out: index.html, or another file with whole texts of the samples.
It needs no network and no other file: styles, script and figures are in it, and its content security policy allows
nothing else. All text is escaped: rows and messages of others are shown, never run. The same files give the same bytes.
Known gap: figures of more than ``_MOST_BYTES`` together are left out, and named.
"""

import base64
import csv
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from icon_repro.data.rows import Example
from icon_repro.engine.records import read_json, read_lines
from icon_repro.report import page_forest
from icon_repro.report.cells import MISSING, NOT_APPLICABLE
from icon_repro.report.rows import FILE, ResultRow, read_result_rows
from icon_repro.report.versions import separated
from icon_repro.report.weighting import variants

_VERSION = 4  # of what a page looks like, beside its template, style and script
_ASSETS = ("page.html", "page.css", "page.js")
_FIRST = (
    *("table", "paper_table1", "paper_table2", "paper_table3", "paper_table4"),
    *("verdicts", "held_out", "judged", "contamination", "summary"),
)
_TITLES = {
    "table": "Results",
    "verdicts": "Differences from the controls",
    "held_out": "Held-out responses by length",
    "judged": "Comparisons by a judge",
    "contamination": "Benchmark items with text of the tuning rows",
    "paper_table1": "Table 1 of the paper beside ours",
    "paper_table2": "Table 2 of the paper beside ours",
    "paper_table3": "Table 3 of the paper beside ours",
    "paper_table4": "Table 4 of the paper beside ours",
    "methods": "Agreement of methods",
    "summary": "Summary",
}
_CLAIMS = "claims"
_COSTS = ("selection tokens", "selection FLOPs", "tokens tuned on", "tuning FLOPs", "selection / saved")
_ABOUT_COSTS = re.compile(r"Tokens and FLOPs: [^.]*\. ?")  # of the results table's caption
_FOLDED = 4  # lines without results
_NAMES = 7  # cells of a line before its results
_SEAL = b"<!-- page"
_MOST_BYTES = 3_200_000  # of figures, before they become text, which takes a third more
_LARGE_SVG = 200_000  # bytes; the png of such a figure is shown instead
_TEXT = 4_000  # characters of each text of a sample
_TABLES = {".md", ".csv", ".tex", ".json", ".jsonl", ".html"}
_PICTURES = {".png", ".svg", ".csv"}
OWN = ("selected.json",)  # of one's own work folder: neither shown nor published
# the page has them anyhow
_PICTURES_OF_TEXT = re.compile(r"(?:^## Figures\n+)?(?:^!\[[^\]]*\]\([^)]*\)[ \t]*(?:\n|\Z))+", re.MULTILINE)


def published(folder: Path) -> list[Path]:
    """What of a results folder is worth a copy elsewhere: tables, facts and the page, then figures with their data."""
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and path.suffix in _TABLES | _PICTURES]
    figures = folder / "figures"
    inside = sorted(figures.iterdir()) if figures.is_dir() else []
    return files + [path for path in inside if path.is_file() and path.suffix in _PICTURES]


def write(folder: Path, page: Path, texts: Callable[[], Mapping[str, Example]] | None = None) -> bool:
    """Write the page of ``folder``, unless there is one that was made of the same files and is as it was written.

    Args:
        page: the file to write.
        texts: gives the rows by id; with them, samples have their whole texts. Not for a folder that is passed on.

    Returns:
        Whether it was written.
    """
    made_of = _made_of(folder, page, whole=texts is not None)
    if page.is_file() and _current(page.read_bytes(), made_of):
        return False
    page.parent.mkdir(parents=True, exist_ok=True)
    temporary = page.with_name(f".{page.name}.tmp")
    text = render(folder, made_of, texts() if texts else None)
    temporary.write_bytes(_sealed(text.encode("utf-8", errors="replace")))
    temporary.replace(page)
    return True


def _current(page: bytes, made_of: str) -> bool:
    """Whether a stored page was made of this, and is as it was written."""
    return f'name="made-of" content="{made_of}"'.encode() in page[:2000] and page == _sealed(page.rpartition(_SEAL)[0])


def _sealed(page: bytes) -> bytes:
    """``page`` with its checksum in a comment at the end."""
    return page + _SEAL + f" sha256 {hashlib.sha256(page).hexdigest()} -->\n".encode()


def render(folder: Path, made_of: str = "", rows: Mapping[str, Example] | None = None) -> str:
    """The page as text."""
    from jinja2 import Environment, StrictUndefined  # with the Markdown reader 50 ms, which a cached run does without
    from markupsafe import Markup

    template, style, script = (_asset(name) for name in _ASSETS)
    style += page_forest.colours()
    place = next((found for found in _described(folder) if found.is_file()), None)
    described = read_json(place) if place is not None else {"figures": [], "not_made": []}
    run = _json(folder / "run.json", {})
    reported = (folder / "run.json").is_file() and (folder / FILE).is_file()  # metrics of other commands aren't rows
    runs, _ = separated(read_result_rows(folder / FILE) if reported else [], run)
    shown, left_out = _figures(folder, place.parent if place is not None else folder, described["figures"])
    texts = {path.stem: path.read_text(encoding="utf-8") for path in folder.glob("*.md")}
    order = [*(name for name in _FIRST if name in texts), *sorted(set(texts) - {*_FIRST, _CLAIMS})]
    pairs, beside = page_forest.read_pairs(folder), sorted(variants(runs))
    told, more = page_forest.held(pairs, beside)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    config = run.get("config", {})
    return environment.from_string(template).render(
        made_of=made_of,
        style=Markup(style),
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
        name=described.get("experiment") or config.get("name") or folder.name,
        description=described.get("description") or config.get("description") or "",
        model=described.get("model") or config.get("model", {}).get("name") or "",
        tables=[
            (name, _TITLES.get(name, _title(name)), Markup(_linked(_table_html(name, texts[name]), order)))
            for name in order
        ],
        opening=Markup(_html(_opening(texts))) if config.get("primary") is not None else None,
        finding=page_forest.finding(pairs, beside),
        held=told,
        held_more=more,
        forest=page_forest.forest(pairs, list(dict.fromkeys(row.method for row in runs)), beside),
        compared=len(pairs),
        progress=page_forest.progress(runs),
        claims=Markup(_html(texts[_CLAIMS])) if _CLAIMS in texts else None,
        figures=shown,
        not_made=[*described["not_made"], *left_out],
        samples=_samples(folder, rows),
        whole=rows is not None,
        costs=_costs(runs, _saved(folder)),
        missing=sum(len(row.missing) + len(row.unjudged) for row in runs),
        git=run.get("git", []),
        packages=run.get("packages", {}),
        sources=run.get("sources", {}),
        steps=len(run.get("steps", [])),
        config=json.dumps(config, indent=1, sort_keys=True, ensure_ascii=False) if config else "",
    )


def _opening(texts: Mapping[str, str]) -> str:
    """What the primary comparison says: the first paragraph of the verdicts."""
    return texts.get("verdicts", "").partition("\n\n")[0]


def _made_of(folder: Path, page: Path, *, whole: bool) -> str:
    digest = hashlib.sha256(f"{_VERSION} {whole}".encode())
    for name in _ASSETS:
        digest.update(_asset(name).encode())
    for path in published(folder):
        if path != page and path.suffix != ".html" and path.name not in OWN:
            digest.update(f"{path.relative_to(folder)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    if (folder / "figures" / "figures.json").is_file():
        digest.update((folder / "figures" / "figures.json").read_bytes())
    return digest.hexdigest()[:16]


def _asset(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _json(path: Path, otherwise: Any) -> Any:
    return read_json(path) if path.is_file() else otherwise


def _title(name: str) -> str:
    return name.replace("_", " ").strip().capitalize()


def _table_html(name: str, text: str) -> str:
    """A table's text; of the results' without the columns of costs, which have a section of their own."""
    if name == "table":
        text = _ABOUT_COSTS.sub("", _without(text, _COSTS))
    return _missing_folded(_html(text))


def _without(text: str, columns: Sequence[str]) -> str:
    """The first table of a Markdown text without some columns."""
    lines = text.splitlines(keepends=True)
    start = next((place for place, line in enumerate(lines) if line.startswith("|")), len(lines))
    end = next((place for place in range(start, len(lines)) if not lines[place].startswith("|")), len(lines))
    if start == end:
        return text
    head = [cell.strip() for cell in lines[start].strip().strip("|").split("|")]
    kept = [place for place, title in enumerate(head) if title not in columns]

    def cut(line: str) -> str:
        cells = line.strip().removeprefix("|").removesuffix("|").split("|")
        return "|" + "|".join(cells[place] for place in kept) + "|\n" if len(cells) == len(head) else line

    return "".join([*lines[:start], *map(cut, lines[start:end]), *lines[end:]])


def _missing_folded(made: str) -> str:
    """A table of which many lines have no result yet, with these below it and folded."""

    def split(match: re.Match[str]) -> str:
        rows = re.findall(r"<tr>.*?</tr>\n?", match["body"], re.DOTALL)
        empty = [row for row in rows if _without_results(re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL))]
        if len(empty) < _FOLDED:
            return match[0]
        left = "".join(row for row in rows if row not in empty)
        below = f"{match['head']}{''.join(empty)}</tbody>\n</table></div>"
        folded = f"<details><summary>{len(empty)} lines without results yet</summary>\n{below}</details>"
        return (f"{match['head']}{left}</tbody>\n</table></div>\n" if left else "") + folded

    return re.sub(
        r'(?P<head><div class="wide"[^>]*><table[^>]*>\s*<thead>.*?</thead>\s*<tbody>\s*)(?P<body>.*?)'
        r"</tbody>\s*</table></div>",
        split,
        made,
        flags=re.DOTALL,
    )


def _without_results(cells: Sequence[str]) -> bool:
    """Whether all of a line's cells are missing, but for the names and counts that it begins with."""
    rest = list(cells[cells.index(MISSING) :]) if MISSING in cells else []
    return len(cells) - len(rest) <= _NAMES and set(rest) - {NOT_APPLICABLE} == {MISSING}


def _html(text: str) -> str:
    """Markdown of our own, in which texts of others may stand: tags are shown as text, pictures aren't loaded."""
    from markdown_it import MarkdownIt

    reader = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    html = str(reader.render(_PICTURES_OF_TEXT.sub("", re.sub(r"^# .*\n", "", text))))
    html = re.sub(r"<(/?)h([1-4])>", lambda match: f"<{match[1]}h{int(match[2]) + 2}>", html)  # below the section's own
    html = re.sub(r"(<li>missing: [^\n]*</li>\n){4,}(?=</ul>)", _folded, html)
    html = re.sub(r"<td>(?=[^<]{80})", '<td class="prose">', html)
    return html.replace("<table>", '<div class="wide" tabindex="0"><table class="sortable">').replace(
        "</table>", "</table></div>"
    )


def _linked(made: str, order: Sequence[str]) -> str:
    """A table's text, in which the name of another table's file leads to that table."""
    return re.sub(
        r"(?<=[ :])(\w+)\.md\b",
        lambda match: (
            f'<a href="#table-{match[1]}">{_TITLES.get(match[1], match[0])}</a>' if match[1] in order else match[0]
        ),
        made,
    )


def _folded(match: re.Match[str]) -> str:
    """A long list of what is missing, shown when it is asked for."""
    count = match[0].count("<li>")
    return f"<li><details><summary>{count} results are missing</summary><ul>\n{match[0]}</ul></details></li>\n"


def _described(folder: Path) -> list[Path]:
    """Where the texts of figures are: of a report in a folder of their own, of other commands beside the tables."""
    return [folder / "figures" / "figures.json", folder / "figures.json"]


def _figures(
    folder: Path, place: Path, described: Sequence[Mapping[str, Any]]
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Figures with their picture as a data URI; and those that are too large."""
    shown, left_out, used = list[dict[str, Any]](), list[dict[str, str]](), 0
    for one in described:
        path = place / f"{one['name']}.svg"
        if not path.is_file() or path.stat().st_size > _LARGE_SVG:
            path = path.with_suffix(".png")
        if not path.is_file():
            left_out.append({"name": one["name"], "reason": f"{path.name} isn't there"})
            continue
        data = path.read_bytes()
        if used + len(data) > _MOST_BYTES:
            left_out.append({"name": one["name"], "reason": f"too large for this page; it is in {path.name}"})
            continue
        used += len(data)
        kind = "svg+xml" if path.suffix == ".svg" else "png"
        source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
        where = path.relative_to(folder).with_suffix(".csv").as_posix()
        shown.append({**one, "source": source, "data": where})
    return shown, left_out


def _samples(folder: Path, rows: Mapping[str, Example] | None) -> list[dict[str, Any]]:
    """By method its samples, each with its texts if ``rows`` are given."""
    path = folder / "samples.jsonl"
    by_method: dict[str, list[dict[str, Any]]] = {}
    for _, sample in read_lines(path) if path.is_file() else ():
        texts = {}
        if rows is not None and sample["id"] in rows:
            row = rows[sample["id"]]
            parts = {"instruction": row.instruction, "input": row.input, "response": row.response}
            texts = {name: _cut(text) for name, text in parts.items() if text}
        by_method.setdefault(sample["method"], []).append({**sample, "texts": texts})
    groups = [{"method": method, "samples": own} for method, own in by_method.items()]
    return sorted(groups, key=lambda group: not any(one["parts"] for one in group["samples"]))  # random, longest: last


def _cut(text: str) -> str:
    return text if len(text) <= _TEXT else f"{text[:_TEXT]}… ({len(text) - _TEXT:,} more characters)"


def _saved(folder: Path) -> dict[tuple[str, float | None], float]:
    """By method and fraction the FLOPs of selection over those of the tuning that it saves, where that is known."""
    path = folder / "table.csv"
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        lines = [line for line in csv.DictReader(file) if line.get("measure") == _COSTS[-1] and line["value"]]
    return {(line["method"], float(line["fraction"])): float(line["value"]) for line in lines if line["fraction"]}


def _costs(runs: Sequence[ResultRow], saved: Mapping[tuple[str, float | None], float]) -> list[dict[str, Any]]:
    """By method and fraction the tokens and operations of selection, of one tuning, and of all its runs together."""
    groups: dict[tuple[str, float | None], list[ResultRow]] = {}
    for row in runs:
        groups.setdefault((row.method, row.fraction), []).append(row)
    costs = []
    for (method, fraction), own in groups.items():
        known = [
            (row.selection_seed, row.selection, row.tuning)
            for row in own
            if row.selection is not None and row.tuning is not None
        ]
        line: dict[str, Any] = {"method": method, "fraction": fraction, "runs": len(own), "known": len(known)}
        line["ratio"] = saved.get((method, fraction))
        if known:
            selections = {seed: selection for seed, selection, _ in known}.values()
            tunings = [tuning for _, _, tuning in known]
            line["selection_tokens"] = fmean(one.tokens for one in selections)
            line["selection_flops"] = fmean(one.flops for one in selections)
            line["tuning_tokens"] = fmean(one.tokens for one in tunings)
            line["tuning_flops"] = fmean(one.flops for one in tunings)
            line["total_flops"] = sum(one.flops for one in (*selections, *tunings))
        costs.append(line)
    return costs
