"""Keys of earlier updates, the negatives of MoCo (He et al., CVPR 2020): a variant of the official code."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Keys = dict[str, tuple[Tensor, Tensor, Tensor]]
"""Of a micro-batch, by view: keys (B, d), their documents (B,), and bool (B,), those that count."""


class KeyQueue(nn.Module):
    """For each view that is a target the last keys, f_xi of first tokens, and whose they are.

    They are part of the state dict, so that a resumed run has the same negatives. It begins empty: a key that
    no document has is no negative.

    Args:
        views: ``x``, ``y``, ``yhat``, those that are targets.
        size: keys of each.
        width: d.
    """

    def __init__(self, views: Iterable[str], size: int, width: int) -> None:
        super().__init__()
        self.size, self.views = size, tuple(sorted(views))
        for view in self.views:
            self.register_buffer(f"{view}_keys", torch.zeros(size, width))
            self.register_buffer(f"{view}_documents", torch.full((size,), -1))
            self.register_buffer(f"{view}_next", torch.zeros((), dtype=torch.int64))

    def keys_of(self, view: str) -> Tensor:
        """(size, d), those that are not there yet 0."""
        found: Tensor = getattr(self, f"{view}_keys")
        return found

    def usable(self, view: str, documents: Tensor | None, rows: int) -> Tensor:
        """Which keys are negatives of which rows, bool (rows, size): all but a document's own.

        Args:
            view: whose keys.
            documents: places (rows,) in the training set; None for documents that are not of it.
            rows: how many.
        """
        kept: Tensor = getattr(self, f"{view}_documents")
        there = (kept >= 0).expand(rows, -1)
        return there if documents is None else there & (kept != documents[:, None])

    def holds(self, view: str) -> bool:
        """Whether there is any key of a view."""
        return view in self.views and bool((getattr(self, f"{view}_documents") >= 0).any())

    def add_update(self, found: Sequence[Keys], gather: Callable[[Tensor], Any]) -> None:
        """Keys of an update become negatives of later ones.

        Args:
            found: of its micro-batches.
            gather: (N, ...) of all processes as (W, N, ...), or as it is where there is one.
        """
        for view in found[0]:
            parts = [torch.cat(part) for part in zip(*(keys[view] for keys in found), strict=True)]
            every = [gather(part).reshape(-1, *part.shape[1:]) for part in parts]
            self.add(view, *every)

    @torch.no_grad()
    def add(self, view: str, keys: Tensor, documents: Tensor, rows: Tensor) -> None:
        """Take the keys of an update in, in the order of their documents; the oldest go.

        Args:
            view: whose keys.
            keys: (N, d), those of all micro-batches and processes.
            documents: int64 (N,).
            rows: bool (N,), those that count.
        """
        keys, documents = keys[rows], documents[rows]
        # neither processes nor micro-batches change what is kept
        order = documents.argsort(stable=True)[-self.size :]
        next_one: Tensor = getattr(self, f"{view}_next")
        places = (next_one + torch.arange(len(order), device=keys.device)) % self.size
        self.keys_of(view)[places] = keys[order].float()
        getattr(self, f"{view}_documents")[places] = documents[order]
        next_one.add_(len(order)).remainder_(self.size)
