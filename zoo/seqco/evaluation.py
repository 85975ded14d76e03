"""What validation and test measure: likelihood, summaries against gold ones, how alike the views are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric, SumMetric

from zoo.metrics.bertscore import BertScore
from zoo.metrics.epoch_end import log_and_reset
from zoo.metrics.rouge import Rouge
from zoo.metrics.spread import Spread
from zoo.metrics.summaries import SummaryStatistics
from zoo.nn.precision import ExactModuleDict
from zoo.seqco import backbones
from zoo.seqco.objective import Objective
from zoo.seqco.report import GeneratedSummaries
from zoo.seqco.similarity import mean_token_loss
from zoo.seqco.summariser import Summariser
from zoo.seqco.weighting import PAIRS

if TYPE_CHECKING:
    from zoo.seqco.module import SeqCo

_RELATED = ("loss_xy", "encoder_spread", "feature_spread")  # given by what they were at the switch, too


class Evaluation(nn.Module):
    """Scores of a validation or a test, with the settings of a module.

    Args:
        objective: compares the views.
        summariser: generates.
        settings: hyperparameters of the module.
    """

    def __init__(self, objective: Objective, summariser: Summariser, settings: Mapping[str, Any]) -> None:
        super().__init__()
        self.objective, self.summariser = objective, summariser
        network = objective.network
        parts: dict[str, Metric] = {"nll": MeanMetric()}
        if network.compared:
            width = backbones.width_of(network.backbone.config)
            parts |= {f"loss_{pair}": MeanMetric() for pair in PAIRS}
            parts |= {"encoder_spread": Spread(width), "feature_spread": Spread(width)}
        self.metrics: Any = ExactModuleDict(parts)
        texts: dict[str, Metric] = {
            "rouge": Rouge(settings["rouge_tokenizer"]),
            "statistics": SummaryStatistics(),
            "truncated_sources": SumMetric(),
        }
        if settings["bertscore"] is not None:
            texts["bertscore"] = BertScore(settings["bertscore"], settings["bertscore_layer"])
        self.texts: Any = ExactModuleDict(texts)

    @property
    def protocol(self) -> str:
        """How the numbers of a test are made, for the row of a table."""
        more = f"; {self.texts['bertscore'].protocol}" if "bertscore" in self.texts else ""
        return self.summariser.protocol + more

    def row(self) -> dict[str, Any]:
        """The same, with the tokenizer and what it cut, for a file."""
        cut = int(self.texts["truncated_sources"].compute())
        return {
            "protocol": self.protocol,
            **self.summariser.vocabulary.described(),
            "truncated_sources": cut,
        }

    def update(self, batch: Mapping[str, Any], generates: bool, tests: bool = False) -> None:
        """Take a batch in.

        Args:
            batch: see :class:`zoo.SeqCo`.
            generates: summaries of it, and the pairs that have one.
            tests: what takes long is measured, too.
        """
        objective, summariser = self.objective, self.summariser
        labels = batch["target"].masked_fill(~batch["target_mask"], -100)
        logits, states = objective.network.logits_and_states(
            batch["source"], batch["source_mask"], objective.decoder_inputs(batch["target"])
        )
        total, tokens = mean_token_loss(logits, labels, 0.0)
        self.metrics["nll"].update((total / tokens).float(), tokens)
        drawn = None
        if generates:
            drawn = summariser.generate(batch["source"], batch["source_mask"])
            texts = summariser.texts(drawn)
            self.texts["rouge"].update(texts, batch["summary"])
            self.texts["statistics"].update(texts, batch["document"], batch["summary"])
            self.texts["truncated_sources"].update(batch["truncated"].sum().float())
            if tests and "bertscore" in self.texts:
                self.texts["bertscore"].update(texts, batch["summary"])
        if objective.network.compared:
            self._compare(batch, drawn, states)

    def _compare(self, batch: Mapping[str, Any], drawn: Tensor | None, states: Tensor) -> None:
        objective = self.objective
        views = objective.views(batch, None if drawn is None else objective.view_of(drawn), states)
        for pair in PAIRS:
            rows = views.given[pair[1:]].rows if pair != "xy" and drawn is not None else None
            count = len(batch["source"]) if rows is None else int(rows.sum())
            if count and (pair == "xy" or drawn is not None) and views.comparable(pair):
                self.metrics[f"loss_{pair}"].update(views.loss(pair).float(), count)
        pooled_states, features = views.monitored("x")
        self.metrics["encoder_spread"].update(pooled_states)
        self.metrics["feature_spread"].update(features)

    def log(self, module: SeqCo, stage: str) -> None:
        """Log everything that was measured and begin anew.

        Args:
            module: logs, and keeps the numbers of the switch.
            stage: ``val`` or ``test``.
        """
        how = self.objective.how
        used = self._used(module)
        values = {name: metric.compute() for name, metric in self.metrics.items() if name in used}
        for name, value in values.items():
            if name.startswith("loss_") and how.similarity not in ("in_batch", "queue"):
                ways = 2 if how.symmetrical else 1
                module.log(f"{stage}/similarity_{name[5:]}", 1 - value / ways, sync_dist=True)
        self._relate(module, stage, values)
        log_and_reset(module, stage, {n: m for n, m in self.metrics.items() if n in used}, ("nll",))
        for name, metric in self.texts.items():
            if name in used:
                found = metric.compute()
                found = found if isinstance(found, dict) else {name: found}
                for key, value in found.items():
                    module.log(f"{stage}/{key}", value, prog_bar=key == "rouge1", sync_dist=True)
            metric.reset()

    def _relate(self, module: SeqCo, stage: str, values: Mapping[str, Tensor]) -> None:
        """Loss and spreads by what they were at the switch, the first validation of the comparison."""
        if not self.objective.network.compared or module.trainer.sanity_checking:
            return
        if not all(name in values for name in _RELATED):
            return
        now = torch.stack([values[k].float() for k in _RELATED]).to(module.reference)
        switched = module.trainer.global_step >= module.hparams["restart_at"]
        if stage == "val" and switched and not module.reference.any():
            module.reference.copy_(now)
        if module.reference.all():
            for key, value in zip(_RELATED, now / module.reference, strict=True):
                module.log(f"{stage}/{key}_by_start", value, sync_dist=True)

    def report(self, batch: Mapping[str, Any]) -> GeneratedSummaries:
        """Summaries of a batch, several of each document where that is asked for, with their scores."""
        summariser = self.summariser
        several = summariser.settings["candidates"]
        texts = summariser.texts(summariser.generate(batch["source"], batch["source_mask"], several))
        references = batch.get("summary")
        scores: list[dict[str, float]] | None = None
        if references is not None:
            pairs = zip(texts[::several], references, strict=True)
            scores = [self.texts["rouge"].scores(text, gold) for text, gold in pairs]
        return GeneratedSummaries(
            index=batch["index"].tolist(),
            names=list(batch["name"]),
            documents=list(batch["document"]),
            references=None if references is None else list(references),
            generated=[texts[i : i + several] for i in range(0, len(texts), several)],
            scores=scores,
            truncated=batch["truncated"].tolist(),
            protocol=summariser.protocol,
            rows=list(batch["row"]) if "row" in batch else None,
        )

    def _used(self, module: SeqCo) -> set[str]:
        """Those that any rank has updated: computing and logging wait for all."""
        metrics = {**self.metrics, **self.texts}
        called = torch.tensor([m.update_called for m in metrics.values()], device=module.device)
        anywhere = module.trainer.strategy.reduce(called.int(), reduce_op="max")
        return {name for name, there in zip(metrics, anywhere.tolist(), strict=True) if there}
