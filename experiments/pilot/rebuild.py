"""Makes the pilot's findings again from its matrices. ``action=verify`` uses it.

In: the npy and json files that ``pilot_matrices`` exported.  Out: a csv for each finding, summary.json, summary.md.
"""

from pathlib import Path

from icon_repro.report.rebuild import Rebuild, copy

MATRICES = ("*.npy", "ids.json", "bank_lengths.json")


def rebuild(folder: Path, data: Path) -> Rebuild | str:
    """How the files in ``folder`` can be made again; why not, if they can't."""
    if not (folder / "candidate.npy").is_file() or not (folder / "ids.json").is_file():
        return "has no candidate.npy and ids.json to make its findings of"

    def make(made: Path) -> None:
        from experiments.pilot.pilot import analyse  # with scipy seconds to import

        copy(folder, made, MATRICES)
        analyse(made, pictures=False)

    others = {"*.npy, ids.json, bank_lengths.json, steps.json": "are what the rest is made of; steps made them"}
    return Rebuild(make, MATRICES, others, takes_long=True)
