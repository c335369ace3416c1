"""A method is one file: in a copy of the package a file and its YAML are added, and every action knows it."""

import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_external_method import LENGTH

import icon_repro
from icon_repro.config.load import conf_dir
from icon_repro.data.prompts import alpaca_prompt
from icon_repro.data.rows import Example, Score
from icon_repro.engine.records import read_rows
from icon_repro.lm.load import load_tokenizer

PAGE = Path(__file__).parents[2] / "CONTRIBUTING.md"
YAML = "kind: shortest\nsign: -1\nnoise: 0.5\nrepeats: 2\n"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of package and conf with one more file each, and a folder to run in."""
    folder = tmp_path_factory.mktemp("checkout")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(icon_repro.__file__).parent, folder / "icon_repro", ignore=ignored)
    shutil.copytree(conf_dir(), folder / "conf")
    (folder / "icon_repro" / "methods" / "shortest.py").write_text(LENGTH, encoding="utf-8")
    (folder / "conf" / "method" / "shortest.yaml").write_text(YAML, encoding="utf-8")
    (example,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    (folder / "icon_repro" / "methods" / "unsure.py").write_text(example, encoding="utf-8")
    (folder / "conf" / "method" / "unsure.yaml").write_text("kind: unsure\n", encoding="utf-8")
    return folder


def test_one_file_and_one_yaml_add_a_method(checkout: Path) -> None:
    common = ["experiment=smoke_tiny", "judge=none", "base=false", "full=false", "+method@methods.shortest=shortest"]
    common += [
        "+method@methods.unsure=unsure",
        "~methods.icon",
        "cluster.executor=inline",
        "cluster.device=cpu",
        "tracking.wandb=disabled",
        "name=mine",
    ]

    def said(*more: str) -> str:
        command = [sys.executable, "-m", "icon_repro", *common, *more]
        environment = {**os.environ, "PYTHONPATH": str(checkout)}
        done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "score/shortest-r0" in said("action=plan", "plan=full")
    said("action=run")
    said("action=compare")
    said("action=report")
    said("action=export")
    page = (checkout / "results" / "mine" / "table.md").read_text(encoding="utf-8")
    assert "shortest" in page
    cards = [path.read_text(encoding="utf-8") for path in checkout.glob("work/export/mine/shortest-*/README.md")]
    assert len(cards) >= 2 and all("characters of the response; higher" in card for card in cards)
    steps = {path.name.rpartition("-")[0] for path in checkout.glob("work/score/shortest-*")}
    assert steps == {"shortest-r0", "shortest-r1"}


def test_contributing_example_scores_are_entropies(checkout: Path) -> None:
    """As the other test left them, against sums over the whole vocabulary."""
    (model,) = checkout.glob("work/model/*")
    (scored,) = checkout.glob("work/score/unsure-*")
    (candidates,) = checkout.glob("work/prepare/candidates-*")
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = load_tokenizer(model)
    network = AutoModelForCausalLM.from_pretrained(model / "weights")
    rows = {row.id: row for row in read_rows(candidates / "rows.jsonl", Example)}
    for score in read_rows(scored / "scores.jsonl", Score)[:5]:
        prompt = tokenizer(alpaca_prompt(rows[score.id]))["input_ids"]
        ids = [*prompt, *tokenizer(rows[score.id].response, add_special_tokens=False)["input_ids"]]
        with torch.inference_mode():
            shares = network(torch.tensor([ids])).logits[0].double().softmax(-1)
        places = range(len(prompt) - 1, len(ids) - 1)
        entropies = [-sum(p * math.log(p) for p in shares[place].tolist()) for place in places]
        assert score.score == pytest.approx(sum(entropies) / len(entropies), rel=1e-5)
