"""Node classification: an epoch of NodeClassifier under Lightning against the loop of PyG's own example.

Both train a step on the whole graph and evaluate it, in one process and in turns: on Cora where ZOO_DATA has
it, else on a twin. The loop is that of PyG's ``examples/gcn.py`` (cached layers) and ``gat.py``. What
Lightning needs once (building the trainer, the sanity check) does not count.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch.nn import functional
from torch_geometric.nn import GATConv, GCNConv

from benchmarks.interleaved import median
from datamodules import Planetoid
from zoo.graphs.node.module import NodeClassifier


class Example(torch.nn.Module):
    """The two layers of PyG's examples."""

    def __init__(self, arch: str, features: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.arch, self.dropout = arch, dropout
        if arch == "gcn":
            self.first, self.second = GCNConv(features, 16, cached=True), GCNConv(16, classes, cached=True)
        else:
            self.first = GATConv(features, 8, 8, dropout=dropout)
            self.second = GATConv(64, classes, 1, concat=False, dropout=dropout)

    def forward(self, x: torch.Tensor, edge_index: torch.Tensor) -> torch.Tensor:
        x = functional.dropout(x, self.dropout, self.training)
        x = self.first(x, edge_index)
        x = x.relu() if self.arch == "gcn" else functional.elu(x)
        return self.second(functional.dropout(x, self.dropout, self.training), edge_index)


class Clock(Callback):
    """Seconds between the first batch and the end of training."""

    started = seconds = 0.0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.started = time.perf_counter()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.seconds = time.perf_counter() - self.started


def settings(arch: str) -> tuple[float, float, dict[str, Any]]:
    """Rate, dropout and arguments of the recipe."""
    if arch == "gcn":
        return 0.01, 0.5, {"hidden": 16}
    return 0.005, 0.6, {"hidden": 64, "first_layer_weight_decay": None}


def lightning(arch: str, data: Planetoid, epochs: int, dropout: float) -> tuple[float, NodeClassifier]:
    rate, _, arguments = settings(arch)
    torch.manual_seed(0)
    module = NodeClassifier(
        arch=arch,  # type: ignore[arg-type]
        **arguments,
        dropout=dropout,
        patience=None,
        optimizer=lambda p: torch.optim.Adam(p, lr=rate, weight_decay=0.0 if arch == "gcn" else 5e-4),
    )
    clock = Clock()
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=epochs,
        val_check_interval=1,
        check_val_every_n_epoch=None,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[clock],
    )
    trainer.fit(module, data)
    return clock.seconds, module


def loop(arch: str, graph: Any, epochs: int, dropout: float, start: NodeClassifier) -> tuple[float, Example]:
    rate, _, _ = settings(arch)
    torch.manual_seed(0)
    model = Example(arch, graph.x.shape[1], 7, dropout)
    for layer, given in zip((model.first, model.second), start.encoder.convs, strict=True):
        layer.load_state_dict(given.state_dict())
    decay = {"weight_decay": 5e-4}
    groups = [
        {"params": model.first.parameters()} | decay,
        {"params": model.second.parameters()} | ({} if arch == "gcn" else decay),
    ]
    optimizer = torch.optim.Adam(groups, lr=rate)
    began = time.perf_counter()
    for _ in range(epochs):
        model.train()
        optimizer.zero_grad()
        out = model(graph.x, graph.edge_index)
        functional.cross_entropy(out[graph.train_mask], graph.y[graph.train_mask]).backward()
        optimizer.step()
        model.eval()
        with torch.no_grad():
            predicted = model(graph.x, graph.edge_index).argmax(dim=-1)
            for mask in (graph.train_mask, graph.val_mask, graph.test_mask):
                int((predicted[mask] == graph.y[mask]).sum())
    return time.perf_counter() - began, model


def fresh(arch: str) -> NodeClassifier:
    torch.manual_seed(0)
    return NodeClassifier(arch=arch, **settings(arch)[2])  # type: ignore[arg-type]


@pytest.mark.parametrize("arch", ["gcn", "gat"])
def test_epoch(
    arch: str, record: Callable[[str, float], None], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    quick = request.config.getoption("--quick")
    root = Path(os.environ.get("ZOO_DATA", "nowhere")) / "graphs" / "planetoid"
    if quick or not (root / "Cora/raw").is_dir():
        from fakes.planetoid import fake_planetoid

        root = fake_planetoid(tmp_path, nodes=720)
    data = Planetoid("Cora", str(root), steps_per_epoch=100)
    data.setup("fit")
    epochs, rounds = (3, 1) if quick else (30, 5)
    dropout = settings(arch)[1]
    times: dict[str, list[float]] = {"zoo": [], "pyg": []}
    for i in range(rounds + 1):
        found = (
            lightning(arch, data, epochs, dropout)[0],
            loop(arch, data.graph, epochs, dropout, fresh(arch))[0],
        )
        if i:  # the first round warms up
            for name, seconds in zip(("zoo", "pyg"), found, strict=True):
                times[name].append(seconds)
    for name in times:
        record(f"{arch}/{name}/ms_per_epoch", 1000 * median(times, name) / epochs)
    record(
        f"{arch}/zoo_over_pyg",
        sorted(a / b for a, b in zip(times["zoo"], times["pyg"], strict=True))[rounds // 2],
    )
    # without dropout both sides arrive at the same weights
    ours = lightning(arch, data, 5, 0.0)[1]
    theirs = loop(arch, data.graph, 5, 0.0, fresh(arch))[1]
    for a, b in zip(ours.encoder.convs, (theirs.first, theirs.second), strict=True):
        for key, value in b.state_dict().items():
            torch.testing.assert_close(a.state_dict()[key], value, atol=1e-4, rtol=1e-3)
