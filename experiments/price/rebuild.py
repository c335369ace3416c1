"""Makes results/price again from the pilot's matrix and what the model said. ``action=verify`` uses it.

In: the pilot's npy and json files; alike.npy, tokens.json, lora.json.  Out: price.csv, price.md, the figure's files.
"""

from pathlib import Path

from icon_repro.report.rebuild import Rebuild, copy

GIVEN = ("alike.npy", "tokens.json", "lora.json")


def rebuild(folder: Path, data: Path) -> Rebuild | str:
    """How the files in ``folder`` can be made again; why not, if they can't."""
    pilot = folder.parent / "pilot"
    if not all((folder / name).is_file() for name in GIVEN) or not (pilot / "candidate.npy").is_file():
        return f"has no {', '.join(GIVEN)} beside {pilot}'s matrices to be made of"

    def make(made: Path) -> None:
        from experiments.price.price import analyse  # with scipy seconds to import

        copy(folder, made, GIVEN)
        analyse(made, pilot, pictures=False)

    return Rebuild(
        make, GIVEN, {", ".join(GIVEN): "are what the rest is made of; the model said them"}, takes_long=True
    )
