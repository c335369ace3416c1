"""The page in a real headless Chromium: no errors, no requests, sorting, enlarging, nothing of others runs."""

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import Browser
from test_page import folder, runs_500  # noqa: F401 (a fixture)

from icon_repro.report import page, tables

pytestmark = pytest.mark.browser
CELLS = "[...document.querySelectorAll('#table-table tbody tr')].map((row) => row.cells[%d].textContent.trim())"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    found = Browser(tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


@pytest.fixture
def shown(browser: Browser, folder: Path) -> Browser:  # noqa: F811
    """A page with all sections, and with texts of others that would change its title if they ran."""
    browser.errors.clear()
    browser.requests.clear()
    browser.prefer("light")
    page.write(folder, folder / "index.html")
    browser.open(folder / "index.html")
    return browser


def test_page_loads_without_errors_and_asks_for_no_other_file(shown: Browser) -> None:
    assert shown.run("document.title") == "toy: results"
    assert shown.errors == []
    assert [url.rpartition("/")[2] for url in shown.requests] == ["index.html"]
    assert shown.run("[...document.images].filter((i) => i.src).every((i) => i.complete && i.naturalWidth > 0)")


def test_page_runs_no_text_of_others(shown: Browser) -> None:
    assert "<script>" in shown.run("document.querySelector('figcaption').textContent")
    shown.run("document.body.insertAdjacentHTML('beforeend', '<img src=\"data:,\" onerror=\"document.title = 1\">')")
    shown.run("new Promise((done) => setTimeout(done, 200))")
    assert shown.run("document.title") == "toy: results"  # the policy holds even where escaping would not


def test_press_on_a_head_sorts_by_number_and_leaves_missing_last(browser: Browser, tmp_path: Path) -> None:
    tables.write(runs_500()[:300], tmp_path)
    page.write(tmp_path, tmp_path / "index.html")
    browser.open(tmp_path / "index.html")
    heads = browser.run("[...document.querySelectorAll('#table-table th')].map((head) => head.textContent)")
    column = heads.index("average")
    before = browser.run(CELLS % column)
    press = f"document.querySelectorAll('#table-table th button')[{column}].click()"
    browser.run(press)
    assert browser.run(CELLS % column) == sorted(before, key=lambda text: float(text.split()[0]))
    assert browser.run(f"document.querySelectorAll('#table-table th')[{column}].ariaSort") == "ascending"
    browser.run(press)
    assert browser.run(CELLS % column) == sorted(before, key=lambda text: -float(text.split()[0]))
    browser.run("document.querySelectorAll('#table-table th button')[0].click()")
    names = browser.run(CELLS % 0)
    number = {name: int(name.removeprefix("method")) for name in names if name.startswith("method")}
    assert names == sorted(names, key=lambda name: (name[0], number.get(name, 0))) and len(names) == 60


def test_missing_cells_stay_last_in_both_directions(shown: Browser) -> None:
    for _ in range(2):
        shown.run("document.querySelectorAll('#table-table th button')[1].click()")
        assert shown.run(CELLS % 1)[-1] == "missing"


def test_press_on_a_figure_enlarges_it_and_escape_closes(shown: Browser) -> None:
    shown.run("document.querySelector('.zoom').click()")
    assert shown.run("document.getElementById('large').open")
    width = shown.run("document.getElementById('large-image').width")
    assert width > shown.run("document.querySelector('.zoom img').getBoundingClientRect().width")
    shown.run("document.getElementById('larger').click()")
    assert shown.run("document.getElementById('large-image').width") == pytest.approx(1.5 * width, abs=1)
    shown.run("document.getElementById('close').click()")
    assert not shown.run("document.getElementById('large').open")
    assert shown.errors == []


def test_page_has_other_colours_in_dark_mode_and_no_sideways_scroll(shown: Browser, tmp_path: Path) -> None:
    colour = "getComputedStyle(document.body).backgroundColor"
    light = shown.run(colour)
    shown.prefer("dark")
    assert light == "rgb(255, 255, 255)" and shown.run(colour) != light
    assert shown.run("document.documentElement.scrollWidth <= innerWidth")
    shown.screenshot(tmp_path / "dark.png")
    png = (tmp_path / "dark.png").read_bytes()
    assert struct.unpack(">II", png[16:24])[0] >= 1000 and len(png) > 20_000  # not an empty picture


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["study_cpu", "smoke", "llama31_8b/incomplete", "released_selections", "pilot"])
def test_committed_pages_fit_a_phone_with_every_fold_open(browser: Browser, name: str, scheme: str) -> None:
    browser.prefer(scheme)
    for width in (390, 1280):
        browser.resize(width, 1200)
        browser.open(Path(__file__).parents[2] / "results" / name / "index.html")
        browser.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        assert browser.run("document.documentElement.scrollWidth") == width
    browser.resize(1280, 900)
