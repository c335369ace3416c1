"""A small experiment is killed, doubled, damaged, starved of disk space, told to stop; its tables stay the same bytes.

``make test-faults`` runs these; KILLS (default 50; with fewer, one case of each fault) and SEED are read from the
environment, and RECORD: a file to which what the tests that passed have counted is written.
"""

import contextlib
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cli import ROOT
from drivers import Driver, driver

from icon_repro.engine.artifact import read_record
from icon_repro.engine.leases import read_note
from icon_repro.engine.records import read_json, write_json
from icon_repro.engine.run import git_state
from icon_repro.report.checksums import DRAWN, NEEDED

pytestmark = [pytest.mark.faults, pytest.mark.timeout(7200)]

KILLS = int(os.environ.get("KILLS", "50"))
SEED = int(os.environ.get("SEED", "0"))
WHOLE = KILLS >= 50  # else one case of each fault
KINDS = ("driver and workers", "driver", "worker")
ENDED_BY_KILL = "killed by signal 9"


Counts = dict[str, Any]


@pytest.fixture(scope="module")
def campaign() -> Iterator[Counts]:
    """What the tests count, by fault; written to RECORD at the end, into what other tests have written there."""
    counts: Counts = {"git": git_state(ROOT)}
    yield counts
    if path := os.environ.get("RECORD"):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_json(Path(path), {**(read_json(Path(path)) if Path(path).is_file() else {}), **counts})


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, campaign: Counts) -> Path:
    """A folder in which the experiment has been run once, by the command line; not to be changed."""
    folder = tmp_path_factory.mktemp("faults") / "undisturbed"
    with driver(folder, warm=False) as run:
        assert run.wait() == 0, run.text()
    assert lost(folder) == Counter()
    campaign |= {"steps": len(published(folder)), "files of tables and figures": len(tables(folder))}
    return folder


def tables(folder: Path) -> dict[str, bytes]:
    """The results' files; of run.json all but the state of the checkout, in which somebody may work."""
    results = folder / "results" / "smoke_tiny"
    found = {path.relative_to(results).as_posix(): path.read_bytes() for path in results.rglob("*") if path.is_file()}
    made = json.loads(found.pop("run.json"))
    return {**found, "run.json": json.dumps({**made, "git": None}).encode()}


def published(folder: Path) -> dict[str, Path]:
    """Step -> its folder; one that is being published, and still is .part, doesn't count."""
    found = sorted(path.parent for path in (folder / "work").glob("*/[!.]*/record.json"))
    return {place.relative_to(folder / "work").as_posix(): place for place in found if place.suffix != ".part"}


def contents(folder: Path) -> dict[str, str]:
    """Checksum of each published file but the trainers' logs, which hold times."""
    files = {step: read_record(place)["files"] for step, place in published(folder).items()}
    return {
        f"{step}/{name}": file["sha256"]
        for step, own in files.items()
        for name, file in own.items()
        if name != "log.jsonl"
    }


def lost(folder: Path) -> Counter[str]:
    """Attempts at published steps but the last of each, by step."""
    counts: Counter[str] = Counter()
    for step in published(folder):
        text = (folder / "work" / ".attempts" / step / "log.txt").read_text(encoding="utf-8", errors="replace")
        counts[step] = text.count(": attempt by process") - 1
    return +counts


def check_same(folder: Path, undisturbed: Path) -> None:
    good, found = tables(undisturbed), tables(folder)
    assert [name for name in good if good[name] != found.get(name)] == [] and found.keys() == good.keys()
    assert contents(folder) == contents(undisturbed)
    assert list((folder / "work").rglob("*.part")) == []


def completed(folder: Path, undisturbed: Path, *more: str) -> str:
    """Run what is missing, undisturbed; returns what was said."""
    with driver(folder, *more) as run:
        assert run.wait() == 0, run.text()
        text = run.text()
    check_same(folder, undisturbed)
    return text


def durations(undisturbed: Path) -> dict[str, float]:
    """Step -> seconds that it took."""
    return {step: float(read_record(place)["wall_s"]) for step, place in published(undisturbed).items()}


def begun(folder: Path) -> dict[tuple[str, int], str]:
    """Each step that is under way, as its latest note says, with the time of the note -> the step."""
    found = {}
    root = folder / "work" / ".attempts"
    for path in root.glob("*/*/attempt.json"):
        with contextlib.suppress(FileNotFoundError):
            changed = path.stat().st_mtime_ns
            note = read_note(path.parent)
            step = path.parent.relative_to(root).as_posix()
            if note and note["outcome"] == "running":
                found[step, changed] = step
    return found


def moment(run: Driver, rng: random.Random, lasting: dict[str, float], idle: float = 0.25) -> str | None:
    """Wait for a random moment; returns the step that is under way then, "" if none is, None if the run has ended.

    Mostly within one of the next steps, at any point of it, else at any time of the first seconds, in which a run
    plans and begins; once all is built, while it writes the tables.

    Args:
        lasting: seconds of each step.
        idle: share of the moments of the first seconds.
    """
    before = set(begun(run.folder))
    if rng.random() < idle or len(published(run.folder)) == len(lasting):
        end = time.monotonic() + rng.uniform(0, 3)
    else:
        for _ in range(rng.randint(1, 4)):
            while not (new := begun(run.folder).keys() - before):
                if run.code() is not None:
                    return None
                time.sleep(0.005)
            before |= new
        end = time.monotonic() + rng.uniform(0, 1.2) * max(lasting[step] for step, _ in new)
    while time.monotonic() < end:
        if run.code() is not None:
            return None
        time.sleep(0.002)
    gone = published(run.folder)
    return next((step for step in run.at() if step not in gone), "")


def kill(run: Driver, kind: str) -> bool:
    """Kill -9; returns whether there was something to kill."""
    if run.code() is not None:
        return False
    if kind != "worker":
        run.kill(group=kind != "driver")
        return True
    workers = run.at().values()
    for pid in workers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return bool(workers)


def test_kills_at_random_moments_lose_the_step_in_progress_at_most(
    undisturbed: Path, tmp_path: Path, campaign: Counts
) -> None:
    begun_at = time.monotonic()
    rng, lasting = random.Random(SEED), durations(undisturbed)
    kinds: Counter[str] = Counter()
    stages: Counter[str] = Counter()
    redone: Counter[str] = Counter()
    runs = campaigns = 0
    while kinds.total() < KILLS:
        campaigns += 1
        folder, before = tmp_path / f"campaign{campaigns}", kinds.total()
        kept: dict[str, int] = {}
        code: int | None = None
        late = 0  # kills when all was built; more would say nothing new
        while code != 0:
            runs += 1
            with driver(folder, warm=rng.random() > 0.1) as run:
                while kinds.total() < KILLS and late < 2 and (step := moment(run, rng, lasting)) is not None:
                    kind = rng.choice(KINDS)
                    if kill(run, kind):
                        kinds[kind] += 1
                        late += len(published(folder)) == len(lasting)
                        stages[step.partition("/")[0] or "between steps"] += 1
                        print(f"kill {kinds.total()}: {kind}, at {step or 'no step'}", flush=True)
                        if kind != "worker":
                            break
                code = run.wait()
                said = run.text()
            why = re.findall(r"^  failed: (.*)", said, re.MULTILINE)
            assert "Traceback" not in said and all(ENDED_BY_KILL in line for line in why), said
            now = {step: (place / "record.json").stat().st_mtime_ns for step, place in published(folder).items()}
            assert {step: now.get(step) for step in kept} == kept, "what was published is never built again"
            kept = now
        check_same(folder, undisturbed)
        again = lost(folder)
        assert again.total() <= kinds.total() - before, again
        redone.update(step.partition("/")[0] for step in again.elements())
        shutil.rmtree(folder)
    print(f"\n{kinds.total()} kills in {campaigns} campaigns of {runs} runs: {dict(kinds)}")
    print(f"killed at: {dict(stages)}; attempts lost: {redone.total()}: {dict(redone)}")
    campaign["kills -9"] = {
        "seed": SEED,
        "kills": kinds.total(),
        "of": dict(kinds),
        "at stage": dict(stages),
        "in a running step": kinds.total() - stages["between steps"],
        "attempts made again": redone.total(),
        "made again at stage": dict(redone),
        "finished steps built again": 0,  # asserted above, as is what follows
        "experiments with identical tables": f"{campaigns} of {campaigns}",
        "runs": runs,
        "seconds": round(time.monotonic() - begun_at),
    }
    if WHOLE:
        assert {step.partition("/")[0] for step in lasting} <= set(stages)


@pytest.mark.parametrize("case", ["joins, and the first is killed", *(["together", "one is killed"] if WHOLE else [])])
def test_two_drivers_build_each_step_once(undisturbed: Path, tmp_path: Path, campaign: Counts, case: str) -> None:
    rng, lasting, folder = random.Random(f"{SEED} {case}"), durations(undisturbed), tmp_path / "two"
    with driver(folder) as first, contextlib.ExitStack() as stack:
        if case.startswith("joins"):
            moment(first, rng, lasting, idle=0)
        second = stack.enter_context(driver(folder))
        killed = False
        if case != "together":
            moment(first, rng, lasting, idle=0)
            killed = kill(first, "driver and workers")
        codes = [first.wait(), second.wait()]
        assert codes == [-signal.SIGKILL if killed else 0, 0], second.text()
        texts = [first.text(), second.text()]
    assert lost(folder).total() <= killed
    check_same(folder, undisturbed)
    built = [re.findall(r"^\[[ \d]+/\d+\] (\S+): [\d.]+ s", text, re.MULTILINE) for text in texts]
    assert not set(built[0]) & set(built[1])
    print(f"\n{case}: built {len(built[0])} and {len(built[1])}, attempts lost {lost(folder).total()}")
    counts = {"built": [len(names) for names in built], "attempts made again": lost(folder).total()}
    campaign.setdefault("two runs at once", {})[case] = counts


@pytest.mark.parametrize(
    "number, target",
    list(itertools.product((signal.SIGTERM, signal.SIGUSR1), ("driver", "driver of inline steps", "worker")))
    if WHOLE
    else [(signal.SIGTERM, "driver")],
)
def test_signal_ends_the_step_orderly_and_the_next_run_goes_on(
    undisturbed: Path, tmp_path: Path, campaign: Counts, number: signal.Signals, target: str
) -> None:
    rng, lasting, folder = random.Random(f"{SEED} {number} {target}"), durations(undisturbed), tmp_path / "told"
    more = ["cluster.executor=inline"] if "inline" in target else []
    at: list[str] = []

    def in_training(run: Driver) -> str | None:
        while not list((folder / "work" / "train").glob("*.part/checkpoints/checkpoint-*")):
            assert run.code() is None, run.text()
            time.sleep(0.005)
        return next(iter(begun(folder).values()))

    waits: list[Callable[[Driver], str | None]] = [in_training, lambda run: moment(run, rng, lasting, idle=0)]
    for wait in waits:
        with driver(folder, *more) as run:
            while (step := wait(run)) == "":
                pass
            if step is None:
                break
            told = [run.pid] if target != "worker" else list(run.at().values())
            for pid in told:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            code, said = run.wait(), run.text()
            assert run.members() == []
        print(f"{number.name} to {target} at {step}: exit code {code}")
        at.append(step.partition("/")[0])
        assert "Traceback" not in said, said
        if target != "worker":
            assert code in (128 + number, 0) and ("goes on from here" in said) == (code != 0), said
        elif step not in published(folder):
            assert code == 1 and "Interrupted: stopped" in said, said
        if step not in published(folder):
            note = read_note(folder / "work" / ".attempts" / step)
            assert note and note["outcome"] == "interrupted", said
            if wait is in_training and not more:  # an inline step is left as it is, with the checkpoint before
                assert "their checkpoint is kept" in note["error"]
    completed(folder, undisturbed, *more)
    campaign.setdefault("signals, by stage", {})[f"{number.name} to {target}"] = at


@contextlib.contextmanager
def disk(folder: Path, kilobytes: int) -> Iterator[None]:
    """A file system of its own in ``folder``; skips the test where none can be mounted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("a small file system is needed, and there is no mount command")
    if done.returncode != 0:
        pytest.skip(f"a small file system can't be mounted: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.4, 0.7] if WHOLE else [0.4])
def test_full_disk_is_named_and_the_next_run_goes_on(
    undisturbed: Path, tmp_path: Path, campaign: Counts, share: float
) -> None:
    used = sum(-(-path.stat().st_size // 4096) * 4 for path in undisturbed.rglob("*") if path.is_file())
    folder = tmp_path / "small"
    with disk(folder, int(share * used)):
        with driver(folder) as run:
            code, said = run.wait(), run.text()
        assert code != 0, said
        assert "Traceback" not in said, said
        why = re.findall(r"(?:: FAILED: |^error: )(.*)", said, re.MULTILINE)
        print(f"\n{int(share * used)} KiB of {used}: {len(published(folder))} steps built; {why}")
        assert why and all(re.search("no space left", line, re.IGNORECASE) for line in why), said
        good = contents(undisturbed)
        assert contents(folder).items() <= good.items()
        built = len(published(folder))
        subprocess.run(["mount", "-o", "remount,size=64m", str(folder)], check=True)
        completed(folder, undisturbed)
    campaign.setdefault("full disk, steps built", {})[f"{share:g} of what is needed"] = built


def flip(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def cut(path: Path, rng: random.Random) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: rng.randrange(len(data))])


def flip_text(path: Path, rng: random.Random) -> None:
    """Flip a bit of a character that isn't white space: elsewhere, JSON may mean the same."""
    data = bytearray(path.read_bytes())
    place = rng.choice([i for i, byte in enumerate(data) if not chr(byte).isspace()])
    data[place] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def remove(path: Path, rng: random.Random) -> None:
    path.unlink()


def dependents(folder: Path, damaged: set[str]) -> set[str]:
    """Published steps that take one of ``damaged`` as an input."""
    inputs = {step: set(read_record(place)["inputs"].values()) for step, place in published(folder).items()}
    return {step for step, needed in inputs.items() if needed & damaged}


def kinds_of_files(folder: Path, *, reported: bool) -> dict[str, list[tuple[str, str]]]:
    """Stage and name of a file that isn't empty -> (step, name in it) of all such files that somebody reads.

    Args:
        reported: those that a report reads; else also those that another step may read.
    """
    files: dict[str, list[tuple[str, str]]] = {}
    for step, place in published(folder).items():
        for name in (*read_record(place)["files"], "record.json"):
            read = name in NEEDED | DRAWN | {"record.json"} or (not reported and dependents(folder, {step}))
            if read and (place / name).stat().st_size:
                files.setdefault(f"{step.partition('/')[0]} {Path(name).name}", []).append((step, name))
    return files


def picked(files: dict[str, list[tuple[str, str]]], kinds: list[str], rng: random.Random) -> dict[str, str]:
    """Step -> the file of it to damage: one of each kind, where a step is left for it."""
    chosen: dict[str, str] = {}
    for kind in kinds:
        free = [(step, name) for step, name in files[kind] if step not in chosen]
        if free:
            step, name = rng.choice(free)
            chosen[step] = name
    return chosen


def check_named(said: str, chosen: dict[str, str]) -> None:
    """That a run has named each damaged file."""
    for step, name in chosen.items():
        label = step[: -len("-0123456789ab")]
        found = re.search(rf"^{re.escape(label)}: (\S.*) \({re.escape(name)}\); .*built again$", said, re.MULTILINE)
        assert found or (name == "record.json" and f"] {label}: " in said), (label, name, said)


def test_damage_in_what_a_report_reads_is_named_by_it_and_built_again(
    undisturbed: Path, tmp_path: Path, campaign: Counts
) -> None:
    rng = random.Random(SEED)
    files = kinds_of_files(undisturbed, reported=True)
    left = sorted(files)
    rng.shuffle(left)
    harms: Counter[str] = Counter()
    for number in range(3 if WHOLE else 1):
        folder = tmp_path / f"read{number}"
        shutil.copytree(undisturbed, folder, symlinks=True)
        chosen = picked(files, left[number::3], rng)
        for step, name in chosen.items():
            harm: Any = rng.choice((flip_text if name == "record.json" else flip, cut))
            harm(folder / "work" / step / name, rng)
            harms[f"{step.partition('/')[0]} {name}"] += 1
            print(f"{harm.__name__} {step}/{name}", flush=True)
        with driver(folder, "action=report") as run:
            code, said = run.wait(), run.text()
        assert code == 1 and "Traceback" not in said, said
        for step, name in chosen.items():
            assert f"{step}: altered since it was published ({name})" in said, said
        check_named(completed(folder, undisturbed), chosen)
        assert len(list((folder / "work").glob("*/.damaged-*"))) == len(chosen)
    campaign["damage that a report names and a run builds again"] = dict(sorted(harms.items()))


def test_damaged_published_files_are_named_set_aside_and_built_again(
    undisturbed: Path, tmp_path: Path, campaign: Counts
) -> None:
    rng = random.Random(SEED)
    files = kinds_of_files(undisturbed, reported=False)
    left = sorted(files)
    rng.shuffle(left)
    harms: Counter[str] = Counter()
    for number in range(4 if WHOLE else 1):
        folder = tmp_path / f"damaged{number}"
        shutil.copytree(undisturbed, folder, symlinks=True)
        chosen = picked(files, left[number::4], rng)
        needing = dependents(folder, set(chosen))
        for step in sorted(needing - chosen.keys()):
            shutil.rmtree(published(folder)[step])
        for step, name in chosen.items():
            harm: Any = rng.choice((flip_text if name == "record.json" else flip, cut, remove))
            harm(folder / "work" / step / name, rng)
            harms[f"{step.partition('/')[0]} {name}"] += 1
            print(f"{harm.__name__} {step}/{name}", flush=True)
        check_named(completed(folder, undisturbed), chosen)
        for step, name in chosen.items():
            if name != "record.json":
                assert list((folder / "work").glob(f"{step.partition('/')[0]}/.damaged-*")), step
    print(f"\n{harms.total()} damaged files, of {len(left)} kinds")
    campaign["damage that a step which needs the file names"] = dict(sorted(harms.items()))


def test_damaged_notes_and_results_are_written_anew(undisturbed: Path, tmp_path: Path) -> None:
    rng, folder = random.Random(SEED), tmp_path / "notes"
    shutil.copytree(undisturbed, folder, symlinks=True)
    shutil.rmtree(next((folder / "work" / "score").glob("icon-shard-0001-*")))
    for path in [*(folder / "work" / ".attempts").glob("*/*/attempt.json"), folder / "work" / ".hashes.json"]:
        if path.is_file():
            rng.choice((flip, cut))(path, rng)
    for name in ("table.csv", "metrics.jsonl", "verdicts.md", "samples.jsonl", "index.html"):
        cut(folder / "results" / "smoke_tiny" / name, rng)
    for path in sorted((folder / "results" / "smoke_tiny" / "figures").iterdir()):
        rng.choice((flip, cut))(path, rng)
    completed(folder, undisturbed)


@pytest.mark.parametrize(
    "stage, harm",
    list(itertools.product(("train", "judge"), (flip, cut))) if WHOLE else [("train", flip), ("judge", cut)],
)
def test_damaged_unfinished_work_is_named_and_done_again(
    undisturbed: Path, tmp_path: Path, campaign: Counts, stage: str, harm: Callable[[Path, random.Random], None]
) -> None:
    rng, folder = random.Random(f"{SEED} {stage}"), tmp_path / "unfinished"
    shutil.copytree(undisturbed, folder, symlinks=True)
    name = "full-s0" if stage == "train" else "answers-full-s0-tiny"
    (place,) = (folder / "work" / stage).glob(f"{name}-[0-9a-f]*")
    shutil.rmtree(place)
    step = place.relative_to(folder / "work").as_posix()
    part = place.with_name(f"{place.name}.part")
    wanted = "checkpoints/checkpoint-*/sealed.json" if stage == "train" else "parts/*.json"
    with driver(folder) as run:
        while not list(part.glob(wanted)):
            assert run.code() is None, run.text()
            time.sleep(0.002)
        run.kill(group=True)
        run.wait()
    stored = sorted(part.glob("checkpoints/*/*" if stage == "train" else "parts/*.json"))
    harmed = rng.choice([path for path in stored if path.stat().st_size])
    harm(harmed, rng)
    print(f"\n{harm.__name__} {harmed.relative_to(part)}")
    completed(folder, undisturbed)
    log = (folder / "work" / ".attempts" / step / "log.txt").read_text(encoding="utf-8", errors="replace")
    said = log.rpartition(": attempt by process")[2]
    assert (harmed.parent.name if stage == "train" else harmed.name) in said and "alter" in said, said
    name = str(harmed.relative_to(part))
    campaign.setdefault("damage in unfinished steps that the next attempt names", []).append(f"{stage} {name}")
