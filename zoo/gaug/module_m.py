"""The GAug-M LightningModule: a classifier on a graph that an edge predictor changed once; baselines."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.nn import functional

from zoo.gaug.adjacency import sparse_if_thin
from zoo.gaug.graph import (
    Graph,
    check_choices,
    classification_loss,
    edge_quality,
    f1_by_degree,
    forget_logged,
    micro_f1,
    parameter_groups,
    prepare,
)
from zoo.gaug.network import BACKBONES, Backbone, GAugMNetwork, ModifiedClassifier, dropout_rate
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
from zoo.gaug.ranking import (
    adaedge,
    both_directions,
    class_edge_counts,
    drop_edges,
    edge_homophily,
    modify_by_list,
    modify_pairs,
    random_modification,
    random_new_pairs,
)
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
    Percent,
    Rate,
    Share,
    Size,
    check_ranges,
)
from zoo.nn.variants import Uses, refuse_unused
from zoo.randomness import generator, global_seed, step_generator
from zoo.reports import class_names_of

# First words of the keys of this module's random streams.
_DRAW, _CONTROL, _RESTART, _PREDICTION = 112, 113, 114, 115
_LEAST_SPREAD = 0.01

# settings of one augmentation stand in the graph's config for its baselines and controls
_USES: Uses = {
    "kl_weight": ("vgae",),
    **dict.fromkeys(
        ("predictor_hidden", "predictor_embedding", "predictor_lr", "sampled_loss", "predictor_l1"),
        ("vgae", "gae"),
    ),
}

Augmentation = Literal["gaug", "random", "dropedge", "adaedge", "none"]
AUGMENTATIONS: tuple[Augmentation, ...] = ("gaug", "random", "dropedge", "adaedge", "none")


class GAugM(LightningModule):
    """GAug-M: a classifier on the graph that an edge predictor changed by rank (Zhao et al., AAAI 2021).

    An optimiser step is an epoch of the paper: ``predictor_epochs`` steps of the edge predictor, then, on the
    changed graph and with a fresh optimiser, ``epochs`` steps of the classifier (once more per round for
    ``adaedge``). ``trainer.max_steps`` is their sum, or more. The
    defaults are the released values for Cora with a GCN.

    ``val/score`` is the validation micro-F1 of the epochs that count and 0 before: what selects the epoch.

    Args:
        features: F.
        num_classes: C.
        backbone: ``gcn``, ``gsage``, ``gat`` or ``jknet``.
        hidden: width of the classifier.
        heads: of GAT's first layer.
        dropout: null is the paper's, .5 and for GAT .6.
        augmentation: ``gaug``; ``random``, the control that changes as many edges by chance; the baselines
            ``dropedge`` and ``adaedge``; or ``none``, the given graph.
        remove: percent of the edges to remove.
        add: percent of the edges to add.
        eval_on: ``modified`` (paper) or ``original`` graph.
        predictor: ``vgae`` or ``gae`` trained here, or ``file``: probabilities of the data, see
            ``edge_probabilities`` of ``datamodules.GAugGraph``.
        predictor_hidden: width of the edge predictor's first layer.
        predictor_embedding: width of Z.
        predictor_epochs: its steps.
        predictor_lr: its learning rate, whatever the classifier's is (.01 beside a GAT's .005).
        kl_weight: factor of the KL term of ``vgae``.
        validation_share: share of the edges whose ROC selects the predictor; training sees them too.
        predictor_l1: the edge predictor sees features with rows of sum 1 (all released graphs but PPI). False
            needs data whose rows do not have it already: ``normalize: none`` of ``datamodules.GAugGraph``.
        classifier_l1: the classifier sees features with rows of sum 1 whatever the data give, so that
            raw ones are left to the edge predictor alone.
        draw: index of the drawn Z that scores the pairs, ``i`` of the released files.
        sampled_loss: negative sampling in the predictor's loss: no (N, N) matrix anywhere.
        block: rows of Z Z^T at once in the search for new edges.
        drop_rate: of ``dropedge``, drawn anew each epoch; evaluation is on the whole graph.
        ada_rounds: of ``adaedge``: adjustments of the graph, a new classifier after each.
        ada_confidence: least class probability of the nodes whose edges ``adaedge`` changes.
        epochs: of the classifier.
        patience: stop after so many of them without a better validation score.
        optimizer: called with two groups, classifier and edge predictor (no weight decay, ``predictor_lr``).
        lr_scheduler: called with the optimizer.

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
        heads: Depth = 8,
        dropout: Rate | None = None,
        augmentation: Augmentation = "gaug",
        remove: Percent = 2.0,
        add: NonNegative = 57.0,
        eval_on: Literal["modified", "original"] = "modified",
        predictor: PredictorKind | Literal["file"] = "vgae",
        predictor_hidden: Size = 32,
        predictor_embedding: Size = 16,
        predictor_epochs: Count = 200,
        predictor_lr: NonNegative = 0.01,
        kl_weight: NonNegative = 1.0,
        validation_share: Share = 0.9,
        predictor_l1: bool = True,
        classifier_l1: bool = False,
        draw: CountOrZero = 0,
        sampled_loss: bool = False,
        block: Many = 1024,
        drop_rate: Rate = 0.067,
        ada_rounds: Depth = 1,
        ada_confidence: Fraction = 0.9,
        epochs: Count = 200,
        patience: Count = 100,
        optimizer: OptimizerCallable = lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=5e-4),
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        check_ranges(GAugM, locals())
        super().__init__()
        self.save_hyperparameters(ignore=["optimizer", "lr_scheduler"])
        check_choices(
            backbone=(backbone, BACKBONES),
            augmentation=(augmentation, AUGMENTATIONS),
            predictor=(predictor, ("vgae", "gae", "file")),
            eval_on=(eval_on, ("modified", "original")),
        )
        refuse_unused(GAugM, self.hparams, "predictor", _USES)
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        learns = augmentation == "gaug" and predictor != "file"
        self.start = predictor_epochs if learns else 0
        rate = dropout_rate(backbone, dropout)
        self._classifier = partial(ModifiedClassifier, backbone, features, num_classes, hidden, heads, rate)
        kind: PredictorKind = "gae" if predictor == "gae" else "vgae"
        edge_predictor = EdgePredictor(features, predictor_hidden, predictor_embedding, kind, form="m")
        self.network = GAugMNetwork(self._classifier(), edge_predictor if learns else None)
        self.selection = Patience(patience, best=0.0)  # a score of 0 never counts
        self._graph: Graph | None = None
        self._changed: Tensor | None = None
        # The predictor's best epoch so far, by the ROC of its validation edges.
        self._best_roc = -1.0
        self._best_predictor: dict[str, Tensor] | None = None

    def setup(self, stage: str) -> None:
        refuse_whole_graph_in_parts(self)
        check_fit(self)
        self._graph = None

    @property
    def rounds(self) -> int:
        """Trainings of a classifier, one after the other."""
        return 1 + self.hparams["ada_rounds"] if self.hparams["augmentation"] == "adaedge" else 1

    def round_of(self, step: int) -> int:
        """Which training of the classifier step ``step`` belongs to; -1 while the predictor trains."""
        if step < self.start:
            return -1
        return min((step - self.start) // self.hparams["epochs"], self.rounds - 1)

    def configure_optimizers(self) -> Any:
        groups = parameter_groups(self.network.classifier, self.network.predictor)
        for group in groups[1:]:
            group["lr"] = self.hparams["predictor_lr"]
        return with_schedule(self.optimizer(groups), self.lr_scheduler)

    # --- training -------------------------------------------------------------------------------------------

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        step = self.trainer.global_step
        graph = self._given(batch)
        if step == self.start:
            forget_logged(self)
            if self._best_predictor is not None and self.network.predictor is not None:
                self.network.predictor.load_state_dict(self._best_predictor)
                self._best_predictor = None
            self.trainer.optimizers[0].state.clear()
            self._changed = self._modified(batch, graph)
        elif step > self.start and self.round_of(step) > self.round_of(step - 1):
            self._adjust(graph, self.round_of(step))

    @torch.no_grad()
    def _adjust(self, graph: Graph, number: int) -> None:
        """AdaEdge: change the graph by the classifier's predictions and begin a new classifier."""
        h = self.hparams
        self.network.classifier.eval()
        logits = self.network.classifier(
            self._classifier_features(graph), both_directions(self._edges(graph))
        )
        self.network.classifier.train()
        sure = h["ada_confidence"]
        changed = adaedge(
            self._edges(graph),
            logits.softmax(dim=1),
            graph.nodes,
            h["remove"],
            h["add"],
            sure,
            sure,
            h["block"],
        )
        self._changed = changed.pairs
        fresh = self._fresh_classifier(number)
        self.network.classifier.load_state_dict(fresh.state_dict())
        self.trainer.optimizers[0].state.clear()
        self.selection = Patience(h["patience"], best=0.0)

    def _fresh_classifier(self, number: int) -> ModifiedClassifier:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator(_RESTART, global_seed(), number).initial_seed())
            return self._classifier()

    def on_train_start(self) -> None:
        self.trainer.should_stop |= self.selection.over or self._steps_left() <= 0

    def _steps_left(self) -> int:
        """Whatever trainer.max_steps says."""
        return self.start + self.rounds * int(self.hparams["epochs"]) - self.trainer.global_step

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.trainer.should_stop |= self._steps_left() <= 1
        graph, g = self._given(batch), step_generator(self, batch_idx)
        if self.round_of(self.trainer.global_step) < 0:
            return self._predictor_step(graph, g)
        pairs = self._edges(graph)
        if self.hparams["augmentation"] == "dropedge":
            pairs = drop_edges(pairs, self.hparams["drop_rate"], g)
        logits = self.network.classifier(self._classifier_features(graph), both_directions(pairs))
        loss = classification_loss(logits, graph.y, graph.masks["train"])
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=1)
        self.log("train/homophily", edge_homophily(pairs, graph.y), batch_size=1)
        return loss

    def _predictor_step(self, graph: Graph, g: torch.Generator) -> Tensor:
        predictor, h = self.network.predictor, self.hparams
        assert predictor is not None
        mean, log_std = predictor(self._predictor_features(graph), graph.normalised)
        noise = None if log_std is None else torch.randn(mean.shape, generator=g, device=g.device)
        with torch.autocast(self.device.type, enabled=False):
            z = draw(mean, log_std, noise).float()
            m, nodes = graph.pairs.shape[1], graph.nodes
            # the label is the upper triangle and the diagonal, the weights are those of the symmetric A
            pos_weight, norm = balance(nodes, 2 * m)
            if h["sampled_loss"]:
                loss = self._sampled_loss(z, graph, pos_weight, norm, g)
            else:
                target = torch.eye(nodes, device=z.device)
                target[graph.pairs[0], graph.pairs[1]] = 1
                loss = reconstruction_loss(z @ z.T, target, pos_weight, norm)
            if log_std is not None:
                kl = kl_term(mean, log_std)
                self.log("train/kl", -kl.detach(), batch_size=1)
                loss = loss - h["kl_weight"] * kl
        roc, precision = edge_quality(z.detach(), graph)
        if roc > self._best_roc:  # of the weights before this step, as in the release
            self._best_roc, self._best_predictor = roc, predictor.snapshot()
        values: dict[str, Any] = {"edge_loss": loss.detach(), "edge_auc": roc, "edge_ap": precision}
        self.log_dict({f"train/{k}": v for k, v in values.items()}, batch_size=1)
        return loss

    def _sampled_loss(
        self, z: Tensor, graph: Graph, pos_weight: float, norm: float, g: torch.Generator
    ) -> Tensor:
        """The same loss from a part of the zeros; an edge's entry below the diagonal is a zero."""
        m, nodes = graph.pairs.shape[1], graph.nodes
        positives = torch.cat([pair_logits(z, graph.pairs), z.square().sum(dim=1)])
        others = pair_logits(z, random_new_pairs(graph.pairs, nodes, m, g))
        free = nodes * (nodes - 1) - 2 * m
        # two strata: the m lower entries are known, the other zeros are drawn
        loss = sampled_reconstruction_loss(positives, others, free, nodes, pos_weight, norm)
        return loss + norm * functional.softplus(pair_logits(z, graph.pairs)).sum() / nodes**2

    # --- the graph ------------------------------------------------------------------------------------------

    def _given(self, batch: Any) -> Graph:
        if self._graph is None:
            self._graph = prepare(batch, self.hparams["validation_share"])
            self._check_features(batch.x)
        return self._graph

    def _check_features(self, x: Tensor) -> None:
        """Refuse ``predictor_l1: false`` where it would change nothing."""
        if self.network.predictor is None or self.hparams["predictor_l1"]:
            return
        if torch.allclose(x, functional.normalize(x, p=1, dim=1), atol=1e-6):
            raise ValueError(
                "model.init_args.predictor_l1 is false, but the rows of the data's features have sum 1; "
                "set data.init_args.normalize: none and model.init_args.classifier_l1: true, or leave "
                "predictor_l1 true"
            )

    def _edges(self, graph: Graph) -> Tensor:
        """Edges i < j that the classifier is trained on."""
        return graph.pairs if self._changed is None else self._changed.to(graph.pairs.device)

    def _evaluated_edges(self, batch: Any, graph: Graph) -> Tensor:
        if self.hparams["eval_on"] == "original":
            return graph.pairs
        if self._changed is None and self.trainer.state.fn != TrainerFn.FITTING:
            self._changed = self._modified(batch, graph)  # bare weights: the predictor is among them
        return self._edges(graph)

    @torch.no_grad()
    def _modified(self, batch: Any, graph: Graph) -> Tensor | None:
        """The edges after the one-time change; None leaves the given ones."""
        h = self.hparams
        if h["augmentation"] == "random":
            g = generator(_CONTROL, global_seed(), h["draw"])
            return random_modification(graph.pairs, graph.nodes, h["remove"], h["add"], g).pairs
        if h["augmentation"] != "gaug":
            return None
        if h["remove"] == 0 and h["add"] == 0:
            return graph.pairs
        if h["predictor"] == "file":
            return self._modified_by_file(batch, graph)
        z = self._drawn_code(graph)
        scores = pair_logits(z, graph.pairs).sigmoid()
        free = random_new_pairs(graph.pairs, graph.nodes, graph.pairs.shape[1], generator(_PREDICTION))
        spread = float(torch.cat([scores, pair_logits(z, free).sigmoid()]).std())
        if spread < _LEAST_SPREAD:
            rank_zero_warn(
                f"the edge predictor says nearly the same of all pairs (standard deviation {spread:.1g}): it "
                "collapsed; lower model.init_args.kl_weight or take model.init_args.predictor: gae"
            )
        # sigmoid is monotone: the order of the logits is that of the probabilities, without ties at 1
        return modify_pairs(
            graph.pairs,
            pair_logits(z, graph.pairs),
            lambda a, b: z[a:b] @ z.T,
            graph.nodes,
            h["remove"],
            h["add"],
            h["block"],
        ).pairs

    def _drawn_code(self, graph: Graph) -> Tensor:
        """The one Z (N, D) that scores all pairs, drawn once."""
        assert self.network.predictor is not None
        g = generator(_DRAW, global_seed(), self.hparams["draw"])
        noise = torch.randn(graph.nodes, self.hparams["predictor_embedding"], generator=g).to(self.device)
        return self.network.predictor.embed(self._predictor_features(graph), graph.normalised, noise).float()

    def _modified_by_file(self, batch: Any, graph: Graph) -> Tensor:
        h, pairs = self.hparams, graph.pairs
        if hasattr(batch, "edge_probability"):
            q = batch.edge_probability
            sizes = (graph.nodes, h["remove"], h["add"], h["block"])
            return modify_pairs(pairs, q[pairs[0], pairs[1]], lambda a, b: q[a:b], *sizes).pairs
        if not hasattr(batch, "probable_pairs"):
            raise ValueError(
                "model.init_args.predictor is file, but the data have no edge probabilities; set "
                "data.init_args.edge_probabilities"
            )
        return modify_by_list(
            pairs, batch.probable_pairs, batch.pair_probability, graph.nodes, h["remove"], h["add"]
        ).pairs

    def _classifier_features(self, graph: Graph) -> Tensor:
        dense = graph.x.to_dense() if graph.x.is_sparse else graph.x
        return functional.normalize(dense, p=1, dim=1) if self.hparams["classifier_l1"] else dense

    def _predictor_features(self, graph: Graph) -> Tensor:
        if not self.hparams["predictor_l1"]:
            return graph.x
        dense = graph.x.to_dense() if graph.x.is_sparse else graph.x
        return sparse_if_thin(functional.normalize(dense, p=1, dim=1))

    # --- evaluation -----------------------------------------------------------------------------------------

    def forward(self, batch: Any) -> Tensor:
        """Class scores (N, C) on the graph of ``eval_on``."""
        graph = self._given(batch)
        edges = both_directions(self._evaluated_edges(batch, graph))
        scores: Tensor = self.network.classifier(self._classifier_features(graph), edges)
        return scores

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        fitting = self.trainer.state.fn == TrainerFn.FITTING
        step, graph = self.trainer.global_step, self._given(batch)
        last = self.start + (self.rounds - 1) * self.hparams["epochs"]
        counts = not fitting or step > last
        logits = self(batch)
        mask = graph.masks["val"]
        score = micro_f1(logits[mask], graph.y[mask])
        loss = classification_loss(logits, graph.y, mask)
        values: dict[str, Any] = {"loss": loss, "micro_f1": score, "score": score if counts else 0.0}
        self.log_dict({f"val/{k}": v for k, v in values.items()}, batch_size=1)
        if fitting and counts and self.selection.exhausted(score):
            self.trainer.should_stop = True

    def test_step(self, batch: Any, batch_idx: int) -> None:
        logits, graph = self(batch), self._given(batch)
        mask = graph.masks["test"]
        values = {"micro_f1": micro_f1(logits[mask], graph.y[mask])}
        values |= f1_by_degree(logits, graph, "test")
        for name, pairs in (("given", graph.pairs), ("modified", self._edges(graph))):
            intra, inter = class_edge_counts(pairs, graph.y)
            values[f"{name}_intra_edges"], values[f"{name}_inter_edges"] = intra, inter
            values[f"{name}_homophily"] = edge_homophily(pairs, graph.y)
        if self.network.predictor is not None:
            values["edge_auc"], values["edge_ap"] = edge_quality(self._drawn_code(graph), graph)
        self.log_dict({f"test/{k}": float(v) for k, v in values.items()}, batch_size=1)

    def predict_step(self, batch: Any, batch_idx: int) -> NodePredictions:
        graph, h = self._given(batch), self.hparams
        edges = both_directions(self._evaluated_edges(batch, graph))
        hidden, logits = self.network.classifier.embed(self._classifier_features(graph), edges)
        free = random_new_pairs(graph.pairs, graph.nodes, graph.pairs.shape[1], generator(_PREDICTION))
        pairs = torch.cat([graph.pairs, free], dim=1)
        probability = None
        if self.network.predictor is not None:
            probability = pair_logits(self._drawn_code(graph), pairs).sigmoid().cpu()
        elif hasattr(batch, "edge_probability") and h["augmentation"] == "gaug":
            probability = batch.edge_probability[pairs[0], pairs[1]].cpu()
        several = graph.y.ndim == 2
        return NodePredictions(
            scores=(logits.sigmoid() if several else logits.softmax(dim=1)).float().cpu(),
            labels=graph.y.cpu(),
            masks={k: v.cpu() for k, v in graph.masks.items()},
            embedding=hidden.float().cpu(),
            given=graph.pairs.cpu(),
            changed=self._edges(graph).cpu(),
            pairs=pairs.cpu(),
            probability=probability,
            title=f"GAug-M ({h['augmentation']}), {h['backbone']}: the given and the modified graph",
            class_names=class_names_of(self, h["num_classes"]),
        )

    dynamic_dims: ClassVar[dict[str, dict[int, str]]] = GRAPH_DIMS

    def example_inputs(self, nodes: int) -> dict[str, Tensor]:
        """Features and edges for the classifier, which gives class scores (nodes, C)."""
        x = torch.rand(nodes, self.hparams["features"], device=self.device)
        return {"x": x, "edge_index": example_edges(nodes, self.device)}

    # --- checkpoints ----------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["gaug"] = {
            "selection": self.selection.state(),
            "best_roc": self._best_roc,
            "best_predictor": self._best_predictor,
            "changed": self._changed,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint.get("gaug")
        if state is None:
            return
        self.selection.restore(state["selection"])
        self._best_roc, self._best_predictor = state["best_roc"], state["best_predictor"]
        self._changed = state["changed"]
