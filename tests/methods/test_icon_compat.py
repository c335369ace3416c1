"""Every defect of the released scripts as an option of its own, and all of them against what those scripts gave."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments.llama31_8b import parity
from icon_repro.data.options import Dtype
from icon_repro.data.rows import Example
from icon_repro.engine.schema import plain
from icon_repro.lm.budget import TokenBudget
from icon_repro.lm.load import load_model, load_tokenizer
from icon_repro.lm.tokens import TokenError
from icon_repro.methods.icon.layout import Layout
from icon_repro.methods.icon.options import Compat, Control, IconConfig, NoiseUnit, resolved
from icon_repro.methods.icon.pairs import Engine, candidate_text
from icon_repro.methods.icon.score import aggregate

CANDIDATE = Example("c1", "Add the numbers.", "3 and 4", "The sum of 3 and 4 is 7.")
ROWS = [
    Example("a1", "Name three animals.", "", "A dog, a cat and a very large elephant."),
    Example("a2", "### Question:\nWhere is it?\n\n### Response:", "", "It is at home today", ready=True),
]
PAPER = resolved(IconConfig())
OFFICIAL = resolved(IconConfig(compat=Compat.official))


def engine_of(model_step: Path, cfg: IconConfig, **more: Any) -> Engine:
    layout = Layout(load_tokenizer(model_step), cfg)
    model = load_model(model_step, Dtype.float32, torch.device("cpu"))
    return Engine(model, layout, cfg, TokenBudget(model, 4096), **more)


def released(engine: Engine, context: str | None, row: Example) -> float:
    """A pair as the released scripts score it: ids with special tokens, first ids dropped, the mask counts them."""
    tokenizer = engine.layout.tokenizer
    prompt, answer = row.instruction, row.response
    if not row.ready:
        prompt = f"### Instruction:\n{prompt}\n\n### Response:"
    ids = [tokenizer(text)["input_ids"] for text in (context or "", "\n\n\n", prompt, answer)]
    if context is None:
        joined, masked = ids[2] + ids[3][1:], len(ids[2])
    else:
        joined = ids[0] + ids[1][1:] + ids[2][1:] + ids[3][1:]
        masked = len(ids[0]) + len(ids[1]) + len(ids[2])
    labels = torch.tensor([[-100] * masked + joined[masked:]])
    with torch.no_grad():
        return float(engine.model(input_ids=torch.tensor([joined]), labels=labels).loss)


def test_official_pairs_equal_the_released_layout(model_step: Path) -> None:
    noise = {("c1", "a1"): "x]9 qZ!~ 11", ("c1", "a2"): "aa#b"}
    engine = engine_of(model_step, OFFICIAL, noise=lambda c, a: noise[c, a])
    rows = [engine.layout.row(row) for row in ROWS]
    alone = engine.mean_nll([], [row.alone for row in rows])
    candidate, control = engine.candidate(CANDIDATE, rows), engine.control(CANDIDATE, rows, ["a1", "a2"])
    for index, row in enumerate(ROWS):
        assert alone[index] == pytest.approx(released(engine, None, row), abs=1e-5)
        assert candidate[index] == pytest.approx(released(engine, candidate_text(CANDIDATE), row), abs=1e-5)
        assert control[index] == pytest.approx(released(engine, noise["c1", row.id], row), abs=1e-5)


@pytest.mark.parametrize("name", ["skip_first_tokens", "empty_pairs", "drop_first_token", "noise_unit", "control"])
def test_resolved_every_defect_is_a_single_option(name: str) -> None:
    official, paper = getattr(OFFICIAL, name), getattr(PAPER, name)
    assert official != paper
    assert getattr(resolved(IconConfig(**{name: official})), name) == official
    assert getattr(resolved(IconConfig(compat=Compat.official, **{name: paper})), name) == paper
    others = {k: v for k, v in plain(resolved(IconConfig(**{name: official}))).items() if k != name}
    assert others == {k: v for k, v in plain(PAPER).items() if k != name}


def test_resolved_paper_hashes_as_before_the_options_existed() -> None:
    hashed = plain(resolved(IconConfig(control=Control.per_candidate)), hashed_only=True)
    assert hashed == {
        "kind": "icon",
        "control": "per_candidate",
        "seed": 0,
        "dtype": "float32",
        "separator": "\n\n\n",
        "max_context_tokens": 2040,
        "max_prompt_tokens": 1024,
        "max_response_tokens": 1024,
        "epsilon": 1e-6,
        "shard_candidates": 16,
    }
    assert plain(PAPER, hashed_only=True) == {**hashed, "control": "bank"}
    assert plain(OFFICIAL, hashed_only=True)["drop_first_token"] is True


def test_skip_first_tokens_alone_scores_two_tokens_less_after_a_context(model_step: Path) -> None:
    cfg = resolved(IconConfig(skip_first_tokens=True))
    tokenizer = load_tokenizer(model_step)
    usual, skipping = (Layout(tokenizer, c).row(ROWS[0]) for c in (PAPER, cfg))
    assert usual.after_context and skipping.after_context and skipping.alone
    assert skipping.after_context.ids == usual.after_context.ids
    assert skipping.after_context.answer_tokens == usual.after_context.answer_tokens - 2
    assert skipping.alone == usual.alone


def test_drop_first_token_alone_matters_only_without_a_bos(model_step: Path) -> None:
    tokenizer = load_tokenizer(model_step)
    layout = Layout(tokenizer, resolved(IconConfig(drop_first_token=True)))
    usual = Layout(tokenizer, PAPER)
    ours, theirs = layout.row(ROWS[0]).after_context, usual.row(ROWS[0]).after_context
    assert ours and theirs
    lost = 0 if layout.bos else 1
    assert ours.answer_tokens == theirs.answer_tokens - lost
    assert len(ours.ids) == len(theirs.ids) - 2 * lost
    assert len(layout.separator()) == len(usual.separator()) - lost


@pytest.mark.parametrize("response, tokens", [("a", 1), ("ab", 2)])
def test_empty_pairs_short_response_is_nan_or_refused(model_step: Path, response: str, tokens: int) -> None:
    row = Example("a7", "Say it.", "", response)
    tokenizer = load_tokenizer(model_step)
    assert len(tokenizer(response, add_special_tokens=False)["input_ids"]) <= tokens
    assert Layout(tokenizer, OFFICIAL).row(row).after_context is None
    with pytest.raises(TokenError, match=r"a7.*empty_pairs=nan"):
        Layout(tokenizer, resolved(IconConfig(skip_first_tokens=True))).row(row)
    engine = engine_of(model_step, OFFICIAL)
    rows = [engine.layout.row(row), engine.layout.row(ROWS[0])]
    values = engine.candidate(CANDIDATE, rows)
    assert np.isnan(values).tolist() == [True, False]


def test_noise_unit_characters_has_the_candidates_length_in_characters(model_step: Path) -> None:
    characters = engine_of(model_step, resolved(IconConfig(noise_unit=NoiseUnit.characters)))
    tokens = engine_of(model_step, PAPER)
    context, _ = tokens.layout.context(candidate_text(CANDIDATE))
    assert len(tokens.random_context(CANDIDATE, "k")) == len(context)
    text = characters.layout.tokenizer.decode(
        characters.random_context(CANDIDATE, "k"), skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    assert len(text) == len(candidate_text(CANDIDATE))


def test_control_per_pair_draws_another_text_for_each_pair(model_step: Path) -> None:
    engine = engine_of(model_step, resolved(IconConfig(control=Control.per_pair)))
    rows = [engine.layout.row(ROWS[0]), engine.layout.row(ROWS[0])]
    one, other = engine.control(CANDIDATE, rows, ["a1", "a2"])
    assert one != other
    assert engine.control(CANDIDATE, rows, ["a1", "a2"]).tolist() == [one, other]
    expected = engine.mean_nll(engine.random_context(CANDIDATE, "c1:a2") + engine.layout.separator(),
                               [rows[1].after_context])  # fmt: skip
    assert other == pytest.approx(expected[0], abs=1e-5)


def test_aggregate_nan_is_left_out_of_the_mean_but_counted() -> None:
    task = np.array([[0.6, -0.2, np.nan, 0.2]])
    made = aggregate(task, skip_nan=True)
    assert made["global"][0] == pytest.approx(0.2)
    assert made["variance"][0] == pytest.approx(np.var([0.6, -0.2, 0.2], ddof=1))
    assert made["consistency"][0] == 0.5
    assert made["coverage"][0] == 0.25
    assert made["significance"][0] == pytest.approx(2 / (1 + np.exp(-10)) - 1)


@pytest.mark.parametrize("score, expected", [(0.6, 1.0), (-0.6, -1.0), (0.0, 0.0)])
def test_aggregate_significance_is_clamped(score: float, expected: float) -> None:
    assert aggregate(np.full((1, 3), score))["significance"][0] == pytest.approx(expected, abs=1e-12)


def test_parity_golden_folder_is_reproduced(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert parity.main([str(shared / "golden")]) == 0
    said = capsys.readouterr().out
    assert said.count("  ok") == 2
    assert "192 pairs, 16 of them NaN" in said


@pytest.mark.parametrize(
    "file, column, message", [("pairs", 2, "context NLL"), ("scores", 1, "aggregated"), ("baseline", 1, "baseline NLL")]
)
def test_parity_altered_golden_values_fail(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, column: int, message: str
) -> None:
    for path in (shared / "golden").iterdir():
        if path.name.startswith("tiny_llama") and path.is_dir():
            (tmp_path / path.name).symlink_to(path)
        elif path.is_file() and "tiny_qwen" not in path.name:
            shutil.copyfile(path, tmp_path / path.name)
    table = tmp_path / f"tiny_llama_{file}.csv"
    lines = table.read_text(encoding="utf-8").split("\n")
    cells = lines[1].split(",")
    cells[column] = str(float(cells[column]) + 2e-5)
    table.write_text("\n".join([lines[0], ",".join(cells), *lines[2:]]), encoding="utf-8")
    assert parity.main([str(tmp_path)]) == 1
    assert message in capsys.readouterr().out.partition("FAILED")[2]


def test_parity_folder_without_models_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert parity.main([str(tmp_path)]) == 2
    assert "holds no model" in capsys.readouterr().err
