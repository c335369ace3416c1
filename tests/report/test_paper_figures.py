"""Numbers of the paper's figures: read by model, refused where they are none; the repository's own are fine."""

from pathlib import Path

import pytest

from icon_repro.report.paper.paper_figures import PaperFigures, read_paper_figures
from icon_repro.report.paper.published import PublishedError

ROOT = Path(__file__).resolve().parents[2]
HEAD = "source,version,model,fraction,avg,read_from\n"


def test_read_paper_figures_are_those_of_the_model_by_share(tmp_path: Path) -> None:
    (tmp_path / "paper_figure3.csv").write_text(
        f"{HEAD}figure 3,v1,m,0.5,40,pixels\nfigure 3,v1,m,0.1,41,table\nfigure 3,v1,other,0.2,9,table\n"
    )
    (tmp_path / "paper_figure2.csv").write_text(
        "source,version,model,n_selected,set,win,tie,lose\nfigure 2,v1,m,7800,vicuna,43,18,19\n"
    )
    expected = PaperFigures({"vicuna": [43, 18, 19]}, {"vicuna": 7800}, [(0.1, 41), (0.5, 40)])
    assert read_paper_figures(tmp_path, "m") == expected
    assert read_paper_figures(tmp_path, "unknown") == PaperFigures({}, {}, [])
    assert read_paper_figures(tmp_path / "nothing", "m") == PaperFigures({}, {}, [])


@pytest.mark.parametrize(
    "text, message",
    [
        ("a,b\n1,2\n", "columns"),
        (f"{HEAD}figure 3,v1,m,0.5,high,table\n", "avg='high': must be a finite number"),
        (f"{HEAD}figure 3,v1,m,nan,40,table\n", "fraction='nan'"),
    ],
)
def test_read_paper_figures_refuses_what_isnt_a_number(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "paper_figure3.csv").write_text(text)
    with pytest.raises(PublishedError, match=message):
        read_paper_figures(tmp_path, "m")


def test_read_paper_figures_of_the_repository_have_the_papers_points() -> None:
    found = read_paper_figures(ROOT / "experiments" / "llama31_8b", "llama31_8b")
    assert found.scale[0] == (0.01, 42.91) and found.scale[-1] == (1.0, 37.95) and len(found.scale) == 10
    assert sum(found.judged["vicuna"]) == 80  # prompts of that set
