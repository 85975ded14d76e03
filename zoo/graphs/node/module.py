"""The LightningModule of node classification, for every architecture of the survey."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Literal, Unpack

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.nn import functional
from torch_geometric.nn import DeepGraphInfomax
from torch_geometric.utils import degree

from zoo.graphs.node.infomax import mean_of_the_graph, probe
from zoo.graphs.node.network import (
    ACCEPTS,
    NODE_ARCHS,
    ArchOptions,
    NodeArch,
    NodeNetwork,
    Structure,
    all_options,
)
from zoo.graphs.node.report import NodeScores
from zoo.graphs.node.smoothness import dirichlet_energy, edge_homophily, node_homophily
from zoo.metrics.epoch_end import Patience
from zoo.metrics.micro_f1 import MicroF1
from zoo.nn.data_fit import DataSizes, check_fit, named
from zoo.nn.graphs import GRAPH_DIMS, example_edges
from zoo.nn.optim import with_schedule
from zoo.nn.parallel import refuse_whole_graph_in_parts
from zoo.nn.ranges import Count, Depth, Many, NonNegative, Rate, Size, check_ranges
from zoo.nn.variants import Uses, refuse_unused
from zoo.randomness import generator, global_seed, step_generator
from zoo.reports import class_names_of

Split = Literal["train", "val", "test"]
_USES: Uses = {
    "select": NODE_ARCHS,
    "input_linear": (*(a for a in NODE_ARCHS if a != "gcnii"), "dgi"),
}
_SPLITS: tuple[Split, ...] = ("train", "val", "test")
# First word of the key of DGI's corruption in validation.
_VALIDATION = 120


class NodeClassifier(LightningModule):
    """Classifies the nodes of a graph; ``arch`` names the network, all else stays as it is.

    The batch is a PyG ``Data``: a whole graph with ``train_mask``, ``val_mask`` and ``test_mask``, which an
    epoch sees ``steps_per_epoch`` times; several whole graphs (inductive: all nodes count); or a sampled
    neighbourhood, whose first ``batch_size`` nodes count. ``x`` (N, F), ``edge_index`` (2, E), ``y`` int64
    (N,) or, for ``multi_label``, float (N, C).

    ``val/score`` selects the checkpoint: the validation accuracy or micro-F1, or minus the loss. Defaults are
    the recipe of Kipf and Welling (ICLR 2017) for a GCN on Cora.

    ``arch: dgi`` trains a GCN encoder without labels (Velickovic et al., ICLR 2019) to tell the nodes from
    those of a graph with shuffled features, given the mean of the graph; ``test`` and ``predict`` then fit a
    logistic regression without a penalty on the training nodes' codes. ``val/score`` is minus the loss on one
    fixed shuffle.

    Args:
        arch: ``gcn``, ``cheb``, ``sage``, ``gat``, ``gatv2``, ``gin``, ``sgc``, ``appnp``, ``monet``,
            ``gcnii``, ``pna``, ``ggnn``, ``mlp`` (no graph) or ``dgi``; see
            :class:`zoo.graphs.node.network.NodeNetwork`.
        features: F.
        num_classes: C.
        hidden: width of the hidden layers (of attention: of all heads together).
        layers: message passing layers.
        dropout: before each layer but the first.
        input_dropout: of the features; null is ``dropout``.
        input_linear: a linear layer F -> hidden with activation before the first.
        edge_dim: of the edge features of gat, gatv2, pna.
        multi_label: a node has any number of labels.
        first_layer_weight_decay: of the layer that sees the features; null is the optimizer's.
        middle_weight_decay: of the layers between the first and the last; null is the optimizer's.
        select: ``accuracy`` or ``loss`` makes ``val/score``.
        patience: validations without a better score after which training stops; null never stops.
        compile: compile the network with ``torch.compile``.
        optimizer: called with the parameter groups.
        lr_scheduler: called with the optimizer, stepped every optimiser step.
        **options: of the architecture, see :class:`zoo.graphs.node.network.ArchOptions`.

    Raises:
        ValueError: for impossible settings.
    """

    data_sizes: ClassVar[DataSizes] = {"features": "num_features", "num_classes": "num_classes"}

    def __init__(
        self,
        arch: Literal[NodeArch, "dgi"] = "gcn",
        features: Many = 1433,
        num_classes: Size = 7,
        hidden: Size = 16,
        layers: Depth = 2,
        dropout: Rate = 0.5,
        input_dropout: Rate | None = None,
        input_linear: bool = False,
        edge_dim: Size | None = None,
        multi_label: bool = False,
        first_layer_weight_decay: NonNegative | None = 5e-4,
        middle_weight_decay: NonNegative | None = None,
        select: Literal["accuracy", "loss"] = "accuracy",
        patience: Count | None = 100,
        compile: bool = False,
        optimizer: OptimizerCallable = lambda p: torch.optim.Adam(p, lr=0.01),
        lr_scheduler: LRSchedulerCallable | None = None,
        **options: Unpack[ArchOptions],
    ) -> None:
        check_ranges(NodeClassifier, locals())
        super().__init__()
        options = all_options(options)
        self.save_hyperparameters(ignore=["optimizer", "lr_scheduler"])
        if select not in ("accuracy", "loss"):
            raise ValueError(f"select must be accuracy or loss, got {select!r}")
        refuse_unused(NodeClassifier, self.hparams, "arch", _USES)
        if arch == "sgc":
            refuse_unused(NodeClassifier, self.hparams, "input_linear", {"hidden": "true"})
        settings: dict[str, Any] = {
            "in_channels": features,
            "hidden_channels": hidden,
            "num_layers": layers,
            "dropout": dropout,
            "input_dropout": dropout if input_dropout is None else input_dropout,
            "input_linear": input_linear,
            "edge_dim": edge_dim,
            **options,
        }
        self.arch, self.optimizer, self.lr_scheduler = arch, optimizer, lr_scheduler
        self.network: NodeNetwork | DeepGraphInfomax
        if arch == "dgi":
            if multi_label:
                raise ValueError("arch: dgi ends in a logistic regression over classes: no multi_label")
            settings["act"] = options.get("act") or "prelu"
            encoder = NodeNetwork("gcn", out_channels=None, act_last=True, **settings)
            self.network = DeepGraphInfomax(hidden, encoder, mean_of_the_graph, corruption=None)
        else:
            self.network = NodeNetwork(arch, out_channels=num_classes, **settings)
        self.val_metrics, self.test_metrics = MicroF1(), MicroF1()
        self.waiting = Patience(patience)
        self._whole = False
        self._kept: dict[Any, Any] = {}

    @property
    def encoder(self) -> NodeNetwork:
        """The graph network."""
        network: Any = self.network
        found: NodeNetwork = network.encoder if self.arch == "dgi" else network
        return found

    # --- set-up -----------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        data = getattr(self.trainer, "datamodule", None)
        graph = getattr(data, "graph", None)
        # one graph in every batch: what is computed from it is kept
        self._whole = graph is not None and getattr(data, "neighbors", None) is None
        self._kept = {}
        self._check_data(data, graph)
        if self.arch == "pna" and stage == "fit":
            graphs = [graph] if graph is not None else getattr(data, "train_graphs", [])
            degrees = [degree(g.edge_index[1], g.num_nodes, torch.long) for g in graphs]
            if degrees:
                self.encoder.set_degrees(torch.bincount(torch.cat(degrees)))
        if self.hparams["compile"]:
            self.encoder.compile()

    def _check_data(self, data: Any, graph: Any) -> None:
        check_fit(self)
        h, where = self.hparams, named(data)
        several = getattr(data, "multi_label", None) if graph is None else graph.y.ndim == 2
        if several is not None and several != h["multi_label"]:
            raise ValueError(
                f"model.init_args.multi_label is {h['multi_label']}, but {where} has "
                f"{'several labels' if several else 'one class'} per node; set it to {several}"
            )
        if self._whole:
            refuse_whole_graph_in_parts(self, ", or data of several graphs or of sampled neighbours")
        if self.arch == "dgi" and not self._whole and data is not None:
            raise ValueError(f"arch: dgi is trained on one whole graph, but {where} deals out parts")
        for name in ("edge_weight", "edge_attr"):
            if graph is not None and name in graph and name not in self._accepts():
                raise ValueError(f"{where} has {name}, which {self.arch} does not take; choose another arch")

    def _accepts(self) -> frozenset[str]:
        if self.arch == "mlp":
            return frozenset({"edge_weight", "edge_attr"})
        return ACCEPTS["gcn" if self.arch == "dgi" else self.arch]

    def configure_optimizers(self) -> Any:
        decays = {
            "first": self.hparams["first_layer_weight_decay"],
            "middle": self.hparams["middle_weight_decay"],
        }
        groups = [
            {"params": parameters} | ({} if decays.get(part) is None else {"weight_decay": decays[part]})
            for part, parameters in self.encoder.parameter_parts().items()
            if parameters
        ]
        if self.arch == "dgi":
            groups.append({"params": [self.network.weight]})
        return with_schedule(self.optimizer(groups), self.lr_scheduler)

    # --- steps ------------------------------------------------------------------------------------------

    def _structure(self, batch: Any) -> Structure:
        """Self-loops and normalised edge weights of the batch; of the same graph computed once.

        Tensors made in Lightning's inference mode cannot be trained on: that mode has its own.
        """
        key = ("structure", torch.is_inference_mode_enabled())
        if self._whole and key in self._kept:
            found: Structure = self._kept[key]
            return found
        given = {name: batch[name] for name in ("edge_weight", "edge_attr") if name in batch}
        graph_of = batch.batch if "batch" in batch else None
        found = self.encoder.prepare(batch.edge_index, len(batch.x), batch=graph_of, **given)
        if self._whole:
            if not self.hparams["compile"]:
                self.encoder.keep_features(batch.x, found)
            self._kept[key] = found
        return found

    def forward(self, batch: Any) -> Tensor:
        """Class scores (N, C) of a PyG ``Data``; codes (N, H) for ``dgi``."""
        scores: Tensor = self.encoder(batch.x, self._structure(batch))
        return scores

    def _counted(self, batch: Any, split: Split) -> Any:
        """Index of the nodes of a batch that count."""
        if "batch_size" in batch:
            return slice(0, batch.batch_size)
        mask = f"{split}_mask"
        if mask not in batch:
            return slice(None)
        if not self._whole:
            return batch[mask]
        if mask not in self._kept:
            self._kept[mask] = batch[mask].nonzero()[:, 0]
        return self._kept[mask]

    def _loss(self, scores: Tensor, y: Tensor) -> Tensor:
        if self.hparams["multi_label"]:
            return functional.binary_cross_entropy_with_logits(scores.float(), y)
        return functional.cross_entropy(scores.float(), y)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if self.arch == "dgi":
            loss = self._contrast(batch, step_generator(self, batch_idx))
            self.log("train/loss", loss.detach(), prog_bar=True, batch_size=1)
            return loss
        counted = self._counted(batch, "train")
        y = batch.y[counted]
        loss = self._loss(self(batch)[counted], y)
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(y), sync_dist=not self._whole)
        return loss if self.trainer.world_size == 1 else loss * self._share(len(y))

    def _share(self, nodes: int) -> Tensor:
        """World size times this rank's share of the batch's nodes: the averaged gradient is then that of
        one process, though graphs differ in size."""
        counts = self.all_gather(torch.tensor(float(nodes), device=self.device))
        assert isinstance(counts, Tensor)
        return len(counts) * nodes / counts.sum()

    def _contrast(self, batch: Any, g: torch.Generator) -> Tensor:
        """DGI: -mean log D(h_i, s) - mean log(1 - D(h~_i, s)), h~ of shuffled x, s the graph's mean."""
        structure = self._structure(batch)
        order = torch.randperm(len(batch.x), generator=g, device=g.device)
        real = self.encoder(batch.x, structure)
        shuffled = self.encoder(batch.x[order], replace(structure, features=None))
        network: Any = self.network
        loss: Tensor = network.loss(real, shuffled, mean_of_the_graph(real))
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        if self.arch == "dgi":
            loss = self._contrast(batch, generator(_VALIDATION, global_seed(), device=self.device))
            self.val_metrics.update(batch.x[:1], batch.y[:1], loss)
            return
        counted = self._counted(batch, "val")
        scores, y = self(batch)[counted], batch.y[counted]
        self.val_metrics.update(scores, y, self._loss(scores, y))

    def on_train_start(self) -> None:
        self.trainer.should_stop |= self.waiting.over

    def on_validation_epoch_end(self) -> None:
        values = self.val_metrics.compute()
        self.val_metrics.reset()
        by_loss = self.arch == "dgi" or self.hparams["select"] == "loss"
        values["score"] = -values["loss"] if by_loss else values["micro_f1"]
        if self.arch == "dgi":
            del values["micro_f1"]
        self.log_dict({f"val/{k}": v for k, v in values.items()}, batch_size=1, sync_dist=not self._whole)
        if self.trainer.sanity_checking or self.trainer.state.fn != TrainerFn.FITTING:
            return
        if self.waiting.exhausted(float(values["score"])):
            self.trainer.should_stop = True

    def _classified(self, batch: Any) -> tuple[Tensor, Tensor]:
        """The last hidden layer (N, H) and class scores (N, C); ``dgi`` fits its regression here."""
        states, scores = self.encoder.embed(batch.x, self._structure(batch))
        if self.arch != "dgi":
            return (states or [scores])[-1], scores
        return scores, probe(scores, batch.y, batch.train_mask, self.hparams["num_classes"])

    def test_step(self, batch: Any, batch_idx: int) -> None:
        hidden, scores = self._classified(batch)
        counted = self._counted(batch, "test")
        chosen, y = scores[counted], batch.y[counted]
        self.test_metrics.update(chosen, y, self._loss(chosen, y))
        if not self._whole:
            return
        values = {
            "edge_homophily": edge_homophily(batch.edge_index, batch.y),
            "dirichlet_energy": dirichlet_energy(hidden, batch.edge_index),
            "feature_energy": dirichlet_energy(batch.x, batch.edge_index),
        }
        if batch.y.ndim == 1:
            alike = node_homophily(batch.edge_index, batch.y)[counted]
            right = (chosen.argmax(dim=1) == y).float()
            for name, group in (("homophilous", alike >= 0.5), ("heterophilous", alike < 0.5)):
                if group.any():
                    values[f"f1_{name}"] = float(right[group].mean())
        self.log_dict({f"test/{k}": v for k, v in values.items()}, batch_size=1)

    def on_test_epoch_end(self) -> None:
        values: dict[str, Any] = self.test_metrics.compute()
        self.test_metrics.reset()
        count = sum(p.numel() for p in self.parameters())
        values = {f"test/{k}": v for k, v in values.items()} | {"test/parameters": float(count)}
        self.log_dict(values, sync_dist=not self._whole)

    dynamic_dims: ClassVar[dict[str, dict[int, str]]] = GRAPH_DIMS

    def example_inputs(self, nodes: int) -> dict[str, Tensor]:
        """Features and a graph for ``zoo export``, whose file gives class scores (nodes, C).

        Raises:
            ValueError: for ``dgi``, which learns an encoder and a probe apart from each other.
        """
        if self.arch == "dgi":
            raise ValueError("dgi has no network from a graph to class scores that could be exported")
        x = torch.randn(nodes, self.hparams["features"], device=self.device)
        return {"x": x, "edge_index": example_edges(nodes, self.device)}

    def predict_step(self, batch: Any, batch_idx: int) -> NodeScores:
        hidden, scores = self._classified(batch)
        counted = self._counted(batch, "test") if "batch_size" in batch else slice(None)
        title = f"{self.arch}, {len(scores[counted]):,} nodes"
        if batch.y.ndim == 1:
            title += f", edge homophily {edge_homophily(batch.edge_index, batch.y):.2f}"
        split = np.full(len(scores), "", dtype=object)
        for name in _SPLITS:
            if f"{name}_mask" in batch:
                split[batch[f"{name}_mask"].cpu().numpy()] = name
        graph = batch_idx * self.trainer.world_size + self.global_rank
        names = [f"{graph}:{node}" if graph else node for node in range(len(scores))]
        probability = scores.sigmoid() if self.hparams["multi_label"] else scores.softmax(dim=1)
        return NodeScores(
            scores=probability[counted].float().cpu(),
            labels=batch.y[counted].cpu(),
            split=split[counted],
            embedding=hidden[counted].float().cpu(),
            title=title,
            names=batch.n_id[counted].tolist() if "n_id" in batch else names,
            class_names=class_names_of(self, self.hparams["num_classes"]),
            number=batch_idx,
            rank=self.global_rank,
        )

    # --- checkpoints ------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["selection"] = self.waiting.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if "selection" in checkpoint:
            self.waiting.restore(checkpoint["selection"])
