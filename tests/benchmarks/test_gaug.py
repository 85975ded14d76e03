"""GAug-O's joint step dense against sparse: seconds and bytes, on Cora where ZOO_DATA has it.

Memory is the growth of a fresh process from just before two steps to its peak.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CORA = Path(os.environ.get("ZOO_DATA", "nowhere")) / "graphs" / "gaug" / "cora.npz"


def measure(sparse: bool) -> dict[str, float]:
    """Two joint steps with the released values for Cora and a GCN."""
    import torch

    import zoo
    from datamodules import GAugGraph
    from zoo.gaug.graph import classification_loss, prepare
    from zoo.gaug.network import normalised_for
    from zoo.randomness import generator

    torch.set_num_threads(1)
    data = GAugGraph("cora")
    data.setup("fit")
    module = zoo.GAugO(sparse=sparse)
    graph = prepare(data.graph)
    optimizer: Any = torch.optim.Adam(module.parameters(), lr=0.01)
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    started = time.monotonic()
    dense = None if sparse else graph.looped.to_dense()
    for step in range(2):
        z = module.network.predictor.embed(graph.x, graph.normalised)
        edge_loss, sampled = module._edges(graph, dense, z, generator(step), sample=True)
        assert sampled is not None
        logits = module.network.classifier(graph.x, normalised_for("gcn", sampled))
        loss = classification_loss(logits, graph.y, graph.masks["train"]) + 0.8 * edge_loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    seconds = (time.monotonic() - started) / 2
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": seconds, "bytes": peak - before}


@pytest.mark.skipif(not CORA.is_file(), reason="needs $ZOO_DATA/graphs/gaug/cora.npz")
def test_the_sparse_step_is_at_least_five_times_leaner_on_cora(record: Callable[[str, float], None]) -> None:
    found = {}
    for kind in ("dense", "sparse"):
        done = subprocess.run(
            [sys.executable, __file__, kind], capture_output=True, text=True, check=True, timeout=300
        )
        found[kind] = json.loads(done.stdout.splitlines()[-1])
        record(f"{kind}/MiB", found[kind]["bytes"] / 2**20)
        record(f"{kind}/seconds", found[kind]["seconds"])
    assert found["dense"]["bytes"] >= 5 * found["sparse"]["bytes"]


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1] == "sparse")))
