"""Where negatives come from: the batch of all processes, with its gradient, or a queue of earlier keys."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def partner_first(scores: Tensor, rank: int, world: int) -> Tensor:
    """Scores of local rows with all keys, (B, world B), with each row's own key moved to column 0."""
    rows = torch.arange(len(scores), device=scores.device)
    own = rank + world * rows
    others = torch.ones_like(scores, dtype=torch.bool)
    others[rows, own] = False
    return torch.cat([scores[rows, own, None], scores[others].view(len(scores), -1)], dim=1)


class KeyQueue(nn.Module):
    """The keys of the last batches (He et al. 2020), first random unit vectors, in the state of the module.

    Args:
        size: number of keys, a multiple of the global batch.
        width: of a key.
    """

    keys: Tensor
    place: Tensor

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.register_buffer("keys", functional.normalize(torch.randn(size, width, generator=g), dim=1))
        self.register_buffer("place", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Put the keys of all processes in the place of the oldest; after the loss that they are partners in.

        Raises:
            ValueError: for a batch that does not divide the queue.
        """
        size, count = len(self.keys), len(keys)
        if size % count:
            raise ValueError(
                f"model.init_args.queue_size is {size}, which the global batch of {count} "
                "(data.init_args.batch_size) does not divide"
            )
        start = int(self.place)
        self.keys[start : start + count] = keys.to(self.keys)
        self.place.fill_((start + count) % size)
