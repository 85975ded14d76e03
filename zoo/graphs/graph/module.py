"""The LightningModule of graph classification: any node architecture, any readout."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Unpack

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.nn import functional
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from zoo.graphs.graph.network import EDGE_ARCHS, GRAPH_ARCHS, GraphArch, GraphNetwork, Layers
from zoo.graphs.graph.readout import FLAT, POOL_RATIOS, READOUTS, SIZED, Readout, pool_nodes
from zoo.graphs.graph.report import GraphPredictions
from zoo.graphs.node.network import ArchOptions, all_options
from zoo.metrics.epoch_end import Patience
from zoo.nn.data_fit import DataSizes, check_fit, misfit, named
from zoo.nn.graphs import GRAPH_DIMS, example_edges
from zoo.nn.optim import with_schedule
from zoo.nn.parallel import predict_in_one_process, refuse_sharding
from zoo.nn.ranges import (
    Count,
    Depth,
    Many,
    ManyOrZero,
    NonNegative,
    Rate,
    Share,
    Size,
    SizeOrZero,
    check_ranges,
)
from zoo.nn.settings import settings_of
from zoo.nn.variants import Uses, refuse_unused
from zoo.reports import class_names_of

_BY_READOUT: Uses = {
    "pool_nodes": SIZED,
    "pool_ratio": tuple(POOL_RATIOS),
    **dict.fromkeys(("pool_levels", "link_weight", "entropy_weight"), ("diffpool",)),
}
_BY_ARCH: Uses = {"node_dropout": tuple(a for a in GRAPH_ARCHS if a not in ("mpnn", "dgcnn", "sgc", "none"))}


def _at_least_float32(scores: Tensor) -> Tensor:
    return scores.to(torch.promote_types(scores.dtype, torch.float32))


class GraphClassifier(LightningModule):
    """Graph classification: node architecture x readout x classifier (Wu et al., 2021; Errica et al., 2020).

    Named models are settings: GIN is ``arch: gin, readout: sum, layers: sum``; GraphSAGE ``sage, max, cat``;
    DGCNN ``dgcnn, sort``; DiffPool ``sage, diffpool``; ECC ``ecc, mean``; the structure-free baselines are
    ``none, sum`` with a classifier of hidden units (molecular fingerprint) and ``mlp, sum`` with
    ``num_layers: 1`` (Deep Sets). A batch is a PyG ``Batch``, see ``datamodules.TUGraphs``.

    The loss is the cross-entropy, with DiffPool plus ``link_weight`` ||A - S S^T||_F / N^2 and
    ``entropy_weight`` times the mean entropy of the rows of S, means over the graphs. Schedulers step by
    epoch.

    Args:
        num_features: F, node features.
        num_classes: C.
        arch: node architecture; ``ecc`` and ``mpnn`` have edge-conditioned messages, ``none`` has no layers.
        readout: ``sum``, ``mean``, ``max``, ``sort`` (DGCNN's SortPool and 1-D convolutions), ``diffpool``,
            ``sagpool`` or ``topk``.
        hidden: width of the node states.
        num_layers: message passing layers.
        layers: what is read out: the states of the ``last`` layer, of all layers in a row (``cat``), or
            ``sum``: a linear classifier per layer and for the features, scores added (GIN).
        head: hidden units of the classifier; 0 is a linear one.
        dropout: in the classifier; with ``layers: sum`` of each layer's scores, as GIN's release has it.
        node_dropout: between message passing layers.
        num_edge_features: D, for architectures with edge features; 0 leaves them out, with a warning.
        pool_nodes: nodes that ``sort`` keeps, clusters that ``diffpool`` makes; null takes them from the
            sizes of the training graphs by ``pool_ratio``.
        pool_ratio: ``sort``: share of the graphs with no more nodes (.6); ``diffpool``: clusters by nodes of
            the largest graph, and by those of the level before (.25); ``sagpool``, ``topk``: nodes that stay
            (.5).
        pool_levels: poolings of ``diffpool``.
        link_weight: of DiffPool's link loss.
        entropy_weight: of its entropy.
        patience: stop after so many validations without a better one; null never.
        patience_on: ``accuracy`` or ``loss`` of the validation graphs.
        compile: compile the node encoders with ``torch.compile``; readout and classifier stay as they are.
        optimizer: called with the parameters.
        lr_scheduler: called with the optimizer; stepped by epoch.
        **options: of the architecture, see :class:`zoo.graphs.node.network.ArchOptions`; its dropout between
            layers is ``node_dropout``, and ``jk`` takes the place of the last layer's states.

    Raises:
        ValueError: for impossible settings.
    """

    network: GraphNetwork

    data_sizes: ClassVar[DataSizes] = {"num_features": "num_features", "num_classes": "num_classes"}

    def __init__(
        self,
        num_features: Many = 1,
        num_classes: Size = 4,
        arch: GraphArch = "gin",
        readout: Readout = "sum",
        hidden: Size = 64,
        num_layers: Depth = 5,
        layers: Layers = "cat",
        head: SizeOrZero = 0,
        dropout: Rate = 0.5,
        node_dropout: Rate = 0.0,
        num_edge_features: ManyOrZero = 0,
        pool_nodes: Many | None = None,
        pool_ratio: Share | None = None,
        pool_levels: Depth = 1,
        link_weight: NonNegative = 1.0,
        entropy_weight: NonNegative = 1.0,
        patience: Count | None = None,
        patience_on: Literal["accuracy", "loss"] = "accuracy",
        compile: bool = False,
        optimizer: OptimizerCallable = lambda p: torch.optim.Adam(p, lr=0.01),
        lr_scheduler: LRSchedulerCallable | None = None,
        **options: Unpack[ArchOptions],
    ) -> None:
        check_ranges(GraphClassifier, locals())
        super().__init__()
        options = all_options(options)
        self.save_hyperparameters(ignore=["optimizer", "lr_scheduler"])
        self._options = {k: v for k, v in options.items() if v is not None}
        self._check()
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.val_accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.val_loss = MeanMetric()
        self.test_accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.test_balanced = MulticlassAccuracy(num_classes, average="macro")
        self.test_loss = MeanMetric()
        self.waiting = Patience(patience)
        if readout not in SIZED or pool_nodes is not None:
            self._build()

    def _check(self) -> None:
        h = self.hparams
        for name, known in (("arch", GRAPH_ARCHS), ("readout", READOUTS), ("layers", ("last", "cat", "sum"))):
            if h[name] not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {h[name]!r}")
        refuse_unused(GraphClassifier, h, "readout", _BY_READOUT)
        refuse_unused(GraphClassifier, h, "arch", _BY_ARCH, ["none"])
        if h["layers"] == "sum" and (h["readout"] not in FLAT or h["head"]):
            raise ValueError(
                "layers: sum adds linear scores of each layer's readout: it needs readout sum, mean or max "
                f"and head 0, got {h['readout']} and {h['head']}"
            )
        if h["num_edge_features"] and h["arch"] not in EDGE_ARCHS:
            raise ValueError(
                f"arch {h['arch']} takes no edge features; {', '.join(EDGE_ARCHS)} do, or set "
                "num_edge_features: 0"
            )
        if h["patience_on"] not in ("accuracy", "loss"):
            raise ValueError(f"patience_on must be accuracy or loss, got {h['patience_on']!r}")
        # an encoder of graphs has no layer of output heads
        absent = [
            k for k in self._options if k == "out_heads" or h["arch"] in ("dgcnn", "ecc", "mpnn", "none")
        ]
        if absent:
            raise ValueError(f"arch {h['arch']} has no option {absent[0]}; leave it null")

    @property
    def pool_ratio(self) -> float:
        """The given ratio or the readout's own."""
        given: float | None = self.hparams["pool_ratio"]
        return POOL_RATIOS.get(self.hparams["readout"], 0.5) if given is None else given

    def _build(self) -> None:
        h = self.hparams
        given = {
            "inputs": h["num_features"],
            "classes": h["num_classes"],
            "edge_dim": h["num_edge_features"],
            "pool_nodes": h["pool_nodes"] or 0,
            "pool_ratio": self.pool_ratio,
            "options": self._options,
        }
        self.network = GraphNetwork(**settings_of(GraphNetwork, h) | given)

    # --- data -----------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        refuse_sharding(self)
        predict_in_one_process(self, stage)
        check_fit(self)
        self._check_edge_features()
        data, h = getattr(self.trainer, "datamodule", None), self.hparams
        if not hasattr(self, "network"):
            sizes = getattr(data, "train_sizes", None)
            if not sizes:
                raise ValueError(
                    f"readout {h['readout']} needs the sizes of the training graphs, which the data do not "
                    "tell; set model.init_args.pool_nodes"
                )
            h["pool_nodes"] = pool_nodes(h["readout"], self.pool_ratio, sizes)
            self._build()
            self.network.to(self.device)
        if h["compile"]:
            for encoder in self.network.encoders():
                encoder.compile()
        degrees = getattr(data, "train_degrees", None)
        if stage == "fit" and h["arch"] == "pna" and degrees is not None:
            for encoder in self.network.encoders():
                encoder.nodes.set_degrees(degrees())

    def _check_edge_features(self) -> None:
        data, own = getattr(self.trainer, "datamodule", None), self.hparams["num_edge_features"]
        found = getattr(data, "num_edge_features", None)
        if own and found not in (None, own):
            raise misfit(self, "num_edge_features", found)
        if found and not own and self.hparams["arch"] != "none":
            rank_zero_warn(f"{named(data)} has {found} edge features, which this model leaves out")

    def forward(self, batch: Any) -> Tensor:
        """Class scores (B, C) of a PyG ``Batch``.

        Raises:
            ValueError: for a batch with ``edge_weight``.
        """
        return self._embed(batch)[0]

    def _embed(self, batch: Any) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        if "edge_weight" in batch:
            raise ValueError(
                "zoo.GraphClassifier takes no edge_weight, which the data have; give it as edge_attr (E, 1) "
                "or choose other data with data.class_path"
            )
        dtype = next(self.network.parameters()).dtype
        attr = batch.edge_attr.to(dtype) if self.hparams["num_edge_features"] else None
        return self.network.embed(batch.x.to(dtype), batch.edge_index, batch.batch, batch.num_graphs, attr)

    # --- export ---------------------------------------------------------------------------------------------

    @property
    def dynamic_dims(self) -> dict[str, dict[int, str]]:
        """Nodes, edges and graphs are free; one graph's nodes lie side by side."""
        free = {**GRAPH_DIMS, "batch": {0: "nodes"}, "graphs": {0: "graphs"}}
        return free | ({"edge_attr": {0: "edges"}} if self.hparams["num_edge_features"] else {})

    def example_inputs(self, graphs: int) -> dict[str, Tensor]:
        """A batch for ``zoo export``, whose file gives class scores (graphs, C); graph i has i + 2 nodes.

        ``batch`` (N,) says whose a node is, ``graphs`` (B,) holds 0 to B - 1: its length is what counts.

        Raises:
            ValueError: for readouts whose shapes depend on the values: they sort, pool or choose nodes.
        """
        h = self.hparams
        if h["readout"] not in FLAT:
            raise ValueError(
                f"readout {h['readout']} makes shapes from values, which an exported program cannot; "
                f"{', '.join(FLAT)} can"
            )
        sizes = torch.arange(graphs) + 2
        edges = [example_edges(n) + at for n, at in zip(sizes.tolist(), sizes.cumsum(0) - sizes, strict=True)]
        inputs = {
            "x": torch.randn(int(sizes.sum()), h["num_features"]),
            "edge_index": torch.cat(edges, dim=1),
            "batch": torch.arange(graphs).repeat_interleave(sizes),
            "graphs": torch.arange(graphs),
        }
        if h["num_edge_features"]:
            inputs["edge_attr"] = torch.randn(inputs["edge_index"].shape[1], h["num_edge_features"])
        return {key: value.to(self.device) for key, value in inputs.items()}

    # --- steps ----------------------------------------------------------------------------------------------

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        scores, _, extra = self._embed(batch)
        loss = functional.cross_entropy(_at_least_float32(scores), batch.y)
        values = {"loss": loss.detach(), "accuracy": (scores.argmax(dim=1) == batch.y).float().mean()}
        values |= {name: value.detach() for name, value in extra.items()}
        for name, value in values.items():
            bar = name == "loss"
            self.log(f"train/{name}", value, prog_bar=bar, sync_dist=True, batch_size=batch.num_graphs)
        if extra:
            loss = loss + self.hparams["link_weight"] * extra["link_loss"]
            loss = loss + self.hparams["entropy_weight"] * extra["entropy_loss"]
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self._evaluate(batch, "val", accuracy=self.val_accuracy, loss=self.val_loss)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        metrics = {"accuracy": self.test_accuracy, "balanced_accuracy": self.test_balanced}
        self._evaluate(batch, "test", loss=self.test_loss, **metrics)

    def _evaluate(self, batch: Any, stage: str, **metrics: Any) -> None:
        scores = _at_least_float32(self(batch))
        for name, metric in metrics.items():
            if name == "loss":
                each = functional.cross_entropy(scores, batch.y, reduction="none")
                metric.update(each)
            else:
                metric.update(scores, batch.y)
            self.log(
                f"{stage}/{name}", metric, on_epoch=True, prog_bar=name != "loss", batch_size=batch.num_graphs
            )

    def on_train_start(self) -> None:
        self.trainer.should_stop |= self.waiting.over

    def on_validation_epoch_end(self) -> None:
        fitting = self.trainer.state.fn == TrainerFn.FITTING and not self.trainer.sanity_checking
        if self.hparams["patience"] is None or not fitting:
            return
        on_loss = self.hparams["patience_on"] == "loss"
        score = -float(self.val_loss.compute()) if on_loss else float(self.val_accuracy.compute())
        if self.waiting.exhausted(score):
            self.trainer.should_stop = True

    def predict_step(self, batch: Any, batch_idx: int) -> GraphPredictions:
        scores, vectors, _ = self._embed(batch)
        h = self.hparams
        return GraphPredictions(
            scores=scores.float().softmax(dim=1).cpu(),
            labels=batch.y.cpu(),
            numbers=batch.graph_number.cpu(),
            embedding=vectors.float().cpu(),
            edge_index=batch.edge_index.cpu(),
            ptr=batch.ptr.cpu(),
            class_names=class_names_of(self, h["num_classes"]),
            title=f"{h['arch']}, readout {h['readout']}: {len(batch.y)} test graphs",
        )

    def configure_optimizers(self) -> Any:
        return with_schedule(self.optimizer(self.network.parameters()), self.lr_scheduler, "epoch")

    # --- checkpoints ----------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["early_stopping"] = self.waiting.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if "early_stopping" in checkpoint:
            self.waiting.restore(checkpoint["early_stopping"])
