"""The KGEmbedding LightningModule."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, get_args

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torchmetrics import MeanMetric

from zoo.knowledge.network import Embeddings, RelationFrequency
from zoo.knowledge.report import Answer, Answers, best_answers
from zoo.knowledge.scores import cross_entropy, filtered_ranks, logistic_loss, margin_loss, n3
from zoo.nn.data_fit import DataSizes, check_fit
from zoo.nn.optim import with_schedule
from zoo.nn.parallel import refuse_processes
from zoo.nn.ranges import Many, NonNegative, Positive, Size, check_ranges
from zoo.nn.variants import Uses, refuse_unused
from zoo.randomness import local_rows, step_generator

Model = Literal["transe", "complex", "relation_frequency"]
Loss = Literal["cross_entropy", "margin", "logistic"]
_LEARNED = ("transe", "complex")
_USES: Uses = {
    **dict.fromkeys(("dim", "loss", "negatives", "margin", "init"), _LEARNED),
    **dict.fromkeys(("norm", "unit_entities"), ("transe",)),
    "n3_weight": ("complex",),
}
_USES_OF_LOSS: Uses = dict.fromkeys(("negatives", "margin"), ("margin", "logistic"))
_HITS = (1, 3, 10)


class KGEmbedding(LightningModule):
    """Which entity completes (head, relation, ?), by embeddings of both.

    Every relation has an inverse, so that a question for a head is one for a tail. A training step scores
    each query's tail against all entities (``cross_entropy``; Kadlec et al. 2017, Lacroix et al. 2018) or
    against ``negatives`` corrupted ones. Ranks are filtered by the triples of all splits, ties count half,
    both directions are averaged. The batch is that of :class:`datamodules.KnowledgeGraph`.

    Args:
        num_entities: N; decided by the data.
        num_relations: R; decided by the data.
        entities: names of the N entities, which predict and :meth:`answers` speak in; decided by the data.
            Null has numbers for names.
        relations: names of the R relations, likewise.
        model: ``transe`` -|h + r - t|, ``complex`` Re<h, r, conj t>, or ``relation_frequency``, the baseline
            that ranks entities by how often they end the relation in training.
        dim: D, components of an embedding, complex ones for ``complex``.
        loss: ``cross_entropy`` over all entities, ``margin`` or ``logistic`` over corrupted tails.
        negatives: corrupted tails of each query, drawn from all entities.
        margin: of ``margin``; of ``logistic`` what is added to the scores of ``transe``.
        norm: p of ``transe``, 1 or 2.
        unit_entities: entities of ``transe`` have length 1.
        n3_weight: of the nuclear 3-norm of the batch's embeddings (Lacroix et al. 2018), ``complex`` alone.
        init: deviation of the initial components; null is D^-1/2.
        optimizer: of all embeddings.
        lr_scheduler: stepped each step.

    Raises:
        ValueError: for impossible settings.
    """

    data_sizes: ClassVar[DataSizes] = {
        "num_entities": "num_entities",
        "num_relations": "num_relations",
        "entities": "entities",
        "relations": "relations",
    }

    def __init__(
        self,
        num_entities: Many = 135,
        num_relations: Size = 46,
        entities: list[str] | None = None,
        relations: list[str] | None = None,
        model: Model = "complex",
        dim: Size = 128,
        loss: Loss = "cross_entropy",
        negatives: Many = 64,
        margin: NonNegative = 1.0,
        norm: Literal[1, 2] = 1,
        unit_entities: bool = False,
        n3_weight: NonNegative = 0.0,
        init: Positive | None = None,
        optimizer: OptimizerCallable = lambda p: torch.optim.Adam(p, lr=0.01),
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        check_ranges(KGEmbedding, locals())
        super().__init__()
        self.save_hyperparameters(ignore=["optimizer", "lr_scheduler"])
        for key, value, known in (
            ("model", model, get_args(Model)),
            ("loss", loss, get_args(Loss)),
            ("norm", norm, (1, 2)),
        ):
            if value not in known:
                raise ValueError(f"model.init_args.{key} must be {', '.join(map(str, known))}, got {value!r}")
        refuse_unused(KGEmbedding, self.hparams, "model", _USES)
        refuse_unused(KGEmbedding, self.hparams, "loss", _USES_OF_LOSS)
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        for key, count, known_names in (
            ("entities", num_entities, entities),
            ("relations", num_relations, relations),
        ):
            if known_names is not None and len(known_names) != count:
                raise ValueError(
                    f"model.init_args.num_{key} is {count}, but model.init_args.{key} has "
                    f"{len(known_names)} names; leave both to the data"
                )
        n, r = num_entities, num_relations
        self.network: Embeddings | RelationFrequency
        if model == "relation_frequency":
            self.network = RelationFrequency(n, r)
            self.automatic_optimization = False
        else:
            self.network = Embeddings(n, r, model, dim, norm, unit_entities, init)
        names = ["mrr", "mrr_head", "mrr_tail", "mean_rank", *(f"hits_{k}" for k in _HITS)]
        for stage in ("val", "test"):
            for name in names:
                self.add_module(f"{stage}_{name}", MeanMetric())

    def setup(self, stage: str) -> None:
        check_fit(self, entities=_no_other, relations=_no_other)
        if self.hparams["model"] == "relation_frequency":
            refuse_processes(self, "counts the triples of an epoch")

    def configure_optimizers(self) -> Any:
        if isinstance(self.network, RelationFrequency):
            return torch.optim.SGD([self.network.steps], lr=0.0)  # counts steps: there is no gradient
        return with_schedule(self.optimizer(self.network.parameters()), self.lr_scheduler)

    # --- training -----------------------------------------------------------------------------------------

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor | None:
        if isinstance(self.network, RelationFrequency):
            self._count(self.network, batch)
            return None
        loss = self._loss(self.network, batch, batch_idx)
        weight = self.hparams["n3_weight"]
        if weight:
            penalty = n3(*self.network.factors(batch["head"], batch["relation"], batch["tail"]))
            self.log("train/n3", penalty.detach(), batch_size=len(batch["tail"]))
            loss = loss + weight * penalty
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(batch["tail"]))
        return loss

    def _loss(self, network: Embeddings, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        h, head, relation, tail = self.hparams, batch["head"], batch["relation"], batch["tail"]
        if h["loss"] == "cross_entropy":
            return cross_entropy(network(head, relation), tail)
        shape = (len(tail) * self.trainer.world_size, h["negatives"])
        random = step_generator(self, batch_idx)
        entities = network.entity.num_embeddings
        wrong = local_rows(self, torch.randint(entities, shape, generator=random, device=self.device))
        scores = network(head, relation, torch.cat([tail[:, None], wrong], dim=1))
        if h["loss"] == "margin":
            return margin_loss(scores[:, 0], scores[:, 1:], h["margin"])
        return logistic_loss(scores[:, 0], scores[:, 1:], h["margin"] if h["model"] == "transe" else 0.0)

    def _count(self, network: RelationFrequency, batch: dict[str, Tensor]) -> None:
        """The first epoch has all there is to learn; further steps change nothing."""
        if self.trainer.current_epoch == 0:
            network.count(batch["relation"], batch["tail"])
        optimizer: Any = self.optimizers()
        optimizer.step()

    # --- evaluation ---------------------------------------------------------------------------------------

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self._evaluate(batch, "val")

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self._evaluate(batch, "test")

    def _evaluate(self, batch: dict[str, Tensor], stage: str) -> None:
        ranks = filtered_ranks(self(batch["head"], batch["relation"]), batch["tail"], batch["known"])
        backwards = batch["relation"] >= self.hparams["num_relations"]
        reciprocal = (1 / ranks).float()
        found = {"mrr": reciprocal, "mean_rank": ranks.float()}
        found |= {"mrr_head": reciprocal[backwards], "mrr_tail": reciprocal[~backwards]}
        found |= {f"hits_{k}": (ranks <= k).float() for k in _HITS}
        for name, values in found.items():
            metric: Any = getattr(self, f"{stage}_{name}")
            if len(values):
                metric.update(values)
            self.log(f"{stage}/{name}", metric, prog_bar=name == "mrr", batch_size=len(ranks))

    def forward(self, head: Tensor, relation: Tensor) -> Tensor:
        """Scores (B, N) of all entities as answers; ``relation`` of R and above is an inverse."""
        return self.network(head, relation).float()

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> Answers:
        with torch.inference_mode():
            scores = self(batch["head"], batch["relation"])
        return best_answers(scores, batch, *self._names())

    def _names(self) -> tuple[list[str], list[str]]:
        h = self.hparams
        entities, relations = (
            h[k] or [str(i) for i in range(h[f"num_{k}"])] for k in ("entities", "relations")
        )
        return entities, relations

    def answers(self, head: str, relation: str, tail: str = "?", count: int = 10) -> list[Answer]:
        """The likeliest answers to ``(head, relation, ?)``, or to ``("?", relation, tail)``, best first.

        ``zoo.load("kg_umls").answers("steroid", "treats")``; what the training triples say is not marked,
        for the weights do not hold them: ``zoo predict`` does.

        Raises:
            ValueError: for a name that the network does not have, none or two places to fill, or a count
                below 1.
        """
        entities, relations = self._names()
        if (head == "?") == (tail == "?"):
            raise ValueError("give either a head or a tail, and '?' for the other")
        if count < 1:
            raise ValueError(f"count is {count}, but must be at least 1")
        known = tail if head == "?" else head
        for name, names, what in ((known, entities, "entity"), (relation, relations, "relation")):
            if name not in names:
                raise ValueError(f"{name!r} is no {what} of the {len(names):,} that the network has")
        row = relations.index(relation) + (len(relations) if head == "?" else 0)
        device = self.device
        with torch.inference_mode():
            scores = self(
                torch.tensor([entities.index(known)], device=device), torch.tensor([row], device=device)
            )
        probability = scores[0].softmax(dim=0)
        best = scores[0].argsort(descending=True, stable=True)[:count].tolist()
        return [Answer(entities[i], float(scores[0, i]), float(probability[i])) for i in best]


def _no_other(own: Any, found: Any) -> bool:
    """Names fit that are not given at all."""
    return own is None or own == found
