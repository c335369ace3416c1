"""What the authors' released selections are like.

Run: ``python experiments/released_selections/released.py`` in a checkout.
In: released_subsets.csv and the union of their rows; if they are there, steps of the experiments
``released_selections`` (IFD, perplexity) and ``released_embeddings``, else ``study_cpu`` (vectors of some rows), or the
files that an earlier call made of them.
Out, in --out: a csv for each finding, summary.md, summary.json; figures as png, svg and csv; of the steps measures.csv,
embeddings.npy and .csv (with t-SNE's coordinates), steps.json. The same inputs give the same bytes.
What needs steps that aren't there says "not run"; no model is loaded here.
Known gap: t-SNE is computed once, where the steps are; another processor would draw another map from the same vectors.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.manifold import TSNE

from experiments.released_selections.released_data import DATA, scores_step, store_embeddings, store_measures
from experiments.released_selections.released_findings import SEED
from experiments.released_selections.released_report import EMBEDDINGS, SCORES, analyse
from experiments.released_selections.released_scores import centred
from icon_repro.config.compose import composed
from icon_repro.engine.artifact import Step, Store
from icon_repro.experiment import plan
from icon_repro.report import page


def collect(overrides: Sequence[str], out: Path, say: Callable[[str], None]) -> None:
    """Copy the numbers of finished steps into ``out``; says what isn't there."""
    step, store = _finished(SCORES, "ifd", overrides, say)
    if step is not None:
        store_measures(step, store, out)
    for experiment in EMBEDDINGS:
        step, store = _finished(experiment, "rds", overrides, say)
        if step is not None:
            store_embeddings(step, store, out, coordinates)
            return


def _finished(
    experiment: str, method: str, overrides: Sequence[str], say: Callable[[str], None]
) -> tuple[Step | None, Store]:
    """The step with the scores of a method, None if it isn't complete, and where it lies."""
    config = composed(experiment, overrides)
    store, step = Store(Path(config.paths.work)), scores_step(plan(config), method)
    if store.complete(step):
        return step, store
    say(f"experiment={experiment}: {step.folder} isn't there; nothing new is taken from it")
    return None, store


def coordinates(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """t-SNE of the centred vectors to two dimensions, from their principal components, seeded."""
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    found = TSNE(perplexity=perplexity, init="pca", random_state=SEED, n_jobs=1).fit_transform(centred(vectors))
    return np.asarray(found, np.float64)


def main(arguments: list[str] | None = None) -> int:
    """Take over what is finished, and analyse; 0 if the data could be read, 2 if not."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n\n")[0])
    parser.add_argument("overrides", nargs="*", help="of both experiments, key=value: paths.work=...")
    parser.add_argument("--data", type=Path, default=DATA, help="folder with csv and union")
    parser.add_argument("--out", type=Path, default=Path("results/released_selections"))
    parser.add_argument("--stored", action="store_true", help="don't look for steps: use what is in --out")
    given = parser.parse_args(arguments)
    try:
        given.out.mkdir(parents=True, exist_ok=True)
        if not given.stored:
            collect(given.overrides, given.out, lambda line: print(line, file=sys.stderr))
        print(analyse(given.data, given.out), end="")
        page.write(given.out, given.out / "index.html")
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {type(error).__name__}: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
