"""What both GAug modules derive from the batch, once per run: a batch is one PyG ``Data``, the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional

from zoo.gaug.adjacency import EdgeList, sparse_if_thin, symmetrically_normalised, with_self_loops
from zoo.gaug.predictor import EdgePredictor, pair_logits, ranking_quality
from zoo.gaug.ranking import random_new_pairs, undirected_pairs
from zoo.randomness import generator, global_seed

_MONITORED_PAIRS = 110
Split = Literal["train", "val", "test"]


@dataclass
class Graph:
    """The given graph.

    Attributes:
        x: features (N, F), sparse where few are not 0.
        y: int64 (N,), or float (N, C) multi-hot.
        pairs: edges i < j (2, m).
        looped: A~, the diagonal set to 1.
        normalised: A^ = D^{-1/2} A~ D^{-1/2}, what edge predictors see.
        monitored: edges (2, K) and non-edges (2, K) that the reported edge AUC ranks; training uses them too.
        masks: bool (N,) of each split.
        degree: number of neighbours (N,).
    """

    x: Tensor
    y: Tensor
    pairs: Tensor
    looped: EdgeList
    normalised: EdgeList
    monitored: tuple[Tensor, Tensor]
    masks: dict[str, Tensor]
    degree: Tensor

    @property
    def nodes(self) -> int:
        """N."""
        return self.looped.nodes


def prepare(batch: Any, monitored_share: float | None = None) -> Graph:
    """The graph of a batch.

    Args:
        batch: ``Data`` with ``x``, ``y``, ``edge_index`` and the three masks.
        monitored_share: share of the edges whose AUC is reported; None is GAug-O's 10 %, 1 % of more than
            5,000 nodes.
    """
    nodes = len(batch.x)
    pairs = undirected_pairs(batch.edge_index)
    looped = with_self_loops(batch.edge_index, nodes)
    normalised = symmetrically_normalised(looped)
    assert isinstance(normalised, EdgeList)
    share = (0.01 if nodes > 5000 else 0.1) if monitored_share is None else monitored_share
    g = generator(_MONITORED_PAIRS, global_seed())
    chosen = torch.randperm(pairs.shape[1], generator=g)[: max(1, int(share * pairs.shape[1]))]
    free = random_new_pairs(pairs, nodes, len(chosen), g)
    masks = {s: getattr(batch, f"{s}_mask") for s in ("train", "val", "test")}
    degree = torch.zeros(nodes, device=pairs.device).index_add(
        0, pairs.flatten(), torch.ones(pairs.numel(), device=pairs.device)
    )
    edges = pairs[:, chosen.to(pairs.device)]
    x = sparse_if_thin(batch.x)
    return Graph(x, batch.y, pairs, looped, normalised, (edges, free), masks, degree)


def edge_quality(z: Tensor, graph: Graph) -> tuple[float, float]:
    """(ROC AUC, average precision) of the monitored pairs; not held out of training."""
    edges, others = graph.monitored
    return ranking_quality(pair_logits(z, edges), pair_logits(z, others))


@torch.no_grad()
def predictor_quality(predictor: EdgePredictor, graph: Graph) -> tuple[float, float]:
    """:func:`edge_quality` of a predictor's mean code."""
    return edge_quality(predictor.embed(graph.x, graph.normalised), graph)


def classification_loss(logits: Tensor, y: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy of the masked nodes; multi-hot labels: BCE-with-logits, mean over nodes and labels."""
    if y.ndim == 2:
        return functional.binary_cross_entropy_with_logits(logits[mask].float(), y[mask])
    return functional.cross_entropy(logits[mask].float(), y[mask])


def micro_f1(logits: Tensor, y: Tensor) -> float:
    """Accuracy, which is micro-F1 for single labels; multi-hot: micro-F1 at sigmoid 0.5 over all entries.

    0 without true positives, where the released code divides by zero. A plain function: one process sees
    the whole graph, there is nothing to gather.
    """
    if not len(y):
        return 0.0
    if y.ndim == 1:
        return float((logits.argmax(dim=1) == y).float().mean())
    predicted, truth = logits > 0, y > 0
    hits = int((predicted & truth).sum())
    return 2 * hits / int(predicted.sum() + truth.sum()) if hits else 0.0


def f1_by_degree(logits: Tensor, graph: Graph, split: Split, parts: int = 4) -> dict[str, float]:
    """Micro-F1 of a split's nodes in ``parts`` equal groups, from the fewest neighbours to the most."""
    nodes = graph.masks[split].nonzero()[:, 0]
    order = nodes[graph.degree[nodes].argsort(stable=True)]
    groups = order.tensor_split(parts)
    return {f"f1_degree_q{i + 1}": micro_f1(logits[n], graph.y[n]) for i, n in enumerate(groups)}


def forget_logged(module: LightningModule) -> None:
    """Drop what the phase before logged.

    Lightning repeats it in every row until the loader's epoch ends; a run resumed in between would not.
    """
    results = module.trainer._results
    if results is not None:
        results.reset()


def check_choices(**given: tuple[str, Sequence[str]]) -> None:
    """Refuse a value that is none of its choices.

    Raises:
        ValueError: naming the argument and the choices.
    """
    for name, (value, known) in given.items():
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")


def parameter_groups(classifier: nn.Module, predictor: nn.Module | None) -> list[dict[str, Any]]:
    """What the optimiser gets: the classifier and, without weight decay, the edge predictor."""
    groups: list[dict[str, Any]] = [{"params": list(classifier.parameters())}]
    if predictor is not None:
        groups.append({"params": list(predictor.parameters()), "weight_decay": 0.0})
    return groups
