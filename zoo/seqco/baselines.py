"""Rows of the summaries' table that learn nothing: the first sentences, and the best ones."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, get_args

from lightning.pytorch import LightningModule
from torchmetrics import Metric, SumMetric

from zoo.metrics.bertscore import BertScore
from zoo.metrics.rouge import Rouge, RougeTokenizer, protocol, sentences
from zoo.metrics.summaries import SummaryStatistics
from zoo.nn.precision import ExactModuleDict
from zoo.nn.ranges import Depth, DepthOrZero, check_ranges
from zoo.nn.variants import refuse_unused
from zoo.reports import say, write_protocol
from zoo.seqco.report import GeneratedSummaries

Kind = Literal["lead", "oracle"]


class SummaryBaseline(LightningModule):
    """LEAD-k and the greedy extractive oracle (Nallapati et al. 2017), which reads the gold summary.

    The oracle adds the sentence that raises the mean of ROUGE-1 and ROUGE-2 F1 most, until none does or k are
    taken; sentences keep their order. A batch needs the texts ``document`` and ``summary``; see
    :class:`zoo.SeqCo`.

    Args:
        kind: ``lead`` or ``oracle``.
        sentences: k.
        rouge_tokenizer: ``latin``, ``words`` or ``characters``.
        bertscore: folder of an encoder of transformers, or a hub id, for BERTScore.
        bertscore_layer: of its states; null is the last.
    """

    answers_untrained: ClassVar[bool] = True

    def __init__(
        self,
        kind: Kind = "lead",
        sentences: Depth = 3,
        rouge_tokenizer: RougeTokenizer = "latin",
        bertscore: str | None = None,
        bertscore_layer: DepthOrZero | None = None,
    ) -> None:
        check_ranges(SummaryBaseline, locals())
        super().__init__()
        if kind not in get_args(Kind):
            raise ValueError(f"kind must be one of {', '.join(get_args(Kind))}, got {kind!r}")
        self.save_hyperparameters()
        refuse_unused(SummaryBaseline, self.hparams, "bertscore", {"bertscore_layer": "a folder"})
        texts: dict[str, Metric] = {
            "rouge": Rouge(rouge_tokenizer),
            "statistics": SummaryStatistics(),
            "truncated_sources": SumMetric(),
        }
        if bertscore is not None:
            texts["bertscore"] = BertScore(bertscore, bertscore_layer)
        self.text_metrics: Any = ExactModuleDict(texts)

    @property
    def protocol(self) -> str:
        """How the numbers were made, for the row of a table."""
        words = {"lead": "the first", "oracle": "greedily the best"}[self.hparams["kind"]]
        more = f"; {self.text_metrics['bertscore'].protocol}" if "bertscore" in self.text_metrics else ""
        count = self.hparams["sentences"]
        return f"{protocol(self.hparams['rouge_tokenizer'])}; {words} {count} sentences{more}"

    def extract(self, document: str, summary: str | None) -> str:
        """The chosen sentences of a document."""
        found, count = sentences(document), self.hparams["sentences"]
        if self.hparams["kind"] == "lead" or summary is None:
            return "\n".join(found[:count])
        scores, best = self.text_metrics["rouge"].scores, 0.0
        chosen: list[int] = []
        while len(chosen) < min(count, len(found)):
            tried = {}
            for place in set(range(len(found))) - set(chosen):
                text = "\n".join(found[i] for i in sorted([*chosen, place]))
                score = scores(text, summary)
                tried[place] = (score["rouge1"] + score["rouge2"]) / 2
            place = max(sorted(tried), key=lambda i: tried[i])
            if tried[place] <= best:
                break
            best = tried[place]
            chosen.append(place)
        return "\n".join(found[i] for i in sorted(chosen))

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        texts = [self.extract(d, s) for d, s in zip(batch["document"], batch["summary"], strict=True)]
        self.text_metrics["rouge"].update(texts, batch["summary"])
        self.text_metrics["statistics"].update(texts, batch["document"], batch["summary"])
        if "bertscore" in self.text_metrics:
            self.text_metrics["bertscore"].update(texts, batch["summary"])
        self.text_metrics["truncated_sources"].update(0.0)  # it reads all of them

    def on_test_epoch_end(self) -> None:
        folder = self.trainer.log_dir  # asks all processes
        for name, metric in self.text_metrics.items():
            found = metric.compute()
            for key, value in (found if isinstance(found, dict) else {name: found}).items():
                self.log(f"test/{key}", value, sync_dist=True)
            metric.reset()
        say(f"numbers by {self.protocol}")
        row = {"protocol": self.protocol, "tokenizer": "none", "truncated_sources": 0}
        write_protocol(folder, {f"{self.hparams['kind']} {self.hparams['sentences']}": row})

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> GeneratedSummaries:
        references = batch.get("summary")
        if references is None and self.hparams["kind"] == "oracle":
            raise ValueError("the oracle reads gold summaries, which these data do not have; use kind: lead")
        pairs = zip(batch["document"], references or [None] * len(batch["document"]), strict=True)
        texts = [" ".join(self.extract(d, s).split("\n")) for d, s in pairs]
        scores = None
        if references is not None:
            scores = [self.text_metrics["rouge"].scores(a, b) for a, b in zip(texts, references, strict=True)]
        return GeneratedSummaries(
            batch["index"].tolist(), list(batch["name"]), list(batch["document"]), references,
            [[text] for text in texts], scores, [False] * len(texts), self.protocol,
            list(batch["row"]) if "row" in batch else None,
        )  # fmt: skip

    def configure_optimizers(self) -> None:
        """It has nothing to train."""
