"""Data of active generation: images of which a part is held out, and a training set that grows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from datamodules.images.active_sources import Part, Source, read_source
from datamodules.images.growing import (
    EvaluatedItems,
    GrowingItems,
    GrowingLoader,
    GrowingSampler,
    Images,
    PixelImages,
)
from datamodules.images.near_copies import NearCopies
from datamodules.loading.arguments import check_choice, data_folder
from datamodules.loading.loaders import SplitModule, as_is, evaluation_loader, place
from datamodules.loading.ranges import Many, ManyOrZero, Size, Workers, check_ranges
from datamodules.loading.sampling import global_seed, item_generator
from datamodules.loading.variants import Uses, check_variants

_SHAPES = {"digits": (1, 8, 8), "cifar10": (3, 32, 32), "cifar100": (3, 32, 32)}
_DEFAULT = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
_HELD_OUT = {"digits": 60, "cifar10": 5000, "cifar100": 5000, "imagenet": 10_000}
_SPLIT, _PER_CLASS = 7711, 7712


class ActiveGeneration(SplitModule):
    """Images for a classifier that asks for more of those it gets wrong.

    A seeded permutation splits the training images once, the same on all processes, into those that are
    trained on and a held-out part, which the evaluation's transform shows, and which :meth:`give_back` adds
    to the training set at half time. :meth:`append` adds generated ones. Sampling is uniform over all.

    Batch: ``image`` float32 (B, C, S, S) in [0, 1], ``label`` int64 (B,), ``index`` int64 (B,), and in
    training ``generated`` bool (B,). Validation, test and prediction have real images that nobody trains on.

    Args:
        source: ``digits`` (scikit-learn's, in a fixed permutation: 900 for a generator, 300 for the
            classifier, 597 for the test; with 8 bits, as generated ones have in their files, within 1 / 510
            of the x / 16 of :class:`datamodules.LabelledImages`), ``cifar10``, ``cifar100`` (the python
            version), ``imagenet`` (``meta/train.txt`` and ``meta/val.txt`` with lines
            ``relative/path label``, relative to ``train/`` and ``val/``, and, for prompts,
            ``meta/classes.txt``, a name or a synset with its names a line), ``folder``
            (``train/CLASS/NAME.jpg`` and ``val/CLASS/NAME.jpg``; folders are the names of the classes).
        root: folder of the files; defaults to ``$ZOO_DATA`` or ``data``, with the archive's own name.
        part: of the digits: the ``classifier``'s, or the ``generator``'s 900.
        held_out: images held out; null is 60 of the digits, 5,000 of CIFAR, 10,000 of ImageNet, a tenth of
            ``folder``.
        per_class: real training images of each class, drawn by the seed; null is all. The held-out part is
            taken from these.
        size: side of the pictures of ``imagenet`` and ``folder``.
        random_crops: train on random parts of these, as of ImageNet; false shows them as the evaluation does,
            which a generator and small pictures need.
        predict_items: guides that ``zoo predict`` shows variants of.
        batch_size: global training batch, over all devices.
        eval_batch_size: global batch of validation, test, prediction and mining.
        num_workers: loader processes.
    """

    of_weights: ClassVar[tuple[str, ...]] = ("source", "size side")
    split_of_weights: ClassVar[tuple[str, ...]] = ("part", "held_out", "per_class")
    of_variants: ClassVar[dict[str, Uses]] = {
        "source": {
            "root": ("cifar10", "cifar100", "imagenet", "folder"),
            "part": ("digits",),
            **dict.fromkeys(("size", "random_crops"), ("imagenet", "folder")),
        },
        "part": {"held_out": ("classifier",), "per_class": ("classifier",)},
    }

    def __init__(
        self,
        source: Source = "digits",
        root: str | None = None,
        part: Part = "classifier",
        held_out: ManyOrZero | None = None,
        per_class: Many | None = None,
        size: Size = 224,
        random_crops: bool = True,
        predict_items: Many = 24,
        batch_size: Many = 32,
        eval_batch_size: Many = 256,
        num_workers: Workers = 0,
    ) -> None:
        check_ranges(ActiveGeneration, locals())
        super().__init__(batch_size, eval_batch_size, num_workers)
        check_choice("source", source, Source)
        check_choice("part", part, Part)
        check_variants(ActiveGeneration, locals())
        self.source, self.part, self.size, self.random_crops = source, part, size, random_crops
        self.held_out, self.per_class, self.predict_items = held_out, per_class, predict_items
        self.root = data_folder(root, _DEFAULT.get(source, "imagenet"))
        self.shape = _SHAPES.get(source, (3, size, size))
        self.class_names: list[str] | None = None
        self.names_told = True
        # of the others the files tell
        self.num_classes = {"digits": 10, "cifar10": 10, "cifar100": 100}.get(source)
        self.held_out_members: np.ndarray[Any, Any] = np.empty(0, dtype=np.int64)
        self.epochs_done = self.batches_before = 0
        self.returned = False
        self._split_digest = ""
        self._split_done = False

    # --- reading ---------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        if self._split_done:
            return
        found = read_source(self.source, self.root, self.size, self.random_crops, self.part)
        self.images, test = found.train, found.test
        self.class_names, self.names_told = found.class_names, found.names_told
        self.num_classes = len(found.class_names)
        self.near_copies = NearCopies(self.images, self.num_workers)
        every = self._chosen(np.arange(len(self.images)))
        order = item_generator(_SPLIT, global_seed()).permutation(len(every))
        count = self._held_out_count(len(every))
        self.held_out_members = np.sort(every[order[:count]])
        members = np.sort(every[order[count:]])
        self.train_set = GrowingItems(self.images, members)
        self.held_out_set = EvaluatedItems(self.images, self.held_out_members)
        self.val_set = self.test_set = EvaluatedItems(test)
        shown = np.linspace(0, len(test) - 1, min(self.predict_items, len(test))).round().astype(np.int64)
        self.predict_set = EvaluatedItems(test, np.unique(shown))
        self.initial_items = len(members)
        self._split_digest = _digest(self.images, members, self.held_out_members)
        self._split_done = True

    def _held_out_count(self, total: int) -> int:
        default = 0 if self.part == "generator" else _HELD_OUT.get(self.source, total // 10)
        if self.held_out is None and self.per_class is not None:
            default = total // 5
        count = default if self.held_out is None else self.held_out
        if count >= total:
            raise ValueError(
                f"data.init_args.held_out is {count:,}, but there are {total:,} training images; some "
                "must be left to train on"
            )
        return count

    def _chosen(self, index: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """``per_class`` images of each class."""
        if self.per_class is None:
            return index
        labels, found = self.images.labels.numpy(), []
        for label in range(self.num_classes or 0):
            own = np.flatnonzero(labels == label)
            if len(own) < self.per_class:
                raise ValueError(
                    f"data.init_args.per_class is {self.per_class:,}, but class {label} has "
                    f"{len(own):,} images"
                )
            order = item_generator(_PER_CLASS, global_seed(), label).permutation(len(own))
            found.append(own[order[: self.per_class]])
        return np.sort(np.concatenate(found))

    # --- growth ------------------------------------------------------------------------------------------

    @property
    def counted_batches(self) -> int:
        """Batches of an epoch of the set that training began with: the schedule counts no others."""
        limit = None if self.trainer is None else self.trainer.limit_train_batches
        return GrowingSampler(self.initial_items, self.batch_size, 0, limit=limit).batches

    @property
    def batches_of_epoch(self) -> int:
        """Batches of the present epoch."""
        limit = None if self.trainer is None else self.trainer.limit_train_batches
        return GrowingSampler(len(self.train_set), self.batch_size, 0, limit=limit).batches

    @property
    def generated_size(self) -> int:
        """Side that generated pictures are kept at: that of images in memory, or what crops are taken of."""
        return self.shape[1] if self.source in _SHAPES else round(self.shape[1] / 0.875)

    def append(self, paths: Sequence[Path], labels: Sequence[int]) -> None:
        """Add generated pictures to the training set.

        Raises:
            ValueError: for a label that is no class.
        """
        if bad := [label for label in labels if not 0 <= label < (self.num_classes or 0)]:
            raise ValueError(
                f"a generated image has label {bad[0]}, but there are {self.num_classes} classes"
            )
        self.train_set.append(paths, labels)

    def give_back(self) -> None:
        """Add the held-out part to the training set.

        Raises:
            ValueError: a second time.
        """
        self.train_set.give_back(self.held_out_members)
        self.returned = True

    def epoch_ends(self, batches: int) -> None:
        """The next epoch begins after ``batches`` of all epochs."""
        self.epochs_done += 1
        self.batches_before = batches

    def guides(self, index: Sequence[int], held_out: bool = True) -> tuple[Tensor, list[int]]:
        """Images of the held-out part, or of those trained on, as the evaluation shows them, and labels."""
        members = self.held_out_members if held_out else self.train_set.members
        rows = members[np.asarray(index, dtype=np.int64)]
        return self.images.evaluated(rows), self.images.labels[torch.from_numpy(rows)].tolist()

    def training_labels(self) -> list[int]:
        """Of the real images that are trained on from the beginning."""
        return self.images.labels[torch.from_numpy(self.train_set.members)].tolist()

    def near_pixels(self, label: int, image: Tensor, distance: float) -> Tensor:
        """Images of a class that are, or will be, trained on, float32 (N, C, S, S) in [0, 1], among which is
        each that is nearer to ``image`` (C, S, S) than ``distance``."""
        members = np.concatenate([self.train_set.members, self.held_out_members])
        return self.near_copies.possible(label, members, self.train_set, image, distance)

    def state_dict(self) -> dict[str, Any]:
        if not self._split_done:
            return {}
        return {
            "epochs_done": self.epochs_done,
            "batches_before": self.batches_before,
            "returned": self.returned,
            "items": self.initial_items,
            "held_out": len(self.held_out_members),
            "split": self._split_digest,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where a checkpoint stands; generated images come from the run's manifest.

        Raises:
            ValueError: for a checkpoint of other data.
        """
        tested = self.trainer is not None and self.trainer.state.fn != "fit"  # a test may have other data
        if tested or not self._split_done or "epochs_done" not in state_dict:
            return
        before = (state_dict["items"], state_dict["held_out"])
        now = (self.initial_items, len(self.held_out_members))
        if before != now:
            raise ValueError(
                f"the checkpoint was trained on {before[0]:,} images with {before[1]:,} held out, these data "
                f"have {now[0]:,} and {now[1]:,}: go on with the data of the run"
            )
        if state_dict.get("split", self._split_digest) != self._split_digest:  # old checkpoints have none
            raise ValueError(
                "the checkpoint was trained on other images, or on another split of them by another seed: go "
                "on with the data and the seed of the run"
            )
        self.epochs_done, self.batches_before = state_dict["epochs_done"], state_dict["batches_before"]
        if state_dict["returned"]:
            self.give_back()

    # --- loaders -----------------------------------------------------------------------------------------

    def train_dataloader(self) -> Any:
        rank, world = place(self)
        position: Callable[[], int] = lambda: 0  # noqa: E731
        limit = None
        if self.trainer is not None:
            progress = self.trainer.fit_loop.epoch_loop.batch_progress.total
            position = partial(_since, progress, self)
            limit = self.trainer.limit_train_batches
        sampler = GrowingSampler(
            len(self.train_set),
            self.batch_size,
            self.epochs_done,
            global_seed(),
            rank,
            world,
            limit,
            position,
        )
        return GrowingLoader(
            self.train_set,
            batch_sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=as_is,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),
        )

    def held_out_dataloader(self) -> Any:
        """The held-out images in order, each once over all processes."""
        return evaluation_loader(self, self.held_out_set, self.eval_batch_size, self.num_workers)


def _digest(images: Images, *members: np.ndarray[Any, Any]) -> str:
    """Of labels, of the pixels or the names of files, and of who is held out."""
    digest = hashlib.blake2b(digest_size=16)
    content = images.pixels.numpy() if isinstance(images, PixelImages) else images.paths  # type: ignore[attr-defined]
    for array in (images.labels.numpy(), content, *members):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _since(progress: Any, data: ActiveGeneration) -> int:
    return int(progress.ready) - data.batches_before
