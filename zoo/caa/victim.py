"""The model under attack, with a count of each forward and backward pass of an image."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

Loss = Callable[[Tensor], Tensor]
"""Of logits (N, K), one number per image (N,)."""


@dataclass
class Cost:
    """What an attack cost: passes summed over images, and seconds of the processor."""

    forward: int = 0
    backward: int = 0
    cpu_seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.forward + other.forward,
            self.backward + other.backward,
            self.cpu_seconds + other.cpu_seconds,
        )


@dataclass
class Victim:
    """A classifier in evaluation mode, images (N, C, H, W) in [0, 1] -> logits (N, K).

    Only the images get gradients: those of the parameters are neither made nor left.

    Attributes:
        classify: the model.
        cost: since the last :meth:`spent`.
        zero_gradients: images whose gradient was exactly zero, among those that were differentiated.
        classes: K, 0 before the first pass.
    """

    classify: Callable[[Tensor], Tensor]
    cost: Cost = field(default_factory=Cost)
    zero_gradients: int = 0
    classes: int = 0

    def __post_init__(self) -> None:
        if getattr(self.classify, "training", False):
            raise ValueError("the attacked model is in training mode; call eval() on it first")

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Class scores (N, K) in float32 at least."""
        self.cost.forward += len(images)
        return self._checked(self.classify(images), images)

    def gradient(self, images: Tensor, loss: Loss) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (N, K), losses (N,) and the gradient of their sum by the images."""
        self.cost.forward += len(images)
        self.cost.backward += len(images)
        with torch.enable_grad():
            images = images.detach().requires_grad_()
            logits = self._checked(self.classify(images), images)
            losses = loss(logits)
            if losses.grad_fn is None:  # the model cuts the graph: no gradient at all
                gradient = torch.zeros_like(images)
            else:
                (given,) = torch.autograd.grad(losses.sum(), images, allow_unused=True)
                gradient = torch.zeros_like(images) if given is None else given
        self.zero_gradients += int((gradient.flatten(1) == 0).all(dim=1).sum())
        return logits.detach(), losses.detach(), gradient.detach()

    def classes_of(self, images: Tensor) -> int:
        """K, for which one image is passed where there was no pass before."""
        return self.classes or self.logits(images[:1]).shape[1]

    def right(self, images: Tensor, labels: Tensor) -> Tensor:
        """Whether each image is classified as its label, (N,)."""
        return self.logits(images).argmax(dim=1) == labels if len(images) else labels.bool()

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Adds the processor's seconds of what happens inside."""
        begin = time.process_time()
        try:
            yield
        finally:
            self.cost.cpu_seconds += time.process_time() - begin

    def spent(self) -> Cost:
        """The cost so far, which starts anew."""
        found, self.cost = self.cost, Cost()
        return found

    def _checked(self, logits: Tensor, images: Tensor) -> Tensor:
        if logits.dim() != 2 or len(logits) != len(images):
            raise ValueError(
                f"the target gives {tuple(logits.shape)} for {len(images)} images, but must give one row of "
                "class scores for each"
            )
        if not bool(logits.isfinite().all()):
            raise ValueError("the target gives NaN or infinite class scores; nothing can be said of it")
        self.classes = logits.shape[1]
        return logits if logits.dtype == torch.float64 else logits.float()
