"""What the methods' own published code computes on a tiny model: the rows, the model, the values."""

import json
from pathlib import Path
from typing import Any

from icon_repro.data.rows import Example

# the options of each baseline that its golden values were made with, besides compat=published
SETTINGS: dict[str, dict[str, Any]] = {
    "ifd": {"kind": "ifd", "drop_above_one": False},
    "superfiltering": {
        "kind": "ifd",
        "ratio": "perplexity",
        "drop_above_one": False,
        "template": "plain",
        "direct": "",
    },
    "rds": {"kind": "rds"},
    "nuggets": {"kind": "nuggets", "anchors": {"count": 8}},
    "selectit": {"kind": "selectit"},
}


def published(name: str, **more: Any) -> dict[str, Any]:
    return {**SETTINGS[name], "compat": "published", **more}


def golden(shared: Path, name: str) -> Any:
    return json.loads((shared / "golden" / "methods" / name).read_text(encoding="utf-8"))


def lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def candidates(shared: Path) -> list[Example]:
    rows = lines(shared / "golden" / "methods" / "candidates.jsonl")
    return [Example(row["id"], row["instruction"], row["input"], row["output"]) for row in rows]


def assessment(shared: Path) -> list[Example]:
    rows = lines(shared / "golden" / "methods" / "assessment.jsonl")
    return [Example(row["id"], row["inputs"], "", row["response"], row["group"], ready=True) for row in rows]


def model_step(shared: Path, folder: Path) -> Path:
    """A folder like that of a model step."""
    folder.mkdir(parents=True)
    (folder / "weights").symlink_to(shared / "golden" / "tiny_llama")
    (folder / "model.json").write_text('{"hub_id": null, "commit": null}', encoding="utf-8")
    return folder
