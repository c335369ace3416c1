"""Typical wrong commands: each is refused with advice, and the advice is followed as it stands."""

import difflib
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cli import Done, icon_repro

from icon_repro.config.arguments import open_overrides
from icon_repro.config.load import ConfigError, conf_dir

BASE = ["experiment=smoke_tiny", "judge=none", "action=plan"]
MEANT = r"Did you mean '(.+?)'"


def replaced(wrong: str, advice: str) -> list[str]:
    """The advice in place of the wrong argument, as a shell reads it."""
    return shlex.split(advice)


def appended(wrong: str, advice: str) -> list[str]:
    return [wrong, *shlex.split(advice)]


def value(wrong: str, advice: str) -> list[str]:
    """The advice in place of the wrong value."""
    return [f"{wrong.partition('=')[0]}={advice}"]


def word(wrong: str, advice: str) -> list[str]:
    """The advice in place of the word in the wrong argument that is most like it."""
    (near,) = difflib.get_close_matches(advice, re.findall(r"\w+", wrong), 1)
    return [wrong.replace(near, advice)]


def elsewhere(wrong: str, advice: str) -> list[str]:
    """The value under the key of the advice."""
    return [f"{advice}={wrong.partition('=')[2]}"]


@pytest.mark.parametrize(
    "wrong, advice, follow",
    [
        (["method=ranom"], r"(methods=\S+) for this one alone", replaced),
        (["method=less"], r"(methods=\S+) for it and those", replaced),
        (["methods=[random,icno]"], MEANT, word),
        (["methods=random,icon"], r"brackets: (\S+)\.", replaced),
        (["methods=[random,icon]", "methods=[icon]"], r"such as (\S+)\.$", replaced),
        (["methods={}"], r"(methods=\S+) has all", replaced),
        (["+method@methods.longest=random"], r"adds one: (\S+)\.", replaced),
        (["+method@methods.m=random_matched"], r"Set (\S+)\.$", appended),
        (["~methods.lngest"], MEANT, word),
        (["methods.less.epochs=2"], r"(methods=\S+)\.$", appended),
        (["training.epoch=1"], MEANT, word),
        (["experiment=smoke_tny"], MEANT, value),
        (["model=tiny_randm"], MEANT, value),
        (["data=tny"], MEANT, value),
        (["action=paln"], MEANT, value),
        (["training.lr=1e-4"], MEANT, elsewhere),
        (["training.num_train_epochs=2"], MEANT, elsewhere),
        (["lora.r=4"], MEANT, lambda wrong, advice: [f"{advice}.r=4"]),
        (["device=cpu"], MEANT, elsewhere),
        (["max_length=128"], MEANT, elsewhere),
        (["data.pool.path=rows.jsonl"], MEANT, elsewhere),
        (["data=./rows.jsonl"], r"Rows of yours: (.+)$", replaced),
        (["model=./model"], r"A model of yours: (.+)$", replaced),
        (["model.path=./model"], r"Set (\S+), or", appended),
        (["model.path=./model"], r", or (\S+)\.$", appended),
        (["model.hub_id=org/model"], r", or (\S+)\.$", appended),
        (["data.pool.source.hub_id=org/rows"], r", or (\S+)\.$", appended),
        (["evaluation.tasks=[arc_easy]"], r"is added by (\'.+\'),", replaced),
        (["training.lora=4"], r"of its own: (\S+),", elsewhere),
        (["training.deepspeed=none"], r"is written (\S+)$", replaced),
        (["--config-name=smoke"], r"named by (\S+);", replaced),
        (["exprimente=smoke_tiny"], r"Did you mean (\S+)\?", replaced),
        (["plna"], r"Did you mean (\S+)\?", replaced),
        (["--hlep"], r"Did you mean (\S+)\?", replaced),
        (["--verson"], r"Did you mean (\S+)\?", replaced),
        (["fractions=[25]"], r"25 % is (\S+)\.", lambda wrong, advice: [f"fractions=[{advice}]"]),
        (["fractions=0.25"], r"e\.g\. (\S+)\.$", value),
        (["seeds=0"], r"e\.g\. (\S+)\.$", value),
        (["seeds=0,1"], r"brackets: (\S+)\.", replaced),
        (["fractions=[0.25,", "0.5]"], r"quoted: (.+)$", replaced),
        (["name=my-try"], r"e\.g\. (\S+)\.$", value),
        (["data.pool.source.path=a (1).jsonl"], r"quoted: (.+)$", replaced),
        (["data.pool.source.path=a,b.jsonl"], r"quoted: (.+)$", replaced),
        (["data.pool.source.path=[new].jsonl"], r"quoted: (.+)$", replaced),
    ],
    ids=lambda some: " ".join(some) if isinstance(some, list) else "",
)
def test_wrong_command_gets_advice_that_works(
    tmp_path: Path,
    inside: Callable[..., Done],
    tiny_model: Path,
    wrong: list[str],
    advice: str,
    follow: Callable[[str, str], list[str]],
) -> None:
    for name in ("a (1).jsonl", "a,b.jsonl", "[new].jsonl", "rows.jsonl"):
        (tmp_path / name).write_bytes((conf_dir().parent / "icon_repro/data/tiny/pool.jsonl").read_bytes())
    shutil.copytree(tiny_model, tmp_path / "model")
    done = inside(*BASE, *wrong)
    assert done.code != 0 and "Traceback" not in done.error
    found = re.search(advice, done.error.strip(), re.MULTILINE)
    assert found, done.error
    followed = inside(*BASE, *follow(" ".join(wrong), found[1]))
    assert followed.code == 0, (follow(" ".join(wrong), found[1]), followed.error)


def test_methods_of_a_sweep_over_experiments_are_refused() -> None:
    with pytest.raises(ConfigError, match="run the command once for each"):
        open_overrides(["-m", "experiment=smoke_tiny,smoke", "methods=[random]"], conf_dir())


def test_methods_by_name_are_those_of_the_plan(tmp_path: Path, inside: Callable[..., Done]) -> None:
    done = inside("experiment=smoke_tiny", "judge=none", "methods=[less,icon]", "methods.less.epochs=1", "--cfg", "job")
    methods = re.findall(r"^  (\w+):\n    kind: (\w+)", done.out.partition("\nmethods:\n")[2], re.MULTILINE)
    assert done.code == 0 and methods == [("icon", "icon"), ("less", "less")]
    assert "shard_candidates: 8" in done.out and re.search(r"^    epochs: 1$", done.out, re.MULTILINE)


def test_methods_by_name_may_be_spelled_out_in_the_same_command(tmp_path: Path, inside: Callable[..., Done]) -> None:
    done = inside(*BASE, "methods=[mine,longest]", "methods.mine={kind: random, seed: 3}", "plan=full")
    assert done.code == 0 and set(re.findall(r"score/(\w+)", done.out)) == {"mine", "longest"}


def test_a_method_that_is_left_out_takes_its_settings_elsewhere_with_it() -> None:
    found = open_overrides(["experiment=qwen25_3b", "methods=[less]"], conf_dir())
    assert "~methods.icon" in found and "~judge.references_at.icon" in found
    with_icon = open_overrides(["experiment=qwen25_3b", "methods=[icon]"], conf_dir())
    assert "~judge.references_at.icon" not in with_icon and "~methods.random" in with_icon


def test_version_is_ours(tmp_path: Path) -> None:
    done = icon_repro(tmp_path, "--version")
    assert done.code == 0 and re.fullmatch(r"icon_repro \d+\.\d+\.\d+( \([0-9a-f]{12}(, changed)?\))?\n", done.out)
