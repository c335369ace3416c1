"""The studies run as scripts of a checkout, and each that committed tables says how they are made again."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    "script", ["llama31_8b/hours.py", "pilot/pilot.py", "pilot/pilot_matrices.py", "price/price.py"]
)
def test_study_runs_as_a_script(script: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "experiments" / script), "--help"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},  # as an editable install has it
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: {Path(script).name} ")


def test_study_files_are_modules_of_at_most_400_lines() -> None:
    files = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in ROOT.glob("experiments/*/*.py")}
    assert len(files) >= 20
    assert {str(path): lines for path, lines in files.items() if lines > 400} == {}
