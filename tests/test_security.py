"""Keys stay in the environment; data, models and configurations from elsewhere run nothing and reach no other place."""

import ast
import hashlib
import io
import os
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli import Done, icon_repro
from fault_server import Body, FaultServer
from small import small

import icon_repro as package
from icon_repro.config.load import ConfigError
from icon_repro.data import weights
from icon_repro.data.model_files import ModelError
from icon_repro.data.options import ArchiveKind, Dtype, ModelConfig, ModelKind, RegistryFile, SourceConfig
from icon_repro.data.registry import fetch
from icon_repro.data.rows import Example, Score
from icon_repro.data.sources import HubError, read_raw
from icon_repro.engine.artifact import damage, publish
from icon_repro.engine.options import ClusterConfig
from icon_repro.engine.records import read_json, write_json, write_rows
from icon_repro.engine.runtime import Runtime
from icon_repro.lm.load import load_model, load_tokenizer
from icon_repro.methods.common.embeddings import joined
from icon_repro.methods.select import SelectConfig
from icon_repro.methods.select import run as select_run

KEYS = {
    "OPENAI_API_KEY": "sk-canary-6f0a1b2c3d4e5f60718293a4b5c6d7e8",
    "WANDB_API_KEY": "canary0123456789canary0123456789canary01",
    "HF_TOKEN": "hf_canaryQwErTyUiOpAsDfGhJkLzXcVbNm012345",
}
CPU = torch.device("cpu")

# ---------------------------------------------------------------- keys


def reply(body: Body) -> str:
    return "8 7" if "assistant 1" in body["messages"][-1]["content"] else "4"


def places(folder: Path) -> dict[str, str]:
    """Every place where a program may write something, inside ``folder``."""
    home = {name: str(folder / "home") for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")}
    return {**home, "TMPDIR": str(folder / "tmp"), "HF_HUB_OFFLINE": "1", "WANDB_MODE": "", **KEYS}


def asking(url: str) -> list[str]:
    """An experiment whose scores and verdicts come from the endpoint at ``url``."""
    endpoint = f"{{model:toy,base_url:'{url}',max_unanswered:0,retries:1}}"
    return [
        "experiment=smoke_tiny",
        "cluster.device=cpu",
        "cluster.threads=1",
        "tracking=wandb",
        "tracking.wandb=offline",
        "full=false",
        "~methods.longest",
        f"methods.asked={{kind:alpagasus,endpoint:{endpoint}}}",
        "judge=smoke_tiny",
        "judge.kind=endpoint",
        "judge.methods=[asked]",
        "judge.against=base",
        f"judge.endpoint={endpoint}",
    ]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Done], FaultServer]:
    """A folder with two runs, all keys in the environment: one that goes well, one whose endpoint tells the key."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("home", "tmp"):
        (folder / name).mkdir()
    with FaultServer(reply, token=KEYS["OPENAI_API_KEY"]) as server:
        done = [icon_repro(folder, *asking(server.url), **places(folder))]
    refusal = {"message": f"the key {KEYS['OPENAI_API_KEY']} has no access"}
    with FaultServer(reply, status=401, error=refusal) as closed:
        changed = ["name=failing", "methods.asked.endpoint.temperature=1", "judge.endpoint.temperature=1"]
        done.append(icon_repro(folder, *asking(closed.url), *changed, **places(folder)))
    return folder, done, server


def test_keys_full_run_uses_them_and_a_failing_one_says_why(runs: tuple[Path, list[Done], FaultServer]) -> None:
    folder, (good, failed), server = runs
    assert good.code == 0 and ", 0 failed, 0 blocked" in good.out, good.out + good.error
    assert server.answered.total() > 24  # each bore the key, or would have been refused
    assert failed.code == 1 and "failed: score/asked-ratings: " in failed.out
    (log,) = ((folder / "work" / ".attempts" / "score").glob("asked-ratings-*/log.txt"),)
    assert any("Traceback" in path.read_text() for path in log)
    for part in ("work/.wandb/wandb", "results/smoke_tiny/run.json", "results/failing/incomplete/run.json"):
        assert (folder / part).exists()


@pytest.mark.parametrize("name", KEYS)
def test_keys_are_in_no_file_log_record_artifact_or_message(
    runs: tuple[Path, list[Done], FaultServer], name: str
) -> None:
    folder, done, _ = runs
    key = KEYS[name]
    assert not [one for one in done if key in one.out + one.error]
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(files) > 200
    for path in files:
        assert key not in path.name and key.encode() not in path.read_bytes(), path


@pytest.mark.parametrize(
    "where", ["tracking.api_key", "judge.endpoint.api_key", "judge.endpoint.key", "tracking.key", "model.token"]
)
def test_keys_in_a_configuration_are_refused_and_not_repeated(tmp_path: Path, where: str) -> None:
    endpoint = {"model": "toy", "base_url": "http://127.0.0.1:1/v1"}
    with pytest.raises(ConfigError, match=f"{where}: unknown key") as caught:
        small(tmp_path, {"judge.endpoint": dict(endpoint), where: KEYS["OPENAI_API_KEY"]})
    assert "canary" not in str(caught.value)


# ---------------------------------------------------------------- pickles


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.fixture
def marker(tmp_path: Path) -> Iterator[Path]:
    """A path that exists after the test only if code of the fixtures ran."""
    path = tmp_path / "it_ran"
    yield path
    assert not path.exists()


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    return Runtime(ClusterConfig(device="cpu", threads=1), tmp_path / "cache", terminal=None)


def local_model(folder: Path, out: Path, runtime: Runtime) -> Path:
    """A model step made of the local model in ``folder``."""
    out.mkdir()
    runtime.files = {path.name: path for path in folder.iterdir()}
    weights.run(ModelConfig(ModelKind.local, "m", path=str(folder)), {}, out, runtime)
    return out


def test_pickle_evil_would_run(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Evil(tmp_path / "it_ran_here")))
    assert (tmp_path / "it_ran_here").is_dir()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.ckpt", "model.pkl"])
def test_pickle_as_weights_is_refused(
    tmp_path: Path, tiny_model: Path, runtime: Runtime, marker: Path, name: str
) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    (tmp_path / "model" / name).write_bytes(pickle.dumps(Evil(marker)))
    with pytest.raises(weights.WeightsError, match=r"holds no \*\.safetensors"):
        local_model(tmp_path / "model", tmp_path / "out", runtime)


def test_pickle_beside_safetensors_is_left_behind(
    tmp_path: Path, tiny_model: Path, runtime: Runtime, marker: Path
) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    for name in ("pytorch_model.bin", "training_args.bin", "model.pt"):
        (tmp_path / "model" / name).write_bytes(pickle.dumps(Evil(marker)))
    step = local_model(tmp_path / "model", tmp_path / "out", runtime)
    assert {path.suffix for path in (step / "weights").iterdir()} <= {".json", ".safetensors", ".jinja", ".txt"}
    assert load_model(step, Dtype.float32, CPU).num_parameters() > 0


def test_pickled_adapter_beside_safetensors_is_refused(
    tmp_path: Path, tiny_model: Path, runtime: Runtime, marker: Path
) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    (tmp_path / "model" / "adapter_model.bin").write_bytes(pickle.dumps(Evil(marker)))
    with pytest.raises(weights.WeightsError, match=r"adapter_model\.bin: is an adapter"):
        local_model(tmp_path / "model", tmp_path / "out", runtime)


def test_pickle_as_safetensors_is_refused(tmp_path: Path, tiny_model: Path, runtime: Runtime, marker: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(pickle.dumps(Evil(marker)))
    with pytest.raises(Exception, match=r"(?i)header|safetensors"):
        load_model(local_model(tmp_path / "model", tmp_path / "out", runtime), Dtype.float32, CPU)


def test_pickle_in_a_matrix_is_refused(tmp_path: Path, marker: Path) -> None:
    array = np.empty(1, object)
    array[0] = Evil(marker)
    np.save(tmp_path / "vectors.npy", array, allow_pickle=True)
    write_json(tmp_path / "ids.json", {"rows": ["a"], "reasons": {}})
    with pytest.raises(ValueError, match="allow_pickle=False"):
        joined({"shard-0000": tmp_path}, "shard")


def test_pickle_in_place_of_a_published_matrix_is_named(tmp_path: Path, marker: Path) -> None:
    part = tmp_path / "step.part"
    part.mkdir()
    np.save(part / "vectors.npy", np.ones(3))
    publish(part, tmp_path / "step", {})
    array = np.empty(1, object)
    array[0] = Evil(marker)
    np.save(tmp_path / "step" / "vectors.npy", array, allow_pickle=True)
    assert damage(tmp_path / "step") == "altered since it was published (vectors.npy)"


# ---------------------------------------------------------------- code that comes with a model


def with_code(folder: Path, marker: Path, config: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> None:
    code = f"import os\nos.mkdir({str(marker)!r})\nclass Own: pass\n"
    for name in ("configuration_own.py", "modeling_own.py", "tokenization_own.py"):
        (folder / name).write_text(code)
    for file, more in (("config.json", config), ("tokenizer_config.json", tokenizer)):
        write_json(folder / file, {**read_json(folder / file), **more})


AUTO_MAP = {"AutoConfig": "configuration_own.Own", "AutoModelForCausalLM": "modeling_own.Own"}


@pytest.mark.parametrize("load", [load_tokenizer, lambda folder: load_model(folder, Dtype.float32, CPU)])
def test_code_of_an_unknown_architecture_is_refused(tmp_path: Path, tiny_model: Path, marker: Path, load: Any) -> None:
    shutil.copytree(tiny_model, tmp_path / "weights")
    write_json(tmp_path / "model.json", {"hub_id": None, "commit": None})
    with_code(tmp_path / "weights", marker, {"model_type": "own", "auto_map": AUTO_MAP}, {})
    with pytest.raises(ModelError, match="code that comes with a model is never run"):
        load(tmp_path)


def test_code_beside_a_known_architecture_isnt_run(
    tmp_path: Path, tiny_model: Path, runtime: Runtime, marker: Path
) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    map_of_tokenizer = {"auto_map": {"AutoTokenizer": [None, "tokenization_own.Own"]}}
    with_code(tmp_path / "model", marker, {"auto_map": AUTO_MAP}, map_of_tokenizer)
    step = local_model(tmp_path / "model", tmp_path / "out", runtime)
    assert not list(step.rglob("*.py"))
    assert type(load_model(step, Dtype.float32, CPU)).__module__.startswith("transformers.models.")
    assert type(load_tokenizer(step)).__module__.startswith("transformers.")


def test_folder_that_bears_the_name_of_a_hub_model_is_refused(
    tmp_path: Path, tiny_model: Path, marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_model, tmp_path / "org" / "model")
    write_json(tmp_path / "model.json", {"hub_id": "org/model", "commit": "a" * 40})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"org/model: .*bears the name of the hub model"):
        load_model(tmp_path, Dtype.float32, CPU)


def test_folder_that_bears_the_name_of_a_hub_data_set_is_refused(
    tmp_path: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "org" / "rows").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    config = small(tmp_path, {"data.pool.source": {**HUB_ROWS, "hub_id": "org/rows"}})
    runtime.extra = {"commit": "a" * 40}
    source: SourceConfig = config.data.pool.source
    with pytest.raises(HubError, match=r"org/rows: .*bears the name of the hub data set"):
        list(read_raw(source, runtime))


# ---------------------------------------------------------------- paths

HUB_ROWS = {"kind": "hub", "format": "alpaca", "name": "p", "hub_id": "org/rows", "revision": "a" * 40}
HUB_MODEL = {"kind": "hub", "name": "m", "hub_id": "org/model", "revision": "a" * 40}
UP = ["../up", "/etc/passwd", "a/../../b", "..", "a\\..\\b", "a b", ""]


@pytest.mark.parametrize("name", UP)
@pytest.mark.parametrize("key", ["name", "data.name", "model.name"])
def test_path_as_a_name_is_refused(tmp_path: Path, key: str, name: str) -> None:
    with pytest.raises(ConfigError, match="must be letters, digits"):
        small(tmp_path, {key: name})


@pytest.mark.parametrize("name", UP)
@pytest.mark.parametrize("key", ["methods", "evaluation.tasks", "judge.sets", "judge.references"])
def test_path_as_the_name_of_a_part_is_refused(tmp_path: Path, key: str, name: str) -> None:
    rows = {"source": {"kind": "file", "format": "alpaca", "name": "p", "path": "x"}, "sample": 4}
    prompts = {**rows, "source": {**rows["source"], "fields": {"response": None}}}  # type: ignore[dict-item]
    parts: dict[str, Any] = {
        "methods": {"kind": "random"},
        "evaluation.tasks": {"kind": "lm_eval", "metric": "acc", "task": "piqa"},
        "judge.sets": prompts,
        "judge.references": rows,
    }
    judge = {"judge.kind": "nll"} if key.startswith("judge") else {}
    with pytest.raises(ConfigError, match="must be letters, digits"):
        small(tmp_path, {key: {name: parts[key]}, **judge})


@pytest.mark.parametrize("value", [*UP, "./here", "~/model", "a/b/c"])
@pytest.mark.parametrize("key, base", [("model", HUB_MODEL), ("data.pool.source", HUB_ROWS)])
def test_path_as_a_hub_id_is_refused(tmp_path: Path, key: str, base: dict[str, Any], value: str) -> None:
    with pytest.raises(ConfigError, match=rf"{key}\.hub_id=.*must be like org/name"):
        small(tmp_path, {key: {**base, "hub_id": value}})


@pytest.mark.parametrize("value", ["../../../etc/hostname", "/etc/hostname", "a/../../b", ""])
@pytest.mark.parametrize("key, base", [("model", HUB_MODEL), ("data.pool.source", HUB_ROWS)])
def test_path_as_a_revision_is_refused(tmp_path: Path, key: str, base: dict[str, Any], value: str) -> None:
    with pytest.raises(ConfigError, match=rf"{key}\.revision=.*must be a commit, branch or tag"):
        small(tmp_path, {key: {**base, "revision": value}})


def test_path_as_the_id_of_a_row_stays_text(tmp_path: Path, runtime: Runtime) -> None:
    ids = ["../../up", "/etc/passwd", "a\\..\\b", "\0"]
    for name in ("scores", "universe", "out"):
        (tmp_path / name).mkdir()
    write_rows(tmp_path / "scores" / "scores.jsonl", [Score(i, float(n)) for n, i in enumerate(ids)])
    write_rows(tmp_path / "universe" / "rows.jsonl", [Example(i, "a", "", "b") for i in ids])
    before = {path for path in tmp_path.rglob("*") if not path.is_relative_to(tmp_path / "out")}
    inputs = {name: tmp_path / name for name in ("scores", "universe")}
    select_run(SelectConfig(1.0), inputs, tmp_path / "out", runtime)
    assert sorted(read_json(tmp_path / "out" / "ids.json")) == sorted(ids)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["ids.json"]
    assert {path for path in tmp_path.rglob("*") if not path.is_relative_to(tmp_path / "out")} == before


MEMBERS = {"pack/rows.json": b"[1]", "../up.json": b"[2]", "/tmp/absolute.json": b"[3]", "pack/../../up.json": b"[4]"}


def packed(cache: Path, kind: ArchiveKind) -> RegistryFile:
    """An archive with members that point out of it, and links, put into the cache by hand."""
    suffix = "-py3-none-any.whl" if kind is ArchiveKind.wheel else ".tar.gz"
    path = cache / "registry" / "pack-1.0" / f"pack-1.0{suffix}"
    path.parent.mkdir(parents=True)
    if kind is ArchiveKind.wheel:
        with zipfile.ZipFile(path, "w") as zipped:
            for name, content in MEMBERS.items():
                zipped.writestr(name, content)
    else:
        with tarfile.open(path, "w:gz") as tarred:
            link = tarfile.TarInfo("pack/link.json")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tarred.addfile(link)
            for name, content in MEMBERS.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tarred.addfile(info, io.BytesIO(content))
    return RegistryFile("pack", "1.0", hashlib.sha256(path.read_bytes()).hexdigest(), kind, "pack/rows.json")


@pytest.mark.parametrize("kind", ArchiveKind)
def test_path_of_other_members_of_an_archive_is_never_written(tmp_path: Path, kind: ArchiveKind) -> None:
    file = packed(tmp_path / "cache", kind)
    assert fetch(file, tmp_path / "cache", "MIT").read_bytes() == b"[1]"
    assert not list(tmp_path.rglob("up.json")) and not list(tmp_path.rglob("link.json"))
    assert not Path("/tmp/absolute.json").exists()
    for member in [*list(MEMBERS)[1:], *(["pack/link.json"] if kind is ArchiveKind.sdist else [])]:
        file.member = member
        with pytest.raises(ValueError, match=r"registry\.member|holds no file"):
            fetch(file, tmp_path / "cache", "MIT")


# ---------------------------------------------------------------- configurations

NODES = [
    "",
    "model",
    "model.random",
    "data",
    "data.pool.source",
    "data.pool.source.fields",
    "methods",
    "methods.random",
    "methods.icon.bank",
    "methods.own.options",
    "methods.own.options.deep",
    "training",
    "training.lora",
    "evaluation.tasks",
    "evaluation.tasks.tiny",
    "evaluation.tasks.tiny.files",
    "evaluation.tasks.tiny.metrics",
    "judge",
    "judge.benchmarks",
    "cluster",
    "cluster.slurm.training",
    "tracking",
    "paths",
]


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize("key", ["_target_", "_partial_"])
def test_hydra_target_in_any_node_is_refused(tmp_path: Path, marker: Path, node: str, key: str) -> None:
    own = {"methods.own": {"kind": "external", "path": "x.py", "options": {"deep": {}}}}
    if node.startswith("evaluation.tasks.tiny."):
        own[node] = {}
    place = f"{node}.{key}".lstrip(".")
    with pytest.raises(ConfigError) as caught:
        small(tmp_path, {**own, place: "os.mkdir"})
    assert f"  {place}: tells Hydra to make an object" in str(caught.value)


def test_hydra_target_in_a_list_is_refused(tmp_path: Path) -> None:
    own = {"kind": "external", "path": "x.py", "options": {"many": [{"_target_": "os.mkdir"}]}}
    with pytest.raises(ConfigError, match=r"methods\.own\.options\.many\[0\]\._target_: tells Hydra"):
        small(tmp_path, {"methods.own": own})


def test_hydra_target_on_the_command_line_is_refused(tmp_path: Path, marker: Path) -> None:
    done = icon_repro(
        tmp_path, "experiment=smoke_tiny", "action=plan", f"+model._args_=[{marker}]", "+model._target_=os.mkdir"
    )
    assert done.code == 1 and "model._target_: tells Hydra to make an object" in done.error
    assert "Traceback" not in done.error


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.mkdir", "!!python/object/new:os.mkdir", "!!python/name:os.mkdir", "!function"]
)
def test_yaml_tag_in_an_experiment_file_is_refused(tmp_path: Path, marker: Path, tag: str) -> None:
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    text = f"# @package _global_\nname: evil\ndescription: {tag} [{str(marker)!r}]\n"
    (tmp_path / "conf" / "experiment" / "evil.yaml").write_text(text)
    done = icon_repro(tmp_path, f"--config-dir={tmp_path / 'conf'}", "experiment=evil", "action=plan")
    assert done.code == 1 and "Traceback" not in done.error
    assert done.error.startswith(f"error: {tmp_path}/conf/experiment/evil.yaml: not plain YAML (")
    assert "line 3" in done.error


@pytest.mark.parametrize("flag", ["--config-dir={}", "-cd {}"])
def test_hydra_target_under_hydra_in_an_experiment_file_is_refused(tmp_path: Path, marker: Path, flag: str) -> None:
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    callback = f"{{_target_: os.mkdir, _args_: [{marker}]}}"
    text = f"# @package _global_\nname: evil\nhydra:\n  callbacks:\n    mine: {callback}\n"
    (tmp_path / "conf" / "experiment" / "evil.yaml").write_text(text)
    flags = flag.format(tmp_path / "conf").split()
    done = icon_repro(tmp_path, *flags, "experiment=evil", "action=plan")
    assert done.code == 1 and "evil.yaml: hydra.callbacks.mine._target_: tells Hydra to make an object" in done.error


def test_yaml_tag_on_the_command_line_is_text(tmp_path: Path, marker: Path) -> None:
    done = icon_repro(
        tmp_path, "experiment=smoke_tiny", "action=plan", f"data.pool.seed='!!python/object/apply:os.mkdir [{marker}]'"
    )
    assert done.code == 1 and "data.pool.seed='!!python/object/apply:os.mkdir" in done.error


# ---------------------------------------------------------------- the package's own code

MODULES = sorted(Path(package.__file__).parent.rglob("*.py"))
UNSAFE_IMPORTS = {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
UNSAFE_CALLS = {
    "eval",
    "exec",
    "os.system",
    "os.popen",
    "torch.load",
    "yaml.load",
    "yaml.unsafe_load",
    "yaml.full_load",
}
UNSAFE_CALLS |= {
    "hydra.utils.instantiate",
    "instantiate",
    "tarred.extractall",
    "zipped.extractall",
    "pandas.read_pickle",
}
UNSAFE_VALUES = {"trust_remote_code": True, "allow_pickle": True, "shell": True, "weights_only": False}
UNSAFE_VALUES |= {"use_safetensors": False}


def unsafe_uses(text: str) -> list[str]:
    """Imports, calls and arguments in a module that would run what data hold."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            found += [name for name in names if name.split(".")[0] in UNSAFE_IMPORTS]
        elif isinstance(node, ast.Call):
            found += [name for name in [ast.unparse(node.func)] if name in UNSAFE_CALLS]
            found += [f"{k.arg}={k.value.value}" for k in node.keywords if _unsafe(k.arg, k.value)]  # type: ignore[attr-defined]
        elif isinstance(node, ast.Dict):
            pairs = [(k.value, v) for k, v in zip(node.keys, node.values, strict=True) if isinstance(k, ast.Constant)]
            found += [str(key) for key, value in pairs if _unsafe(key, value)]
    return found


def _unsafe(name: Any, value: ast.expr) -> bool:
    return name in UNSAFE_VALUES and isinstance(value, ast.Constant) and value.value is UNSAFE_VALUES[name]


@pytest.mark.parametrize("path", MODULES, ids=[path.relative_to(MODULES[0].parent).as_posix() for path in MODULES])
def test_package_module_runs_nothing_that_data_hold(path: Path) -> None:
    assert unsafe_uses(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "text, found",
    [
        ("import pickle", ["pickle"]),
        ("from joblib import load", ["joblib"]),
        ("torch.load(path)", ["torch.load"]),
        ("np.load(path, allow_pickle=True)", ["allow_pickle=True"]),
        ("common = {'trust_remote_code': True}", ["trust_remote_code"]),
        ("np.load(path, allow_pickle=False)", []),
    ],
)
def test_unsafe_uses_are_found(text: str, found: list[str]) -> None:
    assert unsafe_uses(text) == found
