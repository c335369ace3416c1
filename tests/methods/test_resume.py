"""Every method survives kill -9 of its workers and ends with the bytes of an undisturbed run."""

import contextlib
import os
import re
import signal
import subprocess
import time
from pathlib import Path

from cli import command, environment, icon_repro
from reward_models import classifier

from icon_repro.engine.records import read_json
from icon_repro.methods.kinds import kinds

NOT_HERE = {
    "alpagasus": "asks an endpoint; tests/test_endpoint.py kills that",
    "external": "what it runs is the user's",
    "ids": "reads a list, in one step without shards",
}
METHODS = {  # name -> settings, with which it has at least two shards where it has any; its kind if that isn't the name
    "random": "seed: 0",
    "longest": "",
    "perplexity": "shard_rows: 4",
    "ifd": "shard_rows: 4",
    "rds": "shard_rows: 3",
    "nuggets": "shard_rows: 4, anchors: {count: 3}, max_length: 500",
    "selectit": "shard_rows: 4",
    "less": "shard_rows: 4, epochs: 1, warmup_fraction: 1.0, global_batch_size: 4, dimensions: 512, "
    "lora: {r: 4}, learning_rate: 0.01",
    "ifd_all": "kind: ifd, shard_rows: 4, drop_above_one: false, diversity: {share: 1.0}, pre_experienced: {tuning: "
    "lora, choice: {clusters: 2, per_cluster: 2}, global_batch_size: 4, dtype: float32, learning_rate: 0.01}",
    "deita": "shard_rows: 4, complexity: {kind: random, name: first, random: {seed: 1}}, "
    "quality: {kind: random, name: second, random: {seed: 2}}",
    "armorm": "shard_rows: 4, architecture: classifier, reward: {kind: local, name: reward, path: reward/weights}",
    "icon": "shard_candidates: 4, dtype: float32, bank: {lengths: [8, 64], draws: 1}",
}
VICTIMS = {  # name -> its steps of which one each is killed
    "perplexity": [r"answers-tiny_random-conditioned-\d+"],
    "ifd": [r"answers-tiny_random-conditioned-direct-\d+"],
    "rds": [r"embeddings-weighted-\d+"],
    "nuggets": [r"nuggets-part-\d+"],
    "selectit": [r"selectit-part-\d+"],
    "less": [r"less-warmup-training", r"less-epoch1-shard-\d+"],
    "ifd_all": [
        r"experience-tiny_random-training",
        r"answers-tiny_random-tuned-conditioned-direct-\d+",
        r"embeddings-tuned-share-mean-\d+",
    ],
    "deita": [r"deita-complexity-\d+", r"deita-quality-\d+", r"embeddings-last-\d+"],
    "armorm": [r"armorm-part-\d+"],
    "icon": [r"icon-shard-\d+"],
}


def method(name: str, settings: str) -> str:
    """The override that adds a method."""
    kind = "" if settings.startswith("kind:") else f"kind: {name}, "
    return f"+methods.{name}={{{kind}{settings}}}".replace(", }", "}")


COMMAND = [
    "experiment=smoke_tiny",
    "cluster.device=cpu",
    "cluster.threads=1",
    "until=select",
    "~methods",
    "data.candidates.size=8",
    "data.assessment.sample=4",
    *(method(name, settings) for name, settings in METHODS.items()),
]


def scores(folder: Path) -> dict[str, bytes]:
    """Everything that scoring wrote but records and the training's log, which hold times."""
    root = folder / "work" / "score"
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.glob("*/**/*"))
        if path.is_file() and path.name not in ("record.json", "log.jsonl") and ".part" not in path.parts[-2]
    }


def published(folder: Path) -> dict[str, int]:
    """Step -> time of its record."""
    found = (folder / "work").glob("*/*/record.json")
    return {path.parent.relative_to(folder / "work").as_posix(): path.stat().st_mtime_ns for path in found}


def killed_run(folder: Path, patterns: set[str]) -> dict[str, str]:
    """Run the experiment and kill one worker of each of ``patterns`` once it has begun; returns pattern -> step."""
    killed: dict[str, str] = {}
    with (folder / "said.txt").open("w", encoding="utf-8") as said:
        run = subprocess.Popen(command(*COMMAND), cwd=folder, env=environment(), stdout=said, stderr=said)
        try:
            while run.poll() is None:
                for part in (folder / "work" / "score").glob("*.part"):
                    for pattern in patterns - killed.keys():
                        match = re.fullmatch(rf"({pattern})-[0-9a-f]{{12}}.*\.part", part.name)
                        if match is not None:
                            (note,) = (folder / "work" / ".attempts" / "score").glob(f"{match[1]}-*/attempt.json")
                            with contextlib.suppress(ProcessLookupError):
                                os.kill(read_json(note)["pid"], signal.SIGKILL)
                                killed[pattern] = match[1]
                time.sleep(0.002)
        finally:
            run.kill()
            run.wait()
    text = (folder / "said.txt").read_text(encoding="utf-8")
    # a step that was over just before it was killed doesn't count
    killed = {pattern: step for pattern, step in killed.items() if f"failed: score/{step}: killed by signal 9" in text}
    for step in killed.values():
        assert not [name for name in published(folder) if re.fullmatch(rf"score/{step}-[0-9a-f]{{12}}", name)]
    return killed


def test_every_method_resumes_after_kills_with_the_same_bytes(tmp_path: Path, tiny_model: Path) -> None:
    undisturbed, folder = tmp_path / "undisturbed", tmp_path / "killed"
    for made in (undisturbed, folder):
        made.mkdir()
        classifier(made / "reward", tiny_model)
    inline = [*COMMAND, "cluster.executor=inline"]  # quicker, as nobody is killed
    done = icon_repro(undisturbed, *inline)
    assert done.code == 0, done.out + done.error
    left = {pattern for several in VICTIMS.values() for pattern in several}
    for _ in range(4):  # what needs a killed step can be killed in the next run only
        left -= killed_run(folder, left).keys() if left else set()
    assert left == set(), "not killed"
    before = published(folder)
    again = icon_repro(folder, *inline)
    assert again.code == 0, again.out + again.error
    after = published(folder)
    assert after.keys() == published(undisturbed).keys()
    assert all(after[name] == moment for name, moment in before.items()), "what was done is kept"
    assert f"{len(after) - len(before)} built, {len(before)} cached" in again.out
    expected, found = scores(undisturbed), scores(folder)
    assert [name for name in expected if expected[name] != found.get(name)] == []
    assert found.keys() == expected.keys()
    final = {name.split("-")[0] for name in found if re.fullmatch(r"\w+-[0-9a-f]{12}/scores.jsonl", name)}
    assert final == set(METHODS)


def test_every_method_that_runs_here_is_killed() -> None:
    assert set(kinds()) - METHODS.keys() == NOT_HERE.keys()
    assert METHODS.keys() - VICTIMS.keys() == {"random", "longest"}, "they have one step, which is done at once"
