"""The values in conf/data fit the schema; those that need no download give what they promise."""

from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

import icon_repro
from icon_repro.config.load import conf_dir
from icon_repro.data.options import DataConfig, SourceKind
from icon_repro.data.prepare import run
from icon_repro.engine.schema import build

FILES = sorted((conf_dir() / "data").glob("*.yaml"))


def load(path: Path) -> DataConfig:
    return build(DataConfig, OmegaConf.to_container(with_defaults(path), resolve=True))


def with_defaults(path: Path) -> DictConfig:
    """A file of conf/data over those that it names in its defaults."""
    text = path.read_text(encoding="utf-8").replace("${package_dir:}", str(Path(icon_repro.__file__).parent))
    values = OmegaConf.create(text)
    assert isinstance(values, DictConfig)
    below = [name for name in values.pop("defaults", []) if name != "_self_"]
    merged = OmegaConf.merge(*(with_defaults(path.with_name(f"{name}.yaml")) for name in below), values)
    assert isinstance(merged, DictConfig)
    return merged


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_data_conf_fits_the_schema_and_its_name(path):
    data = load(path)
    assert data.name == path.stem
    for rows in (data.pool, data.assessment):
        assert rows.source.licence != "not stated"
        assert "/" not in rows.source.name and " " not in rows.source.name  # it names a folder


@pytest.mark.parametrize("role", ["pool", "assessment"])
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_data_conf_expected_sizes_are_the_measured_ones(path, role, runtime, tmp_path):
    rows = getattr(load(path), role)
    if rows.source.kind is not SourceKind.file:
        pytest.skip("needs a download")
    file = Path(rows.source.path)
    file = file if file.is_absolute() else conf_dir().parent / file
    if not file.is_file():
        pytest.skip(f"needs {rows.source.path}")
    runtime.files["source"] = file
    metrics = run(rows, {}, tmp_path, runtime)
    assert metrics["rows"] == rows.expected_rows and metrics["short_by"] == 0
    assert metrics["prompt_chars"] == pytest.approx(rows.expected_prompt_chars, abs=1)
    assert metrics["response_chars"] == pytest.approx(rows.expected_response_chars, abs=1)
