"""A selection given as a list of ids: formats, the order that is kept, and what is refused."""

import json
from pathlib import Path

import pytest
from slow_baselines import ROWS, run_method

from icon_repro.engine.records import write_rows
from icon_repro.engine.runtime import Runtime
from icon_repro.methods import ids
from icon_repro.methods.ids import IdsConfig, IdsError

CHOSEN = [ROWS[3].id, ROWS[0].id, ROWS[2].id]
FORMATS = {
    "list.json": json.dumps(CHOSEN),
    "list.jsonl": "".join(json.dumps({"rank": n, "id": i}) + "\n" for n, i in enumerate(CHOSEN)),
    "list.csv": "rank,id\n" + "".join(f"{n},{i}\n" for n, i in enumerate(CHOSEN)),
    "list.txt": "\n".join(CHOSEN),
}


@pytest.mark.parametrize("name", FORMATS)
def test_ids_are_selected_in_the_order_of_the_file(
    model_step: Path, tmp_path: Path, runtime: Runtime, name: str
) -> None:
    (tmp_path / name).write_text(FORMATS[name], encoding="utf-8-sig")  # a byte order mark is no part of an id
    result = run_method(tmp_path, runtime, model_step, {"kind": "ids", "path": str(tmp_path / name)})
    assert result.ranks == CHOSEN
    assert result.failures == {row.id: "not in the list" for row in ROWS if row.id not in CHOSEN}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.json", '["strange"]', r"1 of 1 ids aren't among the \d+ rows to select from .first: 'strange'"),
        ("x.json", json.dumps([ROWS[0].id, ROWS[0].id]), "1 ids are listed twice"),
        ("x.json", "[", "can't be read as ids"),
        ("x.json", "[1.5]", "each a text or a whole number"),
        ("x.json", "[1, 2]", r"2 of 2 ids aren't among .* .first: '1'"),
        ("x.csv", "name\na\n", "column id"),
        ("x.txt", "", "at least one"),
    ],
)
def test_ids_of_another_form_are_refused_with_the_remedy(
    tmp_path: Path, runtime: Runtime, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    write_rows(tmp_path / "rows.jsonl", ROWS)
    runtime.files = {"ids": tmp_path / name}
    with pytest.raises(IdsError, match=message):
        ids.run(IdsConfig(), {"candidates": tmp_path}, tmp_path, runtime)
