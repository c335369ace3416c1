"""The command line: help, actions, sweeps, and one clear message for everything that is wrong."""

import csv
import errno
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli import Done, icon_repro
from fault_server import closed_port

from icon_repro import __main__ as command_line
from icon_repro.config.arguments import open_overrides
from icon_repro.config.load import Config, ConfigError, conf_dir
from icon_repro.engine.records import read_json, write_json
from icon_repro.report.plan_text import si

TINY = "experiment=smoke_tiny"
STUDY = ["~methods.random", "~methods.longest", "~methods.ppl_low", "~methods.ifd", "~methods.rds", "~methods.icon"]
STUDY += ["experiment=study_cpu"]
LISTED = ["+method@methods.less=less", "~methods.random", "~methods.longest", "++methods.less.epochs=1"]


def refused(done: Done, title: str = "") -> str:
    """The message of a command that ended without doing anything but saying ``title``."""
    assert done.code != 0
    assert "Traceback" not in done.error + done.out
    assert done.out == "" or (title and done.out.startswith(title) and done.out.count("\n") == 1)
    return done.error


def test_run_endpoint_that_cant_be_reached_is_refused_before_any_work(
    inside: Callable[..., Done], tmp_path: Path
) -> None:
    with closed_port() as url:
        judge = ["judge.kind=endpoint", f"judge.endpoint={{model:toy,base_url:'{url}'}}"]
        error = refused(inside(TINY, f"paths.work={tmp_path / 'work'}", *judge), f"{TINY[11:]}: ")
    assert f"{url} can't be reached" in error
    assert not list((tmp_path / "work").glob("*/*"))


def test_preflight_of_run_submit_and_plan_says_the_same(
    inside: Callable[..., Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "file").touch()
    (tmp_path / "results" / "smoke_tiny").mkdir(parents=True)
    (tmp_path / "results" / "smoke_tiny" / "run.json").write_text("{}", encoding="utf-8")
    code = "evaluation.tasks.code={kind:lm_eval,metric:acc,task:humaneval}"
    judge = ["judge.kind=endpoint", "judge.endpoint={model:toy}"]
    branch = ["model=llama2_7b", "model.hub_id=org/m", "model.revision=main"]
    wrong = [code, *judge, *branch, "paths.work=file/work", "paths.cache=file/cache"]
    starts = (
        "model.revision",
        "results/smoke_tiny",
        "evaluation.tasks.code",
        "judge: toy",
        "paths.work",
        "paths.cache",
    )
    said: dict[str, list[str]] = {}
    for action in ("run", "submit", "plan"):
        done = inside(TINY, f"action={action}", "cluster.slurm.allow_dirty=true", *wrong)
        assert done.code == (0 if action == "plan" else 1), done.error
        lines = (done.out if action == "plan" else done.error).splitlines()
        texts = [re.sub("^(warning|error): ", "", line) for line in lines]
        said[action] = [text for text in texts if text.startswith(starts)]
        assert [text.split("=")[0].startswith(starts) for text in said[action]] == [True] * len(starts), lines
    assert said["run"] == said["submit"] == said["plan"]
    assert {path.name for path in tmp_path.iterdir()} == {"file", "results"}


def test_no_argument_at_all_runs_the_default_experiment(
    inside: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Config] = []
    monkeypatch.setattr(command_line, "_run", lambda raw, given: asked.append(command_line.typed(raw)) or 0)
    assert inside().code == 0
    (config,) = asked
    assert (config.name, config.action.value) == ("smoke", "run")


def test_help_is_quick_and_names_actions_groups_and_examples(tmp_path: Path) -> None:
    done = icon_repro(tmp_path, "--help")
    assert done.code == 0 and done.error == ""
    times = [done.cpu_s, *(icon_repro(tmp_path, "--help").cpu_s for _ in range(2) if done.cpu_s >= 2)]
    assert min(times) < 2  # a busy machine gives more than one chance
    for part in ("action=plan", "action=status", "action=report", "experiment=llama31_8b", "data.candidates.size="):
        assert part in done.out
    for part in ("experiment: llama2_7b", "model: ", "smollm2", "tracking: none, wandb", " -m "):
        assert part in done.out
    assert list(tmp_path.iterdir()) == []


def test_examples_of_the_help_are_valid(inside: Callable[..., Done]) -> None:
    examples = re.findall(r"^  +python -m icon_repro (.+?)(?:  |$)", inside("--help").out, re.MULTILINE)
    assert len(examples) >= 6
    for example in examples:
        arguments = example.partition(" > ")[0].replace("NAME", "smoke_tiny").split()
        if "llama" in example or "action=diff" in example:  # released data; two folders (report/test_diff.py)
            continue
        done = inside(*arguments, "action=plan")
        assert done.code == 0, (example, done.error)


def test_unknown_options_of_groups_are_all_refused_with_the_nearest_name(tmp_path: Path) -> None:
    text = refused(icon_repro(tmp_path, "experiment=smok_tiny", "model=smolm2", "+method@methods.more=radnom"))
    assert "experiment=smok_tiny" in text and "'smoke_tiny'" in text
    assert "model=smolm2" in text and "'smollm2'" in text
    assert "+method@methods.more=radnom" in text and "'random'" in text


def test_wrong_values_are_all_refused_with_key_and_nearest_name(tmp_path: Path) -> None:
    wrong = {
        "modle=smollm2": ["modle: unknown key", "'model'"],
        "training.learing_rate=1": ["training.learing_rate: unknown key", "'learning_rate'"],
        "methods.icon.epsilom=1": ["methods.icon.epsilom: unknown key", "'epsilon'"],
        "training.epochs=many": ["training.epochs='many'", "must be float"],
        "fractions=[2]": ["fractions[0]=2.0", "at most 1"],
        "seeds=0": ["seeds=0", "must be a list"],
        "cluster.lease_s=0": ["cluster.lease_s=0", "at least 1"],
        "action=plna": ["action='plna'", "'plan'"],
    }
    text = refused(icon_repro(tmp_path, TINY, *wrong))
    assert text.startswith(f"error: {len(wrong)} problems in the configuration:\n")
    for parts in wrong.values():
        for part in parts:
            assert part in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments, part",
    [
        (["fractions=[0.25,0.25]"], "fractions=[0.25, 0.25]: a fraction is given twice"),
        (["data.pool.source.path=nowhere.jsonl"], "data.pool.source.path='nowhere.jsonl'"),
        (["name=${nope}"], "nope"),
        (["seeds=[1,2"], "[1,2"),
        (["seeds"], "seeds"),
    ],
    ids=str,
)
def test_wrong_command_is_one_message(inside: Callable[..., Done], arguments: list[str], part: str) -> None:
    assert part in refused(inside(TINY, *arguments))


def test_run_with_a_branch_offline_is_refused_before_any_step(tmp_path: Path) -> None:
    branch = ["model=llama2_7b", "model.hub_id=org/m", "model.revision=main"]
    hub = {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    text = refused(icon_repro(tmp_path, TINY, *branch, **hub))
    assert "model.revision='main'" in text
    assert not [path for path in tmp_path.rglob("*") if path.name != ".hashes.json" and path.is_file()]
    planned = icon_repro(tmp_path, TINY, *branch, "action=plan", **hub)
    assert planned.code == 0 and "warning: model.revision='main'" in planned.out
    refs = tmp_path / "hub" / "models--org--m" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text("a" * 40)
    resolved = icon_repro(tmp_path, TINY, *branch, "action=plan", **hub)
    assert resolved.code == 0 and "model.revision" not in resolved.out
    assert f"lack what this plan reads: model.hub_id='org/m' (no {'a' * 12})" in resolved.out


def test_run_with_an_unknown_wandb_mode_is_refused_before_any_step(
    tmp_path: Path, inside: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "ofline")
    text = refused(inside(TINY, "tracking=wandb"))
    assert "WANDB_MODE='ofline'" in text
    assert not (tmp_path / "work").exists()


def test_plan_and_status_of_an_empty_folder(tmp_path: Path) -> None:
    planned = icon_repro(tmp_path, TINY, "action=plan", "plan=full")
    assert planned.code == 0 and planned.error == ""
    lines = [line for line in planned.out.splitlines() if line.startswith("missing ")]
    total = planned.out.splitlines()[len(lines)]
    assert len(lines) > 20
    (shard,) = [line for line in lines if "score/icon-shard-0002" in line]
    assert re.fullmatch(r"missing +score/icon-shard-0002 +[0-9a-f]{12}  ~[\d.]+ k tokens, [\d.]+ MFLOP", shard)
    assert total.startswith(f"{len(lines)} steps: 0 cached, {len(lines)} to do, about ")
    status = icon_repro(tmp_path, TINY, "action=status")
    assert (status.code, status.out) == (0, f"{len(lines)} missing\n")
    assert not (tmp_path / "results").exists()


def test_report_of_an_empty_folder_is_a_table_of_missing_cells(tmp_path: Path, inside: Callable[..., Done]) -> None:
    done = inside(TINY, "action=report")
    assert done.code == 0
    assert "warning: cells are missing" in done.out and "smoke_tiny/incomplete" in done.out
    folder = tmp_path / "results" / "smoke_tiny"
    assert [path.name for path in folder.iterdir()] == ["incomplete"]
    with (folder / "incomplete" / "table.csv").open(encoding="utf-8", newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["measure"] in ("tiny", "average")]
    assert [line["method"] for line in lines[::2]] == ["base", "full", "random", "longest", "icon"]
    assert len(lines) == 10 and {(line["value"], line["status"]) for line in lines} == {("", "missing")}


def test_quiet_report_says_warnings_alone(tmp_path: Path, inside: Callable[..., Done]) -> None:
    done = inside(TINY, "action=report", "quiet=true")
    assert done.code == 0
    assert [line.split(":")[0] for line in done.out.splitlines()] == ["warning"]
    assert "verbose=true, quiet=true: set one of them" in refused(inside(TINY, "quiet=true", "verbose=true"))


def test_results_of_another_configuration_are_refused_before_any_work(
    tmp_path: Path, inside: Callable[..., Done]
) -> None:
    planned = inside(TINY, "action=report")
    assert planned.code == 0
    folder = tmp_path / "results" / "smoke_tiny"
    stored = read_json(folder / "incomplete" / "run.json")
    write_json(folder / "run.json", {**stored, "results": ["evaluate/base-tiny-0123456789ab"]})
    before = sorted(tmp_path.rglob("*"))
    for asked in (["action=run"], ["action=report"], ["action=compare"], ["action=report", "until=select"]):
        text = refused(inside(TINY, *asked, "model.random.seed=7"))
        for part in ("results/smoke_tiny", "model.random.seed: 0 -> 7", "name=", "delete", "evaluate/base-tiny"):
            assert part in text
    planned = inside(TINY, "action=plan", "model.random.seed=7")
    assert planned.code == 0 and "\nwarning: results/smoke_tiny holds results of another" in planned.out
    assert sorted(tmp_path.rglob("*")) == before
    assert inside(TINY, "action=report", "model.random.seed=7", "name=other").code == 0
    same = inside(TINY, "action=plan")  # another version of the code, the same settings
    assert same.code == 0 and "warning" not in same.out


def test_publish_without_results_says_what_to_do(tmp_path: Path, inside: Callable[..., Done]) -> None:
    done = inside("experiment=smoke_tiny", "action=publish", "paths.results=outputs")
    assert done.code == 1 and "has no results to publish. Run the experiment first" in done.error
    rehearsed = inside("experiment=smoke_tiny", "action=publish", "paths.results=outputs", "rehearse=stand_ins")
    assert rehearsed.code == 1 and "rehearsal" in rehearsed.error
    same = inside("experiment=smoke_tiny", "action=publish", "paths.results=results")
    assert same.code == 1 and "is paths.published too" in same.error
    assert not (tmp_path / "results").exists()


def test_damaged_file_of_the_store_is_one_message(tmp_path: Path, inside: Callable[..., Done]) -> None:
    (tmp_path / "work" / ".submit").mkdir(parents=True)
    (tmp_path / "work" / ".submit" / "jobs.json").write_text("{")
    text = refused(inside(TINY, "action=status"))
    assert "jobs.json" in text and "not valid JSON" in text


@pytest.mark.parametrize("action", ["run", "submit"])
def test_work_folder_that_cant_be_written_is_refused_before_any_step(
    tmp_path: Path, inside: Callable[..., Done], action: str
) -> None:
    (tmp_path / "file").touch()
    done = inside(TINY, f"action={action}", "paths.work=file/work", "cluster.slurm.allow_dirty=true")
    assert done.code == 1 and "Traceback" not in done.error and "] " not in done.out
    assert "error: paths.work=file/work: can't be written" in done.error and "Not a directory" in done.error


def test_report_that_meets_a_full_disk_is_one_message(
    tmp_path: Path, inside: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(command_line, "report", full)
    text = refused(inside(TINY, "action=report"))
    assert "No space left on device" in text and "Make room and run again" in text


def test_sweep_runs_each_job(tmp_path: Path) -> None:
    # the flag may stand anywhere
    done = icon_repro(tmp_path, TINY, "judge=none", "-m", "action=plan", "seeds=[0],[0,1]")
    assert done.code == 0, done.error
    one, two = (int(number) for number in re.findall(r"^(\d+) steps:", done.out, re.MULTILINE))
    assert two == one + 8  # a tuning and an evaluation of each of full, random, longest, icon
    assert {path.name for path in tmp_path.iterdir()} <= {"work"}


def test_sweep_failing_job_doesnt_end_the_others(inside: Callable[..., Done]) -> None:
    done = inside("-m", TINY, "action=status", "seeds=[0,0],[0]")
    assert done.code == 1
    assert "twice" in done.error and "Traceback" not in done.error
    assert re.search(r"^\d+ missing$", done.out, re.MULTILINE)


def test_folders_in_home_are_expanded(
    tmp_path: Path, inside: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert inside(TINY, "action=report", "paths.results='~/tables'", "paths.work='~/work'").code == 0
    assert (tmp_path / "home" / "tables" / "smoke_tiny" / "incomplete" / "table.md").is_file()
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["seeds=[1]"], ["++seeds=[1]"]),
        (["++seeds=[1]", "+a.b=1", "~methods.icon"], ["++seeds=[1]", "+a.b=1", "~methods.icon"]),
        (["model=smollm2", "hydra.run.dir=x"], ["model=smollm2", "hydra.run.dir=x"]),
        (["method@methods.icon=random"], ["method@methods.icon=random"]),
        (["+method@methods.icon=icon"], ["method@methods.icon=icon"]),  # one that is there
        (["method@methods.new=random"], ["+method@methods.new=random"]),
        ([TINY, "methods=[icon,less]", "methods.less.epochs=1"], [TINY, *LISTED]),
        (["methods=less", "experiment=study_cpu"], STUDY),
        (["-m", "model=smollm2,tiny_random"], ["model=smollm2,tiny_random", "-m"]),
        (["-m", "seeds=[1]", "--cfg", "job"], ["++seeds=[1]", "-m", "--cfg", "job"]),
        (["--info", "defaults", "name=a"], ["++name=a", "--info", "defaults"]),
        (["paths.experiments=/a/experiments"], ["++paths.experiments=/a/experiments"]),  # near a group's name
        (["model=mine", "--config-dir", "conf"], ["model=mine", "--config-dir", "conf"]),
    ],
    ids=str,
)
def test_open_overrides_of_each_kind(arguments: list[str], expected: list[str]) -> None:
    assert open_overrides(arguments, conf_dir()) == expected


def test_open_overrides_wrong_choice_of_a_sweep_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model=smolm2: no such option.*'smollm2'"):
        open_overrides(["-m", "model=tiny_random,smolm2"], conf_dir())


@pytest.mark.parametrize(
    "value, text", [(0, "0 "), (999, "999 "), (1000, "1 k"), (1234567, "1.23 M"), (2e18, "2 E"), (3.2e21, "3.2e+03 E")]
)
def test_si_is_three_digits_and_a_prefix(value: float, text: str) -> None:
    assert si(value) == text
