"""The LinkPredictor LightningModule: graph auto-encoders, and baselines that rank pairs without learning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Unpack, get_args

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torchmetrics.classification import BinaryAUROC, BinaryAveragePrecision

from zoo.graphs.link.neighbours import HEURISTICS, CalibratedHeuristic
from zoo.graphs.link.network import (
    Decoder,
    LinkAutoencoder,
    dense_reconstruction_loss,
    discriminator_loss,
    draw_code,
    kl_loss,
    reconstruction_loss,
    regularisation_loss,
    sample_non_edges,
)
from zoo.graphs.link.report import LinkPredictions, embedding_quality, ranks, top_new_links
from zoo.graphs.node.network import ArchOptions, NodeArch, Structure, all_options
from zoo.nn.data_fit import DataSizes, check_fit, named
from zoo.nn.graphs import example_edges
from zoo.nn.parallel import refuse_processes
from zoo.nn.ranges import Count, Depth, Many, ManyOrZero, NonNegative, Rate, Size, check_ranges
from zoo.nn.settings import settings_of
from zoo.nn.variants import Uses, refuse_unused
from zoo.randomness import global_seed, step_generator

LinkModel = Literal[
    "gae", "vgae", "arga", "arvga", "common_neighbours", "jaccard", "adamic_adar", "features", "chance"
]
LINK_MODELS: tuple[LinkModel, ...] = get_args(LinkModel)
_ADVERSARIAL, _VARIATIONAL = ("arga", "arvga"), ("vgae", "arvga")
_USES: Uses = {
    "kl_weight": _VARIATIONAL,
    "discriminator_hidden": _ADVERSARIAL,
    "discriminator_steps": _ADVERSARIAL,
}
_FIELDS = ("train_edges", "val_edges", "val_non_edges", "test_edges", "test_non_edges")


def _full(code: Tensor) -> Tensor:
    """At least float32, whatever autocast made of it."""
    return code.to(torch.promote_types(code.dtype, torch.float32))


def _same(a: Tensor, b: Tensor) -> bool:
    return a is b or torch.equal(a, b)


class LinkPredictor(LightningModule):
    """Link prediction and unsupervised embedding on one graph (Kipf & Welling 2016; Pan et al. 2018).

    ``gae``, ``vgae``, ``arga`` and ``arvga`` encode the nodes by any architecture of the survey and decode a
    pair by sigmoid(z_u . z_v) (``decoder: mlp`` makes it a supervised edge classifier). Each step scores the
    training edges and as many sampled non-edges of the training graph, a function of (seed, step).
    ``common_neighbours``, ``jaccard``, ``adamic_adar``, ``features`` (dot product) and ``chance`` (all pairs
    equal) are baselines, of which only the slope and offset of the probability are fitted; the ranking has
    nothing to learn.

    The batch is a PyG ``Data`` of ``datamodules.LinkSplit``. It runs on one device.

    Args:
        features: F.
        model: see above.
        arch: of the encoder, see :class:`zoo.graphs.node.network.NodeNetwork`.
        hidden: width of the encoder's hidden layers, and of the ``mlp`` decoder's.
        embedding: width D of the code.
        num_layers: of the encoder.
        dropout: of the encoder.
        decoder: ``dot`` or ``mlp``.
        kl_weight: factor of the KL term, which is a mean over nodes already; null is 1/N (Kipf & Welling).
        loss: ``sampled`` is PyG's, linear in the edges; ``dense`` is that of Kipf & Welling's code over all
            N^2 entries of A + I, weighted; O(N^2) memory.
        disjoint_share: this share of the training edges, drawn anew each step, is scored and taken from the
            messages; 0 scores all and takes none.
        discriminator_hidden: widths of the discriminator of ``arga`` and ``arvga``.
        discriminator_steps: its steps before each step of the encoder.
        top_k: so many likeliest pairs outside all edges are written by predict.
        compile: compile the encoder with ``torch.compile``.
        optimizer: of encoder and decoder.
        discriminator_optimizer: of the discriminator.
        lr_scheduler: of the first optimizer, stepped each step.
        **options: of the encoder's architecture, see :class:`zoo.graphs.node.network.ArchOptions`.

    Raises:
        ValueError: for impossible settings.
    """

    data_sizes: ClassVar[DataSizes] = {"features": "num_features"}
    answers_untrained: ClassVar[Mapping[str, Sequence[str]]] = {"model": HEURISTICS}

    def __init__(
        self,
        features: Many = 16,
        model: LinkModel = "vgae",
        arch: NodeArch = "gcn",
        hidden: Size = 32,
        embedding: Size = 16,
        num_layers: Depth = 2,
        dropout: Rate = 0.0,
        decoder: Decoder = "dot",
        kl_weight: NonNegative | None = None,
        loss: Literal["sampled", "dense"] = "sampled",
        disjoint_share: Rate = 0.0,
        discriminator_hidden: Sequence[Size] = (16, 64),
        discriminator_steps: Count = 1,
        top_k: ManyOrZero = 50,
        compile: bool = False,
        optimizer: OptimizerCallable = lambda p: torch.optim.Adam(p, lr=0.01),
        discriminator_optimizer: OptimizerCallable = lambda p: torch.optim.Adam(p, lr=0.001),
        lr_scheduler: LRSchedulerCallable | None = None,
        **options: Unpack[ArchOptions],
    ) -> None:
        check_ranges(LinkPredictor, locals())
        super().__init__()
        options = all_options(options)
        discriminator_hidden = list(discriminator_hidden)
        self.save_hyperparameters(ignore=["optimizer", "discriminator_optimizer", "lr_scheduler"])
        self._check_settings(options)
        self.optimizer, self.discriminator_optimizer = optimizer, discriminator_optimizer
        self.lr_scheduler = lr_scheduler
        self.automatic_optimization = model not in _ADVERSARIAL
        self.network: LinkAutoencoder | CalibratedHeuristic
        if model in HEURISTICS:
            self.network = CalibratedHeuristic(model)
        else:
            given = {
                "variational": model in _VARIATIONAL,
                "discriminator": discriminator_hidden if model in _ADVERSARIAL else None,
                **options,
            }
            self.network = LinkAutoencoder(**settings_of(LinkAutoencoder, self.hparams) | given)
        self.auc = nn.ModuleDict({s: BinaryAUROC() for s in ("val", "test")})
        self.ap = nn.ModuleDict({s: BinaryAveragePrecision() for s in ("val", "test")})
        self._structure: tuple[Tensor, Tensor, Structure] | None = None

    def _check_settings(self, options: ArchOptions) -> None:
        h = self.hparams
        for name, known in (
            ("model", LINK_MODELS),
            ("decoder", ("dot", "mlp")),
            ("loss", ("sampled", "dense")),
        ):
            if h[name] not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {h[name]!r}")
        refuse_unused(LinkPredictor, h, "model", _USES, HEURISTICS)
        # heads were once stored for all models
        given = [k for k, v in options.items() if v is not None and k != "heads"]
        if given and h["model"] in HEURISTICS:
            raise ValueError(f"model {h['model']} has no encoder and no option {given[0]}; leave it null")
        if h["loss"] == "dense" and (
            h["decoder"] != "dot" or h["model"] in HEURISTICS or h["disjoint_share"]
        ):
            raise ValueError(
                "loss: dense scores all pairs of one code; it needs decoder: dot, disjoint_share: 0 and a "
                f"model that learns, got {h['decoder']}, {h['disjoint_share']} and {h['model']}"
            )

    def setup(self, stage: str) -> None:
        self._structure = None
        trainer, h = self.trainer, self.hparams
        refuse_processes(self, "trains on one graph, which is one batch")
        if h["model"] in _ADVERSARIAL and str(trainer.precision) == "16-mixed":
            raise ValueError(
                f"{h['model']} takes two optimisers in turns, which one loss scaler cannot serve: set "
                "trainer.precision to bf16-mixed or 32-true"
            )
        data = getattr(trainer, "datamodule", None)
        graph = getattr(data, "graph", None)
        if graph is not None and any(field not in graph for field in _FIELDS):
            raise ValueError(
                f"zoo.LinkPredictor ranks edges that were held out, but {named(data)} holds out none; set "
                "data.class_path: datamodules.LinkSplit with this data as data.init_args.source"
            )
        check_fit(self)
        if h["compile"] and isinstance(self.network, LinkAutoencoder):
            self.network.encoder.compile()

    def configure_optimizers(self) -> Any:
        discriminator = getattr(self.network, "discriminator", None)
        adversary = [] if discriminator is None else list(discriminator.parameters())
        others = {id(p) for p in adversary}
        optimizer = self.optimizer([p for p in self.network.parameters() if id(p) not in others])
        schedulers = []
        if self.lr_scheduler is not None:
            schedulers = [{"scheduler": self.lr_scheduler(optimizer), "interval": "step"}]
        if not adversary:
            return [optimizer], schedulers
        return [optimizer, self.discriminator_optimizer(adversary)], schedulers

    # --- training -----------------------------------------------------------------------------------------

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if self.trainer.global_step or not isinstance(self.network, LinkAutoencoder):
            return
        if self.network.encoder.arch == "pna":  # scales its messages by the degrees it is trained on
            degree = torch.bincount(batch.edge_index[1], minlength=len(batch.x))
            self.network.encoder.set_degrees(torch.bincount(degree))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        random = step_generator(self, batch_idx)
        graph, edges = self._messages(batch, random)
        non_edges = sample_non_edges(batch.train_edges, len(batch.x), edges.shape[1], random)
        if isinstance(self.network, CalibratedHeuristic):
            scores = [
                self.network(batch.x, batch.edge_index, batch.train_edges, p) for p in (edges, non_edges)
            ]
            loss = reconstruction_loss(*scores)
            self.log("train/loss", loss.detach(), prog_bar=True, batch_size=1)
            return loss.float()
        mean, log_sigma = self.network.encode(batch.x, graph)
        with torch.autocast(self.device.type, enabled=False):
            mean, log_sigma = _full(mean), None if log_sigma is None else _full(log_sigma)
            z = draw_code(mean, log_sigma, random)
            if self.network.discriminator is not None:
                self._train_discriminator(z.detach(), random)
            loss = self._loss(z, mean, log_sigma, edges, non_edges)
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=1)
        if self.automatic_optimization:
            return loss
        self._step_encoder(loss)
        return None

    def _messages(self, batch: Any, random: torch.Generator) -> tuple[Tensor | Structure, Tensor]:
        """The graph that messages pass along, and the edges (2, K) that are scored."""
        edges = batch.train_edges
        count = round(self.hparams["disjoint_share"] * edges.shape[1])
        if not count:
            return self._prepared(batch), edges
        order = torch.randperm(edges.shape[1], generator=random, device=edges.device)
        kept = edges[:, order[count:]]
        return torch.cat([kept, kept.flip(0)], dim=1), edges[:, order[:count]]

    def _loss(
        self, z: Tensor, mean: Tensor, log_sigma: Tensor | None, edges: Tensor, non_edges: Tensor
    ) -> Tensor:
        """Reconstruction, KL and adversarial term of one code."""
        assert isinstance(self.network, LinkAutoencoder)
        if self.hparams["loss"] == "dense":
            loss = dense_reconstruction_loss(z, edges)
        else:
            loss = reconstruction_loss(self.network.decode(z, edges), self.network.decode(z, non_edges))
        parts = {"reconstruction": loss}
        if log_sigma is not None:
            weight = self.hparams["kl_weight"]
            parts["kl"] = kl_loss(mean, log_sigma)
            loss = loss + (1 / len(z) if weight is None else weight) * parts["kl"]
        if self.network.discriminator is not None:
            parts["regularisation"] = regularisation_loss(self.network.discriminator(z))
            loss = loss + parts["regularisation"]
        self.log_dict({f"train/{k}": v.detach() for k, v in parts.items()}, batch_size=1)
        return loss

    def _train_discriminator(self, z: Tensor, random: torch.Generator) -> None:
        """Steps of the discriminator on the detached code."""
        assert isinstance(self.network, LinkAutoencoder)
        assert self.network.discriminator is not None
        discriminator = self.network.discriminator
        optimizers: Any = self.optimizers()
        for _ in range(self.hparams["discriminator_steps"]):
            noise = torch.randn(z.shape, generator=random, device=z.device, dtype=z.dtype)
            loss = discriminator_loss(discriminator(noise), discriminator(z))
            optimizers[1].zero_grad()
            self.manual_backward(loss)
            # the bare optimiser: Lightning would count each of its steps as one of trainer.max_steps
            optimizers[1].optimizer.step()
        self.log("train/discriminator", loss.detach(), batch_size=1)

    def _step_encoder(self, loss: Tensor) -> None:
        optimizers: Any = self.optimizers()
        optimizers[0].zero_grad()
        self.manual_backward(
            loss
        )  # the discriminator's share of this gradient is dropped before its next step
        optimizers[0].step()
        if self.lr_scheduler is not None:
            scheduler: Any = self.lr_schedulers()
            scheduler.step()

    def _prepared(self, batch: Any) -> Tensor | Structure:
        """What the encoder's layers read of the batch's graph, and its features, computed once."""
        if not isinstance(self.network, LinkAutoencoder):
            return batch.edge_index
        known = self._structure
        if known is None or not (_same(known[0], batch.x) and _same(known[1], batch.edge_index)):
            # tensors made in inference mode cannot be trained on
            with torch.inference_mode(False), torch.no_grad():
                x, edges, encoder = batch.x.clone(), batch.edge_index.clone(), self.network.encoder
                structure = encoder.prepare(edges, len(x))
                if not self.hparams["compile"]:
                    encoder.keep_features(x, structure)
                known = self._structure = (batch.x, edges, structure)
        return known[2]

    # --- evaluation ---------------------------------------------------------------------------------------

    def embed(self, batch: Any) -> Tensor | None:
        """mu (N, D), the mean of the code and no sample; None for a baseline."""
        if isinstance(self.network, CalibratedHeuristic):
            return None
        return _full(self.network.encode(batch.x, self._prepared(batch))[0])

    def scores(self, batch: Any, pairs: Tensor, z: Tensor | None) -> Tensor:
        """Logits (P,) of pairs (2, P) from the code z of :meth:`embed`."""
        if isinstance(self.network, CalibratedHeuristic):
            return self.network(batch.x, batch.edge_index, batch.train_edges, pairs)
        assert z is not None
        with torch.autocast(self.device.type, enabled=False):
            return self.network.decode(z, pairs)

    def forward(self, batch: Any, pairs: Tensor) -> Tensor:
        """Logits (P,) of pairs (2, P)."""
        return self.scores(batch, pairs, self.embed(batch))

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self._evaluate(batch, "val")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        z = self._evaluate(batch, "test")
        if z is not None:
            found = embedding_quality(z, batch, global_seed())
            self.log_dict({f"test/{k}": v for k, v in found.items()}, batch_size=1)

    def _evaluate(self, batch: Any, split: Literal["val", "test"]) -> Tensor | None:
        z = self.embed(batch)
        edges, non_edges = (self.scores(batch, batch[f"{split}_{k}"], z) for k in ("edges", "non_edges"))
        truth = torch.cat([torch.ones_like(edges), torch.zeros_like(non_edges)]).long()
        order = ranks(torch.cat([edges, non_edges]))
        for name, metrics in (("auc", self.auc), ("ap", self.ap)):
            metric: Any = metrics[split]
            metric.reset()
            self.log(f"{split}/{name}", metric(order, truth), batch_size=1, prog_bar=True)
        self.log(f"{split}/loss", reconstruction_loss(edges, non_edges), batch_size=1)
        return z

    dynamic_dims: ClassVar[dict[str, dict[int, str]]] = {
        "x": {0: "nodes"},
        "graph": {1: "edges"},
        "pairs": {1: "pairs"},
    }

    def example_inputs(self, nodes: int) -> dict[str, Tensor]:
        """Features, a graph and pairs for ``zoo export``, whose file gives the logits (pairs,) of the means.

        Raises:
            ValueError: for a baseline, which has no network.
        """
        if isinstance(self.network, CalibratedHeuristic):
            raise ValueError(f"{self.hparams['model']} ranks pairs without a network that could be exported")
        x = torch.randn(nodes, self.hparams["features"], device=self.device)
        pairs = torch.randint(nodes, (2, 2 * nodes + 1), device=self.device)
        return {"x": x, "graph": example_edges(nodes, self.device), "pairs": pairs}

    def predict_step(self, batch: Any, batch_idx: int) -> LinkPredictions:
        z, h = self.embed(batch), self.hparams
        held = {s: {k: batch[f"{s}_{k}"] for k in ("edges", "non_edges")} for s in ("val", "test")}
        logits = {s: {k: self.scores(batch, p, z) for k, p in kinds.items()} for s, kinds in held.items()}
        known = torch.cat([batch.train_edges, *(kinds["edges"] for kinds in held.values())], dim=1)
        new = top_new_links(lambda p: self.scores(batch, p, z), known, len(batch.x), h["top_k"])
        name = h["model"] if z is None else f"{h['model']} ({h['arch']}, {h['decoder']})"
        return LinkPredictions(
            pairs={s: {k: p.cpu() for k, p in kinds.items()} for s, kinds in held.items()},
            logits={s: {k: v.float().cpu() for k, v in kinds.items()} for s, kinds in logits.items()},
            new_pairs=new[0].cpu(),
            new_logits=new[1].float().cpu(),
            embedding=None if z is None else z.cpu(),
            labels=batch.y.cpu() if "y" in batch else None,
            title=f"Link prediction: {name}",
        )
