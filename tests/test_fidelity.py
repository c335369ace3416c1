"""The committed table of experiments/fidelity, made again on the golden rows."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from icon_repro.engine.records import read_json

ROOT = Path(__file__).resolve().parents[1]
WORDED = ("questions", "compat", "against its code")  # of SelectIT, whose released questions aren't part of the project


@pytest.fixture(scope="module")
def fidelity() -> Any:
    spec = importlib.util.spec_from_file_location("fidelity", ROOT / "experiments" / "fidelity" / "fidelity.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fidelity"] = module
    spec.loader.exec_module(module)
    return module


def keyed(rows: list[dict[str, Any]]) -> dict[tuple[str, str, str], dict[str, Any]]:
    made = {(row["method"], row["option"], row["ours"]): row for row in rows}
    assert len(made) == len(rows)
    return made


def test_fidelity_table_of_the_golden_rows_is_made_again(
    shared: Path, tmp_path: Path, fidelity: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SELECTIT_QUESTIONS", raising=False)
    monkeypatch.setattr(fidelity, "SHARED", shared)
    committed = keyed(read_json(ROOT / "results" / "fidelity" / "golden.json"))
    found = keyed(fidelity.golden(tmp_path))
    assert all(key[0] == "selectit" and key[1] in WORDED for key in committed.keys() - found.keys())
    for key, row in found.items():
        assert row == {
            **committed[key],
            "spearman": pytest.approx(committed[key]["spearman"], abs=0.002),
            "overlap": committed[key]["overlap"],
        }
    published = [row for row in found.values() if row["ours"] == "compat=published"]
    assert len(published) == 4 and {(row["spearman"], row["overlap"]) for row in published} == {(1.0, 1.0)}


def test_fidelity_table_is_that_of_its_parts(fidelity: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = ROOT / "results" / "fidelity"
    for part in results.glob("*.json"):
        (tmp_path / part.name).write_bytes(part.read_bytes())
    monkeypatch.setattr(fidelity, "RESULTS", tmp_path)
    fidelity.write_table()
    for name in ("table.csv", "table.md"):
        assert (tmp_path / name).read_text(encoding="utf-8") == (results / name).read_text(encoding="utf-8")


def test_agreement_of_the_best_and_of_ranks(fidelity: Any) -> None:
    one = {f"r{i:02}": float(i) for i in range(20)}
    turned = {i: -score for i, score in one.items()}
    assert fidelity.agreement(one, one) == {"rows": 20, "spearman": 1.0, "overlap": 1.0}
    assert fidelity.agreement(one, turned) == {"rows": 20, "spearman": -1.0, "overlap": 0.0}
    less = {i: score for i, score in one.items() if i != "r19"}
    assert fidelity.agreement(one, less) == {"rows": 19, "spearman": 1.0, "overlap": round(2 / 3, 3)}
