"""The evaluation protocol of ADM (Dhariwal & Nichol, NeurIPS 2021), that compares diffusion models."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors

from zoo.metrics.frechet import FrechetDistance, read_reference
from zoo.metrics.inception import load_inception
from zoo.metrics.inception_score import InceptionScore
from zoo.metrics.precision_recall import PrecisionRecall
from zoo.nn.ranges import Many, check_ranges
from zoo.reports import say

_SAMPLES, _REFERENCE = 0, 1  # the loaders of the data
PROTOCOL_SAMPLES = 50_000


class ADMEvaluation(LightningModule):
    """FID, sFID, inception score, precision and recall of sample files, as ADM's evaluator computes them.

    Each process passes its part of a batch through Inception; the features of the whole batch are then
    gathered in the order of the file, so that any number of processes adds up the same numbers in the same
    order. Memory holds pool_3 of all images (400 MB for 50,000), never the images.

    Args:
        inception: file of the TF-2015 Inception weights, ``pt_inception-2015-12-05-6726825d.pth``; not needed
            where the files hold features.
        neighbours: k of precision and recall.
        part: samples per part of the inception score.
    """

    answers_untrained: ClassVar[bool] = True  # its networks come from files of their own

    def __init__(self, inception: str | None = None, neighbours: Many = 3, part: Many = 5000) -> None:
        check_ranges(ADMEvaluation, locals())
        super().__init__()
        self.save_hyperparameters()
        self.inception = None if inception is None else load_inception(inception)
        self.statistics: dict[str, tuple[Tensor, Tensor]] = {}
        self.metrics: dict[str, Any] = {}
        self._tf32: tuple[str, bool] | None = None

    def setup(self, stage: str) -> None:
        """Read the reference statistics; check that images have an Inception to pass through."""
        data: Any = getattr(self.trainer, "datamodule", None)
        items = [x for x in (getattr(data, k, None) for k in ("sample_items", "reference_items")) if x]
        if not items:
            raise ValueError(
                "zoo.ADMEvaluation measures sample files; set data.class_path: datamodules.SampleFiles"
            )
        if self.inception is None and any(x.images for x in items):
            raise ValueError(
                "model.init_args.inception is not set, and the files hold images: give the weights file "
                "pt_inception-2015-12-05-6726825d.pth"
            )
        self.statistics = reference_statistics(data.reference, computable=len(items) == 2)
        self.metrics = {}

    def on_test_start(self) -> None:
        # Features are measured, not approximated: TF32 keeps three digits.
        self._tf32 = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False

    def on_test_end(self) -> None:
        if self._tf32 is not None:
            torch.set_float32_matmul_precision(self._tf32[0])
            torch.backends.cudnn.allow_tf32 = self._tf32[1]

    def features(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """``pool_3`` (B, 2048), ``spatial`` (B, 2023) and ``logits`` (B, 1008), where they can be had."""
        if "image" in batch:
            assert self.inception is not None
            with torch.autocast(self.device.type, enabled=False):
                found = self.inception.float()(batch["image"])
            return {"pool_3": found.pool_3, "spatial": found.spatial, "logits": found.logits}
        given: dict[str, Tensor] = {
            k: batch[k].float() for k in ("pool_3", "spatial", "logits") if k in batch
        }
        if "logits" not in given and self.inception is not None:
            given["logits"] = F.linear(given["pool_3"], self.inception.fc.weight)
        return given

    def test_step(self, batch: dict[str, Tensor], batch_idx: int, dataloader_idx: int = _SAMPLES) -> None:
        gathered = self._whole_batch({**self.features(batch), "index": batch["index"]})
        real = dataloader_idx == _REFERENCE
        for name, key in (("fid", "pool_3"), ("sfid", "spatial")):
            if key in gathered and not (real and self.statistics):
                self._frechet(name, key, gathered[key].shape[1]).update(gathered[key], real=real)
        if not real and "logits" in gathered:
            self._metric("inception_score", InceptionScore, self.hparams["part"]).update(gathered["logits"])
        metric = self._metric("precision_recall", PrecisionRecall, self.hparams["neighbours"])
        metric.update(gathered["pool_3"], real=real)

    def _whole_batch(self, local: dict[str, Tensor]) -> dict[str, Tensor]:
        """The rows of all processes, in the order of the file."""
        if self.trainer.world_size == 1:
            return local
        gathered = {k: torch.cat(gather_all_tensors(v.contiguous())) for k, v in local.items()}
        order = gathered["index"].argsort()
        return {k: v[order] for k, v in gathered.items()}

    def _metric(self, name: str, kind: Any, argument: int) -> Any:
        # every process has all features: nothing is left to add up
        if name not in self.metrics:
            self.metrics[name] = kind(argument, sync_on_compute=False).to(self.device)
        return self.metrics[name]

    def _frechet(self, name: str, key: str, size: int) -> Any:
        new = name not in self.metrics
        metric = self._metric(name, FrechetDistance, size)
        if new and self.statistics:
            mean, covariance = self.statistics[key]
            if mean.shape != (size,) or covariance.shape != (size, size):
                raise ValueError(
                    f"the reference has statistics of {len(mean)} features, the samples have {size} ({key})"
                )
            metric.set_reference(mean, covariance)
        return metric

    def on_test_epoch_end(self) -> None:
        found: dict[str, Tensor] = {
            name: self.metrics[name].compute() for name in ("fid", "sfid") if name in self.metrics
        }
        if "inception_score" in self.metrics:
            found["inception_score"] = self.metrics["inception_score"].compute()
        else:
            say("no inception score: the samples hold features without logits, and no Inception is given")
        pairs = self.metrics["precision_recall"]
        if pairs.real:
            found |= pairs.compute()
        else:
            say("no precision and recall: the reference holds statistics alone, neither images nor features")
        found["samples"] = torch.tensor(float(sum(map(len, pairs.fake))))
        if found["samples"] != PROTOCOL_SAMPLES:
            say(
                f"note: FID of {found['samples']:,.0f} samples is biased up and cannot be compared with "
                "FID-50K"
            )
        for name, value in found.items():
            self.log(f"test/{name}", value, sync_dist=False, rank_zero_only=True)


def reference_statistics(path: Path, computable: bool) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and covariance by feature, ``pool_3`` and ``spatial``, that a reference file has; {} for none.

    Args:
        path: of the reference.
        computable: whether it has images or features to compute them from instead.

    Raises:
        ValueError: for a file with some of the four arrays, or with none where they cannot be computed.
    """
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            held = {n.removesuffix(".npy") for n in archive.namelist()}
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is no readable npz file ({error}); write or download it anew") from None
    if computable and not held & {"mu", "sigma", "mu_s", "sigma_s"}:
        say(f"{path.name} has no statistics: they are computed from its images, as ADM's evaluator does")
        return {}
    return {"pool_3": read_reference(path), "spatial": read_reference(path, spatial=True)}
