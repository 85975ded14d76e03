"""Molecules in space: a training step of SchNet and PaiNN against a plain loop over torch-geometric's layers,
and neighbours from 20 to 5,000 atoms.

Sides are taken in turns and do the same work; what counts is the ratio.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch_geometric.nn import MessagePassing
from torch_geometric.nn.models import SchNet

import datamodules
import zoo
from benchmarks.interleaved import interleaved, ratio
from zoo.molecules.space import neighbours
from zoo.molecules.space.neighbours import cell_list, pairs_within
from zoo.molecules.space.painn import cosine_cutoff, sine_basis

Record = Callable[[str, float], None]


def masked_graph(pos: Any, batch: Any, cutoff: float) -> tuple[Any, Any]:
    """The all-pairs mask of the whole batch, as a plain loop writes it."""
    near = (torch.cdist(pos, pos) <= cutoff) & (batch[:, None] == batch)
    near.fill_diagonal_(False)
    index = near.nonzero().T.flip(0)
    return index, (pos[index[0]] - pos[index[1]]).norm(dim=1)


class PaiNNMessage(MessagePassing):
    """PaiNN's message by torch-geometric's message passing, on the weights of ours."""

    def __init__(self, ours: Any) -> None:
        super().__init__(aggr="add", node_dim=0)
        self.phi, self.filter = ours.phi, ours.filter

    def forward(self, s: Any, v: Any, index: Any, unit: Any, basis: Any, fade: Any) -> Any:
        weight = self.filter(basis) * fade[:, None]
        out = self.propagate(index, x=self.phi(s), v=v.flatten(1), w=weight, unit=unit, size=(len(s), len(s)))
        ds, dv = out.split([s.shape[1], 3 * s.shape[1]], dim=1)
        return ds, dv.view_as(v)

    def message(self, x_j: Any, v_j: Any, w: Any, unit: Any) -> Any:
        a, d, b = (x_j * w).chunk(3, dim=1)
        vectors = v_j.view(len(a), 3, -1) * b[:, None] + unit[:, :, None] * d[:, None]
        return torch.cat([a, vectors.flatten(1)], dim=1)


def painn_of_pyg(body: Any) -> Callable[..., Any]:
    messages = [PaiNNMessage(m) for m in body.messages]

    def energy(z: Any, pos: Any, batch: Any) -> Any:
        index, length = masked_graph(pos, batch, body.cutoff)
        s = body.embedding(z)
        v = s.new_zeros(len(z), 3, s.shape[1])
        unit = (pos[index[0]] - pos[index[1]]) / length[:, None]
        basis, fade = sine_basis(length, body.cutoff, body.radial), cosine_cutoff(length, body.cutoff)
        for message, update in zip(messages, body.updates, strict=True):
            ds, dv = message(s, v, index, unit, basis, fade)
            s, v = s + ds, v + dv
            ds, dv = update(s, v)
            s, v = s + ds, v + dv
        return body.head(s)[:, 0]

    return energy


@pytest.mark.parametrize("backbone", ["schnet", "painn"])
def test_a_training_step_against_a_plain_loop(
    backbone: Any, record: Record, request: pytest.FixtureRequest
) -> None:
    quick = request.config.getoption("--quick")
    size: dict[str, Any] = {"hidden": 16, "layers": 2} if quick else {"hidden": 64, "layers": 3}
    data = datamodules.MDTrajectory()
    data.setup("fit")
    batches = [
        data.train_set.__getitems__([(0, 10 * n + i) for i in range(10)]) for n in range(2 if quick else 10)
    ]
    torch.manual_seed(0)
    module = zoo.MoleculeRegressor3D(backbone=backbone, forces=True, **size).train()
    module.network.units.scale.fill_(28.0)
    module.network.units.mean.fill_(-792.67)
    body: Any = module.network.body
    if backbone == "schnet":
        theirs: Any = SchNet(size["hidden"], size["hidden"], size["layers"], 50, 5.0, readout="add",
                             interaction_graph=lambda p, b: masked_graph(p, b, 5.0))  # fmt: skip
        theirs.load_state_dict(body.state_dict(), strict=False)
        plain, parameters = lambda z, p, b: theirs(z, p, b)[:, 0], list(theirs.parameters())
    else:
        atoms = painn_of_pyg(body)
        parameters = list(body.parameters())

        def plain(z: Any, p: Any, b: Any) -> Any:
            return torch.zeros(10).index_add(0, b, atoms(z, p, b))

    losses: dict[str, list[float]] = {"zoo": [], "plain": []}
    own = list(module.parameters())

    def ours_step() -> None:
        for batch in batches:
            number, force, _ = module._answer(batch, forces=True)
            loss = module._loss(number, force, batch, together=False)["loss"]
            for p in own:
                p.grad = None
            loss.backward()
            losses["zoo"].append(float(loss.detach()))

    def plain_step() -> None:
        for batch in batches:
            pos = batch["pos"].clone().requires_grad_()
            energy = plain(batch["z"], pos, batch["batch"])
            force = -torch.autograd.grad(energy.sum(), pos, create_graph=True)[0]
            wanted = ((batch["y"] + 792.67 * 9) / 28).float()
            loss = 0.01 * nn.functional.mse_loss(energy, wanted)
            loss = loss + 0.99 * nn.functional.mse_loss(force, batch["forces"] / 28)
            for p in parameters:
                p.grad = None
            loss.backward()
            losses["plain"].append(float(loss.detach()))

    times = interleaved({"zoo": ours_step, "plain": plain_step}, 1 if quick else 7, clock=time.process_time)
    record(f"step_ratio/{backbone}", ratio(times, "zoo", "plain"))
    assert losses["zoo"][-1] == pytest.approx(losses["plain"][-1], rel=1e-3)


def test_neighbours_from_20_to_5000_atoms(record: Record, request: pytest.FixtureRequest) -> None:
    quick = request.config.getoption("--quick")
    sizes = (20, 100) if quick else (20, 100, 500, 2000, 5000)
    found: dict[str, dict[int, float]] = {"written": {}, "cells": {}, "radius_graph": {}}
    for atoms in sizes:
        g = torch.Generator().manual_seed(0)
        pos = (10 * atoms) ** (1 / 3) * torch.rand(
            atoms, 3, generator=g, dtype=torch.float64
        )  # .1 atoms / A^3
        batch = torch.zeros(atoms, dtype=torch.long)

        def written(pos: Any = pos, batch: Any = batch) -> Any:
            source, target = pairs_within(batch, 1)
            return (pos[source] - pos[target]).square().sum(dim=1) <= 25

        def graph(pos: Any = pos, batch: Any = batch) -> Any:
            return neighbours.radius_graph(pos, batch, 1, 5.0)

        def cells(pos: Any = pos) -> Any:
            return cell_list(pos, 5.0)

        times = interleaved(
            {"written": written, "cells": cells, "radius_graph": graph},
            1 if quick else 5,
            clock=time.process_time,
        )
        for name in found:
            found[name][atoms] = min(times[name])
            record(f"neighbours_ms/{name}/{atoms}", 1000 * found[name][atoms])
    if not quick:
        for name, times_ in found.items():
            slope = math.log(times_[5000] / times_[500]) / math.log(10)
            record(f"neighbours_exponent/{name}", slope)
