"""The page of a results folder: all is in it, nothing is loaded or run, texts of others are escaped and short."""

import base64
import hashlib
import json
import re
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from made_up_runs import result, row, solved

from icon_repro.data.rows import Example, Score
from icon_repro.engine.records import write_json, write_rows
from icon_repro.report import page
from icon_repro.report.figures.draw import write_described, write_figure
from icon_repro.report.figures.material import Material, Ranked
from icon_repro.report.figures.series import Curve, Panel
from icon_repro.report.rows import ResultRow

SCRIPT = "<script>document.title = 'run'</script><img src=x onerror=\"document.title = 'run'\">"
SAMPLE = {
    "method": "icon",
    "end": "highest",
    "rank": 1,
    "of": 9,
    "id": "abc",
    "score": 0.123456,
    "parts": {"variance": 2.0},
    "characters": 7,
    "selected_at": [0.15],
    "excerpt": SCRIPT[:80],
}
LOADING = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src", "use": "href"}


class Loaded(HTMLParser):
    """What a browser would load, its tags, and the texts of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, str] = {}
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        self._open = tag
        if (name := LOADING.get(tag)) and found.get(name):
            self.addresses.append(str(found[name]))

    def handle_data(self, data: str) -> None:
        if self._open in ("script", "style"):
            self.inside[self._open] = self.inside.get(self._open, "") + data

    def handle_endtag(self, tag: str) -> None:
        self._open = ""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A results folder with some of everything."""
    out = tmp_path / "toy"
    (out / "figures").mkdir(parents=True)
    (out / "table.md").write_text(
        f"# Title\n\n| method | average |\n|---|---|\n| base | 40.1 |\n| {SCRIPT} | missing |\n\n[x](javascript:run) "
        "![y](https://example.org/y.png)\n\n- piqa: acc\n"
        + "".join(f"- missing: icon/0.15 b{i}: no\n" for i in range(6))
    )
    (out / "claims.md").write_text("| claim | verdict |\n|---|---|\n| longer | not run here |\n")
    write_figure(out / "figures", "scale", "Scale", [Panel("x", "y", [Curve("icon", [1, 2], [1, 2])])], svg=True)
    texts = {"name": "scale", "title": "Scale", "caption": SCRIPT, "alt": f'"{SCRIPT}', "wide": False}
    facts = {"made_of": "0", "experiment": "toy", "description": SCRIPT, "model": "m"}
    reasons = [{"name": "judged", "reason": f"no judge {SCRIPT}"}]
    write_json(out / "figures" / "figures.json", {**facts, "figures": [texts], "not_made": reasons})
    write_rows(out / "samples.jsonl", [SAMPLE])
    write_rows(out / "metrics.jsonl", [row("base"), row("icon", 0.15, 0), row("icon", 0.15, 1, tuning=None)])
    run = {
        "config": {"name": "toy", "description": SCRIPT},
        "git": [{"commit": "c0ffee", "dirty": True}],
        "packages": {"torch": ["2.13.0"], "vllm": [None]},
        "sources": {"prepare/pool": {"source": "ab" * 32}},
        "steps": ["a", "b"],
        "results": [],
    }
    write_json(out / "run.json", run)
    return out


def test_page_loads_nothing_and_runs_nothing_but_its_own_script(folder: Path) -> None:
    text = page.render(folder)
    found = Loaded(text)
    assert found.addresses and all(address.startswith("data:") for address in found.addresses)
    assert [tag for tag, _ in found.tags].count("script") == 1
    assert not any(name.startswith("on") for _, attrs in found.tags for name in attrs)
    assert not any((attrs.get("href") or "").startswith("javascript") for _, attrs in found.tags)
    (policy,) = [
        str(attrs["content"]) for tag, attrs in found.tags if attrs.get("http-equiv") == "Content-Security-Policy"
    ]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    for kind in ("script", "style"):
        digest = base64.b64encode(hashlib.sha256(found.inside[kind].encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy


def test_page_shows_texts_of_others_as_text(folder: Path) -> None:
    text = page.render(folder)
    assert "<script>document" not in text and "<img src=x" not in text
    for part in ("figcaption", "lead", "limits"):
        assert part in text
    assert text.count("&lt;script&gt;") >= 5  # table, description, caption, sample, reason


def test_page_has_all_sections_and_folds_what_is_missing(folder: Path) -> None:
    text = page.render(folder)
    for name in ("table-table", "figures", "claims", "samples", "costs", "environment", "limits"):
        assert f'id="{name}"' in text and f'href="#{name}"' in text
    assert "<summary>6 results are missing</summary>" in text and "<li>piqa: acc</li>" in text
    assert "c0ffee" in text and "with changes that aren&#39;t committed" in text.replace("'", "&#39;")
    assert "torch" in text and "not installed" in text and "2 (1 known)" in text
    assert all(attrs.get("alt") is not None for tag, attrs in Loaded(text).tags if tag == "img")


def test_page_of_a_folder_with_less_leaves_out_what_isnt_there(tmp_path: Path) -> None:
    (tmp_path / "summary.md").write_text("# Pilot\n\nText.\n")
    (tmp_path / "length.png").write_bytes(b"\x89PNG")
    write_described(tmp_path, [("length", "Score by length", "What it shows.", [])])
    text = page.render(tmp_path)
    assert "Not recorded" in text and 'id="samples"' not in text and 'id="figure-length"' in text
    assert "<h3>Score by length</h3>" in text and "<figcaption>What it shows." in text
    (tmp_path / "length.png").unlink()
    assert "length.png isn&#39;t there" in page.render(tmp_path)


def test_page_shows_figures_of_a_text_once_and_wraps_long_cells(tmp_path: Path) -> None:
    cell = "A finding of several words. " * 4
    end = "## Figures\n\n![One](a.png)\n![Two](b.png)"
    (tmp_path / "summary.md").write_text(f"# A\n\n| q | f |\n|---|---|\n| a | {cell} |\n\n### Figures\n\nA.\n\n{end}")
    text = page.render(tmp_path)
    assert "![" not in text and "<h5>Figures</h5>" in text and "<h4>" not in text and 'id="figures"' not in text
    assert f'<td class="prose">{cell.strip()}</td>' in text and "<td>a</td>" in text


def test_page_for_the_results_folder_has_no_text_of_a_row_but_its_excerpt(folder: Path) -> None:
    rows = {"abc": Example("abc", "An instruction.", "", f"The answer. {SCRIPT} " + "long " * 2000)}
    assert "The answer." not in page.render(folder)
    whole = page.render(folder, rows=rows)
    assert "The answer. &lt;script&gt;" in whole and "more characters)" in whole and "Keep it" in whole


def test_write_makes_a_page_again_only_if_a_file_has_changed(folder: Path) -> None:
    out = folder / "index.html"
    assert page.write(folder, out) and not page.write(folder, out)
    first = out.read_bytes()
    (folder / "claims.md").write_text("Other.\n")
    assert page.write(folder, out) and out.read_bytes() != first
    (folder / "claims.md").write_text("| claim | verdict |\n|---|---|\n| longer | not run here |\n")
    assert page.write(folder, out) and out.read_bytes() == first  # the same files, the same bytes
    write_json(folder / "selected.json", {"results": []})  # whose selections a work folder holds: not published
    assert not page.write(folder, out)
    assert page.write(folder, folder.parent / "whole.html", dict) and not page.write(folder, out)


def test_write_makes_an_altered_page_again(folder: Path) -> None:
    out = folder / "index.html"
    page.write(folder, out)
    first = out.read_bytes()
    place = len(first) // 2
    for harmed in (first[:place] + b"\xff" + first[place + 1 :], first[:-1], first[:3000], first[: len(first) - 200]):
        out.write_bytes(harmed)
        assert page.write(folder, out) and out.read_bytes() == first


def test_published_lists_tables_then_figures_without_their_own_notes(folder: Path) -> None:
    page.write(folder, folder / "index.html")
    names = [path.relative_to(folder).as_posix() for path in page.published(folder)]
    assert names == [
        *["claims.md", "index.html", "metrics.jsonl", "run.json", "samples.jsonl", "table.md"],
        *["figures/scale.csv", "figures/scale.png", "figures/scale.svg"],
    ]


def test_figures_beyond_the_limit_are_named_instead(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "_MOST_BYTES", 100)
    text = page.render(folder)
    assert 'id="figure-scale"' not in text and "too large for this page" in text


def runs_500() -> list[ResultRow]:
    """20 methods at 5 fractions, 5 seeds each, four benchmarks of 200 items."""
    return [
        row(
            {0: "random", 1: "longest"}.get(method, f"method{method}"),
            fraction,
            seed,
            {f"b{task}": result(solved(0.3 + method / 50, 200, 10 * seed + task)) for task in range(4)},
            selection={"tokens": 1, "flops": 1e12 * (method + 1)},
            tuning={"tokens": 1000, "flops": 1e14 * fraction},
        )
        for method in range(20)
        for fraction in (0.01, 0.05, 0.1, 0.15, 0.2)
        for seed in range(5)
    ]


def of_every_figure() -> Material:
    """Scores and selections of the 20 methods over 1,000 rows, with IFD, embeddings and ICon's pairs."""
    generator = np.random.default_rng(0)
    ids = [f"{place:04x}" for place in range(1000)]
    rows = {name: Example(name, f"Do {name}.", "", "x" * int(generator.integers(1, 900))) for name in ids}
    ranked = []
    for method in range(20):
        values = dict(zip(ids, generator.normal(size=1000).tolist(), strict=True))
        best = sorted(ids, key=lambda name: -values[name])
        selected = {fraction: best[: round(1000 * fraction)] for fraction in (0.01, 0.05, 0.1, 0.15, 0.2)}
        scores = {name: Score(name, value, {}) for name, value in values.items()}
        ranked.append(Ranked(f"method{method}", None, scores, selected))
    ifd = {"method3": dict(zip(ids, generator.uniform(0.3, 1.2, 1000).tolist(), strict=True))}
    vectors = (ids, generator.normal(size=(1000, 384)).astype(np.float32))
    pairs = {"method4": generator.normal(size=(1000, 1)) + 3 * generator.normal(size=(1000, 1020))}
    return Material(rows, ranked, ifd, vectors, pairs)


def _ordinary_seconds() -> float:
    """What a second of an ordinary core, which adds up five million numbers in 0.25 s, is on this one, just now."""
    taken = []
    for _ in range(3):
        start, total = time.process_time(), 0
        for number in range(5_000_000):
            total += number
        taken.append(time.process_time() - start)
    return sorted(taken)[1] / 0.25


OF_ROWS = {"differences", "scale", "pareto"}  # without those of a judge


@pytest.mark.slow
@pytest.mark.parametrize(
    ("material", "every"),
    [(Material, OF_ROWS), (of_every_figure, {*OF_ROWS, "length", "overlap", "ifd", "tsne", "reliability"})],
)
def test_report_of_500_runs_is_quick_and_its_page_small(
    tmp_path: Path, material: Callable[[], Material], every: set[str]
) -> None:
    from icon_repro.report import tables
    from icon_repro.report.figures.from_store import draw
    from icon_repro.report.paper.paper_figures import PaperFigures

    rows, of_selections = runs_500(), material()
    start = time.process_time()  # not the time that others take of this machine
    tables.write(rows, tmp_path)
    drawn = draw(tmp_path / "figures", rows, of_selections, PaperFigures())
    write_json(tmp_path / "figures" / "figures.json", {"made_of": "0", **drawn})
    page.write(tmp_path, tmp_path / "index.html")
    took, size = time.process_time() - start, (tmp_path / "index.html").stat().st_size
    print(json.dumps({"seconds": took, "bytes": size, "figures": [one["name"] for one in drawn["figures"]]}))
    assert {one["name"] for one in drawn["figures"]} == every and size < 5_000_000
    if every == OF_ROWS:
        assert took < 10
    # Both threads together; by the clock it is four fifths. Measured 11 to 21 in the same hour, so the limit is wide.
    assert took / _ordinary_seconds() < 25
    assert len(re.findall("<tr>", (tmp_path / "index.html").read_text())) > 200


def test_page_opens_with_the_primary_comparison(folder: Path) -> None:
    said = "**Primary outcome, set beforehand**: held_out, icon against random. icon: not distinguishable."
    (folder / "verdicts.md").write_text(f"{said}\n\n## Primary comparison\n\n| a |\n|---|\n| 1 |\n")
    run = json.loads((folder / "run.json").read_text()) if (folder / "run.json").is_file() else {}
    run["config"] = {**run.get("config", {}), "primary": {"measure": "held_out"}}
    write_json(folder / "run.json", run)
    text = page.render(folder)
    assert text.index("Primary outcome, set beforehand") < text.index('id="table-table"')
    run["config"]["primary"] = None
    write_json(folder / "run.json", run)
    text = page.render(folder)
    assert text.index("Primary outcome, set beforehand") > text.index("<nav")
