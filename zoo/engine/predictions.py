"""What a person looks at: previews while training, predictions on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter

from zoo.file_names import make_own, remove_own
from zoo.reports import PARTS, Report, image_grid, save_png, to_uint8, writing, writing_into


class Previews(Callback):
    """At each validation, pictures of the module's ``preview(count)`` in ``samples/`` of the run's folder.

    Modules without ``preview`` are left alone. Runs inside the validation, hence with averaged weights, on
    all ranks.

    Args:
        count: number of images; 0 switches previews off.
    """

    def __init__(self, count: int = 100) -> None:
        if count < 0:
            raise ValueError(f"previews.count must not be negative, got {count}")
        self.count = count
        self.latest: Path | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        preview = getattr(pl_module, "preview", None)
        if not self.count or preview is None or trainer.sanity_checking or trainer.log_dir is None:
            return
        for name, result in preview(self.count).items():
            if not result.viewable:
                continue
            path = Path(trainer.log_dir) / "samples" / f"{name}_step={trainer.global_step:08d}.png"
            if trainer.is_global_zero:
                save_png(path, image_grid(to_uint8(result.images)))
            self.latest = path


class PredictionWriter(BasePredictionWriter):
    """Has each prediction, a :class:`zoo.reports.Report`, write itself into ``predictions/`` of the run.

    Attributes:
        outputs: what was written.
    """

    def __init__(self) -> None:
        super().__init__(write_interval="batch")
        self.outputs: list[Path] = []
        self._folder: Path | None = None
        self._merged: dict[type, None] = {}

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._folder = Path(trainer.log_dir or trainer.default_root_dir) / "predictions"
        if trainer.is_global_zero:
            with writing(self._folder / PARTS):
                remove_own(self._folder / PARTS)  # of a prediction that was killed
                make_own(self._folder / PARTS)
        trainer.strategy.barrier("zoo.predictions")

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        assert self._folder is not None
        if not isinstance(prediction, Report):
            raise TypeError(
                f"{type(pl_module).__name__}.predict_step returned {type(prediction).__name__}, "
                "which has no write(folder); see zoo.reports.Report"
            )
        with writing_into(self._folder):
            self.outputs += prediction.write(self._folder)
        if hasattr(prediction, "merge"):
            self._merged[type(prediction)] = None

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.strategy.barrier("zoo.predictions")
        if not trainer.is_global_zero or self._folder is None:
            return
        for kind in self._merged:
            with writing_into(self._folder):
                self.outputs += kind.merge(self._folder)  # type: ignore[attr-defined]
        remove_own(self._folder / PARTS)
