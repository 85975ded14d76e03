"""Loaders of the house, once: a data module states its sets, :class:`SplitModule` makes the loaders of them.

The order of a training and what a process sees of it are :mod:`datamodules.loading.sampling`'s. Every loader
has a generator of its own, else each epoch would take a number from the global one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, distributed
from torch.utils.data import DataLoader, Dataset

from datamodules.loading.ranges import Many, Workers, check_ranges
from datamodules.loading.sampling import (
    EvaluationBatchSampler,
    GlobalBatchSampler,
    Keys,
    batch_keys,
    global_seed,
)


class BatchItems(Dataset[dict[str, Tensor]]):
    """A data set that fetches whole batches: subclasses give ``__getitems__``, which collates too."""

    def __getitems__(self, keys: Any) -> Any:
        """The batch of ``keys``: indices in evaluation, (epoch, index) in training."""
        raise NotImplementedError

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Tensor]:
        return {name: values[0] for name, values in self.__getitems__([key]).items()}


class TensorItems(BatchItems):
    """Tensors of equal length. Every batch has ``index`` (B,).

    Args:
        repeats: the data set is gone through so many times; ``index`` counts on.
        **tensors: batch key -> (N, ...) tensor.
    """

    def __init__(self, repeats: int = 1, **tensors: Tensor) -> None:
        self.tensors, self.repeats = tensors, repeats
        self.items = len(next(iter(tensors.values())))

    def __len__(self) -> int:
        return self.items * self.repeats

    def __getitems__(self, keys: Keys) -> dict[str, Tensor]:
        index = torch.from_numpy(batch_keys(keys)[1])
        return {**{name: x[index % self.items] for name, x in self.tensors.items()}, "index": index}


def as_is(batch: Any) -> Any:
    """Collate function of data sets whose ``__getitems__`` returns a finished batch: all of the house."""
    return batch


def place(module: LightningDataModule) -> tuple[int, int]:
    """(rank, number) of this process among those that see different rows: processes that split a tensor see
    the same ones."""
    trainer = module.trainer
    if trainer is None:
        return 0, 1
    mesh = getattr(trainer.lightning_module, "device_mesh", None)
    if mesh is not None:
        return int(mesh["data_parallel"].get_local_rank()), int(mesh["data_parallel"].size())
    return trainer.global_rank, trainer.world_size


class TrainLoader(DataLoader[Any]):
    """A loader that goes on where the training stands, see :class:`GlobalBatchSampler`.

    Lightning takes a loader with a state for resumable; this state only notices that the data have changed.
    """

    batch_sampler: Any

    def state_dict(self) -> dict[str, int]:
        return {"items": self.batch_sampler.size, "batch_size": self.batch_sampler.batch_size}

    def load_state_dict(self, state: dict[str, int]) -> None:
        own = self.state_dict()
        if state != own:
            rank_zero_warn(
                f"the checkpoint was trained on {_described(state)}, this run has {_described(own)}: "
                "the order of the data changes"
            )


def _described(state: dict[str, int]) -> str:
    items = f" of {state['items']} items" if "items" in state else ""
    return f"batches of {state.get('batch_size')}{items}"


def progress_of(module: LightningDataModule) -> tuple[int | float | None, Callable[[], int] | None]:
    """``limit_train_batches`` of a data module's trainer, and what tells how many batches its training has
    had; nothing without a trainer."""
    if module.trainer is None:
        return None, None
    progress = module.trainer.fit_loop.epoch_loop.batch_progress.total
    return module.trainer.limit_train_batches, partial(getattr, progress, "ready")


def resumable_loader(
    dataset: Dataset[Any], sampler: Any, num_workers: int = 0, pinned: bool = True
) -> TrainLoader:
    """A training loader of the batches of ``sampler``, which knows how far the training is."""
    return TrainLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=num_workers,
        collate_fn=as_is,
        pin_memory=torch.cuda.is_available() and pinned,
        generator=torch.Generator(),
    )


def train_loader(
    module: LightningDataModule,
    dataset: Dataset[Any],
    batch_size: int,
    num_workers: int = 0,
    shared: bool = False,
    drop_last: bool = True,
) -> TrainLoader:
    """A resumable training loader of ``dataset``, whose items are asked for as (epoch, index).

    Args:
        module: whose trainer tells the place of this process and how far the training is.
        dataset: its ``__getitems__`` returns a finished batch.
        batch_size: global, over all processes.
        num_workers: loader processes.
        shared: every process sees all items, one whole graph for instance; the batch is not divided.
        drop_last: see :class:`GlobalBatchSampler`.
    """
    rank, world = (0, 1) if shared else place(module)
    size: int = len(dataset)  # type: ignore[arg-type]
    sampler = GlobalBatchSampler(
        size, batch_size, rank, world, global_seed(), *progress_of(module), drop_last
    )
    return resumable_loader(dataset, sampler, num_workers, pinned=not shared)


def evaluation_loader(
    module: LightningDataModule,
    dataset: Dataset[Any],
    batch_size: int,
    num_workers: int = 0,
    shared: bool = False,
) -> DataLoader[Any]:
    """A loader that shows each item once over all processes; for the arguments see :func:`train_loader`."""
    rank, world = (0, 1) if shared else place(module)
    return DataLoader(
        dataset,
        batch_sampler=EvaluationBatchSampler(len(dataset), batch_size, rank, world),  # type: ignore[arg-type]
        num_workers=num_workers,
        collate_fn=as_is,
        generator=torch.Generator(),
    )


class SplitModule(LightningDataModule):
    """A data module that states its sets in ``setup`` and has loaders of them.

    Attributes:
        train_set: data set of the training.
        val_set: of the validation; None has none, a list is a loader for each.
        test_set: of the test, likewise.
        predict_set: of the prediction; None is the test set.
        drop_last: whether the last partial batch of a training epoch is left out.

    Args:
        batch_size: global training batch, over all devices.
        eval_batch_size: global batch of validation, test and prediction.
        num_workers: loader processes.
    """

    train_set: Any
    val_set: Any = None
    test_set: Any = None
    predict_set: Any = None
    drop_last = True

    def __init__(self, batch_size: Many, eval_batch_size: Many, num_workers: Workers = 0) -> None:
        check_ranges(SplitModule, locals())
        super().__init__()
        self.batch_size, self.eval_batch_size, self.num_workers = batch_size, eval_batch_size, num_workers
        self._skipped: list[str] = []

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Takes out the reasons why a prediction's items were left out (``skipped``); they are told at the
        end, for a batch may come from a loader process."""
        if isinstance(batch, dict):
            self._skipped += batch.pop("skipped", ())
        return batch

    def teardown(self, stage: str) -> None:
        """Tell once of what all processes left out of a prediction.

        Raises:
            ValueError: if that is everything.
        """
        (rank, world), own = place(self), (len(self._skipped), *self._skipped[:1])
        self._skipped = []
        each: list[Any] = [own] * world
        if stage == "predict" and world > 1 and distributed.is_initialized():
            distributed.all_gather_object(each, own)
        total = sum(found[0] for found in each)
        if not total:
            return
        first = next(found[1] for found in each if found[0])
        count = len(self.test_set if self.predict_set is None else self.predict_set)
        if total >= count:
            raise ValueError(f"none of the {count:,} items can be read: {first}")
        if rank == 0:
            text = f"{total:,} of {count:,} items cannot be read and are skipped: {first}"
            warnings.warn(text, stacklevel=2)

    def _evaluated(self, found: Any) -> Any:
        if isinstance(found, list):
            return [self._evaluated(each) for each in found]
        return [] if found is None else evaluation_loader(self, found, self.eval_batch_size, self.num_workers)

    def train_dataloader(self) -> Any:
        return train_loader(self, self.train_set, self.batch_size, self.num_workers, drop_last=self.drop_last)

    def val_dataloader(self) -> Any:
        return self._evaluated(self.val_set)

    def test_dataloader(self) -> Any:
        return self._evaluated(self.test_set)

    def predict_dataloader(self) -> Any:
        return self._evaluated(self.test_set if self.predict_set is None else self.predict_set)
