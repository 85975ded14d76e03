"""Predictions of a graph network for SMILES: intervals, contributions of the atoms, nearest neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zoo.molecules.graph.descriptors import nearest
from zoo.molecules.graph.features import GraphBatch
from zoo.molecules.graph.report import MoleculePredictions

if TYPE_CHECKING:
    from zoo.molecules.graph.module import MoleculeGraph2D


def predictions_of(
    module: MoleculeGraph2D,
    smiles: Sequence[str],
    target: Tensor,
    index: Sequence[int],
    train: Sequence[str],
) -> MoleculePredictions:
    """Predictions of a module for canonical SMILES.

    Args:
        module: of the weights.
        smiles: N molecules.
        target: (N, T), NaN where nothing is known.
        index: what each is called.
        train: training molecules, for the nearest of each.
    """
    h = module.hparams
    with torch.inference_mode(False), torch.enable_grad():
        graph, descriptors = module.featurised(smiles)
        if graph is not None:
            graph.x.requires_grad_(True)
        outputs = module.network(graph, descriptors)
        outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
        contributions = [] if graph is None else _contributions(outputs, graph)
    predicted, deviation = module.predicted(outputs.detach())
    half = torch.from_numpy(module.widths()[:, h["coverage"] - 1]).to(predicted.device)
    margin = half * module.sigma(deviation)
    if h["task"] == "classification":
        margin = torch.full_like(predicted, torch.nan)
    neighbour, similarity = nearest(smiles, train)
    prints = None
    if h["fingerprints"]:
        assert graph is not None
        with torch.no_grad():
            prints = module.network.embed(graph).float().cpu()
    return MoleculePredictions(
        smiles=list(smiles),
        predicted=predicted.cpu(),
        deviation=deviation.cpu() if module.knows_deviation else None,
        margin=margin.cpu(),
        target=target.double().cpu(),
        index=list(index),
        neighbour=neighbour,
        similarity=similarity,
        contributions=contributions,
        names=list(h["targets"]),
        task=h["task"],
        coverage=h["coverage"],
        fingerprints=prints,
    )


def _contributions(outputs: Tensor, graph: GraphBatch) -> list[list[float]]:
    """Gradient x input of each atom for the first target, mean over the members, by molecule."""
    total = outputs[..., 0].mean(dim=0).sum()
    (gradient,) = torch.autograd.grad(total, graph.x)
    atoms = (gradient * graph.x).sum(dim=1).detach().float().cpu()
    sizes = torch.bincount(graph.batch, minlength=graph.count).tolist()
    return [part.tolist() for part in atoms.split(sizes)]
