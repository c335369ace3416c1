"""Runs the toy plan as a process of its own: ``toy_driver.py FOLDER TROUBLE``; prints the summary as JSON last."""

import dataclasses
import json
import sys
from pathlib import Path

from toy_stages import diamond

from icon_repro.engine.artifact import Store
from icon_repro.engine.options import ClusterConfig
from icon_repro.engine.run import run

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    cluster = ClusterConfig(device="cpu")
    summary = run(
        diamond(folder, sys.argv[2]), Store(folder / "work"), cluster, folder, lambda line: print(line, flush=True)
    )
    print(json.dumps(dataclasses.asdict(summary)))
