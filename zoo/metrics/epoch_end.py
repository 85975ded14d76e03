"""The end of an epoch: metrics are logged, and a training that no longer gets better stops."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import LightningModule


def log_and_reset(
    module: LightningModule, stage: str, metrics: Mapping[str, Any], shown: Collection[str] = ()
) -> None:
    """Log each metric as ``stage/name`` and empty it.

    Args:
        module: that logs.
        stage: ``val`` or ``test``.
        metrics: torchmetrics by name, each with one number.
        shown: names that the progress bar has.
    """
    for name, metric in metrics.items():
        # compute() speaks for all ranks; without sync_dist Lightning warns that it might not
        module.log(f"{stage}/{name}", metric.compute(), prog_bar=name in shown, sync_dist=True)
        metric.reset()


@dataclass
class Patience:
    """How long a training waits for a score strictly greater than all before.

    Attributes:
        limit: scores in a row without a greater one after which it stops; None waits for ever.
        best: the greatest score; at first what a score must exceed to count.
        waited: scores since then.
    """

    limit: int | None
    best: float = -float("inf")
    waited: int = 0

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"patience must be null or at least 1, got {self.limit}")

    def exhausted(self, score: float) -> bool:
        """Take in a score; whether the training has waited long enough."""
        self.waited = 0 if score > self.best else self.waited + 1
        self.best = max(self.best, score)
        return self.over

    @property
    def over(self) -> bool:
        """Whether it has: a run that was killed behind its last checkpoint has nothing left to do either."""
        return self.limit is not None and self.waited >= self.limit

    def state(self) -> dict[str, float]:
        """For a checkpoint."""
        return {"best": self.best, "waited": self.waited}

    def restore(self, state: Mapping[str, float]) -> None:
        """Take over what :meth:`state` gave."""
        self.best, self.waited = float(state["best"]), int(state["waited"])
