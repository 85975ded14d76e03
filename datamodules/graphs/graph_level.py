"""Classification of whole graphs: a batch is many graphs, laid beside each other as one PyG ``Batch``.

Splits follow the fair protocol of Errica et al. (ICLR 2020): an outer stratified k-fold, and inside the
training part of a fold stratified hold-outs, one to select a model and one for each of its retrainings.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.utils.data import Dataset
from torch_geometric.data import Batch

from datamodules.graphs.checks import check_store, source_name
from datamodules.loading.files import one_line, read_json, written_whole
from datamodules.loading.loaders import SplitModule, evaluation_loader
from datamodules.loading.ranges import Depth, DepthOrZero, Many, Part, Seed, Workers, check_ranges
from datamodules.loading.sampling import Keys, batch_keys, item_generator

# Second word of the keys of this module's random streams.
_HOLDOUT = 21


@dataclass
class GraphStore:
    """Graphs in one piece: graph g has the nodes ``node_ptr[g]:node_ptr[g + 1]``, its edges likewise.

    Attributes:
        x: float32 (N, F), features of all nodes.
        edge_index: int64 (2, E), source and target, counted from 0 in each graph.
        y: int64 (G,), classes.
        node_ptr: int64 (G + 1,).
        edge_ptr: int64 (G + 1,).
        edge_attr: float32 (E, D), or None.
    """

    x: Tensor
    edge_index: Tensor
    y: Tensor
    node_ptr: Tensor
    edge_ptr: Tensor
    edge_attr: Tensor | None = None

    def __len__(self) -> int:
        return len(self.y)

    @property
    def sizes(self) -> Tensor:
        """Nodes of each graph (G,)."""
        return self.node_ptr.diff()

    def batch(self, index: Tensor) -> Batch:
        """The graphs of ``index`` (B,) as one ``Batch``, the same as PyG's ``Batch.from_data_list``."""
        nodes, ptr, owner = _gathered(self.node_ptr, index)
        edges, edge_ptr, edge_owner = _gathered(self.edge_ptr, index)
        batch = Batch(
            x=self.x[nodes],
            edge_index=self.edge_index[:, edges] + ptr[edge_owner],
            y=self.y[index],
            graph_number=index,
            batch=owner,
            ptr=ptr,
        )
        each, zero = torch.arange(len(index) + 1), torch.zeros(len(index), dtype=torch.long)
        slices = {"x": ptr, "edge_index": edge_ptr, "y": each, "graph_number": each}
        steps = {"x": zero, "edge_index": ptr[:-1], "y": zero, "graph_number": zero}
        if self.edge_attr is not None:
            batch.edge_attr = self.edge_attr[edges]
            slices["edge_attr"], steps["edge_attr"] = edge_ptr, zero
        batch._num_graphs, batch._slice_dict, batch._inc_dict = len(index), slices, steps
        return batch


def _gathered(ptr: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Positions of all items of the chosen graphs (M,), their new ptr (B + 1,), and whose each is (M,)."""
    counts = ptr[index + 1] - ptr[index]
    new = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    owner = torch.repeat_interleave(torch.arange(len(index)), counts)
    return torch.arange(int(new[-1])) + (ptr[index] - new[:-1])[owner], new, owner


class GraphSubset(Dataset[Batch]):
    """Some graphs of a store; fetches a whole batch at once."""

    def __init__(self, store: GraphStore, index: Tensor) -> None:
        self.store, self.index = store, index

    def __len__(self) -> int:
        return len(self.index)

    def __getitems__(self, keys: Keys) -> Batch:
        return self.store.batch(self.index[torch.from_numpy(batch_keys(keys)[1])])

    def __getitem__(self, key: int | tuple[int, int]) -> Batch:
        return self.__getitems__([key])


def stratified_folds(labels: np.ndarray[Any, Any], folds: int, seed: int) -> list[list[int]]:
    """The test graphs of each of ``folds`` stratified folds, ascending; scikit-learn's shuffled k-fold.

    Raises:
        ValueError: if a class has less graphs than there are folds.
    """
    from sklearn.model_selection import StratifiedKFold

    least = int(np.bincount(labels)[np.unique(labels)].min())
    if folds > least:
        raise ValueError(f"data.init_args.folds is {folds}, but the smallest class has {least} graphs")
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    return [test.tolist() for _, test in splitter.split(np.zeros(len(labels)), labels)]


def stratified_holdout(
    labels: np.ndarray[Any, Any], index: np.ndarray[Any, Any], share: float, *key: int
) -> tuple[list[int], list[int]]:
    """(rest, held out) of ``index``: a share of each class, by largest remainder; seeded by ``key``.

    At least one graph is held out and one is left.
    """
    random = item_generator(*key, _HOLDOUT)
    classes = np.unique(labels[index])
    members = [random.permutation(index[labels[index] == c]) for c in classes]
    total = min(max(1, round(share * len(index))), len(index) - 1)
    exact = np.array([share * len(m) for m in members])
    counts = np.floor(exact).astype(int)
    for c in np.argsort(counts - exact, kind="stable")[: max(0, total - int(counts.sum()))]:
        counts[c] += 1
    held = [m[:n] for m, n in zip(members, counts, strict=True)]
    rest = [m[n:] for m, n in zip(members, counts, strict=True)]
    return np.sort(np.concatenate(rest)).tolist(), np.sort(np.concatenate(held)).tolist()


class GraphLevelModule(SplitModule):
    """Many labelled graphs; subclasses give them in ``read``.

    Batch (training, validation, test and prediction alike): a PyG ``Batch`` of B graphs with N nodes and E
    directed edges in all:

    - ``x`` float32 (N, F), node features;
    - ``edge_index`` int64 (2, E), source and target, both directions of each edge;
    - ``edge_attr`` float32 (E, D), where the data have edge features;
    - ``y`` int64 (B,), classes in 0..C-1;
    - ``batch`` int64 (N,), the graph of each node, and ``ptr`` int64 (B + 1,);
    - ``graph_number`` int64 (B,), the number of each graph in the whole data set.

    Fold ``fold`` of ``folds`` is the test set. From the rest a stratified share is held out: it validates,
    which means that it selects the model (``holdout: 0``) or stops a retraining early (``holdout`` 1, 2, ...,
    each another one). The splits do not depend on the run's seed.

    Attributes:
        num_classes: C, known after ``setup``.
        num_features: F, known after ``setup``.
        num_edge_features: D, 0 without.
        train_sizes: nodes of each training graph, a list: pooling layers may take their sizes from it.

    Args:
        fold: which fold is the test set.
        folds: number of folds.
        holdout: which hold-out of the fold's training part validates: 0 is the one of model selection, each
            other one of a retraining.
        holdout_share: size of the hold-out.
        split_seed: of the folds and the hold-outs.
        batch_size: global training batch, over all devices; the last partial batch of an epoch is dropped.
        eval_batch_size: global batch of validation and test.
        num_workers: loader processes; the data are in memory, so 0 is fastest.

    Raises:
        ValueError: for impossible settings.
    """

    num_classes: int
    num_features: int
    num_edge_features: int
    train_sizes: list[int]
    store: GraphStore

    def __init__(
        self,
        fold: DepthOrZero = 0,
        folds: Depth = 10,
        holdout: DepthOrZero = 0,
        holdout_share: Part = 0.1,
        split_seed: Seed = 0,
        batch_size: Many = 32,
        eval_batch_size: Many = 256,
        num_workers: Workers = 0,
    ) -> None:
        check_ranges(GraphLevelModule, locals())
        super().__init__(batch_size, eval_batch_size, num_workers)
        if folds < 2 or fold >= folds:
            raise ValueError(f"need data.init_args.folds >= 2 and fold in 0..folds-1, got {folds} and {fold}")
        self.fold, self.folds, self.holdout, self.holdout_share = fold, folds, holdout, holdout_share
        self.split_seed = split_seed

    def read(self) -> GraphStore:
        """All graphs."""
        raise NotImplementedError

    makes_splits = True
    """Whether the file of splits is one that was made here, not one that the user gives."""

    def split_file(self) -> Path | None:
        """Where the splits are kept; None keeps none."""
        return None

    def setup(self, stage: str) -> None:
        self.store = check_store(self.read(), source_name(self))
        self.num_classes = int(self.store.y.max()) + 1
        self.num_features = int(self.store.x.shape[1])
        self.num_edge_features = 0 if self.store.edge_attr is None else int(self.store.edge_attr.shape[1])
        parts = self.splits()
        self.train_set, self.val_set, self.test_set = (
            GraphSubset(self.store, torch.tensor(parts[name])) for name in ("train", "val", "test")
        )
        self.train_sizes = self.store.sizes[self.train_set.index].tolist()

    def train_degrees(self) -> Tensor:
        """Number of training nodes by in-degree, int64 (largest degree + 1,); PNA's layers scale by it."""
        batch = self.store.batch(self.train_set.index)
        return torch.bincount(torch.bincount(batch.edge_index[1], minlength=len(batch.x)))

    def splits(self) -> dict[str, list[int]]:
        """The graphs of ``train``, ``val`` and ``test``."""
        labels = self.store.y.numpy()
        fold = self._folds(labels)[self.fold]
        test = fold["test"]
        if self.holdout == 0:
            chosen = fold["model_selection"][0]
            return {"train": chosen["train"], "val": chosen["validation"], "test": test}
        rest = np.setdiff1d(np.arange(len(labels)), test)
        key = (self.split_seed, self.fold, self.holdout)
        train, val = stratified_holdout(labels, rest, self.holdout_share, *key)
        return {"train": train, "val": val, "test": test}

    def _folds(self, labels: np.ndarray[Any, Any]) -> list[dict[str, Any]]:
        """Test graphs and selection split of each fold, from the split file where there is one."""
        path = self.split_file()
        if path is not None and path.is_file():
            try:
                return read_splits(path, len(labels), self.folds)
            except ValueError as error:
                if not self.makes_splits:
                    raise
                rank_zero_warn(f"{error}; it is made anew")
        content = []
        for number, test in enumerate(stratified_folds(labels, self.folds, self.split_seed)):
            rest = np.setdiff1d(np.arange(len(labels)), test)
            key = (self.split_seed, number, 0)
            train, val = stratified_holdout(labels, rest, self.holdout_share, *key)
            content.append({"test": test, "model_selection": [{"train": train, "validation": val}]})
        if path is not None:
            with written_whole(path) as temporary:
                temporary.write_text(json.dumps(content))
        return content

    def predict_dataloader(self) -> Any:
        """The test graphs in one batch: one picture shows them all."""
        return evaluation_loader(self, self.test_set, len(self.test_set))


def read_splits(path: Path, graphs: int, folds: int) -> list[dict[str, Any]]:
    """Splits in the JSON layout of Errica et al.'s release.

    A list with a mapping per fold: ``test`` and ``model_selection``, a list whose first entry has ``train``
    and ``validation``; all are lists of graph numbers from 0.

    Raises:
        ValueError: for a file that is damaged or does not fit the data.
    """
    try:
        content = read_json(path)
        if len(content) != folds:
            raise ValueError(f"it has {len(content)} folds, data.init_args.folds is {folds}")
        for fold in content:
            chosen = fold["model_selection"][0]
            parts = [*fold["test"], *chosen["train"], *chosen["validation"]]
            if sorted(parts) != list(range(graphs)):
                raise ValueError(f"a fold does not hold each of the {graphs} graphs once")
    except (ValueError, KeyError, IndexError, TypeError, OSError) as error:
        raise ValueError(
            f"{path} holds no splits of these data ({one_line(error)}); delete it or give another file"
        ) from None
    return list(content)
