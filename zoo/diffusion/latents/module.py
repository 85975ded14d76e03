"""The LightningModule that turns pictures into the latents that DiT is trained on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch import Callback, LightningModule
from torch import Tensor

from zoo.diffusion.autoencoder import check_scale, encode_moments, load_vae, vae_digest, vae_factor
from zoo.diffusion.latents.shards import ShardStore
from zoo.diffusion.latents.writer import EncodedImages, ShardWriter
from zoo.nn.ranges import Positive, check_ranges
from zoo.randomness import derived_seed, global_seed
from zoo.reports import say

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_DRAWS = 103  # first word of the keys of the posterior draws
_PROTOCOL = ("predict_set", "shard_size", "predict_batch_size", "finished_shards", "size")


class LatentExtractor(LightningModule):
    """Encodes pictures with Stable Diffusion's VAE into the packed layout of ``datamodules.ImageNetLatents``.

    Stored are the posterior's mean and standard deviation, unscaled, of each picture and of its mirror image
    (a mirrored latent is not the latent of the mirrored picture), in float16. Only ``zoo predict`` runs it.
    The work is cut into shards of consecutive pictures, dealt to the devices; a killed run goes on with the
    same command, and gives the same bytes as one that nobody stopped, on any number of devices.

    The data are a :class:`datamodules.ImageFolder`.

    Args:
        out: folder to write; defaults to ``$ZOO_DATA/imagenet256`` or ``data/imagenet256``, with the side of
            the pictures.
        vae: local folder or hub id of a diffusers ``AutoencoderKL``.
        dtype: float32, or bfloat16 for speed.
        flips: encode the mirror image too.
        moments: store mean and deviation; false stores one posterior draw, a function of (seed, index).
        latent_scale: factor of the latents in training, must be the VAE's own; written beside them.

    Raises:
        ValueError: for a type that is none of these.
    """

    answers_untrained: ClassVar[bool] = True  # the VAE comes from a file of its own

    def __init__(
        self,
        out: str | None = None,
        vae: str = "stabilityai/sd-vae-ft-ema",
        dtype: Literal["float32", "bfloat16"] = "float32",
        flips: bool = True,
        moments: bool = True,
        latent_scale: Positive = 0.18215,
    ) -> None:
        check_ranges(LatentExtractor, locals())
        super().__init__()
        self.save_hyperparameters()
        if dtype not in _DTYPES:
            raise ValueError(f"dtype must be {' or '.join(_DTYPES)}, got {dtype!r}")
        self.__dict__["_vae"] = None  # a tool, no part of the module's state
        self._writer = ShardWriter()
        # Near the end fewer shards are left than devices.
        self.allow_zero_length_dataloader_with_multiple_devices = True

    def configure_callbacks(self) -> list[Callback]:
        return [self._writer]

    def setup(self, stage: str) -> None:
        data: Any = getattr(self.trainer, "datamodule", None)
        name = f"{type(data).__module__.split('.')[0]}.{type(data).__name__}"
        if stage != "predict":
            raise ValueError("zoo.LatentExtractor is not trained: zoo predict --config latents_imagenet256")
        if not all(hasattr(data, a) for a in _PROTOCOL) or not hasattr(data.predict_set, "fingerprint"):
            raise ValueError(
                "zoo.LatentExtractor needs data that are predicted in shards, datamodules.ImageFolder "
                f"without predict_samples, got {name}"
            )
        h = self.hparams
        vae = load_vae(h["vae"])
        check_scale(vae, h["latent_scale"], "model.init_args.latent_scale")
        if data.size % vae_factor(vae):
            raise ValueError(
                f"data.init_args.size is {data.size}, which the VAE's {vae_factor(vae)} pixels per latent do "
                "not divide"
            )
        store = ShardStore(
            self._folder(data.size), self._facts(data, vae), len(data.predict_set), data.shard_size
        )
        store.check()
        # diffusers' own `to` warns of modules to be kept in float32, of which this class has none
        self.__dict__["_vae"] = torch.nn.Module.to(vae, _DTYPES[h["dtype"]])
        self.trainer.strategy.barrier("zoo.diffusion.latents.check")
        if self.trainer.is_global_zero and not store.complete:
            store.begin()
        # Asked of one process: a folder on a network may look different to each.
        data.finished_shards = self.trainer.strategy.broadcast(store.finished())
        self._writer.store = store
        done = len(data.finished_shards)
        say(f"{store.count:,} pictures in {store.shards} shards" + (f", {done} of them done" if done else ""))

    def _folder(self, size: int) -> Path:
        default = Path(os.environ.get("ZOO_DATA", "data")) / f"imagenet{size}"
        return Path(self.hparams["out"] or default)

    def _facts(self, data: Any, vae: Any) -> dict[str, Any]:
        """Content of meta.json: what a reader needs, and what the bytes depend on."""
        h = self.hparams
        facts = {
            "scale": h["latent_scale"],
            "moments": h["moments"],
            "vae": Path(h["vae"]).name if os.path.isdir(h["vae"]) else h["vae"],
            "vae_sha256": vae_digest(vae),
            "crop": data.size,
            "views": 2 if h["flips"] else 1,
            "encoded_in": h["dtype"],
            "encoded_together": data.predict_batch_size,
            "shard_size": data.shard_size,
            "pictures": len(data.predict_set),
            "pictures_sha256": data.predict_set.fingerprint(),
        }
        return facts if h["moments"] else facts | {"seed": global_seed()}

    def on_predict_start(self) -> None:
        self._vae.to(self.device)

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> EncodedImages:
        image = batch["image"]
        views = [image, image.flip(-1)] if self.hparams["flips"] else [image]
        encoded = [self._encode(view, batch["index"], number) for number, view in enumerate(views)]
        latents = torch.stack(encoded, dim=1).half()  # (B, V, C or 2 C, S / 8, S / 8)
        return EncodedImages(latents.cpu(), batch["label"].cpu(), batch["index"].cpu())

    def _encode(self, images: Tensor, index: Tensor, view: int) -> Tensor:
        mean, std = encode_moments(self._vae, images)
        if self.hparams["moments"]:
            return torch.cat([mean, std], dim=1)
        noise = torch.empty(mean.shape)
        for row, i in zip(noise, index.tolist(), strict=True):
            seed = derived_seed(_DRAWS, global_seed(), i, view)
            row.normal_(generator=torch.Generator().manual_seed(seed))
        return mean + std * noise.to(mean.device)
