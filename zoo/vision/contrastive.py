"""The ContrastiveVL LightningModule."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, get_args

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torchmetrics import MeanMetric

from zoo.nn.augment import RandomResizedCrop, step_uniform
from zoo.nn.data_fit import DataSizes, check_fit, told
from zoo.nn.gathered_rows import check_others, gathered
from zoo.nn.given_texts import given_texts
from zoo.nn.kept_tokenizer import KeptTokenizer
from zoo.nn.optim import decayed_groups, with_schedule
from zoo.nn.parallel import refuse_processes, refuse_sharding
from zoo.nn.processes import gathered as of_all_processes
from zoo.nn.ranges import Depth, Finite, Positive, Share, Size, check_ranges
from zoo.nn.variants import Uses, refuse_unused
from zoo.reports import class_names_of
from zoo.vision.class_report import ClassScores, scored
from zoo.vision.clip_network import PIXELS, SHAPES, SIZES, Activation, ClipNetwork, Shape
from zoo.vision.pair_losses import diagonal, same_pairs, sigmoid_loss, softmax_loss
from zoo.vision.pair_report import PairFeatures, thumbnails
from zoo.vision.retrieval import Gallery, loss_of_all, nearest_name, retrieval

Loss = Literal["clip", "siglip"]
Positives = Literal["diagonal", "same"]
RankBy = Literal["features", "nearest_name"]
_USES: Uses = dict.fromkeys(SIZES, ("free",))
_CROPS = 61  # stream of the draws of crops


class ContrastiveVL(LightningModule):
    """Pictures and texts in one space: CLIP (Radford et al., ICML 2021) and SigLIP (Zhai et al., ICCV 2023).

    Both encoders are transformers' CLIPModel. Features have length 1. ``clip``: logits exp(s) I T^t, exp(s)
    at most 100, the mean of the cross-entropies of rows and columns; ``siglip``: a logistic loss of each
    pair, logits exp(t') I T^t + b. Pairs of all processes are each other's negatives, with their gradients.
    The batch is that of :class:`datamodules.ImageCaptions`; test and predict also take pictures with labels
    (``image``, ``label``), which are classified by prompts of their classes' names.

    Args:
        image_size: S; the data tell.
        channels: C; the data tell.
        vocab_size: of the tokenizer; the data tell.
        context: the most tokens of a text; the data tell.
        shape: a published one, or ``free`` with the eight sizes that follow.
        patch_size: side of the picture encoder's patches.
        width: of the picture encoder.
        layers: of the picture encoder.
        heads: of the picture encoder.
        text_width: of the text encoder.
        text_layers: of the text encoder.
        text_heads: of the text encoder.
        projection: components of the features.
        activation: ``quick_gelu`` of OpenAI's weights, ``gelu`` of others.
        mean: of the channels of pictures in [0, 1], by which they are standardised; null is OpenAI's, and .5
            where there are not three channels.
        std: likewise.
        loss: ``clip`` or ``siglip``.
        positives: ``diagonal``, each picture's own text alone; ``same``, all pairs of a batch with the same
            picture or the same caption, which else are false negatives.
        crop: least share of a picture that a training step sees, a square of it resized; 1 is all of it.
        templates: what class names are put into, the mean of whose features is the class.
        rank_by: what validation and test rank by: ``features``, or ``nearest_name``, the baseline that lends
            a picture the words of the training picture with the nearest pixels and learns nothing.
        optimizer: gets the weights with decay and those without: biases, norms, scales.
        lr_scheduler: stepped each step.

    Raises:
        ValueError: for impossible settings.
    """

    data_sizes: ClassVar[DataSizes] = {
        "image_size": "shape.1 shape.2",
        "channels": "shape.0",
        "vocab_size": "vocab_size",
        "context": "context",
    }
    answers_untrained: ClassVar[dict[str, tuple[str, ...]]] = {"rank_by": ("nearest_name",)}

    def __init__(
        self,
        image_size: Size = 224,
        channels: Depth = 3,
        vocab_size: Size = 49_408,
        context: Size = 77,
        shape: Shape = "clip-b/32",
        patch_size: Size = 32,
        width: Size = 768,
        layers: Depth = 12,
        heads: Depth = 12,
        text_width: Size = 512,
        text_layers: Depth = 12,
        text_heads: Depth = 8,
        projection: Size = 512,
        activation: Activation = "quick_gelu",
        mean: list[Finite] | None = None,
        std: list[Positive] | None = None,
        loss: Loss = "clip",
        positives: Positives = "diagonal",
        crop: Share = 1.0,
        templates: Sequence[str] = ("a photo of a {}.",),
        rank_by: RankBy = "features",
        optimizer: OptimizerCallable = lambda p: torch.optim.AdamW(
            p, lr=5e-4, weight_decay=0.2, betas=(0.9, 0.98), eps=1e-6
        ),
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        check_ranges(ContrastiveVL, locals())
        super().__init__()
        templates = list(templates)
        self.save_hyperparameters(ignore=["optimizer", "lr_scheduler"])
        for key, choices in (
            ("shape", Shape),
            ("activation", Activation),
            ("loss", Loss),
            ("positives", Positives),
            ("rank_by", RankBy),
        ):
            if self.hparams[key] not in get_args(choices):
                names = ", ".join(get_args(choices))
                raise ValueError(f"model.init_args.{key} must be one of {names}, got {self.hparams[key]!r}")
        refuse_unused(ContrastiveVL, self.hparams, "shape", _USES)
        self._check()
        sizes = {k: self.hparams[k] for k in SIZES} if shape == "free" else SHAPES[shape]
        self.network = ClipNetwork(
            sizes, image_size, channels, vocab_size, context, activation, loss == "siglip", self._pixels()
        )
        self.vocabulary = KeptTokenizer()
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.crop = RandomResizedCrop(image_size, crop) if crop < 1 else None
        self.test_zero_shot = MeanMetric()
        self._seen: list[dict[str, Tensor]] = []
        self._classes: Tensor | None = None

    def _check(self) -> None:
        h = self.hparams
        if h["shape"] == "free":
            for width, heads in (("width", "heads"), ("text_width", "text_heads")):
                if h[width] % h[heads]:
                    raise ValueError(
                        f"model.init_args.{heads} is {h[heads]}, which does not divide {width}: {h[width]}"
                    )
        patch = h["patch_size"] if h["shape"] == "free" else SHAPES[h["shape"]]["patch_size"]
        if h["image_size"] < patch:
            raise ValueError(
                f"model.init_args.image_size is {h['image_size']}, less than a patch of {patch} pixels"
            )
        if h["context"] < 3:
            raise ValueError(f"model.init_args.context is {h['context']}, two marks and a token are 3")
        for key in ("mean", "std"):
            if h[key] is not None and len(h[key]) != h["channels"]:
                raise ValueError(
                    f"model.init_args.{key} has {len(h[key])} numbers, but channels is {h['channels']}"
                )
        if not h["templates"] or any(not isinstance(t, str) or t.count("{}") != 1 for t in h["templates"]):
            raise ValueError(
                f"model.init_args.templates is {h['templates']!r}, but must be texts with one {{}} each"
            )

    def _pixels(self) -> list[list[float]]:
        found = []
        for key, usual in zip(("mean", "std"), PIXELS, strict=True):
            channels = self.hparams["channels"]
            found.append(self.hparams[key] or (list(usual) if channels == 3 else [0.5] * channels))
        return found

    def setup(self, stage: str) -> None:
        refuse_sharding(self)
        check_fit(self, vocab_size=operator.ge, context=operator.ge)
        data = getattr(self.trainer, "datamodule", None)
        self.vocabulary.take(data)
        if self.hparams["rank_by"] == "nearest_name":
            refuse_processes(self, "looks for the nearest of all training pictures")

    def configure_optimizers(self) -> Any:
        return with_schedule(self.optimizer(decayed_groups(self.network)), self.lr_scheduler)

    # --- training -----------------------------------------------------------------------------------------

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        image, world = batch["image"], self.trainer.world_size
        check_others(len(image), world)
        self.network.bound_scale()
        if self.crop is not None:
            image = self.crop(image, step_uniform(self, batch_idx, len(image), self.crop.columns))
        image_features, text_features = self.network(image, batch["ids"], batch["length"])
        images, captions = (gathered(batch[k], world) for k in ("image_id", "caption_id"))
        same = same_pairs(batch["image_id"], batch["caption_id"], images, captions)
        own = diagonal(len(image), len(images), self.global_rank, world).to(same.device)
        positive = same if self.hparams["positives"] == "same" else own
        loss = self.pair_loss(image_features, text_features, positive, world)
        found = {"loss": loss.detach(), "scale": self.network.scale().detach()}
        found["rows_with_duplicates"] = (same.sum(dim=1) > 1).float().mean()
        for name, value in found.items():
            self.log(
                f"train/{name}", value, prog_bar=name == "loss", batch_size=len(image), sync_dist=world > 1
            )
        return loss

    def pair_loss(self, image: Tensor, text: Tensor, positive: Tensor, world: int = 1) -> Tensor:
        """Loss of this process's rows against the columns of all.

        Args:
            image: unit features (B, D).
            text: likewise.
            positive: which of all pairs belong to each row, bool (B, B world).
            world: processes whose batches are each other's negatives.
        """
        with torch.autocast(image.device.type, enabled=False):
            scale, texts = self.network.scale(), gathered(text, world)
            if self.network.bias is not None:
                return sigmoid_loss(scale * image @ texts.T + self.network.bias, positive)
            rows = softmax_loss(scale * image @ texts.T, positive)
            columns = softmax_loss(scale * text @ gathered(image, world).T, positive)
            return (rows + columns) / 2

    # --- evaluation ---------------------------------------------------------------------------------------

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self._keep(batch)

    def on_validation_epoch_start(self) -> None:
        self._seen = []

    def on_validation_epoch_end(self) -> None:
        self._report("val")

    def on_test_epoch_start(self) -> None:
        self._seen, self._classes = [], None

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        if "ids" in batch:
            self._keep(batch)
            return
        known = batch["label"] >= 0
        right = (self._zero_shot(batch["image"]).argmax(dim=1) == batch["label"])[known].float()
        if len(right):
            self.test_zero_shot.update(right)
        self.log("test/zero_shot_accuracy", self.test_zero_shot, batch_size=len(known))

    def on_test_epoch_end(self) -> None:
        if self._classes is None:
            self._report("test")

    def _keep(self, batch: dict[str, Tensor]) -> None:
        with torch.no_grad():
            image, text = self.network(batch["image"], batch["ids"], batch["length"])
        found = {k: batch[k].cpu() for k in ("image_id", "caption_id", "index")}
        found |= {"image": image.cpu(), "text": text.cpu()}
        if self.hparams["rank_by"] == "nearest_name":
            found |= {"pixels": batch["image"].flatten(1).cpu(), "ids": batch["ids"].cpu()}
            found["length"] = batch["length"].cpu()
        self._seen.append(found)

    def _report(self, stage: str) -> None:
        """Retrieval among all pictures and texts of the set, by whatever process they were read."""
        own = [(f["index"], f["image_id"], f["caption_id"], f["image"], f["text"]) for f in self._seen]
        parts = [part for each in of_all_processes(own) for part in each]
        if not parts:
            return
        index, image_id, caption_id, image, text = (torch.cat(column) for column in zip(*parts, strict=True))
        order = index.argsort()
        gallery = Gallery.of(image[order], text[order], image_id[order], caption_id[order])
        if self.hparams["rank_by"] == "nearest_name":
            gallery.score = self._nearest(gallery, order)
        bias = self.network.bias
        loss = loss_of_all(gallery, float(self.network.scale()), None if bias is None else float(bias))
        for name, value in {"loss": loss, **retrieval(gallery)}.items():
            shown = name in ("loss", "text_to_image_r1")
            self.log(f"{stage}/{name}", value, prog_bar=shown, sync_dist=True)
        self._seen = []

    def _nearest(self, gallery: Gallery, order: Tensor) -> Tensor:
        """The baseline's scores, of the pixels and words of all training pairs."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        pixels = torch.cat([f["pixels"] for f in self._seen])[order]
        names = [row for f in self._seen for row in _words(f)]
        train = data.train_set
        batches = [train.__getitems__(r.tolist()) for r in torch.arange(len(train)).split(256)]
        return nearest_name(
            pixels[gallery.first_image],
            [names[int(order[i])] for i in gallery.first_text],
            torch.cat([b["image"].flatten(1) for b in batches]),
            [row for b in batches for row in _words(b)],
        )

    # --- what a person asks -------------------------------------------------------------------------------

    def forward(self, image: Tensor, ids: Tensor, length: Tensor) -> Tensor:
        """Logits (B, N) of pictures (B, C, S, S) in [0, 1] and texts (N, L) of these lengths (N,)."""
        return self._logits(*self.network(image, ids, length))

    def _logits(self, image: Tensor, text: Tensor) -> Tensor:
        logits = self.network.scale() * image @ text.T
        return logits if self.network.bias is None else logits + self.network.bias

    def example_inputs(self, batch: int) -> dict[str, Tensor]:
        """Random pictures and texts for an export of both encoders."""
        h = self.hparams
        shape = (batch, h["channels"], h["image_size"], h["image_size"])
        image = torch.rand(shape, device=self.device).to(next(self.network.parameters()).dtype)
        ids = torch.randint(h["vocab_size"], (batch, h["context"]), device=self.device)
        return {"image": image, "ids": ids, "length": torch.full_like(ids[:, 0], h["context"])}

    @torch.inference_mode()
    def text_features(self, texts: str | Sequence[str]) -> Tensor:
        """Unit features (N, D) of texts; what is longer than the context loses its end.

        Raises:
            ValueError: for what is no text, and weights without a tokenizer.
        """
        given = given_texts(texts, "text")
        tokenizer, most = self.vocabulary.tokenizer, self.hparams["context"]
        marks = tokenizer.bos_token_id, tokenizer.eos_token_id
        rows = [[marks[0], *ids[: most - 2], marks[1]] for ids in self.vocabulary.ids(given)]
        length = torch.tensor([len(row) for row in rows], device=self.device)
        ids = torch.full((len(rows), int(length.max())), tokenizer.pad_token_id or 0, device=self.device)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
        return self.network.text_features(ids, length)

    @torch.inference_mode()
    def image_features(self, images: Tensor) -> Tensor:
        """Unit features (N, D) of pictures (N, C, S, S) in [0, 1].

        Raises:
            ValueError: for pictures of another shape or range.
        """
        h = self.hparams
        wanted = (h["channels"], h["image_size"], h["image_size"])
        if images.ndim != 4 or tuple(images.shape[1:]) != wanted:
            raise ValueError(
                f"pictures are {tuple(images.shape)}, but must be (N, {', '.join(map(str, wanted))})"
            )
        if not images.is_floating_point() or not bool(((images >= 0) & (images <= 1)).all()):
            raise ValueError("pictures must be of numbers in [0, 1]")
        return self.network.image_features(images.to(self.device))

    @torch.inference_mode()
    def similarity(self, images: Tensor, texts: str | Sequence[str]) -> Tensor:
        """Cosine (N, M) of pictures (N, C, S, S) in [0, 1] and texts."""
        return self.image_features(images) @ self.text_features(texts).T

    @torch.inference_mode()
    def classify(
        self, images: Tensor, classes: Sequence[str], templates: Sequence[str] | None = None
    ) -> Tensor:
        """Probabilities (N, K) of classes by their names alone; see ``templates`` of the constructor."""
        logits = self._logits(self.image_features(images), self._of_classes(classes, templates))
        return logits.softmax(dim=1) if self.network.bias is None else logits.sigmoid()

    def _of_classes(self, names: Sequence[str], templates: Sequence[str] | None = None) -> Tensor:
        """The mean of the features of a class's prompts, of length 1, (K, D)."""
        given = list(templates or self.hparams["templates"])
        prompts = [t.replace("{}", name) for name in given_texts(names, "class") for t in given]
        mean = self.text_features(prompts).unflatten(0, (-1, len(given))).mean(dim=1)
        return torch.nn.functional.normalize(mean, dim=1)

    @torch.inference_mode()
    def _zero_shot(self, image: Tensor) -> Tensor:
        """Logits of the data's classes, whose features are made once."""
        if self._classes is None:
            data = getattr(self.trainer, "datamodule", None)
            count = told(data, "num_classes")
            self._classes = self._of_classes(class_names_of(self, count))
        return self._logits(self.network.image_features(image), self._classes)

    def on_predict_start(self) -> None:
        self._classes = None

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> PairFeatures | ClassScores:
        if "ids" not in batch:
            logits = self._zero_shot(batch["image"])
            names = class_names_of(self, logits.shape[1])
            return scored(logits.softmax(dim=1), batch, names)
        image, text = self.network(batch["image"], batch["ids"], batch["length"])
        tokenizer = self.vocabulary.tokenizer
        captions = [tokenizer.decode(row) for row in _words({k: v.cpu() for k, v in batch.items()})]
        kept = {k: batch[k].cpu() for k in ("image_id", "caption_id", "index")}
        return PairFeatures(image.cpu(), text.cpu(), thumbnails(batch["image"]), captions, **kept)


def _words(batch: dict[str, Tensor]) -> list[list[int]]:
    """Ids of texts without their marks and padding."""
    lengths = batch["length"].tolist()
    return [row[1 : n - 1] for row, n in zip(batch["ids"].tolist(), lengths, strict=True)]
