"""The LightningModule that learns a distribution over graphs and draws new ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import ge
from typing import Any, ClassVar, Literal, get_args

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torchmetrics import MeanMetric

from zoo.graphs.generation.graphrnn import GraphRNN, decode, edges_out_of_band, masked_bce, sequences
from zoo.graphs.generation.graphvae import (
    GraphVAE,
    kl_divergence,
    most_likely,
    pooling_match,
    reconstruction_loss,
    reordered,
    with_nodes,
)
from zoo.graphs.generation.random_graphs import RandomGraphs
from zoo.graphs.generation.report import GeneratedGraphs
from zoo.metrics.epoch_end import log_and_reset
from zoo.metrics.graph_mmd import RULES, GraphMMD, GraphQuality
from zoo.nn.data_fit import DataSizes, check_fit
from zoo.nn.optim import with_schedule
from zoo.nn.parallel import predict_in_one_process, refuse_sharding
from zoo.nn.ranges import Depth, Many, ManyOrZero, NonNegative, Size, check_ranges
from zoo.nn.variants import Uses, refuse_unused
from zoo.randomness import derived_seed, generator, global_seed, local_rows, step_generator

GeneratorArch = Literal["graphrnn_s", "graphrnn", "graphvae", "er", "ba"]
# First words of the keys of this module's random streams, by what the graphs are for.
_STREAMS = {"sample": 221, "val": 222, "test": 223, "predict": 224}
_CHUNK = 128  # graphs that are drawn at once
_RECURRENT, _FITTED = ("graphrnn_s", "graphrnn"), ("er", "ba")
# `bandwidth` describes the data, whatever the arch
_USES: Uses = {
    **dict.fromkeys(("hidden", "embedding", "num_layers"), _RECURRENT),
    **dict.fromkeys(("edge_hidden", "edge_embedding"), ("graphrnn",)),
    **dict.fromkeys(("latent", "matching", "kl_weight"), ("graphvae",)),
}


class GraphGenerator(LightningModule):
    """Generation of graphs: GraphRNN-S, GraphRNN, GraphVAE, and fitted random graphs to compare with.

    ``graphrnn_s``, ``graphrnn`` (You et al., ICML 2018): a graph is the sequence of its nodes in
    breadth-first order, a node the links to the ``bandwidth`` nodes before it; see
    :mod:`zoo.graphs.generation.graphrnn`. The defaults are the authors' release. ``graphvae`` (Simonovsky &
    Komodakis, 2018): all pairs at once from one code; see :mod:`zoo.graphs.generation.graphvae`. ``er``,
    ``ba``: Erdos-Renyi and Barabasi-Albert graphs with the sizes and densities of the training graphs,
    fitted in closed form when ``fit`` starts; a training step does nothing.

    ``val/`` and ``test/``: ``bce``, the reconstruction loss in nats per entry (graphvae: of the mean code);
    ``mmd_X`` for X of degree, clustering, orbit, spectrum between generated and held-out graphs, and
    ``mmd_mean`` of the four; ``validity``, ``uniqueness``, ``novelty``; ``capped``, the share of graphs of
    ``max_nodes`` nodes. ``test/floor_X`` are the same MMD^2 of the training graphs.

    Args:
        arch: one of the five.
        max_nodes: of a graph, N_max; generation ends there.
        bandwidth: M of graphrnn; ``setup`` says what the data need.
        hidden: of graphrnn's node GRU.
        embedding: of a row before the node GRU, and of the hidden layer of the output network.
        num_layers: of the GRUs.
        edge_hidden: of graphrnn's edge GRU.
        edge_embedding: of an entry before the edge GRU.
        latent: size of graphvae's code.
        matching: of graphvae's output and the graph: ``order``, place i is node i of the data's canonical
            order; or ``pooling``, the paper's max-pooling matching, anew at each step.
        kl_weight: factor of graphvae's KL term. At the paper's 1 its means over nodes and pairs are so small
            that the posterior collapses.
        val_samples: graphs drawn at each validation; 0 leaves the MMD and the shares out.
        test_samples: graphs drawn for the test.
        validity: rule of a valid graph, ``connected`` or ``grid``.
        compile: compile the network of training with ``torch.compile``; graphs are drawn as without.
        optimizer: called with the parameters.
        lr_scheduler: called with the optimizer, stepped each optimiser step.

    Raises:
        ValueError: for impossible settings.
    """

    data_sizes: ClassVar[DataSizes] = {"max_nodes": "max_nodes", "bandwidth": "bandwidth"}

    def __init__(
        self,
        arch: GeneratorArch = "graphrnn_s",
        max_nodes: Many = 361,
        bandwidth: Many = 40,
        hidden: Size = 128,
        embedding: Size = 64,
        num_layers: Depth = 4,
        edge_hidden: Size = 16,
        edge_embedding: Size = 8,
        latent: Size = 40,
        matching: Literal["order", "pooling"] = "order",
        kl_weight: NonNegative = 1.0,
        val_samples: ManyOrZero = 64,
        test_samples: Many = 256,
        validity: Literal["connected", "grid"] = "connected",
        compile: bool = False,
        optimizer: OptimizerCallable = lambda p: torch.optim.Adam(p, lr=0.003),
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        check_ranges(GraphGenerator, locals())
        super().__init__()
        self.save_hyperparameters(ignore=["optimizer", "lr_scheduler"])
        for name, value, known in (
            ("arch", arch, get_args(GeneratorArch)),
            ("matching", matching, ("order", "pooling")),
            ("validity", validity, tuple(RULES)),
        ):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        refuse_unused(GraphGenerator, self.hparams, "arch", _USES, _FITTED)
        if bandwidth >= max_nodes:
            raise ValueError(f"bandwidth must be less than max_nodes, got {bandwidth} and {max_nodes}")
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.network: GraphRNN | GraphVAE | RandomGraphs
        if arch == "graphrnn_s":
            self.network = GraphRNN(bandwidth, hidden, embedding, num_layers)
        elif arch == "graphrnn":
            self.network = GraphRNN(bandwidth, hidden, embedding, num_layers, edge_hidden, edge_embedding)
        elif arch == "graphvae":
            self.network = GraphVAE(max_nodes, latent)
        else:
            self.network = RandomGraphs(arch, max_nodes)
            self.automatic_optimization = False  # nothing to optimise, but a step is a step
        self.bce = MeanMetric()
        self.mmd, self.floor = GraphMMD(max_nodes), GraphMMD(max_nodes)
        self.quality = GraphQuality(max_nodes, validity)

    # --- set-up ---------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        data, h = getattr(self.trainer, "datamodule", None), self.hparams
        if data is None:
            return
        if not hasattr(data, "graphs") or not hasattr(data, "bandwidth"):
            raise ValueError(
                f"zoo.GraphGenerator learns from sets of graphs: {type(data).__name__} is none; set "
                "data.class_path to datamodules.GraphSet or datamodules.TUGraphSet"
            )
        recurrent = isinstance(self.network, GraphRNN)
        wanted = "bfs" if recurrent else "canonical"
        if data.order != wanted and (recurrent or self._by_order()):
            raise ValueError(
                f"model.init_args.arch {h['arch']} needs data.init_args.order: {wanted}, got {data.order}"
            )
        # smaller graphs fit too; the other networks see all pairs of nodes, whatever their order
        check_fit(self, max_nodes=ge, bandwidth=lambda own, found: own >= found or not recurrent)
        refuse_sharding(self)
        predict_in_one_process(self, stage)
        samples = h["test_samples"] if stage == "test" else h["val_samples"] or self.trainer.world_size
        if samples < self.trainer.world_size:
            raise ValueError(
                f"{samples} graphs cannot be spread over {self.trainer.world_size} devices; raise "
                f"model.init_args.{'test' if stage == 'test' else 'val'}_samples"
            )
        self.quality.set_reference(data.graphs["train"])
        if h["compile"]:
            self.network.compile()
        if isinstance(self.network, RandomGraphs) and stage == "fit":
            sizes = [(len(g), int(g.sum()) // 2) for g in data.graphs["train"]]
            self.network.fit(*torch.tensor(sizes).T)

    def _by_order(self) -> bool:
        return self.hparams["arch"] == "graphvae" and self.hparams["matching"] == "order"

    def configure_optimizers(self) -> Any:
        return with_schedule(self.optimizer(self.network.parameters()), self.lr_scheduler)

    # --- training -------------------------------------------------------------------------------------------

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor | None:
        size = len(batch["nodes"])
        if isinstance(self.network, RandomGraphs):
            self.optimizers().step()  # type: ignore[union-attr]
            return None
        if isinstance(self.network, GraphVAE):
            noise = torch.randn(
                size * self.trainer.world_size,
                self.network.latent,
                generator=step_generator(self, batch_idx),
                device=self.device,
            )
            reconstruction, kl = self._elbo(batch, local_rows(self, noise))
            values = {"bce": reconstruction.mean(), "kl": kl.mean()}
            self.log_dict(
                {f"train/{k}": v.detach() for k, v in values.items()}, batch_size=size, sync_dist=True
            )
            return values["bce"] + self.hparams["kl_weight"] * values["kl"]
        # a rare order needs more than the bandwidth: such a graph sits this step out
        fits = edges_out_of_band(batch["adjacency"], self.network.bandwidth) == 0
        total, count = self._teacher_forced(batch, fits)
        # graphs differ in size: over all processes, each entry has the same weight
        world = self.trainer.world_size
        everywhere = self.trainer.strategy.reduce(count.float(), reduce_op="sum") if world > 1 else count
        loss = total * world / everywhere.clamp(min=1)
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=size, sync_dist=True)
        self.log("train/left_out", 1 - fits.float().mean(), batch_size=size, sync_dist=True)
        return loss

    def _teacher_forced(
        self, batch: Mapping[str, Tensor], counts: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Sum of the BCE in nats and number of entries of the graphs where ``counts`` (B,)."""
        assert isinstance(self.network, GraphRNN)
        inputs, targets, valid = sequences(batch["adjacency"], batch["nodes"], self.network.bandwidth)
        if counts is not None:
            valid = valid & counts[:, None, None]
        return masked_bce(self.network(inputs, targets, valid), targets, valid)

    def _elbo(self, batch: Mapping[str, Tensor], noise: Tensor | None) -> tuple[Tensor, Tensor]:
        """Reconstruction loss and KL (B,) of a code drawn with ``noise``; of the mean without."""
        assert isinstance(self.network, GraphVAE)
        mean, log_variance = self.network.encode(batch["adjacency"], batch["nodes"])
        z = mean if noise is None else mean + (log_variance / 2).exp() * noise
        target = with_nodes(batch["adjacency"], batch["nodes"], self.network.max_nodes)
        logits = self.network(z)
        if self.hparams["matching"] == "pooling":
            logits = reordered(logits, pooling_match(target, logits))
        return reconstruction_loss(logits, target), kl_divergence(mean, log_variance)

    # --- generation -----------------------------------------------------------------------------------------

    @torch.no_grad()
    def sample(
        self, count: int | Sequence[int], seed: int = 0, stream: str = "sample"
    ) -> tuple[Tensor, Tensor]:
        """Draw graphs; graph i depends on (seed, stream, i) alone, whatever is drawn with it.

        Args:
            count: number of graphs, or the indices of graphs.
            seed: of the draws.
            stream: ``sample``, ``val``, ``test`` or ``predict``.

        Returns:
            adjacency: uint8 (B, max_nodes, max_nodes), padded with zeros.
            nodes: int64 (B,).
        """
        index = list(range(count)) if isinstance(count, int) else list(count)
        key = (_STREAMS[stream], seed)
        found = [self._sample_chunk(key, index[i : i + _CHUNK]) for i in range(0, len(index), _CHUNK)]
        return torch.cat([a for a, _ in found]), torch.cat([n for _, n in found])

    def _sample_chunk(self, key: tuple[int, int], index: Sequence[int]) -> tuple[Tensor, Tensor]:
        network, h = self.network, self.hparams
        if isinstance(network, RandomGraphs):
            return network.sample([derived_seed(*key, i) for i in index])
        if isinstance(network, GraphVAE):
            z = [torch.randn(network.latent, generator=generator(*key, i)) for i in index]
            adjacency, nodes = most_likely(network(torch.stack(z).to(self.device)))
            return adjacency.to(torch.uint8).cpu(), nodes.cpu()
        shape = (h["max_nodes"] - 1, h["bandwidth"])
        uniform = torch.stack([torch.rand(shape, generator=generator(*key, i)) for i in index])
        rows, nodes = network.sample(uniform.to(self.device))
        return decode(rows.to(torch.uint8)).cpu(), nodes.cpu()

    # --- evaluation -----------------------------------------------------------------------------------------

    def _evaluation_step(self, batch: Mapping[str, Tensor], generate: bool) -> None:
        if generate:
            self.mmd.update(batch["adjacency"], batch["nodes"], real=True)
        if isinstance(self.network, GraphRNN):
            total, count = self._teacher_forced(batch)
        elif isinstance(self.network, GraphVAE):
            losses, _ = self._elbo(batch, None)
            total, count = losses.sum(), torch.tensor(len(losses))
        elif self.hparams["arch"] == "er":
            total, count = self._pair_bce(self.network, batch)
        else:
            return
        self.bce.update(total / count.clamp(min=1), count)  # graphs of one node have no entry

    def _pair_bce(self, network: RandomGraphs, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """BCE of G(n, p), summed over the pairs; sizes that were never seen take the nearest that was."""
        seen = network.graphs.detach().nonzero()[:, 0]
        nearest = seen[(seen - batch["nodes"][:, None]).abs().argmin(dim=1)]
        p = network.density()[nearest]
        n = batch["nodes"].float()
        edges, pairs = batch["adjacency"].float().sum(dim=(1, 2)) / 2, n * (n - 1) / 2
        loss = -(torch.xlogy(edges, p) + torch.xlogy(pairs - edges, 1 - p))
        return loss.sum(), pairs.sum()

    def _evaluate(self, prefix: str, samples: int) -> None:
        """Draw this process's share of the graphs and log what they are worth."""
        if self.bce.update_called:
            log_and_reset(self, prefix, {"bce": self.bce})
        if not samples:
            return
        mine = range(self.global_rank, samples, self.trainer.world_size)
        adjacency, nodes = self.sample(mine, global_seed(), prefix)
        self.mmd.update(adjacency, nodes, real=False)
        self.quality.update(adjacency, nodes)
        values = {f"mmd_{k}": v.float() for k, v in self.mmd.compute().items()}
        values["mmd_mean"] = torch.stack(list(values.values())).mean()
        values |= self.quality.compute()
        self.log_dict({f"{prefix}/{k}": v for k, v in values.items()})
        self.mmd.reset()
        self.quality.reset()

    def validation_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> None:
        self._evaluation_step(batch, bool(self.hparams["val_samples"]))

    def on_validation_epoch_end(self) -> None:
        if self.trainer.sanity_checking:
            self.bce.reset()
            self.mmd.reset()
        else:
            self._evaluate("val", self.hparams["val_samples"])

    def test_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> None:
        self._evaluation_step(batch, True)
        self.floor.update(batch["adjacency"], batch["nodes"], real=True)

    def on_test_epoch_end(self) -> None:
        training = self.trainer.datamodule.graphs["train"]  # type: ignore[attr-defined]
        for graph in training[self.global_rank :: self.trainer.world_size]:
            self.floor.update(torch.from_numpy(graph)[None], torch.tensor([len(graph)]), real=False)
        self.log_dict({f"test/floor_{k}": v.float() for k, v in self.floor.compute().items()})
        self.floor.reset()
        self._evaluate("test", self.hparams["test_samples"])

    def example_inputs(self, batch: int) -> dict[str, Tensor]:
        """For ``zoo export``: GraphVAE's codes z (batch, latent), or GraphRNN-S's rows (batch, N, M).

        Raises:
            ValueError: for ``graphrnn``, whose rows are runs of their own, and graphs without a network.
        """
        h = self.hparams
        if h["arch"] == "graphvae":
            return {"z": torch.randn(batch, h["latent"], device=self.device)}
        if h["arch"] == "graphrnn_s":
            return {
                "inputs": torch.randint(2, (batch, h["max_nodes"], h["bandwidth"])).float().to(self.device)
            }
        raise ValueError(f"arch {h['arch']} has no network of fixed shapes; graphvae and graphrnn_s have one")

    def predict_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> GeneratedGraphs:
        adjacency, nodes = self.sample(batch["index"].tolist(), global_seed(), "predict")
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        return GeneratedGraphs(
            adjacency=adjacency,
            nodes=nodes,
            training=list(data.graphs["train"]),
            rule=self.hparams["validity"],
            title=f"{self.hparams['arch']}: graphs that were generated, and training graphs",
        )
