"""Check that what tables, comparisons and figures read of finished steps is as it was published.

In: finished steps and their store.  Out: how one differs; an error that names all that do.
What figures alone read may be gone, as in a store that was copied without it: a figure is then left out, with the
reason. Files that W&B alone gets, and weights, aren't looked at.
Checksums of large files are remembered by inode, size and times (``FileHashes``).
Known gap: a large file whose bytes change while its times stay goes unseen here; as an input of a step that is built it
doesn't.
"""

from collections.abc import Iterable
from pathlib import Path

from icon_repro.data.overlap import SHARED
from icon_repro.engine.artifact import ArtifactError, Step, Store, damage, file_sha256
from icon_repro.engine.hashes import FileHashes
from icon_repro.evaluate.held_out_measures import FACTS
from icon_repro.evaluate.items import FILE

NEEDED = frozenset({FILE, FACTS, "verdicts.jsonl", "failures.jsonl", "scores.jsonl", "ids.json", "rows.jsonl", SHARED})
DRAWN = frozenset(  # read for figures alone
    {
        "conditioned.npy",
        "direct.npy",
        "vectors.npy",
        "nll.npy",
        "candidate.npy",
        "control.npy",
        "bank.npy",
        "bank.json",
    }
)
_LARGE_BYTES = 2**20
_NAMED = 10  # damaged steps in a message


class Intact:
    """Compares finished steps of a store with their records."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.hashes = FileHashes(store.root / ".hashes.json")

    def damaged(self, step: Step) -> str | None:
        """How a finished step differs from what was published, in what tables, comparisons and figures read of it.

        Raises:
            NewerFormatError: this version can't tell.
        """
        return self._damage(step, DRAWN)

    def check(self, needed: Iterable[Step], others: Iterable[Step]) -> None:
        """Refuse to read damaged steps; those that aren't finished are passed over.

        Args:
            needed: all of their files have to be there.
            others: what is gone of them isn't read.

        Raises:
            ArtifactError: names each damaged one and its file.
            NewerFormatError: a step was made by a newer version.
        """
        lacking = {step.folder: (step, NEEDED | DRAWN) for step in others}
        lacking |= {step.folder: (step, DRAWN) for step in needed}
        looked = [(step, self._damage(step, gone)) for step, gone in lacking.values() if self.store.complete(step)]
        damaged = [f"{self.store.path(step)}: {how}." for step, how in looked if how]
        self.save()
        if damaged:
            more = [f"and {len(damaged) - _NAMED} more"] if len(damaged) > _NAMED else []
            remedy = "What is damaged is set aside and built anew when you run again (action=run)."
            raise ArtifactError("\n  ".join([*damaged[:_NAMED], *more, remedy]))

    def save(self) -> None:
        """Keep the checksums of large files for the next time."""
        self.hashes.save()

    def _damage(self, step: Step, lacking: frozenset[str]) -> str | None:
        return damage(self.store.path(step), only=NEEDED | DRAWN, lacking=lacking, sha256=self._sha256)

    def _sha256(self, path: Path) -> str:
        return file_sha256(path) if path.stat().st_size < _LARGE_BYTES else self.hashes.of(path).sha256
