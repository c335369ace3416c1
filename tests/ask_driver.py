"""Asks a local endpoint in a process of its own: ``ask_driver.py URL FOLDER COUNT CONCURRENCY``; prints JSON."""

import json
import sys
import time
from pathlib import Path

from icon_repro.lm.endpoint import Request, ask
from icon_repro.lm.options import EndpointConfig


def number(text: str) -> int:
    return int(text.rpartition(" ")[2])


if __name__ == "__main__":
    url, folder, count, concurrency = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    endpoint = EndpointConfig("toy", base_url=url, concurrency=concurrency, retries=20, timeout_s=5.0)
    endpoint.backoff_s, endpoint.max_wait_s = 0.001, 0.1
    requests = [Request(f"k{i}", [{"role": "user", "content": f"say {i}"}]) for i in range(count)]
    done: list[int] = []
    wall, cpu = time.perf_counter(), time.process_time()
    answers = ask(requests, endpoint, folder, number, done.append)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    right = all(answer.value == i for i, answer in enumerate(answers))
    print(json.dumps({"right": right, "done": sum(done), "wall_ms": 1000 * wall / count, "cpu_ms": 1000 * cpu / count}))
