"""A data set, a model of another family, a benchmark and a method from outside, as experiments/README.md shows them.

The page's own files are taken from it and run as they stand; only the rows and the model's weights are made here.
"""

import csv
import json
import logging
import re
from pathlib import Path

import pytest

from icon_repro.__main__ import main
from icon_repro.data.rows import Score
from icon_repro.engine.artifact import read_record
from icon_repro.engine.records import read_json, read_rows

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "experiments" / "README.md"
CHATS = [
    {
        "turns": [
            {"role": "user", "content": f"Count to {i}."},
            {"role": "assistant", "content": " ".join(str(n) for n in range(1, i + 1))},
        ]
    }
    for i in range(2, 10)
]
TARGETS = [{"instruction": f"Name {i}.", "input": "", "output": f"It is {i}."} for i in range(4)]
TRIVIA = [{"question": f"Is {i} even?", "options": "A. yes\nB. no", "answer": "AB"[i % 2]} for i in range(6)]


def files_of_the_page() -> dict[str, str]:
    """Content by path of every fenced file under ``mine/``."""
    blocks = re.findall(r"^```(?:yaml|python)\n# (mine/\S+)\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S)
    return dict(blocks)


def save_other_family(folder: Path) -> None:
    """A random GPT-NeoX with a byte-level tokenizer: other names of layers than Llama, no BOS."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(["<|end|>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>").save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = GPTNeoXConfig(vocab_size=len(vocabulary), max_position_embeddings=2048, **shape)
    GPTNeoXForCausalLM(config).save_pretrained(folder)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the page's command has been run, with ICon beside the page's methods."""
    folder = tmp_path_factory.mktemp("outside")
    for name, text in files_of_the_page().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (folder / "chats.jsonl").write_text("\n".join(map(json.dumps, CHATS)), encoding="utf-8")
    (folder / "targets.json").write_text(json.dumps(TARGETS), encoding="utf-8")
    (folder / "trivia.jsonl").write_text("\n".join(map(json.dumps, TRIVIA)), encoding="utf-8")
    save_other_family(folder / "weights")
    (command,) = re.findall(r"^python -m (icon_repro --config-dir .*)$", PAGE.read_text("utf-8"), re.M)
    quick = ["cluster.executor=inline", "cluster.device=cpu", "tracking.wandb=disabled", "base=false", "full=false"]
    icon = ["+method@methods.icon=icon", "methods.icon.dtype=float32", "methods.icon.bank.lengths=[8,32]"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sys.argv", [*command.split(), *icon, *quick])
        patch.setattr(logging, "_handlerList", [])  # Hydra closes them all; absl's would close pytest's stderr
        with pytest.raises(SystemExit) as left:
            main()
    assert left.value.code == 0
    return folder


def test_page_shows_a_file_of_each_kind() -> None:
    folders = {Path(name).parts[1] for name in files_of_the_page()}
    assert folders == {"data", "model", "evaluation", "shortest.py", "experiment"}


def scores(folder: Path, method: str) -> dict[str, float]:
    (path,) = (folder / "work" / "score").glob(f"{method}-????????????/scores.jsonl")
    return {row.id: row.score for row in read_rows(path, Score)}


def test_added_data_set_is_read_in_its_own_format(finished: Path) -> None:
    (pool,) = (finished / "work" / "prepare").glob("pool-my_rows-*")
    rows = [json.loads(line) for line in (pool / "rows.jsonl").read_text("utf-8").splitlines()]
    expected = {(chat["turns"][0]["content"], chat["turns"][1]["content"]) for chat in CHATS}
    assert {(row["instruction"], row["response"]) for row in rows} == expected


def test_added_method_selects_what_it_scores_highest(finished: Path) -> None:
    (select,) = (finished / "work" / "select").glob("shortest-f0.5-*")
    found = scores(finished, "shortest")
    assert len(found) == len(CHATS)
    assert read_json(select / "ids.json") == sorted(found, key=lambda i: (-found[i], i))[:4]


def test_added_model_of_another_family_is_scored_tuned_and_evaluated(finished: Path) -> None:
    assert len(set(scores(finished, "icon").values())) == len(CHATS)
    (adapter,) = (finished / "work" / "train").glob("icon-f0.5-s0-*/adapter/adapter_config.json")
    assert read_json(adapter)["target_modules"] == ["query_key_value"]


def test_added_benchmark_is_a_column_of_the_table(finished: Path) -> None:
    with (finished / "results" / "my_experiment" / "table.csv").open(encoding="utf-8", newline="") as file:
        values = {line["method"]: line["value"] for line in csv.DictReader(file) if line["measure"] == "trivia"}
    assert list(values) == ["random", "shortest", "icon"]
    assert all(0 <= float(value) <= 100 for value in values.values())
    (step,) = (finished / "work" / "evaluate").glob("shortest-f0.5-s0-trivia-*")
    metrics = read_record(step)["metrics"]
    assert metrics["items"] == len(TRIVIA) and round(metrics["value"] * 6, 6) in range(7)
