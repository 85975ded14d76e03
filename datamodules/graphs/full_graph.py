"""Node classification on one graph: every step sees the whole of it.

A batch is one PyG ``Data`` (see :class:`FullGraphModule`); an epoch is ``steps_per_epoch`` of it.
Damage to the edges is a pure function of a seed, so that runs with the same seed see the same graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import Dataset
from torch_geometric.data import Data
from torch_geometric.utils import coalesce, index_to_mask

from datamodules.graphs.checks import check_graph, source_name
from datamodules.loading.loaders import evaluation_loader, train_loader
from datamodules.loading.ranges import Fraction, Many, Seed, check_ranges
from datamodules.loading.sampling import item_generator
from datamodules.loading.variants import Users

# Second words of the keys of this module's random streams.
_RETAIN, _REWIRE, _COIN, _SPLIT = 1, 2, 3, 4


def node_pairs(edge_index: Tensor) -> Tensor:
    """Directed or mirrored edges (2, E) -> each pair i < j once, sorted, without self-loops; (2, P)."""
    low, high = edge_index.min(dim=0).values, edge_index.max(dim=0).values
    return coalesce(torch.stack([low, high])[:, low != high])


def mirrored(pairs: Tensor) -> Tensor:
    """Pairs i < j (2, P) -> both directions (2, 2 P), sorted by row, then column."""
    return coalesce(torch.cat([pairs, pairs.flip(0)], dim=1))


def retain_edges(pairs: Tensor, fraction: float, seed: int) -> Tensor:
    """Keep each pair with probability ``fraction``, independently (LDS's incomplete graphs); (2, P').

    Raises:
        ValueError: for a fraction outside [0, 1].
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"edges_retained is the fraction of edges that is kept, in [0, 1], got {fraction}")
    if fraction == 1:
        return pairs
    kept = item_generator(seed, _RETAIN).random(pairs.shape[1]) < fraction
    return pairs[:, torch.from_numpy(kept)]


def rewire_edges(pairs: Tensor, nodes: int, fraction: float, seed: int) -> Tensor:
    """Replace round(fraction P) of the P pairs, chosen at random, by pairs that were no edges; (2, P).

    Raises:
        ValueError: for a fraction outside [0, 1], or more new pairs than the graph has free ones.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"edges_rewired is the fraction of edges that is moved, in [0, 1], got {fraction}")
    count, total = round(fraction * pairs.shape[1]), pairs.shape[1]
    if not count:
        return pairs
    if count > nodes * (nodes - 1) // 2 - total:
        raise ValueError(f"edges_rewired {fraction} asks for {count} new edges, the graph has no such space")
    random = item_generator(seed, _REWIRE)
    kept = np.sort(random.permutation(total)[count:])
    taken = set((pairs[0] * nodes + pairs[1]).tolist())
    new: list[int] = []
    while len(new) < count:
        a, b = random.integers(nodes, size=2).tolist()
        code = min(a, b) * nodes + max(a, b)
        if a != b and code not in taken:
            taken.add(code)
            new.append(code)
    codes = torch.tensor(new, dtype=torch.long)
    return coalesce(
        torch.cat([pairs[:, torch.from_numpy(kept)], torch.stack([codes // nodes, codes % nodes])], 1)
    )


def coin_split(mask: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Deal each node of ``mask`` (N,) by a fair coin to the first or the second of two masks (LDS)."""
    heads = torch.from_numpy(item_generator(seed, _COIN).random(len(mask)) < 0.5)
    return mask & heads, mask & ~heads


def random_split(
    labels: Tensor, train_per_class: int, val_nodes: int, test_nodes: int, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Train (``train_per_class`` of each class), val and test masks (N,), disjoint; seeded.

    Raises:
        ValueError: if a class or the graph is too small.
    """
    random = item_generator(seed, _SPLIT)
    train: list[int] = []
    for label in labels.unique().tolist():
        members = (labels == label).nonzero()[:, 0].numpy()
        if len(members) < train_per_class:
            raise ValueError(
                f"train_per_class is {train_per_class}, but class {label} has {len(members)} nodes"
            )
        train += random.permutation(members)[:train_per_class].tolist()
    rest = random.permutation(np.setdiff1d(np.arange(len(labels)), train))
    if val_nodes + test_nodes > len(rest):
        raise ValueError(
            f"val_nodes {val_nodes} and test_nodes {test_nodes} exceed the {len(rest)} nodes that "
            f"{train_per_class} training nodes per class leave"
        )
    parts = (train, rest[:val_nodes], rest[val_nodes : val_nodes + test_nodes])
    masks = [index_to_mask(torch.as_tensor(np.asarray(p), dtype=torch.long), len(labels)) for p in parts]
    return masks[0], masks[1], masks[2]


class WholeGraph(Dataset[Data]):
    """The same graph, ``steps`` times."""

    def __init__(self, graph: Data, steps: int = 1) -> None:
        self.graph, self.steps = graph, steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, key: Any) -> Data:
        return self.graph

    def __getitems__(self, keys: Sequence[Any]) -> Data:
        return self.graph


class FullGraphModule(LightningDataModule):
    """One graph with labelled nodes; subclasses give it in ``read``.

    Batch (training, validation, test and prediction alike): a PyG ``Data`` with

    - ``x`` float32 (N, F), features;
    - ``y`` int64 (N,), classes in 0..C-1;
    - ``edge_index`` int64 (2, 2 P), the given graph: both directions of each pair, no self-loops, sorted;
      (2, 0) where no graph is given;
    - ``train_mask``, ``val_mask``, ``test_mask`` bool (N,), disjoint; with ``early_stopping`` also
      ``es_mask``;
    - ``true_edge_index`` int64 (2, 2 P'), the graph before edges were removed or rewired: for reports alone.

    Every rank gets the whole graph; there is no batch size.

    Attributes:
        num_classes: C, known after ``setup``.
        num_features: F, known after ``setup``.

    Args:
        steps_per_epoch: batches of one epoch.
    """

    num_classes: int
    num_features: int
    graph: Data

    def __init__(self, steps_per_epoch: Many = 1) -> None:
        check_ranges(FullGraphModule, locals())
        super().__init__()
        self.steps_per_epoch = steps_per_epoch
        self._moved: dict[tuple[str, bool], Any] = {}

    def read(self) -> Data:
        """The graph, as described above."""
        raise NotImplementedError

    def setup(self, stage: str) -> None:
        self.graph, self._moved = check_graph(self.read(), source_name(self)), {}
        self.num_classes = int(self.graph.y.max()) + 1
        self.num_features = int(self.graph.x.shape[1])

    def train_dataloader(self) -> Any:
        return train_loader(self, WholeGraph(self.graph, self.steps_per_epoch), 1, shared=True)

    def val_dataloader(self) -> Any:
        return evaluation_loader(self, WholeGraph(self.graph), 1, shared=True)

    test_dataloader = predict_dataloader = val_dataloader

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Moves the graph once, not every step; tensors made in inference mode cannot be trained on."""
        key = (str(device), torch.is_inference_mode_enabled())
        if key not in self._moved:
            self._moved[key] = super().transfer_batch_to_device(batch, device, dataloader_idx)
        return self._moved[key]


def check_source(source: FullGraphModule, user: str) -> None:
    """Refuse options of a graph that the data module ``user``, which deals it out anew, would read past.

    Raises:
        ValueError: naming the option and what to do.
    """
    for name, default in (("steps_per_epoch", 1), ("early_stopping", False)):
        value = getattr(source, name, default)
        if value != default:
            raise ValueError(
                f"data.init_args.source.init_args.{name} is {str(value).lower()}, which {user} does not use; "
                f"leave it out (its default is {str(default).lower()})"
            )


class DamagedGraphModule(FullGraphModule):
    """A graph with missing or wrong edges; subclasses give ``damaged`` the whole one.

    Args:
        edges_retained: each edge is kept with this probability (1: the complete graph, 0: none). It is the
            fraction kept; LDS's released script takes the fraction deleted.
        edges_rewired: afterwards, this fraction of the edges moves to random places.
        early_stopping: deal the validation nodes by a fair coin to ``val_mask`` and ``es_mask`` (LDS).
        seed: of all that is random: the damage to the edges, the coin, and the graph or split where drawn.
        steps_per_epoch: batches (always the same graph) of an epoch.

    Raises:
        ValueError: for impossible settings.
    """

    of_seed: ClassVar[dict[str, Users]] = {
        "early_stopping": "true",
        "edges_retained": "a share below 1",
        "edges_rewired": "a share above 0",
    }
    """What makes a difference of ``seed`` where neither graph nor split is drawn."""

    def __init__(
        self,
        edges_retained: Fraction = 1.0,
        edges_rewired: Fraction = 0.0,
        early_stopping: bool = False,
        seed: Seed = 0,
        steps_per_epoch: Many = 1,
    ) -> None:
        check_ranges(DamagedGraphModule, locals())
        super().__init__(steps_per_epoch)
        self.edges_retained, self.edges_rewired = edges_retained, edges_rewired
        self.early_stopping, self.seed = early_stopping, seed

    def damaged(self, x: Tensor, y: Tensor, pairs: Tensor, masks: tuple[Tensor, Tensor, Tensor]) -> Data:
        """The batch of features (N, F), classes (N,), pairs (2, P) and train, val and test masks (N,)."""
        left = retain_edges(pairs, self.edges_retained, self.seed)
        left = rewire_edges(left, len(x), self.edges_rewired, self.seed)
        data = Data(x=x, edge_index=mirrored(left), y=y, true_edge_index=mirrored(pairs))
        data.train_mask, data.val_mask, data.test_mask = masks
        if self.early_stopping:
            data.val_mask, data.es_mask = coin_split(data.val_mask, self.seed)
        return data
