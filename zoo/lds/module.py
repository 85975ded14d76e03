"""The LDS LightningModule: one training step is one outer update of the edge probabilities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics.classification import MulticlassAccuracy

from zoo.lds.bilevel import (
    DecreaseWatch,
    Draw,
    InnerOptimizer,
    Problem,
    hypergradient,
    initial_logit,
    learning_rate,
)
from zoo.lds.edges import (
    AllPairs,
    CandidatePairs,
    Edges,
    Graph,
    choose_candidates,
    draw_edges,
    initial_values,
    project,
)
from zoo.lds.network import GCN, Features
from zoo.lds.pictures import LearnedGraph, split_names, write_graph
from zoo.nn.data_fit import DataSizes, check_fit, named
from zoo.nn.graphs import GRAPH_DIMS, example_edges
from zoo.nn.optim import with_schedule
from zoo.nn.parallel import refuse_processes
from zoo.nn.ranges import Count, Depth, Fraction, Many, ManyOrZero, NonNegative, Rate, Size, check_ranges
from zoo.nn.variants import refuse_unused
from zoo.randomness import generator, global_seed
from zoo.reports import class_names_of

# First words of the keys of this module's random streams.
_GRAPH, _DROPOUT, _INIT, _EVALUATION, _TEST, _CANDIDATES = 301, 302, 303, 304, 305, 306
_BACKWARD = 1  # last word of the draws of a resampled reverse pass
_SETS = ("train", "val", "es", "test")


@dataclass
class Progress:
    """Where the search stands; all of it is in every checkpoint.

    Attributes:
        inner_step: inner steps since the last re-initialisation (Adam's t).
        chunk: outer updates since then.
        outer_epoch: finished passes.
        watch_best: best value so far of the inner stopping rule.
        watch_count: its count of steps without decrease.
        es_accuracy: of the kept model.
        es_loss: of the kept model.
        stale: outer epochs without strictly better accuracy.
        kept_epoch: outer epoch of the kept model, -1 before the first evaluation.
        last_accuracy: of the latest early-stopping check.
        last_loss: of the latest early-stopping check.
    """

    inner_step: int = 0
    chunk: int = 0
    outer_epoch: int = 0
    watch_best: float = float("inf")
    watch_count: int = 0
    es_accuracy: float = -1.0
    es_loss: float = float("inf")
    stale: int = 0
    kept_epoch: int = -1
    last_accuracy: float = -1.0
    last_loss: float = float("inf")


class LDS(LightningModule):
    """Learning Discrete Structures (Franceschi et al., ICML 2019): edge probabilities and a GCN, bilevel.

    theta_ij is the probability of an edge. The inner problem trains a GCN on graphs drawn from theta, the
    outer one moves theta down the gradient of the validation loss through the last ``tau`` inner steps. One
    training step is a chunk of ``tau`` inner steps and one outer update; passes of such chunks, each from
    fresh weights, are the outer epochs. The tested model is (theta, W) of the best outer epoch on the
    early-stopping nodes.

    The batch is a PyG ``Data``: ``x`` (N, F), ``y`` (N,), ``edge_index`` (2, E) both ways, ``edge_weight``
    (E,) in [0, 1] or absent, and bool
    ``train_mask``, ``val_mask``, ``es_mask``, ``test_mask`` (N,). It runs on
    one device.

    Args:
        num_nodes: N.
        num_features: F.
        num_classes: C.
        hidden: widths of the hidden layers of the GCN.
        dropout: rate on the hidden layers in inner steps.
        tau: inner steps between outer updates, and the length of the truncated gradient.
        truncation: ``tau`` steps, or as FAR-HO does, which the released code calls: ``farho`` goes back tau
            steps in the first chunk of a pass and in the others to the state after the chunk's first step.
        symmetric_grad: gradient of a pair G_ij + G_ji (exact); false takes G_ij, i < j, as the released code.
        resample_backward: draw graphs and dropout anew in the reverse pass, as the released code does.
        sample: draw graphs; false uses theta itself as edge weights (kNN-LDS dense).
        learn_graph: false leaves theta and the inner learning rate alone, without any hypergradient: a GCN on
            the given graph under the same schedule.
        freeze_graph: leave theta alone, but learn the inner learning rate as everywhere else.
        learn_inner_lr: learn the inner learning rate with theta.
        inner_lr: inner learning rate; the start, 0.02 giving 0.019921, where it is learned.
        inner_optimizer: ``adam`` or ``sgd``.
        l2: coefficient of (1/2) ||W_0||^2 in the inner loss.
        max_inner_steps: longest pass; at most max_inner_steps // tau chunks.
        inner_patience: inner steps in a row without a decrease of the loss by 0.1 % that end a pass.
        es_patience: outer epochs without strictly better early-stopping accuracy that end the training.
        es_tiebreak: among equal accuracies keep the first (``strict``, the paper) or that of least ``loss``.
        max_outer_epochs: end the training after so many passes; null does not.
        warm_start: keep W and its moments between passes instead of re-initialising.
        samples: graphs that a prediction averages over (S).
        output: average ``logits`` (released code) or ``probs`` (the paper's text).
        est_p_edge: added to every theta_0, clipped to 1.
        edge_penalty: cost of an expected edge in the outer loss.
        num_candidates: restrict theta to so many pairs (the given edges, then similar nodes), with memory
            linear in this number; null learns all pairs.
        random_candidates: so many of them are random pairs.
        eta_decay: eta_k = eta / (1 + eta_decay k) at the k-th outer update.
        optimizer: of theta and the inner learning rate; its lr is eta.
        lr_scheduler: replaces the eta_k schedule; stepped every outer update.

    Raises:
        ValueError: for impossible settings.
    """

    candidates: Tensor
    inner_state: Tensor
    kept_theta: Tensor
    started: Tensor

    data_sizes: ClassVar[DataSizes] = {
        "num_nodes": "graph.num_nodes",
        "num_features": "num_features",
        "num_classes": "num_classes",
    }

    def __init__(
        self,
        num_nodes: Many = 178,
        num_features: Many = 13,
        num_classes: Size = 3,
        hidden: Sequence[Size] = (16,),
        dropout: Rate = 0.5,
        tau: Depth = 5,
        truncation: Literal["tau", "farho"] = "tau",
        symmetric_grad: bool = True,
        resample_backward: bool = False,
        sample: bool = True,
        learn_graph: bool = True,
        freeze_graph: bool = False,
        learn_inner_lr: bool = True,
        inner_lr: NonNegative = 0.02,
        inner_optimizer: InnerOptimizer = "adam",
        l2: NonNegative = 5e-4,
        max_inner_steps: Count = 400,
        inner_patience: Count = 20,
        es_patience: Count = 20,
        es_tiebreak: Literal["loss", "strict"] = "loss",
        max_outer_epochs: Count | None = None,
        warm_start: bool = False,
        samples: Depth = 16,
        output: Literal["logits", "probs"] = "logits",
        est_p_edge: Fraction = 0.0,
        edge_penalty: NonNegative = 0.0,
        num_candidates: Many | None = None,
        random_candidates: ManyOrZero = 0,
        eta_decay: NonNegative = 1e-3,
        optimizer: OptimizerCallable = lambda p: torch.optim.SGD(p, lr=1.0),
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        check_ranges(LDS, locals())
        super().__init__()
        hidden = list(hidden)
        self.save_hyperparameters(ignore=["optimizer", "lr_scheduler"])
        self._check_settings()
        self.automatic_optimization = False
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.network = GCN(num_features, hidden, num_classes, dropout)
        pairs = num_nodes * (num_nodes - 1) // 2 if num_candidates is None else num_candidates
        self.theta = nn.Parameter(torch.zeros(pairs))
        self.inner_lr_logit = nn.Parameter(torch.tensor(initial_logit(inner_lr if learn_inner_lr else 0.02)))
        self.register_buffer("candidates", torch.zeros(2, num_candidates or 0, dtype=torch.long))
        self.register_buffer("inner_state", torch.zeros(3, self.network.size))
        self.register_buffer("kept_theta", torch.zeros(pairs))
        self.register_buffer("started", torch.tensor(False))
        self.progress = Progress()
        self.accuracy = nn.ModuleDict(
            {name: MulticlassAccuracy(num_classes, average="micro") for name in _SETS[1:]}
        )
        self._problems: dict[bool, Problem] = {}

    def _check_settings(self) -> None:
        h = self.hparams
        refuse_unused(LDS, h, "num_candidates", {"random_candidates": "a number of pairs"})
        if h["max_inner_steps"] < h["tau"]:
            raise ValueError(f"max_inner_steps must be at least tau = {h['tau']}, got {h['max_inner_steps']}")
        for name, choices in (
            ("truncation", ("tau", "farho")),
            ("es_tiebreak", ("loss", "strict")),
            ("output", ("logits", "probs")),
            ("inner_optimizer", ("adam", "sgd")),
        ):
            if h[name] not in choices:
                raise ValueError(f"{name} must be {' or '.join(choices)}, got {h[name]!r}")
        if h["freeze_graph"] and not h["learn_graph"]:
            raise ValueError("freeze_graph: true and learn_graph: false exclude each other; set one of them")
        if h["learn_inner_lr"] and not 0.0006 <= h["inner_lr"] < 0.05:
            raise ValueError(
                f"inner_lr must lie in [0.0006, 0.05) to be learned, got {h['inner_lr']}; or set "
                "learn_inner_lr: false"
            )

    # --- data -------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        self._problems = {}
        trainer = self.trainer
        refuse_processes(self, "trains one model on one graph", "; run seeds side by side")
        if str(trainer.precision) in ("16-true", "bf16-true", "16-mixed"):
            raise ValueError(
                f"trainer.precision is {trainer.precision}, but the hypergradient of LDS needs float32; "
                "use 32-true"
            )
        check_fit(self)
        data = getattr(trainer, "datamodule", None)
        graph = getattr(data, "graph", None)
        if graph is not None and "es_mask" not in graph:
            raise ValueError(
                f"LDS stops on nodes of their own, but {named(data)} has no es_mask; set "
                "data.init_args.early_stopping: true"
            )

    def _problem(self, batch: Any) -> Problem:
        """The bilevel problem of the batch, made once: the graph is the same all along.

        Tensors made in Lightning's inference mode cannot be trained on: that mode has a problem of its own.
        """
        mode = torch.is_inference_mode_enabled()
        if mode not in self._problems:
            edges: Edges
            if self.hparams["num_candidates"] is None:
                edges = AllPairs(self.hparams["num_nodes"], self.device)
            else:
                edges = CandidatePairs(self.candidates, self.hparams["num_nodes"])
            self._problems[mode] = Problem(
                self.network,
                Features(batch.x),
                batch.y,
                batch.train_mask.nonzero()[:, 0],
                batch.val_mask.nonzero()[:, 0],
                edges,
                self.hparams["l2"],
                self.hparams["inner_optimizer"],
            )
        return self._problems[mode]

    @torch.no_grad()
    def _start(self, batch: Any) -> None:
        """Candidates and theta_0 from the given graph; skipped when weights brought a theta."""
        if self.started:
            return
        h = self.hparams
        if h["num_candidates"] is not None:
            random = generator(_CANDIDATES, global_seed())
            chosen = choose_candidates(
                batch.edge_index, batch.x, h["num_candidates"], h["random_candidates"], random
            )
            self.candidates.copy_(chosen)
        self.theta.copy_((self._initial_theta(batch) + h["est_p_edge"]).clamp(max=1))
        self.kept_theta.copy_(self.theta)
        self.started.fill_(True)

    def _initial_theta(self, batch: Any) -> Tensor:
        """The given graph on the pairs, (P,)."""
        weight = batch.edge_weight if "edge_weight" in batch else None
        return initial_values(self._pairs(), self.hparams["num_nodes"], batch.edge_index, weight)

    def _pairs(self) -> Tensor:
        if self.hparams["num_candidates"] is not None:
            return self.candidates
        nodes = self.hparams["num_nodes"]
        return torch.triu_indices(nodes, nodes, 1, device=self.device)

    # --- training ---------------------------------------------------------------------------------------

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer([self.theta, self.inner_lr_logit])
        decay = self.hparams["eta_decay"]
        own = partial(torch.optim.lr_scheduler.LambdaLR, lr_lambda=lambda k: 1 / (1 + decay * k))
        return with_schedule(optimizer, self.lr_scheduler or own)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """A chunk of inner steps, one outer update and, at the end of a pass, the early-stopping check."""
        p = self.progress
        # second-order terms underflow in half precision
        with torch.autocast(self.device.type, enabled=False):
            if p.kept_epoch < 0:
                self._start(batch)
                self._restart()
                self._stop_early(batch)
            problem = self._problem(batch)
            inner_loss, exhausted, outer_loss = self._chunk(problem)
            p.chunk += 1
            if exhausted or p.chunk >= self.hparams["max_inner_steps"] // self.hparams["tau"]:
                self._end_pass(batch)
        self.log("train/inner_loss", inner_loss, batch_size=1)
        self.log("train/outer_loss", outer_loss, prog_bar=True, batch_size=1)
        self.log("train/inner_lr", self._rate().detach(), batch_size=1)
        self.log("graph/expected_edges", self.theta.detach().sum(), batch_size=1)
        # in each row, also between checks: a row must not depend on when the run was resumed
        self.log("es/accuracy", p.last_accuracy, batch_size=1)
        self.log("es/loss", p.last_loss, batch_size=1)
        self.log("es/outer_epoch", float(p.outer_epoch), batch_size=1)

    def _rate(self) -> Tensor:
        """Inner learning rate, a scalar."""
        if self.hparams["learn_inner_lr"]:
            return learning_rate(self.inner_lr_logit)
        return self.theta.new_tensor(self.hparams["inner_lr"])

    def _graph(self, problem: Problem, theta: Tensor, *key: int) -> Graph:
        """A graph of theta, drawn as a function of the key."""
        if not self.hparams["sample"]:
            return problem.edges.drawn(theta)
        uniform = torch.rand(
            len(theta), generator=generator(_GRAPH, *key, device=theta.device), device=theta.device
        )
        return problem.edges.drawn(draw_edges(theta, uniform))

    def _draw(self, problem: Problem, index: int, *purpose: int) -> Draw:
        """Graph and dropout of inner step ``index`` of this chunk: the same whenever it is asked for."""
        key = (global_seed(), self.trainer.global_step, index, *purpose)
        graph = self._graph(problem, self.theta.detach(), *key)
        if not self.hparams["dropout"]:
            return Draw(graph, None)
        random = generator(_DROPOUT, *key, device=self.device)
        return Draw(graph, self.network.draw_dropout(problem.edges.num_nodes, random))

    def _chunk(self, problem: Problem) -> tuple[Tensor, bool, Tensor]:
        """tau inner steps (fewer when the loss has ceased to fall), then the outer update.

        Returns:
            The last inner loss, whether the pass is over, the outer loss before the update.
        """
        h, p = self.hparams, self.progress
        rate = self._rate().detach()
        watch = DecreaseWatch(h["inner_patience"], best=p.watch_best, count=p.watch_count)
        state, states, first, exhausted = self.inner_state.clone(), [], p.inner_step + 1, False
        loss = torch.tensor(float("nan"))
        for index in range(h["tau"]):
            after, loss = problem.step(state, first + index, self._draw(problem, index), rate)
            exhausted = watch.exhausted(float(loss))
            if exhausted:
                break
            states.append(state)
            state = after.detach()
        self.inner_state.copy_(state)
        p.inner_step += len(states)
        p.watch_best, p.watch_count = watch.best, watch.count
        return loss, exhausted, self._outer_update(problem, states, state, first, rate)

    def _outer_update(
        self, problem: Problem, states: list[Tensor], final: Tensor, first: int, rate: Tensor
    ) -> Tensor:
        h = self.hparams
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        last = self._graph(problem, self.theta.detach(), global_seed(), self.trainer.global_step, h["tau"])
        if h["learn_graph"]:
            purpose = (_BACKWARD,) if h["resample_backward"] else ()
            # FAR-HO does not store the state that a later chunk starts from
            shortened = h["truncation"] == "farho" and self.progress.chunk > 0
            length = max(len(states) - 1, 0) if shortened else h["tau"]
            found = hypergradient(
                problem,
                states,
                final,
                first,
                lambda k: self._draw(problem, k, *purpose),
                last,
                rate,
                length,
            )
            if not h["freeze_graph"]:
                gradient = problem.edges.pair_gradient(found.leaf, h["symmetric_grad"])
                self.theta.grad = gradient + h["edge_penalty"]
            if h["learn_inner_lr"]:
                logit = self.inner_lr_logit.detach().requires_grad_()
                (slope,) = torch.autograd.grad(learning_rate(logit), logit)
                self.inner_lr_logit.grad = found.rate * slope
            loss = found.loss
        else:
            with torch.no_grad():
                loss = problem.outer_loss(final[0], last)
        optimizer.step()
        with torch.no_grad():
            self.theta.copy_(project(self.theta))
        scheduler: Any = self.lr_schedulers()
        scheduler.step()
        return loss

    @torch.no_grad()
    def _restart(self) -> None:
        """Fresh weights and moments for the next pass."""
        random = generator(_INIT, global_seed(), self.progress.outer_epoch, device=self.device)
        self.inner_state.zero_()
        self.inner_state[0] = self.network.initial(random)
        self.progress.inner_step = 0

    def on_train_start(self) -> None:
        # a run that was killed behind its last pass has nothing left to do
        self.trainer.should_stop |= self._ended()

    def _ended(self) -> bool:
        limit = self.hparams["max_outer_epochs"]
        too_many = limit is not None and self.progress.outer_epoch >= limit
        return bool(self.progress.stale >= self.hparams["es_patience"] or too_many)

    def _end_pass(self, batch: Any) -> None:
        p, h = self.progress, self.hparams
        p.outer_epoch += 1
        self._stop_early(batch)
        p.chunk, p.watch_best, p.watch_count = 0, float("inf"), 0
        self.trainer.should_stop |= self._ended()
        if not h["warm_start"]:
            self._restart()

    @torch.no_grad()
    def _stop_early(self, batch: Any) -> None:
        """Accuracy of the current (theta, W) on the early-stopping nodes; keep both if they are the best."""
        p = self.progress
        scores = self._scores(batch, self.theta, self.inner_state[0], _EVALUATION, p.outer_epoch)
        mask = batch.es_mask
        accuracy = float((scores[mask].argmax(dim=1) == batch.y[mask]).double().mean())
        loss = float(functional.cross_entropy(scores[mask], batch.y[mask]))
        p.last_accuracy, p.last_loss = accuracy, loss
        p.stale = 0 if accuracy > p.es_accuracy else p.stale + 1
        tie = self.hparams["es_tiebreak"] == "loss" and accuracy == p.es_accuracy and loss < p.es_loss
        if accuracy > p.es_accuracy or tie:
            p.es_accuracy, p.es_loss, p.kept_epoch = accuracy, loss, p.outer_epoch
            self.kept_theta.copy_(self.theta)
            self.network.weights.copy_(self.inner_state[0])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["lds_progress"] = asdict(self.progress)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if "lds_progress" in checkpoint:
            self.progress = Progress(**checkpoint["lds_progress"])

    # --- export -----------------------------------------------------------------------------------------

    dynamic_dims: ClassVar[dict[str, dict[int, str]]] = {**GRAPH_DIMS, "edge_weight": {0: "edges"}}

    def example_inputs(self, nodes: int) -> dict[str, Tensor]:
        """Features and a weighted graph for the GCN, which gives logits (nodes, C) on it."""
        edge_index = example_edges(nodes, self.device)
        x = torch.randn(nodes, self.hparams["num_features"], device=self.device)
        weight = torch.rand(edge_index.shape[1] // 2, device=self.device)
        return {"x": x, "edge_index": edge_index, "edge_weight": torch.cat([weight, weight])}

    # --- evaluation -------------------------------------------------------------------------------------

    def _scores(self, batch: Any, theta: Tensor, weights: Tensor, *key: int) -> Tensor:
        """Mean output over ``samples`` graphs, (N, C); one graph where all of them are equal."""
        problem = self._problem(batch)
        theta = theta.detach()
        fixed = not self.hparams["sample"] or bool(((theta == 0) | (theta == 1)).all())

        def leaves() -> Iterator[Graph]:
            for i in range(1 if fixed else self.hparams["samples"]):
                yield self._graph(problem, theta, *key, global_seed(), i)

        return self.network.expected(weights, problem.x, problem.edges, leaves(), self.hparams["output"])

    @torch.no_grad()
    def scores(self, batch: Any) -> Tensor:
        """Scores of all nodes by the kept model, (N, C): mean logits or log mean probabilities."""
        with torch.autocast(self.device.type, enabled=False):
            self._start(batch)
            return self._scores(batch, self.kept_theta, self.network.weights, _TEST)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self._evaluate(batch, "val", ("val", "es"))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self._evaluate(batch, "test", ("test", "val", "es"))

    def _evaluate(self, batch: Any, stage: str, sets: Sequence[str]) -> None:
        scores = self.scores(batch)
        for name in sets:
            mask = batch[f"{name}_mask"]
            metric: Any = self.accuracy[name]
            prefix = f"{stage}/" if name == stage else f"{stage}/{name}_"
            metric.reset()
            self.log(
                f"{prefix}accuracy", metric(scores[mask], batch.y[mask]), batch_size=1, prog_bar=name == stage
            )
            loss = functional.cross_entropy(scores[mask], batch.y[mask])
            self.log(f"{prefix}loss", loss, batch_size=1)
        self.log_dict({f"{stage}/{k}": v for k, v in self.graph_statistics(batch).items()}, batch_size=1)

    @torch.no_grad()
    def graph_statistics(self, batch: Any) -> dict[str, Tensor]:
        """Numbers of the kept graph.

        ``expected_edges`` = sum of theta, of which ``original_edges`` on given and ``new_edges`` on other
        pairs; ``interior_share`` of theta strictly inside (0, 1); ``intra_class_share`` of expected edges,
        ``new_intra_class_share`` of new ones, ``new_unlabelled_intra_class_share`` of new ones at a node
        outside train, val and es (0 without such edges); with candidates ``missing_edges_reachable``, the
        share of the true but not given edges among them.
        """
        theta, initial, pairs = self.kept_theta, self._initial_theta(batch), self._pairs()
        total = theta.sum()
        same = batch.y[pairs[0]] == batch.y[pairs[1]]
        labelled = batch.train_mask | batch.val_mask | batch.es_mask
        new = torch.where(initial == 0, theta, 0)
        unlabelled = torch.where(labelled[pairs[0]] & labelled[pairs[1]], 0, new)
        found = {
            "expected_edges": total,
            "original_edges": theta[initial > 0].sum(),
            "new_edges": new.sum(),
            "interior_share": ((theta > 0) & (theta < 1)).float().mean(),
            "intra_class_share": theta[same].sum() / total.clamp(min=1e-12),
            "new_intra_class_share": new[same].sum() / new.sum().clamp(min=1e-12),
            "new_unlabelled_intra_class_share": unlabelled[same].sum() / unlabelled.sum().clamp(min=1e-12),
        }
        if self.hparams["num_candidates"] is not None and "true_edge_index" in batch:
            nodes = self.hparams["num_nodes"]
            true, given = (e[0] * nodes + e[1] for e in (batch.true_edge_index, batch.edge_index))
            missing = true[~torch.isin(true, given)]
            missing = missing[missing // nodes < missing % nodes]
            if len(missing):
                reachable = torch.isin(missing, pairs[0] * nodes + pairs[1])
                found["missing_edges_reachable"] = reachable.float().mean()
        return found

    @torch.no_grad()
    def predict_step(self, batch: Any, batch_idx: int) -> LearnedGraph:
        scores = self.scores(batch)
        split = split_names(batch, _SETS)
        tensors = (scores, batch.y, self._pairs(), self.kept_theta, self._initial_theta(batch))
        scores, labels, pairs, theta, initial = (t.cpu() for t in tensors)
        names = class_names_of(self, self.hparams["num_classes"])
        return LearnedGraph(scores, labels, split, names, pairs, theta, initial)

    def save_graph(self, path: str | Path) -> Path:
        """Write the kept graph: pairs with theta > 0, their probabilities, node ids (npz without pickles)."""
        return write_graph(Path(path), self._pairs(), self.kept_theta, self.hparams["num_nodes"])
