"""The paper's experiments, from a hub of the tests' own: weights, data sets and benchmarks as they are laid out there.

``make test-hub`` runs these: four experiments with a few methods and benchmarks each, and what the hub may answer
besides. With HUB_METHODS=all the first of them has its 16 methods and 11 benchmarks, so that every repository of
``repositories`` is read. Nothing outside this machine is asked.
"""

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from cli import Done, command, environment
from fault_server import FaultServer
from hub_server import ACCEPTED, HubServer
from repositories import everything, logiqa, texts

from icon_repro.engine.records import read_json

pytestmark = [pytest.mark.hub, pytest.mark.timeout(900)]

TASKS = ("ifeval", "glue", "gpqa", "mmlu", "truthfulqa", "arc", "bbh", "hellaswag", "logiqa", "musr", "winogrande")
# experiment -> methods, and the benchmarks that are left
EXPERIMENTS = {
    "llama31_8b": ("[random,icon]", ("gpqa", "musr")),
    "qwen25_3b": ("[longest]", ("arc", "truthfulqa")),
    "llama2_7b": ("[random]", ("winogrande", "logiqa")),
    "wizardlm": ("[icon]", ("hellaswag",)),
}


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    with HubServer(*everything()) as server:
        yield server


@pytest.fixture(autouse=True)
def sound(hub: HubServer) -> None:
    """No fault is left from another test."""
    hub.fail_every, hub.lag_s, hub.cut = None, 0.0, None


def overrides(folder: Path, experiment: str, asked_methods: str | None = None) -> list[str]:
    """An experiment at sizes that take a minute; what it reads from a hub stays as it is."""
    methods, kept = EXPERIMENTS[experiment]
    methods = asked_methods or methods
    assessment = folder / "assessment.jsonl"
    rows = [{"inputs": row["prompt"], **{key: row[key] for key in ("response", "id", "group")}} for row in texts(8, 9)]
    assessment.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    logiqa(folder / "cache" / "logiqa" / "Test.txt")
    sizes = ["data.candidates.size=24", "data.pool.expected_rows=160", "data.assessment.expected_rows=8"]
    sizes += ["fractions=[0.15]", "model.parameters=100000", f"data.assessment.source.path={assessment}"]
    if experiment == "wizardlm":
        sizes.append("data.target.expected_rows=120")
    if experiment == "llama31_8b":
        sizes.append("~more_fractions")
    for task in TASKS:
        if task in kept:
            sizes += [f"evaluation.tasks.{task}.limit=2", f"evaluation.tasks.{task}.expected_items=2"]
        else:
            sizes.append(f"~evaluation.tasks.{task}")
    places = [f"paths.work={folder / 'work'}", f"paths.results={folder / 'out'}", f"paths.cache={folder / 'cache'}"]
    how = ["tracking=none", "judge=none", "cluster=local", "cluster.device=cpu", "cluster.threads=1", "published=null"]
    how += ["base=false", "full=false", "cluster.executor=inline"]
    return [f"experiment={experiment}", f"methods={methods}", *how, *places, *sizes]


def run(hub: HubServer, folder: Path, arguments: Sequence[str], limit_s: float = 800, **more: str) -> Done:
    place = {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    ours = {name: value for name, value in environment().items() if not name.startswith("HF_")}
    done = subprocess.run(
        command(*arguments),
        cwd=Path(__file__).resolve().parents[2],
        env={**ours, "HF_TOKEN": ACCEPTED, **place, **more},
        capture_output=True,
        text=True,
        timeout=limit_s,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr, 0.0)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_the_experiment_runs_whole_from_the_hub(experiment: str, hub: HubServer, tmp_path: Path) -> None:
    asked = overrides(tmp_path, experiment)
    fetched = run(hub, tmp_path, [*asked, "action=fetch"])
    assert fetched.code == 0 and "HF_HUB_OFFLINE=1" in fetched.out, fetched.out[-6000:] + fetched.error[-3000:]
    assert {path.name for path in (tmp_path / "work").iterdir() if path.name[0] != "."} == {"model", "prepare"}
    before, offline = len(hub.asked), {} if experiment == "qwen25_3b" else {"HF_HUB_OFFLINE": "1"}
    done = run(hub, tmp_path, asked, **offline)  # as on a machine without a network; one asks nothing where there is
    assert done.code == 0 and hub.asked[before:] == [], done.out[-6000:] + done.error[-3000:]
    assert " 0 failed, 0 blocked" in done.out and not (tmp_path / "out" / experiment / "incomplete").exists()
    table = (tmp_path / "out" / experiment / "table.md").read_text(encoding="utf-8")
    methods, tasks = EXPERIMENTS[experiment]
    assert all(name in table for name in (*methods.strip("[]").split(","), *tasks)) and "missing" not in table
    sources = read_json(tmp_path / "out" / experiment / "run.json")["sources"]
    commits = {fact for facts in sources.values() for name, fact in facts.items() if name == "commit"}
    assert hub.repositories["dataset", "tatsu-lab/alpaca"].commit in commits


@pytest.mark.skipif(os.environ.get("HUB_METHODS") != "all", reason="takes a quarter of an hour: HUB_METHODS=all")
@pytest.mark.timeout(3600)
def test_all_methods_and_benchmarks_of_the_papers_run(hub: HubServer, tmp_path: Path) -> None:
    """Fetched first, then offline; each of the hub's models and data sets is read."""
    asked = [one for one in overrides(tmp_path, "llama31_8b", "all") if not one.startswith(("methods=", "~eval"))]
    asked = [one for one in asked if not one.startswith(("data.candidates", "cluster.executor"))]
    asked += ["data.candidates.size=120", *(f"evaluation.tasks.{task}.limit=2" for task in TASKS)]
    (tmp_path / "nltk" / "tokenizers" / "punkt_tab" / "english").mkdir(parents=True)  # none of IFEval's rows needs it
    nltk = {"NLTK_DATA": str(tmp_path / "nltk")}
    with FaultServer(lambda body: "4.5\nIt answers what was asked.") as rater:
        asked += [f"methods.alpagasus.endpoint.base_url={rater.url}", "methods.alpagasus.endpoint.model=rater"]
        fetched = run(hub, tmp_path, [*asked, "action=fetch"], **nltk)
        assert fetched.code == 0, fetched.out[-6000:] + fetched.error[-3000:]
        before, started = len(hub.asked), time.monotonic()
        done = run(hub, tmp_path, asked, limit_s=3000, HF_HUB_OFFLINE="1", **nltk)
    assert done.code == 0 and hub.asked[before:] == [], done.out[-6000:] + done.error[-3000:]
    (counts,) = re.findall(r"^\d+ built, \d+ cached, \d+ failed, \d+ blocked$", done.out, re.M)
    print(f"{counts}; {(time.monotonic() - started) / 60:.1f} min")
    assert counts.endswith(" 0 failed, 0 blocked")
    unused = {"Qwen/Qwen2.5-3B", "meta-llama/Llama-2-7b-hf", "WizardLMTeam/WizardLM_evol_instruct_70k"}
    read = {name for _, name in hub.repositories if any(name in one for one in hub.asked)}
    assert {name for _, name in hub.repositories} - unused <= read
    table = (tmp_path / "out" / "llama31_8b" / "table.md").read_text(encoding="utf-8")
    assert all(task in table for task in TASKS) and "missing" not in table


def selection(folder: Path, *more: str) -> list[str]:
    """Rows and a model of the hub, without training."""
    return [*overrides(folder, "llama31_8b", "[random,longest]"), "until=select", *more]


@pytest.mark.parametrize(("token", "status"), [("", 401), ("hf_other", 403)])
def test_a_gated_model_says_how_access_is_had(token: str, status: int, hub: HubServer, tmp_path: Path) -> None:
    before = len(hub.downloads())
    done = run(hub, tmp_path, selection(tmp_path), HF_TOKEN=token)
    told = done.out + done.error
    assert done.code == 1 and "Traceback" not in told
    assert "model.hub_id='meta-llama/Llama-3.1-8B': is gated" in told and "hf auth login" in told, told[-3000:]
    assert hub.statuses[status] > 0
    assert not list((tmp_path / "work").glob("*/*")) and len(hub.downloads()) == before  # before any work or download


def test_a_hub_that_fails_now_and_then_and_is_slow_is_waited_for(hub: HubServer, tmp_path: Path) -> None:
    hub.fail_every, hub.lag_s = (9, 503), 0.05
    done = run(hub, tmp_path, selection(tmp_path))
    assert done.code == 0, done.out[-3000:] + done.error[-3000:]
    assert hub.statuses[503] > 0


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ("model.revision=0123456789abcdef0123456789abcdef01234567", ("meta-llama/Llama-3.1-8B", "0123456789abcdef")),
        ("model.hub_id=meta-llama/Llama-9", ("meta-llama/Llama-9",)),
        ("data.pool.source.hub_id=tatsu-lab/llama", ("tatsu-lab/llama",)),
    ],
)
def test_what_the_hub_doesnt_have_is_named(change: str, parts: Sequence[str], hub: HubServer, tmp_path: Path) -> None:
    done = run(hub, tmp_path, selection(tmp_path, change))
    told = done.out + done.error
    assert done.code == 1 and "Traceback" not in told and all(part in told for part in parts), told[-3000:]
    assert not list((tmp_path / "work").glob("*/*"))


def test_finished_model_whose_files_are_gone_from_the_cache_heals(hub: HubServer, tmp_path: Path) -> None:
    first = [*overrides(tmp_path, "llama31_8b", "[random,longest]"), "until=select"]
    assert run(hub, tmp_path, first).code == 0
    shutil.rmtree(tmp_path / "hf")  # cleaned, or another node's
    more = [*overrides(tmp_path, "llama31_8b", "[random,longest,ppl_low]"), "until=select"]
    without = run(hub, tmp_path, more, HF_HUB_OFFLINE="1")
    told = without.out + without.error
    assert without.code == 1 and "Traceback" not in told
    assert "lack what this plan reads: model.hub_id='meta-llama/Llama-3.1-8B' (no " in told and "action=fetch" in told
    fetched = run(hub, tmp_path, [*more, "action=fetch"])
    assert fetched.code == 0 and "downloaded again" in fetched.out, fetched.out[-3000:] + fetched.error[-3000:]
    assert run(hub, tmp_path, more, HF_HUB_OFFLINE="1").code == 0
    shutil.rmtree(tmp_path / "hf")
    again = run(hub, tmp_path, [*overrides(tmp_path, "llama31_8b", "[random,longest,ppl_low,ifd]"), "until=select"])
    assert again.code == 0 and "downloaded again" in again.out, again.out[-3000:] + again.error[-3000:]


def test_a_file_that_ends_early_is_no_model(hub: HubServer, tmp_path: Path) -> None:
    hub.cut = "model-00003-of-00004.safetensors"
    done = run(hub, tmp_path, selection(tmp_path))
    assert done.code == 1 and not list((tmp_path / "work" / "model").glob("*/record.json"))
    assert "model/llama31_8b" in done.out and "Traceback" not in done.out + done.error
    hub.cut = None
    assert run(hub, tmp_path, selection(tmp_path)).code == 0  # the same command again heals it
