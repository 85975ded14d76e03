"""The GAug-O LightningModule: an edge predictor and a classifier trained together on sampled graphs."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from zoo.gaug.adjacency import Adjacency, mean_degree
from zoo.gaug.blocks import block_around, sparse_candidates
from zoo.gaug.edges import (
    SAMPLERS,
    ProbabilityScale,
    Sampler,
    edge_probabilities,
    sample_dense,
    sample_pairs,
    symmetrised,
    symmetrised_pairs,
    warmup_factor,
)
from zoo.gaug.graph import (
    Graph,
    check_choices,
    classification_loss,
    f1_by_degree,
    forget_logged,
    micro_f1,
    parameter_groups,
    predictor_quality,
    prepare,
)
from zoo.gaug.network import (
    BACKBONES,
    AugmentedClassifier,
    Backbone,
    GAugONetwork,
    dropout_rate,
    normalised_for,
)
from zoo.gaug.predictor import (
    EdgePredictor,
    PredictorKind,
    balance,
    draw,
    kl_term,
    pair_logits,
    reconstruction_loss,
    sampled_reconstruction_loss,
)
from zoo.gaug.ranking import edge_homophily, random_new_pairs
from zoo.gaug.report import NodePredictions
from zoo.metrics.epoch_end import Patience
from zoo.nn.data_fit import DataSizes, check_fit
from zoo.nn.graphs import GRAPH_DIMS, example_edges
from zoo.nn.optim import with_schedule
from zoo.nn.parallel import refuse_whole_graph_in_parts
from zoo.nn.ranges import (
    Count,
    CountOrZero,
    Depth,
    Fraction,
    Many,
    NonNegative,
    Positive,
    Rate,
    Size,
    check_ranges,
)
from zoo.nn.settings import settings_of
from zoo.nn.variants import Uses, refuse_unused
from zoo.randomness import generator, global_seed, step_generator
from zoo.reports import class_names_of

# First word of the key of the draws of `zoo predict`.
_PREDICTION = 111
_DENSE_WARNING = 10  # times the given mean degree

_BY_SEEDS: Uses = {"batch_cap": "a number of nodes"}
_BY_CANDIDATES: Uses = {"candidates": "true", "negatives": "true"}
# `heads` of a large graph stands in its config for all classifiers, settings of one sampler for its controls

Phase = Literal["edges", "nodes", "joint"]


class GAugO(LightningModule):
    """GAug-O: a classifier trained on graphs sampled from predicted and given edges (Zhao et al., AAAI 2021).

    An optimiser step is an epoch of the paper: ``pretrain_ep`` steps of the edge predictor alone,
    ``pretrain_nc`` of the classifier on the given graph, then ``epochs`` joint ones with a fresh optimiser.
    ``trainer.max_steps`` is their sum, or more. Validation, test and prediction use the given graph. The
    defaults are the released values for Cora with a GCN.

    ``val/score`` is the validation micro-F1 of the joint epochs and 0 before: what selects the epoch.

    Args:
        features: F.
        num_classes: C.
        backbone: ``gcn``, ``gsage``, ``gat`` or ``jknet``.
        hidden: width of the classifier and of the edge predictor's first layer.
        embedding: width of Z.
        heads: of GAT; the paper takes 2 for large graphs.
        dropout: null is the paper's, .5 and for GAT .6.
        layers: null is the paper's, 2, of JK-Net 3.
        batch_norm: batch normalisation of the hidden layers (the release's mini-batch variant).
        predictor: ``gae`` (paper) or ``vgae``, whose KL term is in the pre-training loss alone.
        alpha: weight of the predicted against the given edges in sampling.
        beta: weight of the edge loss.
        temperature: T of the relaxed Bernoulli.
        pretrain_ep: steps of edge pre-training.
        pretrain_nc: steps of classifier pre-training.
        warmup: w of the edge predictor's learning rate; 0 is none, as the released script runs.
        epochs: joint epochs E.
        patience: stop after so many joint epochs without a better validation score.
        sampler: ``relaxed``, ``add_round``, ``rand`` (control) or ``edge`` (rank-based).
        probability: ``max`` scales the logits by their maximum (release), ``sigmoid`` is the paper's text.
        sparse: keep to candidate pairs instead of all N^2: the edges, the ``candidates`` likeliest others of
            each node, and random pairs; edge loss by negative sampling.
        candidates: likeliest non-edges per node; null takes all pairs (equal to dense).
        negatives: random pairs per edge.
        seeds_per_step: training nodes of a step, with their 2-hop neighbourhood; null is the whole graph. The
            sampled graph of tests and predictions, a whole one, is then drawn as with ``sparse``.
        batch_cap: most nodes of such a block.
        pretrain_lr: learning rate before the joint epochs; null is the optimiser's.
        optimizer: called with two groups, classifier and edge predictor (no weight decay).
        lr_scheduler: called with the optimizer; the edge predictor follows the classifier's rate.

    Raises:
        ValueError: for impossible settings.
    """

    data_sizes: ClassVar[DataSizes] = {"features": "num_features", "num_classes": "num_classes"}

    def __init__(
        self,
        features: Many = 1433,
        num_classes: Size = 7,
        backbone: Backbone = "gcn",
        hidden: Size = 128,
        embedding: Size = 32,
        heads: Depth = 8,
        dropout: Rate | None = None,
        layers: Depth | None = None,
        batch_norm: bool = False,
        predictor: PredictorKind = "gae",
        alpha: Fraction = 1.0,
        beta: NonNegative = 0.8,
        temperature: Positive = 1.2,
        pretrain_ep: CountOrZero = 160,
        pretrain_nc: CountOrZero = 30,
        warmup: NonNegative = 0.0,
        epochs: Count = 200,
        patience: Count = 100,
        sampler: Sampler = "relaxed",
        probability: ProbabilityScale = "max",
        sparse: bool = False,
        candidates: Many | None = 10,
        negatives: NonNegative = 1.0,
        seeds_per_step: Many | None = None,
        batch_cap: Many = 15000,
        pretrain_lr: NonNegative | None = None,
        optimizer: OptimizerCallable = lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=5e-4),
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        check_ranges(GAugO, locals())
        super().__init__()
        self.save_hyperparameters(ignore=["optimizer", "lr_scheduler"])
        check_choices(
            backbone=(backbone, BACKBONES),
            sampler=(sampler, SAMPLERS),
            predictor=(predictor, ("gae", "vgae")),
            probability=(probability, ("max", "sigmoid")),
        )
        if backbone == "gat":
            refuse_unused(GAugO, self.hparams, "backbone", {"layers": [b for b in BACKBONES if b != "gat"]})
        refuse_unused(GAugO, self.hparams, "seeds_per_step", _BY_SEEDS)
        in_parts = sparse or seeds_per_step is not None
        refuse_unused(GAugO, {**self.hparams, "sparse": in_parts}, "sparse", _BY_CANDIDATES)
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.joint_start = pretrain_ep + pretrain_nc
        own = {"classes": num_classes, "dropout": dropout_rate(backbone, dropout)}
        classifier = AugmentedClassifier(**settings_of(AugmentedClassifier, self.hparams) | own)
        edge_predictor = EdgePredictor(features, hidden, embedding, predictor, form="o")
        self.network = GAugONetwork(classifier, edge_predictor)
        self.selection = Patience(patience, best=0.0)  # a score of 0 never counts
        self._graph: Graph | None = None
        self._dense: Tensor | None = None
        self._warned = False

    def setup(self, stage: str) -> None:
        refuse_whole_graph_in_parts(self)
        check_fit(self)
        self._graph = self._dense = None

    def phase(self, step: int) -> Phase:
        """What optimiser step ``step`` trains."""
        if step < self.hparams["pretrain_ep"]:
            return "edges"
        return "nodes" if step < self.joint_start else "joint"

    def configure_optimizers(self) -> Any:
        if self.lr_scheduler is not None and self.hparams["pretrain_lr"] is not None:
            raise ValueError("give either pretrain_lr or lr_scheduler, not both")
        optimizer: Any = self.optimizer(parameter_groups(self.network.classifier, self.network.predictor))
        for group in optimizer.param_groups:
            group["joint_lr"] = group["lr"]
        return with_schedule(optimizer, self.lr_scheduler)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        step, h = self.trainer.global_step, self.hparams
        optimizer = self.trainer.optimizers[0]
        if step and self.phase(step) != self.phase(step - 1):
            forget_logged(self)
        if step == self.joint_start:
            optimizer.state.clear()  # the joint training has optimisers of its own
        nodes, edges = optimizer.param_groups
        joint = step >= self.joint_start
        if h["pretrain_lr"] is not None:
            nodes["lr"] = nodes["joint_lr"] if joint else h["pretrain_lr"]
        factor = warmup_factor(step - self.joint_start, h["epochs"], h["warmup"]) if joint else 1.0
        edges["lr"] = nodes["lr"] * factor

    def on_train_start(self) -> None:
        self.trainer.should_stop |= self.selection.over or self._steps_left() <= 0

    def _steps_left(self) -> int:
        """Whatever trainer.max_steps says."""
        return self.joint_start + int(self.hparams["epochs"]) - self.trainer.global_step

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.trainer.should_stop |= self._steps_left() <= 1
        graph, g, phase = (
            self._given(batch),
            step_generator(self, batch_idx),
            self.phase(self.trainer.global_step),
        )
        dense = self._dense
        if self.hparams["seeds_per_step"] is not None:
            graph = block_around(graph, self.hparams["seeds_per_step"], self.hparams["batch_cap"], g)
            dense = None if self.hparams["sparse"] else graph.looped.to_dense()
        if phase == "nodes":
            logits = self.network.classifier(graph.x, self._adjacency(graph))
            return self._logged(classification_loss(logits, graph.y, graph.masks["train"]), None, None, None)
        mean, log_std = self.network.predictor(graph.x, graph.normalised)
        noise = None if log_std is None else torch.randn(mean.shape, generator=g, device=g.device)
        z = draw(mean, log_std, noise).float()
        if not self._warned and not bool(z.any()):
            self._warned = True
            rank_zero_warn(
                "the edge predictor died (Z is 0 after its ReLU), the sampled graphs hold given edges alone: "
                "normalise the features or lower the learning rate"
            )
        # float32 by name: the clamp of the sampler at 1 - 2^-23 is 1 in half precision
        with torch.autocast(self.device.type, enabled=False):
            edge_loss, sampled = self._edges(graph, dense, z, g, phase == "joint")
            if phase == "edges":
                if log_std is not None:
                    edge_loss = edge_loss - kl_term(mean, log_std)
                return self._logged(None, edge_loss, None, None)
            assert sampled is not None
            adjacency = normalised_for(self.hparams["backbone"], sampled)
        logits = self.network.classifier(graph.x, adjacency)
        node_loss = classification_loss(logits, graph.y, graph.masks["train"])
        return self._logged(node_loss, edge_loss, sampled, graph)

    def _edges(
        self, graph: Graph, dense: Tensor | None, z: Tensor, g: torch.Generator, sample: bool
    ) -> tuple[Tensor, Adjacency | None]:
        """The edge loss and, where asked for, a sampled graph with a diagonal of ones."""
        h = self.hparams
        entries = 2 * graph.pairs.shape[1] + graph.nodes  # sum of A~, with the self-loops
        pos_weight, norm = balance(graph.nodes, entries)
        settings = (h["alpha"], h["temperature"], h["probability"])
        if dense is not None:
            logits = z @ z.T
            loss = reconstruction_loss(logits, dense, pos_weight, norm)
            if not sample:
                return loss, None
            uniform = torch.rand(logits.shape, generator=g, device=g.device)
            return loss, symmetrised(sample_dense(h["sampler"], logits, dense, uniform, *settings))
        pairs, m, drawn = sparse_candidates(z, graph.pairs, h["candidates"], h["negatives"], g)
        logits, own = pair_logits(z, pairs), z.square().sum(dim=1)
        # entries stand above and below the diagonal
        positives = torch.cat([logits[:m], logits[:m], own])
        zeros = graph.nodes**2 - entries
        loss = sampled_reconstruction_loss(
            positives, pair_logits(z, drawn), zeros, graph.nodes, pos_weight, norm
        )
        if not sample:
            return loss, None
        edges = torch.zeros_like(logits)
        edges[:m] = 1
        uniform = torch.rand(logits.shape, generator=g, device=g.device)
        # |z_i . z_j| <= max |z_i|^2: the largest of all N^2 logits is on the diagonal
        values = sample_pairs(h["sampler"], logits, edges, uniform, graph.nodes, *settings, largest=own.max())
        return loss, symmetrised_pairs(values, pairs, graph.nodes)

    def _logged(
        self, nodes: Tensor | None, edges: Tensor | None, sampled: Adjacency | None, graph: Graph | None
    ) -> Tensor:
        """The step's loss, its parts logged apart (the release logs the total as the classifier's)."""
        losses = [x for x in (nodes, edges) if x is not None]
        joint = nodes is not None and edges is not None
        loss = losses[0] + self.hparams["beta"] * losses[1] if joint else losses[0]
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=1)
        if nodes is not None:
            self.log("train/node_loss", nodes.detach(), batch_size=1)
        if edges is not None:
            self.log("train/edge_loss", edges.detach(), batch_size=1)
        if sampled is not None and graph is not None:
            degree = float(mean_degree(sampled))
            self.log("train/sampled_degree", degree, batch_size=1)
            given = float(graph.degree.mean())
            if degree > _DENSE_WARNING * max(given, 1.0) and not self._warned:
                self._warned = True
                rank_zero_warn(
                    f"the sampled graphs have a mean degree of {degree:.0f}, the given one {given:.1f}: "
                    f"alpha {self.hparams['alpha']} leaves the given edges little say"
                )
        return loss

    def _given(self, batch: Any) -> Graph:
        if self._graph is None:
            self._graph = prepare(batch)
            if not self.hparams["sparse"] and self.hparams["seeds_per_step"] is None:
                self._dense = self._graph.looped.to_dense()
        return self._graph

    def _adjacency(self, graph: Graph) -> Adjacency:
        return normalised_for(self.hparams["backbone"], graph.looped)

    def forward(self, batch: Any) -> Tensor:
        """Class scores (N, C) on the given graph."""
        graph = self._given(batch)
        scores: Tensor = self.network.classifier(graph.x, self._adjacency(graph))
        return scores

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        logits, graph = self(batch), self._given(batch)
        mask = graph.masks["val"]
        score = micro_f1(logits[mask], graph.y[mask])
        fitting = self.trainer.state.fn == TrainerFn.FITTING
        joint = not fitting or self.trainer.global_step > self.joint_start
        loss = classification_loss(logits, graph.y, mask)
        auc, precision = predictor_quality(self.network.predictor, graph)
        values: dict[str, Any] = {"loss": loss, "micro_f1": score, "score": score if joint else 0.0}
        values |= {"edge_auc": auc, "edge_ap": precision}
        self.log_dict({f"val/{k}": v for k, v in values.items()}, batch_size=1)
        if fitting and joint and self.selection.exhausted(score):
            self.trainer.should_stop = True

    def test_step(self, batch: Any, batch_idx: int) -> None:
        logits, graph = self(batch), self._given(batch)
        mask = graph.masks["test"]
        values = {"micro_f1": micro_f1(logits[mask], graph.y[mask])}
        values |= f1_by_degree(logits, graph, "test")
        values["edge_auc"], values["edge_ap"] = predictor_quality(self.network.predictor, graph)
        sampled = self._sampled_pairs(graph)
        values |= {
            "homophily": edge_homophily(graph.pairs, graph.y),
            "sampled_homophily": edge_homophily(sampled, graph.y),
            "sampled_degree": 2 * sampled.shape[1] / graph.nodes,
        }
        self.log_dict({f"test/{k}": v for k, v in values.items()}, batch_size=1)

    @torch.no_grad()
    def _sampled_pairs(self, graph: Graph) -> Tensor:
        """Edges i < j of one graph as training samples them, the same at each call.

        In blocks the whole graph is sampled among candidate pairs: a matrix of it is what blocks avoid.
        """
        g = generator(_PREDICTION, global_seed(), device=self.device)
        z = self.network.predictor.embed(graph.x, graph.normalised).float()
        _, sampled = self._edges(graph, self._dense, z, g, sample=True)
        assert sampled is not None
        if isinstance(sampled, Tensor):
            return sampled.triu(1).nonzero().T
        index = sampled.index[:, sampled.weight > 0]
        return index[:, index[0] < index[1]]

    def predict_step(self, batch: Any, batch_idx: int) -> NodePredictions:
        graph, h = self._given(batch), self.hparams
        hidden, logits = self.network.classifier.embed(graph.x, self._adjacency(graph))
        several = graph.y.ndim == 2
        z = self.network.predictor.embed(graph.x, graph.normalised).float()
        free = random_new_pairs(graph.pairs, graph.nodes, graph.pairs.shape[1], generator(_PREDICTION))
        pairs = torch.cat([graph.pairs, free], dim=1)
        own = torch.zeros(pairs.shape[1], device=z.device)
        probability = edge_probabilities(
            pair_logits(z, pairs), own, 1.0, h["probability"], z.square().sum(dim=1).max()
        )
        return NodePredictions(
            scores=(logits.sigmoid() if several else logits.softmax(dim=1)).float().cpu(),
            labels=graph.y.cpu(),
            masks={k: v.cpu() for k, v in graph.masks.items()},
            embedding=hidden.float().cpu(),
            given=graph.pairs.cpu(),
            changed=self._sampled_pairs(graph).cpu(),
            pairs=pairs.cpu(),
            probability=probability.cpu(),
            title=f"GAug-O, {h['backbone']}: the given graph and one sampled in training",
            class_names=class_names_of(self, h["num_classes"]),
        )

    dynamic_dims: ClassVar[dict[str, dict[int, str]]] = GRAPH_DIMS

    def example_inputs(self, nodes: int) -> dict[str, Tensor]:
        """Features and edges for the classifier, which gives class scores (nodes, C)."""
        x = torch.rand(nodes, self.hparams["features"], device=self.device)
        return {"x": x, "edge_index": example_edges(nodes, self.device)}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["gaug"] = {"selection": self.selection.state()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if "gaug" in checkpoint:
            self.selection.restore(checkpoint["gaug"]["selection"])
