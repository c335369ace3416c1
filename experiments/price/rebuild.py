"""Makes results/price and results/price/second again from the matrices and what the model said; for ``action=verify``.

In: a matrix' npy and json files, of results/pilot or the folder's own; alike.npy, tokens.json, lora.json if there.
Out: price.csv, price.md, the figure's files.
"""

from pathlib import Path

from icon_repro.report.rebuild import Rebuild, copy

SAID = ("alike.npy", "tokens.json")
GIVEN = ("*.npy", "ids.json", "bank_lengths.json", "tokens.json", "lora.json")


def rebuild(folder: Path, data: Path) -> Rebuild | str:
    """How the files in ``folder`` can be made again; why not, if they can't."""
    own = (folder / "candidate.npy").is_file()
    matrices = folder if own else folder.parent / "pilot"
    if not all((folder / name).is_file() for name in SAID) or not (matrices / "candidate.npy").is_file():
        return f"has no {', '.join(SAID)}, or {matrices} no matrices to be made of"

    def make(made: Path) -> None:
        from experiments.price.price import analyse  # with scipy seconds to import

        copy(folder, made, GIVEN)
        analyse(made, made if own else matrices, pictures=False)

    others = {", ".join(GIVEN): "are what the rest is made of; steps and the model made them"}
    return Rebuild(make, GIVEN, others, takes_long=True)
