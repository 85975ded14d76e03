"""LDS: one chunk (five inner steps and their hypergradient) over candidates, over all pairs, and unrolled.

An outer epoch is up to 80 such chunks, all alike. Each side runs in a process of its own, so that its peak
memory is its own; the peak of the imports is taken off. The unrolled side is the straightforward dense
version that keeps the graph of all steps.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

import cli
from zoo import LDS
from zoo.engine import run

ROOT = Path(__file__).parents[2]
SIDES = ("candidates", "dense", "unrolled")
CODE = """
import json, resource, sys, time, torch
from zoo.lds.bilevel import Draw, Problem, hypergradient, unrolled_hypergradient
from zoo.lds.edges import AllPairs, CandidatePairs, draw_edges
from zoo.lds.network import GCN, Features
torch.set_num_threads(1)
side, nodes = sys.argv[1], int(sys.argv[2])
g = torch.Generator().manual_seed(0)
x, y = torch.randn(nodes, 32, generator=g), torch.randint(7, (nodes,), generator=g)
ends = torch.randint(nodes, (2, 10 * nodes), generator=g)
code = ends.min(0).values * nodes + ends.max(0).values
code = code[ends[0] != ends[1]].unique()
pairs = torch.stack([code // nodes, code % nodes])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
if side == "candidates":
    edges, theta = CandidatePairs(pairs, nodes), torch.full((pairs.shape[1],), 0.28)
else:
    edges = AllPairs(nodes)
    theta = torch.zeros(nodes, nodes)
    theta[pairs[0], pairs[1]] = 0.28
    theta = theta[edges._upper]
network = GCN(32, (16,), 7)
split = torch.randperm(nodes, generator=g)
problem = Problem(network, Features(x), y, split[:100], split[100:300], edges)
rate = torch.tensor(0.02)
def draw(k):
    r = torch.Generator().manual_seed(k)
    values = draw_edges(theta, torch.rand(len(theta), generator=r))
    return Draw(edges.leaf(values) if side == "unrolled" else edges.drawn(values), None)
start = problem.fresh_state(network.initial(g))
def chunk():
    if side == "unrolled":
        return unrolled_hypergradient(problem, start, 1, [draw(k) for k in range(5)], draw(5).leaf, rate, 5)
    state, states = start, []
    for k in range(5):
        states.append(state)
        state = problem.step(state, k + 1, draw(k), rate)[0].detach()
    return hypergradient(problem, states, state, 1, draw, draw(5).leaf, rate, 5)
times = []
for _ in range(int(sys.argv[3])):
    began = time.process_time()
    found = chunk()
    times.append(time.process_time() - began)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"seconds": min(times), "MiB": (peak - before) / 1024, "loss": float(found.loss)}))
"""


def measure(side: str, nodes: int, rounds: int) -> dict[str, float]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CODE, side, str(nodes), str(rounds)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=1800)
    return dict(json.loads(done.stdout))


def test_chunk(record: Callable[[str, float], None], request: pytest.FixtureRequest) -> None:
    quick = request.config.getoption("--quick")
    sizes, rounds = ((200, 400), 1) if quick else ((1000, 2000, 4000), 1)
    found = {}
    for nodes in sizes:
        for side in SIDES:
            found[side, nodes] = measure(side, nodes, rounds)
            record(f"{side}/{nodes}/seconds", found[side, nodes]["seconds"])
            record(f"{side}/{nodes}/MiB", found[side, nodes]["MiB"])
    first, last = sizes[0], sizes[-1]
    for side in SIDES:
        ratio = found[side, last]["seconds"] / found[side, first]["seconds"]
        record(f"{side}/time_exponent", math.log(ratio) / math.log(last / first))
    record("speedup", found["unrolled", last]["seconds"] / found["candidates", last]["seconds"])
    record("leaner", found["unrolled", last]["MiB"] / max(found["candidates", last]["MiB"], 1.0))
    # reverse loop and unroll did the same work: their draws are the same
    for nodes in sizes:
        assert found["dense", nodes]["loss"] == pytest.approx(found["unrolled", nodes]["loss"], rel=1e-4)


UPDATES = {"wine": 60, "cancer": 20, "digits": 5, "cora": 4, "cora_candidates": 6}


def test_outer_update(
    record: Callable[[str, float], None], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """CPU seconds of an outer update (draws, inner steps, hypergradient, projection) of shipped configs."""
    quick = request.config.getoption("--quick")
    for name, count in ({"wine": 3} if quick else UPDATES).items():
        if (
            "cora" in name
            and not (Path(os.environ.get("ZOO_DATA", "data")) / "graphs/planetoid/Cora").is_dir()
        ):
            continue
        times: list[float] = []
        original = LDS.training_step

        def timed(self: LDS, *args: Any, times: list[float] = times, original: Any = original) -> None:
            began = time.process_time()
            original(self, *args)
            times.append(time.process_time() - began)

        flags = [f"--trainer.max_steps={count}", "--trainer.limit_val_batches=0"]
        quiet = ["--trainer.enable_progress_bar=false", f"--trainer.default_root_dir={tmp_path}"]
        with mock.patch.object(LDS, "training_step", timed), mock.patch.object(run, "plot_curves"):
            assert cli.main(["fit", "--config", f"lds_{name}", *flags, *quiet]) == 0
        assert len(times) == count
        record(
            f"update/{name}/seconds", statistics.median(times[1:])
        )  # the first one also prepares the graph
