"""Makes the tables of the authors' released selections again. ``action=verify`` uses it.

In: the numbers of steps that ``released`` stored; the released data.  Out: a csv for each finding, a summary.
"""

from pathlib import Path

from icon_repro.report.rebuild import Rebuild, copy

STORED = ("measures.csv", "embeddings.npy", "embeddings.csv", "steps.json")  # of steps


def rebuild(folder: Path, data: Path) -> Rebuild | str:
    """How the files in ``folder`` can be made again; why not, if they can't.

    Args:
        data: the folder with the released selections.
    """
    if not (folder / "summary.json").is_file() or not (folder / "nesting.csv").is_file():
        return "has no summary.json and nesting.csv, as released.py writes them"
    if not (data / "released_subsets.csv").is_file():
        return f"needs released_subsets.csv and the rows that it names in {data}, which isn't there"

    def make(made: Path) -> None:
        from experiments.released_selections.released_report import analyse  # with scipy seconds to import

        copy(folder, made, STORED)
        analyse(data, made, pictures=False)

    others = {", ".join(STORED): "are what the rest is made of; steps made them"}
    return Rebuild(make, STORED, others, takes_long=True)
