"""DEMI of images: contrastive representations by the chain rule of mutual information."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.utils.data import DataLoader

from zoo.demi import bounds
from zoo.demi.embeddings import Embeddings
from zoo.demi.encoders import Encoder, Pixels, Views, centred, encoder_of
from zoo.demi.negatives import KeyQueue, partner_first
from zoo.demi.probe import Probe, linear_probe, nearest_neighbours, raw_pixels, sgd_probe, write_probes
from zoo.demi.views import DRAWS, Augmentation, Subview, digit_view, photo_view, restricted
from zoo.nn.augment import Jigsaw
from zoo.nn.data_fit import DataSizes, check_fit
from zoo.nn.gathered_rows import check_others, gathered
from zoo.nn.optim import with_schedule
from zoo.nn.parallel import predict_in_one_process, refuse_processes, refuse_sharding
from zoo.nn.ranges import CountOrZero, Depth, Fraction, Many, NonNegative, Positive, Rate, Size, check_ranges
from zoo.nn.resnet import Stem
from zoo.nn.variants import Uses, refuse_unused
from zoo.randomness import generator, global_seed, local_rows, step_generator
from zoo.reports import say

Objective = Literal["bo", "is", "multi", "infonce"]
Negatives = Literal["batch", "queue"]
_VALIDATION, _LABELLED, _RANDOM = 731, 732, 733  # first words of the keys of draws outside of training
_BLOCK, _GRID = 500, 3
_OF_OBJECTIVE: Uses = {
    "conditional_weight": ("bo", "is", "multi"),
    "warmup_steps": ("bo", "is", "multi"),
    "subview": ("bo", "is", "multi"),
}
_OF_NEGATIVES: Uses = {"queue_size": ("queue",), "key_momentum": ("queue",)}
_OF_PROBE: Uses = dict.fromkeys(("probe_rate", "probe_epochs"), ("sgd",))
_OF_ENCODER: Uses = dict.fromkeys(("stem", "pretrained", "jigsaw_weight"), ("resnet18", "resnet50"))
_OF_JIGSAW: Uses = {"jigsaw_crop": "more than 0"}


class DEMI(LightningModule):
    """Contrastive representations by decomposed mutual information (Sordoni et al., ICML 2021).

    x and y are two augmentations of an image, x'' is a restricted version of x. Maximised is
    I_NCE(x''; y) + weight I_C(x; y | x''), psi = <h(e(x'')), k(y)> / t, phi = <m([e(x), e(x'')]), k(y)> / t;
    psi has no gradient where it stands in the second term. Three passes of the encoder a step, y's once.

    A batch has ``image`` float (B, C, S, S) in [0, 1], ``label`` int64 (B,), -1 where unknown, ``index``.
    ``test`` fits probes on labelled training images, beside them on raw pixels and on a random encoder.

    Args:
        image_size: S; the data tell.
        channels: C; the data tell.
        encoder: ``cnn`` (four convolutions, for digits), ``resnet18`` or ``resnet50``.
        stem: of a ResNet, ``imagenet`` or ``cifar`` (3x3, stride 1, no max-pool).
        objective: what the second term is: ``bo`` or ``is``; ``multi`` is the control with the same three
            passes, I_NCE(x''; y) + I_NCE(x; y); ``infonce`` is I_NCE(x; y) alone, two passes.
        negatives: ``batch``, of all processes with gradient; or ``queue``, keys of a momentum encoder.
        queue_size: keys of the queue, a multiple of the global batch.
        key_momentum: of the encoder of keys.
        subview: x'' of x: ``cutout``, ``crop``, ``mask`` or ``lowres``.
        augmentation: ``digits`` (rotation, scale, shift, noise), ``photo`` (crop, flip, colour, blur, grey)
            or ``infomin``, which is that with RandAugment.
        jigsaw_weight: w of InfoMin's second branch: the loss is (1 - w) of the terms above and w of
            -I_NCE(x in 3 x 3 shuffled pieces; y).
        jigsaw_crop: side of a piece; three of them must fit the picture.
        pixels: what the encoder reads: ``centred`` in [-1, 1], or ``imagenet``, as published weights.
        pretrained: file of InfoMin, MoCo or torchvision that the encoder of a fresh training starts from.
        temperature: t.
        hidden: units of the heads' hidden layer.
        embedding: width of h, m and k.
        conditional_weight: of the second term.
        warmup_steps: in which it rises from 0: a random psi gives arbitrary weights.
        probe: the linear one: ``logistic`` (scikit-learn's, on standardised features) or ``sgd`` (MoCo's,
            without its augmentation).
        probe_rate: of ``sgd``.
        probe_epochs: of ``sgd``.
        probe_labels: training images whose labels the probes see; null is all.
        knn: neighbours.
        knn_temperature: of their votes.
        optimizer: of encoder and critics.
        lr_scheduler: of every step.
    """

    data_sizes: ClassVar[DataSizes] = {"image_size": "shape.1 shape.2", "channels": "shape.0"}

    def __init__(
        self,
        image_size: Size = 224,
        channels: Depth = 3,
        encoder: Encoder = "resnet50",
        stem: Stem = "imagenet",
        objective: Objective = "bo",
        negatives: Negatives = "batch",
        queue_size: Many = 65_536,
        key_momentum: Fraction = 0.999,
        subview: Subview = "cutout",
        augmentation: Augmentation = "photo",
        jigsaw_weight: Rate = 0.0,
        jigsaw_crop: Size = 64,
        pixels: Pixels = "centred",
        pretrained: str | None = None,
        temperature: Positive = 0.15,
        hidden: Size = 2048,
        embedding: Size = 128,
        conditional_weight: NonNegative = 1.0,
        warmup_steps: CountOrZero = 0,
        probe: Probe = "logistic",
        probe_rate: Positive = 30.0,
        probe_epochs: Depth = 60,
        probe_labels: Many | None = None,
        knn: Many = 200,
        knn_temperature: Positive = 0.1,
        optimizer: OptimizerCallable = lambda p: torch.optim.SGD(p, lr=0.03, momentum=0.9, weight_decay=1e-4),
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        check_ranges(DEMI, locals())
        super().__init__()
        self.save_hyperparameters(ignore=["optimizer", "lr_scheduler"])
        for key, choices in (
            ("encoder", Encoder),
            ("stem", Stem),
            ("objective", Objective),
            ("negatives", Negatives),
            ("subview", Subview),
            ("augmentation", Augmentation),
            ("probe", Probe),
            ("pixels", Pixels),
        ):
            if self.hparams[key] not in get_args(choices):
                names = ", ".join(get_args(choices))
                raise ValueError(f"model.init_args.{key} must be one of {names}, got {self.hparams[key]!r}")
        refuse_unused(DEMI, self.hparams, "objective", _OF_OBJECTIVE)
        refuse_unused(DEMI, self.hparams, "negatives", _OF_NEGATIVES)
        refuse_unused(DEMI, self.hparams, "encoder", _OF_ENCODER)
        refuse_unused(DEMI, self.hparams, "probe", _OF_PROBE)
        refuse_unused(DEMI, self.hparams, "jigsaw_weight", _OF_JIGSAW)
        if pixels == "imagenet" and channels != 3:
            raise ValueError(
                f"model.init_args.pixels: imagenet is of 3 channels, and channels is {channels}; leave it out"
            )
        if jigsaw_weight and 3 * jigsaw_crop > image_size:
            raise ValueError(
                f"model.init_args.jigsaw_crop is {jigsaw_crop}, of which three do not fit pictures of "
                f"{image_size}; set it to {image_size // 3} or less"
            )
        decomposed, queued = objective in ("bo", "is"), negatives == "queue"
        self.jigsaw = Jigsaw(_GRID, jigsaw_crop) if jigsaw_weight else None
        self.network = Views(
            encoder, stem, channels, image_size, hidden, embedding, decomposed, queued, pixels,
            _GRID**2 if jigsaw_weight else 0,
        )  # fmt: skip
        self.queue = KeyQueue(queue_size, embedding) if queued else None
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self._followed, self._given_weights = -1, False
        self._test: list[tuple[dict[str, Tensor], Tensor]] = []
        self._random: Any = None

    def setup(self, stage: str) -> None:
        refuse_sharding(self)
        check_fit(self)
        if stage == "test":
            refuse_processes(self, "fits its probes on all features", " for test")
        predict_in_one_process(self, stage)
        source = self.hparams["pretrained"]
        if stage == "fit" and source and self.trainer.ckpt_path is None and not self._given_weights:
            from zoo.demi.weights import start_from

            say(f"the encoder starts from {start_from(self.network, source, self.hparams['pixels'])}")

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        self._given_weights = True  # a fine-tuning starts from these
        return super().load_state_dict(*args, **kwargs)

    def configure_optimizers(self) -> Any:
        trained = [p for p in self.network.parameters() if p.requires_grad]
        return with_schedule(self.optimizer(trained), self.lr_scheduler)

    def forward(self, image: Tensor) -> Tensor:
        """Features (B, F) of images (B, C, S, S) in [0, 1]."""
        return self.network(image)

    def example_inputs(self, batch: int) -> dict[str, Tensor]:
        """Random images for an export of the encoder."""
        size = self.hparams["image_size"]
        images = torch.rand(batch, self.hparams["channels"], size, size, device=self.device)
        return {"image": images.to(next(self.network.parameters()).dtype)}

    # --- training -----------------------------------------------------------------------------------------

    def views(self, image: Tensor, u: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """x, x'' and y of images, of uniform (B, 3, ``DRAWS``) and normal (B, 2, C, S, S) numbers."""
        if noise is None:
            rand = self.hparams["augmentation"] == "infomin"
            x, y = photo_view(image, u[:, 0], rand), photo_view(image, u[:, 1], rand)
        else:
            x, y = digit_view(image, u[:, 0], noise[:, 0]), digit_view(image, u[:, 1], noise[:, 1])
        return x, restricted(self.hparams["subview"], x, u[:, 2]), y

    def _drawn(self, image: Tensor, g: torch.Generator, size: int) -> tuple[Tensor, Tensor | None]:
        u = torch.rand(size, 3, DRAWS, generator=g, device=g.device)
        digits = self.hparams["augmentation"] == "digits"
        noise = torch.randn(size, 2, *image.shape[1:], generator=g, device=g.device) if digits else None
        return u, noise

    def _scores(self, embedded: Tensor, keys: Tensor, world: int) -> Tensor:
        """Scores with the partner first: keys of all processes, or own ones and the queue's."""
        with torch.autocast(embedded.device.type, enabled=False):
            return self._scores_in_float32(embedded.float(), keys.float(), world)

    def _scores_in_float32(self, embedded: Tensor, keys: Tensor, world: int) -> Tensor:
        t = self.hparams["temperature"]
        if self.queue is not None and self.training:
            own = (embedded * keys).sum(dim=1, keepdim=True)
            return torch.cat([own, embedded @ self.queue.keys.clone().T], dim=1) / t
        rank = self.global_rank if world > 1 else 0
        return partner_first(embedded @ gathered(keys, world).T / t, rank, world)

    def bounds(self, views: tuple[Tensor, Tensor, Tensor], world: int) -> tuple[dict[str, Tensor], Tensor]:
        """Both terms in nats, what is told of the weights, and the keys of y.

        Args:
            views: x, x'' and y.
            world: processes whose batches are each other's negatives.
        """
        x, restricted_x, y = views
        objective, network = self.hparams["objective"], self.network
        keys = network.keys(y)
        z = network.encoded(x)
        if objective == "infonce":
            scores = self._scores(network.critic(z), keys, world)
            return {"first": bounds.info_nce(scores), "columns": scores.new_tensor(scores.shape[1])}, keys
        z_restricted = network.encoded(restricted_x)
        psi = self._scores(network.critic(z_restricted), keys, world)
        found = {"first": bounds.info_nce(psi), "columns": psi.new_tensor(psi.shape[1])}
        if objective == "multi":
            found["second"] = bounds.info_nce(self._scores(network.critic(z), keys, world))
            return found, keys
        assert network.conditional is not None
        phi = self._scores(network.conditional(torch.cat([z, z_restricted], dim=1)), keys, world)
        bound = bounds.boosted_nce if objective == "bo" else bounds.importance_nce
        found["second"] = bound(phi, psi)
        found["ess"] = bounds.effective_sample_size(psi)
        return found, keys

    def pieces(self, x: Tensor, keys: Tensor, u: Tensor, world: int) -> Tensor:
        """I_NCE of x in shuffled pieces and y, whose keys are given."""
        assert self.jigsaw is not None
        assert self.network.pieces is not None
        cut = self.jigsaw(x, u.cpu())  # (B, 9, C, S, S)
        features = self.network.encoded(cut.flatten(0, 1)).view(*cut.shape[:2], -1)
        return bounds.info_nce(self._scores(self.network.pieces(features), keys, world))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        world, step = self.trainer.world_size, self.trainer.global_step
        if (
            self.queue is not None and step != self._followed
        ):  # once a step, also where it has several batches
            self.network.follow(self.hparams["key_momentum"])
            self._followed = step
        image = centred(batch["image"])
        if self.queue is None:
            check_others(len(image), world)
        g = step_generator(self, batch_idx)
        u, noise = self._drawn(image, g, len(image) * world)
        views = self.views(image, local_rows(self, u), None if noise is None else local_rows(self, noise))
        found, keys = self.bounds(views, world)
        if self.jigsaw is not None:
            own = torch.rand(len(image) * world, self.jigsaw.columns, generator=g, device=g.device)
            found["jigsaw"] = self.pieces(views[0], keys, local_rows(self, own), world)
        if self.queue is not None:
            self.queue.enqueue(gathered(keys.detach(), world))
        weight = self.hparams["conditional_weight"] * min(1.0, step / max(1, self.hparams["warmup_steps"]))
        if not self.hparams["warmup_steps"]:
            weight = self.hparams["conditional_weight"]
        loss = -found["first"] - weight * found.get("second", 0.0)
        share = self.hparams["jigsaw_weight"]
        if share:
            loss = (1 - share) * loss - share * found["jigsaw"]
        self._log("train", {**found, "loss": loss}, len(image))
        return loss

    def _log(self, stage: str, found: dict[str, Tensor], size: int) -> None:
        values = {k: v.detach() for k, v in found.items() if k != "columns"}
        log_k = found["columns"].log()
        values |= {"log_k": log_k, "saturation": found["first"].detach() / log_k}
        several = self.trainer.world_size > 1
        for name, value in values.items():
            shown = name in ("loss", "first")
            self.log(f"{stage}/{name}", value, prog_bar=shown, batch_size=size, sync_dist=several)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Both terms on held-out images, negatives of this process's batch, the same draws each time."""
        image = centred(batch["image"])
        if len(image) < 2:
            return
        g = generator(_VALIDATION, batch_idx, device=image.device)
        found, _ = self.bounds(self.views(image, *self._drawn(image, g, len(image))), 1)
        self._log("val", {**found, "loss": -found["first"] - found.get("second", 0.0)}, len(image))

    # --- probes -------------------------------------------------------------------------------------------

    def on_test_start(self) -> None:
        h = self.hparams
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator(_RANDOM, global_seed()).initial_seed())
            made = encoder_of(h["encoder"], h["stem"], h["channels"], h["image_size"])
        object.__setattr__(self, "_random", made.eval().to(self.device))  # no part of this module's weights
        self._test = []

    @torch.no_grad()
    def _features(self, image: Tensor) -> dict[str, Tensor]:
        """Of the trained encoder, of one that nobody trained, and the pixels themselves."""
        x = centred(image.to(self.device))
        found = {"": self.network.encoded(x), "_random_encoder": self._random(self.network.read(x))}
        found["_raw_pixels"] = raw_pixels(x)
        return {name: features.float().cpu() for name, features in found.items()}

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self._test.append((self._features(batch["image"]), batch["label"].cpu()))

    def on_test_epoch_end(self) -> None:
        theirs, labels = _joined(self._test)
        ours, known = _joined(self._labelled())
        h, rows = self.hparams, len(known)
        linear = (
            "logistic regression (C 1)"
            if h["probe"] == "logistic"
            else f"SGD (rate {h['probe_rate']:g}, {h['probe_epochs']} epochs)"
        )
        knn = f"{min(h['knn'], rows)} cosine neighbours, temperature {h['knn_temperature']:g}"
        table = []
        for name, features in ours.items():
            told = (features, known, theirs[name], labels)
            if h["probe"] == "logistic":
                top1 = linear_probe(*told)
            else:
                g = generator(_LABELLED, global_seed(), 1)
                top1 = sgd_probe(*told, h["probe_rate"], h["probe_epochs"], g)
            votes = nearest_neighbours(*told, h["knn"], h["knn_temperature"])
            self.log_dict({f"test/linear_probe{name}": top1, f"test/knn{name}": votes})
            whose = name.strip("_").replace("_", " ") or "trained encoder"
            table += [(whose, linear, rows, top1), (whose, knn, rows, votes)]
        say(
            f"linear_probe: {linear} on {rows:,} labels; knn: {knn}; raw pixels and a random encoder beside "
            "them"
        )
        if self.trainer.log_dir is not None:
            say(f"probes      {write_probes(Path(self.trainer.log_dir), table)}")

    def _labelled(self) -> list[tuple[dict[str, Tensor], Tensor]]:
        """Features of the training images whose labels the probes see, a draw of the seed."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        labels = data.train_set.labels
        known = (labels >= 0).nonzero()[:, 0]
        wanted = self.hparams["probe_labels"] or len(known)
        if wanted > len(known):
            raise ValueError(
                f"model.init_args.probe_labels is {wanted}, but {len(known)} images have a label"
            )
        order = torch.randperm(len(known), generator=generator(_LABELLED, global_seed()))
        rows = known[order[:wanted]]
        if len(labels[rows].unique()) < 2:
            raise ValueError("the labelled images are all of one class, which no probe can learn")
        batches = [part.tolist() for part in rows.split(_BLOCK)]
        loader: Any = DataLoader(
            data.train_set, batch_sampler=batches, num_workers=data.num_workers, collate_fn=_as_is,
            generator=torch.Generator(),
        )  # fmt: skip
        return [(self._features(batch["image"]), batch["label"]) for batch in loader]

    # --- what a person looks at ---------------------------------------------------------------------------

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> Embeddings:
        return Embeddings(
            self(batch["image"]).float().cpu(),
            centred(batch["image"]).cpu(),
            batch["label"].cpu(),
            batch["index"].cpu(),
            getattr(getattr(self.trainer, "datamodule", None), "class_names", ()),
        )


def _joined(parts: list[tuple[dict[str, Tensor], Tensor]]) -> tuple[dict[str, Tensor], Tensor]:
    """Features by name and labels of all batches."""
    names = parts[0][0]
    return {n: torch.cat([f[n] for f, _ in parts]) for n in names}, torch.cat([y for _, y in parts])


def _as_is(batch: Any) -> Any:
    return batch
