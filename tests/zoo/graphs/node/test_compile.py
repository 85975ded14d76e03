"""The switch ``compile`` of the five levels: a compiled step is the plain one."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from quiet import quiet_trainer

import zoo
from datamodules import BlockModel, GraphSet, KarateClub, LinkSplit, SensorDiffusion, SyntheticGraphs

GENERATOR = {"max_nodes": 20, "bandwidth": 18, "val_samples": 0}
RECURRENT = {**GENERATOR, "hidden": 12, "num_layers": 2}
CASES: dict[str, tuple[type[LightningModule], dict[str, Any]]] = {
    "node": (zoo.NodeClassifier, {"features": 16, "num_classes": 4, "arch": "sage"}),
    "link": (zoo.LinkPredictor, {"features": 34, "hidden": 8}),
    "graph": (zoo.GraphClassifier, {"hidden": 8, "num_layers": 1}),
    "diffpool": (zoo.GraphClassifier, {"arch": "sage", "readout": "diffpool", "hidden": 8, "num_layers": 1}),
    "graphrnn_s": (zoo.GraphGenerator, {"arch": "graphrnn_s", **RECURRENT}),
    "graphrnn": (zoo.GraphGenerator, {"arch": "graphrnn", **RECURRENT}),
    "graphvae": (zoo.GraphGenerator, {"arch": "graphvae", **GENERATOR}),
    "forecast": (zoo.SpatioTemporalForecaster, {"arch": "stgcn_1st", "num_nodes": 6, "hidden": 4}),
}


def data_of(case: str) -> LightningDataModule:
    if case == "node":
        return BlockModel(nodes=120, val_nodes=20, test_nodes=40)
    if case == "link":
        return LinkSplit(KarateClub(), val=0.1, test=0.1)
    if case == "forecast":
        return SensorDiffusion(sensors=6, steps=300, day=50)
    if case in ("graph", "diffpool"):
        return SyntheticGraphs(graphs=60)
    if case == "graphvae":
        return GraphSet(order="canonical", items_per_epoch=64)
    return GraphSet(items_per_epoch=64, bfs_draws=0)


def stepped(case: str, compiled: bool) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Logged numbers and weights after two steps."""
    cls, settings = CASES[case]
    torch.manual_seed(0)
    module = cls(**settings, compile=compiled)
    trainer = quiet_trainer(max_steps=2, num_sanity_val_steps=0, limit_val_batches=0)
    trainer.fit(module, data_of(case))
    return {k: float(v) for k, v in trainer.callback_metrics.items()}, module.state_dict()


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=pytest.mark.slow) if c in ("diffpool", "graphrnn") else c for c in CASES]
)
def test_a_compiled_step_is_the_plain_one(case: str) -> None:
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        """Runs what was traced as it is, and counts it."""
        graphs.append(graph)
        return graph.forward

    original = torch.compile
    torch._dynamo.reset()
    plain, weights = stepped(case, compiled=False)
    with mock.patch("torch.compile", lambda f, **_: original(f, backend=backend)):
        found, others = stepped(case, compiled=True)
    assert graphs
    assert (found, others.keys()) == (pytest.approx(plain, rel=1e-6), weights.keys())
    for key, value in weights.items():
        torch.testing.assert_close(others[key], value, atol=1e-6, rtol=1e-5)
