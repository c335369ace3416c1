"""What planning and the engine cost with 2,000 steps, in processor time: the machine may be busy."""

import json
import subprocess
import sys

import pytest

CODE = """
import json, resource, sys, time
from pathlib import Path
from icon_repro.config.compose import composed
from icon_repro.engine.artifact import Store
from icon_repro.experiment import plan
from icon_repro.engine.run import run, status

work = Path(sys.argv[1])
seeds = ",".join(map(str, range(100)))
config = composed("smoke_tiny", [f"seeds=[{seeds}]", "fractions=[0.1,0.2,0.25]", f"paths.work={work}"])
begun = time.process_time()
steps = plan(config).steps
states = [status(step, Store(work)).state for step in steps]
planned = time.process_time()
for step in steps:
    folder = work / step.folder
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(json.dumps({"format": 1, "files": {}, "hashed": step.hashed}))
filled = time.process_time()
summary = run(steps, Store(work), config.cluster, work, print)
ended = time.process_time()
print(json.dumps({
    "steps": len(steps), "missing": states.count("missing"), "cached": len(summary.cached),
    "plan_s": planned - begun, "run_s": ended - filled,
    "peak_mb": int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024,
}))
"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    work = tmp_path_factory.mktemp("scale")
    done = subprocess.run([sys.executable, "-c", CODE, str(work)], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_plan_of_2000_steps_takes_under_2_s_and_200_mb(measured: dict[str, float]) -> None:
    assert measured["missing"] == measured["steps"] > 2000
    assert measured["plan_s"] < 2 and measured["peak_mb"] < 200


def test_run_of_cached_steps_takes_under_5_ms_each(measured: dict[str, float]) -> None:
    assert measured["cached"] == measured["steps"]
    assert measured["run_s"] / measured["steps"] < 0.005
