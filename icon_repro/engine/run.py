"""Run the missing steps of a plan in this machine's processes, and say of each step how it stands.

In: ordered steps, a store.  Out: published folders; a summary of what was built, cached, failed, blocked.
Several drivers may run the same plan at once: a step that another one holds is left for later, and used when done.
Only missing steps look at their inputs, and the caller at what it is going to read (``check``): a damaged one is set
aside and built again, once a run.
"""

import math
import os
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from icon_repro.engine import leases, notices, worker
from icon_repro.engine.artifact import MISSING, ArtifactError, Step, Store, differences
from icon_repro.engine.console import LOG
from icon_repro.engine.options import ClusterConfig
from icon_repro.engine.processes import execute, last_line, modules_of
from icon_repro.engine.records import RecordError

_POLL_S, _LONGEST_POLL_S = 1.0, 30.0
_NOT_CODE = (":(top,exclude)results", ":(top,exclude,glob)**/*.md")  # changes of these make no checkout dirty


@dataclass(frozen=True)
class Status:
    """State of a step: cached, running, failed, blocked, interrupted or missing; why; where its log is."""

    state: str
    why: str = ""
    log: str = ""


class Watch:
    """What is said beside the lines of a run; this one says nothing."""

    def ended(self, step: Step, record: dict[str, Any] | None) -> str:
        """A step has ended; ``record`` is None if this run didn't build it."""
        return ""

    def during(self, step: Step, spent: float) -> str:
        """A step has been at work for ``spent`` seconds."""
        return ""

    def found(self, record: dict[str, Any]) -> str:
        """What a step found, beside its label."""
        return ""


@dataclass
class Summary:
    """Labels of the steps of a run by outcome."""

    built: list[str] = field(default_factory=list)
    cached: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    blocked: list[str] = field(default_factory=list)


def status(step: Step, store: Store) -> Status:
    """How ``step`` stands in ``store``, from files alone."""
    if store.complete(step):
        return Status("cached")
    attempt = store.attempt(step)
    log = str(attempt / "log.txt")
    if note := leases.read_note(attempt):
        if note["outcome"] in ("failed", "blocked", "interrupted"):
            return Status(note["outcome"], note["error"].splitlines()[0], log)
        if note["outcome"] == "running":
            here = note["host"] == socket.gethostname()
            if -math.inf < leases.claim_age(attempt) < note["lease_s"] and (not here or leases.alive(note["pid"])):
                warning = leases.clock_warning(attempt)
                why = f"process {note['pid']} on {note['host']}"
                return Status("running", f"{why}; warning: {warning}" if warning else why, log)
            return Status("interrupted", f"process {note['pid']} ended without a word", log)
    return Status("missing", changed(step, store))


def changed(step: Step, store: Store) -> str:
    """Which hashed fields differ from the newest published step of the same name; empty if there is none."""
    try:
        record = store.latest(step)
    except (ArtifactError, RecordError) as error:
        return f"the last build can't be read: {error}"
    if record is None:
        return ""
    return "changed since the last build: " + "; ".join(differences(record["hashed"], step.hashed))


def git_state(folder: Path) -> dict[str, Any]:
    """Commit of the checkout that holds ``folder``, and whether its code or conf has changed; else both None."""

    # in a hook of git its variables name another repository; a checkout of another user is one, too
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-c", "safe.directory=*", "-C", str(folder)]

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, env=environment)
        except FileNotFoundError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if not git("ls-files"):  # installed below a checkout that isn't this project's
        return {"commit": None, "dirty": None}
    commit = git("rev-parse", "HEAD")
    changes = git("status", "--porcelain", "--untracked-files=no", "--", ":/", *_NOT_CODE)
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def run(
    steps: Sequence[Step],
    store: Store,
    cluster: ClusterConfig,
    cache: Path,
    say: Callable[[str], None],
    check: Callable[[Step], str | None] = lambda step: None,
    watch: Watch | None = None,
) -> Summary:
    """Build what is missing, and damaged inputs of what is missing; a failed step blocks only what needs it.

    Args:
        steps: inputs before what needs them (``artifact.ordered``).
        say: gets one line a step.
        check: says how a finished step is damaged; None if it isn't.
        watch: says how far the run is.

    Raises:
        StoreError: something is missing, and the store can't be written.
        NewerFormatError: a finished step was made by a newer version.
    """
    driver = _Driver(steps, store, cluster, cache, say, watch or Watch())
    driver.look(check)
    if driver.pending:
        store.check_writable()
        driver.drive()
    return driver.summary


class _Driver:
    """State of one run: which steps are still to be done, and what is known about the others. Sets hold folders."""

    def __init__(
        self,
        steps: Sequence[Step],
        store: Store,
        cluster: ClusterConfig,
        cache: Path,
        say: Callable[[str], None],
        watch: Watch,
    ) -> None:
        self.steps, self.store, self.cluster, self.cache, self.say = steps, store, cluster, cache, say
        self.watch = watch
        self.planned = {step.folder: step for step in steps}
        self.summary = Summary()
        self.pending: list[Step] = []
        self.unfinished: set[str] = set()
        self.bad: set[str] = set()  # failed or blocked
        self.busy: dict[str, tuple[float, float]] = {}  # in the hands of another process: when to look, after how long
        self.suspect: set[str] = set()  # damaged: their workers look themselves, as another driver may have been first
        self.redone: set[str] = set()  # built again in this run: once is enough
        self.git: dict[str, Any] = {}
        self.stages: list[str] = []  # modules that the steps need

    def look(self, check: Callable[[Step], str | None]) -> None:
        """Sort the steps into those that are there and those that are to be built."""
        for step in self.steps:
            if not self.store.complete(step):
                self.unfinished.add(step.folder)
                self.pending.append(step)
            elif damage := check(step):
                self.pending.append(self._again(step.folder, damage))
            else:
                self.summary.cached.append(step.label)
                LOG.debug("%s: is there: %s", step.label, self.store.path(step))

    def drive(self) -> None:
        """Build what is pending, and look again at what waits for another process."""
        self.git = git_state(Path(__file__).parent)
        self.stages = modules_of(self.pending)
        while self.pending:
            waiting: list[Step] = []
            for step in self.pending:
                waiting += self._advance(step)
            if waiting == self.pending:
                time.sleep(_POLL_S)
            self.pending = waiting

    def _again(self, folder: str, damage: str) -> Step:
        """Have a damaged step built once more; returns it."""
        self.suspect.add(folder)
        self.redone.add(folder)
        self.unfinished.add(folder)
        label = self.planned[folder].label
        for labels in (self.summary.cached, self.summary.built):
            if label in labels:
                labels.remove(label)
        self.say(f"{label}: {damage}; {'' if damage == MISSING else 'set aside and '}built again")
        return self.planned[folder]

    def _advance(self, step: Step) -> list[Step]:
        """Do what can be done about one pending step now; returns the steps that have to wait, in order."""
        needed = {source.folder for source in step.inputs.values()}
        total = len(self.steps)
        title = f"[{total - len(self.unfinished) + 1:>{len(str(total))}}/{total}] {step.label}"
        if needed & self.bad:
            self.unfinished.discard(step.folder)
            self.bad.add(step.folder)
            self.summary.blocked.append(step.label)
            self.watch.ended(step, None)
            self.say(f"{title}: blocked, an input failed")
            return []
        if needed & self.unfinished:
            return [step]
        outcome = self._attempt(step)
        damaged = [folder for folder, _ in outcome.damaged]
        if outcome.code == worker.DAMAGED and all(f in self.planned and f not in self.redone for f in damaged):
            return [*(self._again(*one) for one in outcome.damaged), step]
        if outcome.code == worker.BUSY:
            if step.folder not in self.busy:
                self.say(f"{title}: another process is at it; waiting")
                self.busy[step.folder] = 0.0, _POLL_S
            return [step]
        self.unfinished.discard(step.folder)
        self.suspect.discard(step.folder)
        self._note(step, title, outcome)
        return []

    def _attempt(self, step: Step) -> worker.Outcome:
        """Run the step, unless another process has built it meanwhile or is known to be at it."""
        suspect = step.folder in self.suspect
        if self.store.complete(step) and not suspect:
            return worker.Outcome(worker.CACHED)
        look, pause = self.busy.get(step.folder, (0.0, 0.0))
        if pause and (time.monotonic() < look or status(step, self.store).state == "running"):
            return worker.Outcome(worker.BUSY)
        if pause:  # what does the same may take hours: each look is a process
            self.busy[step.folder] = time.monotonic() + pause, min(2 * pause, _LONGEST_POLL_S)
        LOG.debug("%s: log: %s", step.label, self.store.attempt(step) / "log.txt")
        spec = worker.make_spec(step, self.store, self.cluster, self.cache, self.git, suspect=suspect)
        return execute(spec, self.store.attempt(step), self.cluster, self.stages, partial(self._at_work, step))

    def _at_work(self, step: Step, spent: float) -> None:
        """Say that a step goes on: how long it may, and the last that it said of its progress."""
        if text := self.watch.during(step, spent):
            said = last_line(self.store.attempt(step) / "log.txt")
            self.say(f"      {text}" + (f"\n      {said}" if said.startswith(f"{step.label}: ") else ""))

    def _note(self, step: Step, title: str, outcome: worker.Outcome) -> None:
        """Add the outcome of a step that has ended to the summary, and say it."""
        if outcome.code == worker.CACHED:
            self.summary.cached.append(step.label)
            self.watch.ended(step, None)
            self.say(f"{title}: built by another process")
        elif outcome.code == worker.BUILT:
            self.summary.built.append(step.label)
            record = self.store.record(step)
            parts = [self.watch.found(record), _speed(record), self.watch.ended(step, record)]
            self.say("\n      ".join([f"{title}: {'; '.join(filter(None, parts))}", *notices.lines(record)]))
        else:
            self.watch.ended(step, None)
            self.bad.add(step.folder)
            error = outcome.error
            if self.redone & {folder for folder, _ in outcome.damaged}:
                error += " It was built again in this run: is the disk failing, or another program writing there?"
            self.summary.failed[step.label] = error
            self.say(f"{title}: FAILED: {error}\n      log: {self.store.attempt(step) / 'log.txt'}")


def _speed(record: dict[str, Any]) -> str:
    if twin := record.get("same_as"):
        none = 0 in (record["metrics"].get("rows"), record["metrics"].get("candidates"))
        return "no row is left for it" if none else f"as {twin}, whose inputs hold the same"
    seconds, tokens = record["wall_s"], record["metrics"].get("tokens", 0)
    return f"{seconds:.1f} s" + (f", {tokens:,} tokens, {tokens / max(seconds, 1e-9):,.0f}/s" if tokens else "")
