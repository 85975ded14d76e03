"""DEMI of dialogues: a language model whose responses depend on more than the last turn."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, get_args

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torchmetrics import MeanMetric

from zoo.demi import bounds, language
from zoo.demi.dialogue_terms import (
    DECOMPOSED,
    INFORMED,
    DialogueNetwork,
    DialogueObjective,
    DialogueTerms,
    mean_of,
    recovery,
)
from zoo.demi.responses import Responses
from zoo.metrics.bleu import CorpusBLEU
from zoo.metrics.diversity import Diversity
from zoo.nn.data_fit import DataSizes, check_fit, told
from zoo.nn.gathered_rows import check_others
from zoo.nn.kept_tokenizer import KeptTokenizer
from zoo.nn.optim import with_schedule
from zoo.nn.parallel import refuse_sharding
from zoo.nn.ranges import (
    CountOrZero,
    Depth,
    Many,
    ManyOrZero,
    NonNegative,
    Positive,
    Size,
    check_ranges,
)
from zoo.nn.variants import Uses, refuse_unused
from zoo.randomness import generator, local_rows, step_generator
from zoo.reports import say

Decoding = Literal["greedy", "beam", "sample"]
Batch = dict[str, Any]
_DECODING = 734  # first word of the keys of draws of responses, the same for all seeds
_AUXILIARY = (*INFORMED, "next_utterance")
_OF_OBJECTIVE: Uses = {
    **dict.fromkeys(("samples", "negative_length"), ("var",)),
    **dict.fromkeys(("temperature", "hidden", "embedding"), INFORMED),
    **dict.fromkeys(("information_weight", "warmup_steps"), _AUXILIARY),
    "conditional_weight": (*DECOMPOSED, "multi"),
    "candidates": ("mmi",),
}
_OF_DECODING: Uses = {
    "beams": ("beam",),
    **dict.fromkeys(("top_k", "sampling_temperature"), ("sample",)),
}
_MEANS = ("nll", "helper", "first", "second", "ess", "plug_in", "exact", "answer")


class DialogueDEMI(LightningModule):
    """Response generation with decomposed mutual information (Sordoni et al., ICML 2021, section 5.3).

    x' is the history of a dialogue, x'' its last turn, y the response. Minimised is the negative
    log-likelihood -log p(y | x') per token, less ``information_weight`` times
    I_NCE(x''; y) + weight I_C(x'; y | x''): what the last turn tells of the response, and what the rest of
    the history adds to it. Segments are represented by the state of their last token.

    A batch is that of :class:`datamodules.DialogueHistories`. Validation and test report the bounds with the
    conditional one by I_IS, whatever it was trained by; ``var`` adds ``plug_in``, the mean of
    log p(y | x') - log tau(y | x''), a difference of cross-entropies.

    Args:
        backbone: of the language model: hub id, folder of transformers, or family with ``sizes``; ``gpt2`` is
            GPT-2 small.
        sizes: entries of its config that are otherwise: ``{n_embd: 64, n_layer: 2}``.
        pretrained: weights that a fresh training starts from: hub id or folder; ``var``'s proposal and
            ``mmi``'s backward model start from them, too.
        vocab_size: of the tokenizer; the data tell.
        eos_id: that ends a turn; the data tell.
        objective: what stands beside the likelihood. DEMI: ``var``, whose negatives are responses to the last
            turn alone by a proposal tau(y | x'') that is learned beside it; ``is`` and ``bo`` with the
            responses of the batch. ``multi``: I_NCE(x''; y) + I_NCE(x'; y). ``infonce``: I_NCE(x'; y).
            ``none``: nothing. ``next_utterance``: TransferTransfo's choice between the response and another
            one. ``mmi``: nothing, but candidates are re-ranked by a backward model log q(x' | y).
        samples: negatives of each row, K - 1 of ``var``.
        negative_length: most tokens of one.
        information_weight: lambda, of what stands beside the likelihood.
        conditional_weight: of the second term.
        warmup_steps: in which lambda rises from 0.
        temperature: t of the scores.
        hidden: units of the projections' hidden layer.
        embedding: width of the projections.
        decoding: ``greedy``, ``beam`` or ``sample``.
        beams: of ``beam``.
        top_k: of ``sample``, which draws among so many tokens; 0 among all.
        sampling_temperature: of ``sample``.
        max_length: most tokens of a response, its end included.
        candidates: of ``mmi``, draws among which the backward model chooses.
        optimizer: of all of it.
        lr_scheduler: of every step.

    Raises:
        ValueError: for impossible settings.
    """

    data_sizes: ClassVar[DataSizes] = {"vocab_size": "vocab_size", "eos_id": "eos_id"}

    def __init__(
        self,
        backbone: str = "gpt2",
        sizes: dict[str, Any] | None = None,
        pretrained: str | None = None,
        vocab_size: Many = 50257,
        eos_id: ManyOrZero = 50256,
        objective: DialogueObjective = "var",
        samples: Depth = 4,
        negative_length: Depth = 32,
        information_weight: NonNegative = 0.1,
        conditional_weight: NonNegative = 1.0,
        warmup_steps: CountOrZero = 0,
        temperature: Positive = 0.15,
        hidden: Size = 768,
        embedding: Size = 128,
        decoding: Decoding = "greedy",
        beams: Depth = 5,
        top_k: ManyOrZero = 10,
        sampling_temperature: Positive = 1.0,
        max_length: Depth = 40,
        candidates: Depth = 8,
        optimizer: OptimizerCallable = lambda p: torch.optim.AdamW(p, lr=6.25e-5, weight_decay=0.01),
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        check_ranges(DialogueDEMI, locals())
        super().__init__()
        found = language.settings(backbone, sizes)
        # a checkpoint is built again without the folder or the hub
        backbone, sizes = found["model_type"], {k: v for k, v in found.items() if k != "model_type"}
        self.save_hyperparameters(ignore=["optimizer", "lr_scheduler"])
        for key, choices in (("objective", DialogueObjective), ("decoding", Decoding)):
            if self.hparams[key] not in get_args(choices):
                names = ", ".join(get_args(choices))
                raise ValueError(f"model.init_args.{key} must be one of {names}, got {self.hparams[key]!r}")
        refuse_unused(DialogueDEMI, self.hparams, "objective", _OF_OBJECTIVE)
        refuse_unused(DialogueDEMI, self.hparams, "decoding", _OF_DECODING)
        if objective == "mmi" and decoding != "sample":
            raise ValueError(
                "model.init_args.objective: mmi re-ranks draws: set model.init_args.decoding: sample"
            )
        if eos_id >= vocab_size:
            raise ValueError(f"model.init_args.eos_id is {eos_id}, but vocab_size is {vocab_size}")
        config = language.config_of(found, vocab_size, eos_id)
        self.network = DialogueNetwork(config, objective, hidden, embedding)
        self.terms = DialogueTerms(self.network, objective, temperature, eos_id)
        self.vocabulary = KeptTokenizer()
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self._given_weights = False
        self.scores: Any = nn.ModuleDict()
        for stage in ("val", "test"):
            means = {name: MeanMetric(nan_strategy="error") for name in _MEANS}
            self.scores[stage] = nn.ModuleDict(means)
        self.diversity = Diversity()
        self.bleu: CorpusBLEU | None = None
        self._seen: set[str] = set()
        self._rows = 0
        self._columns = 0

    # --- set-up -------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        refuse_sharding(self)
        check_fit(self)
        data = getattr(self.trainer, "datamodule", None)
        self.vocabulary.take(data)
        most, positions = told(data, "most_tokens") or 0, self.network.lm.positions
        if most > positions:
            raise ValueError(
                f"a history with its response has up to {most} tokens, but the model has {positions} "
                "positions: lower data.init_args.history_tokens or longest, or raise "
                "model.init_args.sizes.n_positions"
            )
        chooses = stage == "fit" and self.hparams["objective"] == "next_utterance"
        if chooses and told(data, "distractors") is False:
            raise ValueError(
                "model.init_args.objective: next_utterance needs other responses: set "
                "data.init_args.distractors: true"
            )
        if stage == "test":
            self.bleu = CorpusBLEU()
        if stage == "fit" and self.trainer.ckpt_path is None and self.hparams["pretrained"]:
            self._start()

    def _start(self) -> None:
        if self._given_weights:  # a fine-tuning starts from those
            return
        for model in (self.network.lm, self.network.helper):
            if model is not None:
                words = language.start_from(model, self.hparams["pretrained"])
        say(f"starts from {words}")

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        self._given_weights = True
        return super().load_state_dict(*args, **kwargs)

    def configure_optimizers(self) -> Any:
        return with_schedule(self.optimizer(self.network.parameters()), self.lr_scheduler)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits (B, T, V) of the token behind each of ids (B, T)."""
        return self.network(ids)

    def example_inputs(self, batch: int) -> dict[str, Tensor]:
        """Ids of eight tokens for the network, which gives logits (batch, 8, V)."""
        ids = torch.arange(8, device=self.device).remainder(self.hparams["vocab_size"])
        return {"ids": ids.expand(batch, -1).clone()}

    # --- training -----------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        world, step, h = self.trainer.world_size, self.trainer.global_step, self.hparams
        g = step_generator(self, batch_idx)
        rows = len(batch["history"])
        if h["objective"] in INFORMED:
            check_others(rows, world)
        uniform = torch.rand(rows * world, h["samples"], h["negative_length"], generator=g, device=g.device)
        found = self.terms(batch, self.global_rank, world, local_rows(self, uniform))
        losses = {"nll": mean_of(-found["log_p"], found["tokens"], world)}
        if "helper" in found:  # no parameter is shared: it learns as if it were alone
            losses["helper_nll"] = mean_of(-found["helper"], found["helper_tokens"], world)
        weight = h["information_weight"]
        if h["warmup_steps"]:
            weight *= min(1.0, step / h["warmup_steps"])
        beside = -found["first"] if "first" in found else torch.zeros_like(losses["nll"])
        beside = beside - h["conditional_weight"] * found.get("second", 0.0) - found.get("chosen", 0.0)
        loss = torch.stack(list(losses.values())).sum() + weight * beside
        logged: dict[str, Tensor] = {**losses, "loss": loss}
        logged |= {k: found[k] for k in ("first", "second", "ess", "chosen") if k in found}
        for name, value in logged.items():
            shown = name in ("nll", "second")
            self.log(f"train/{name}", value.detach(), shown, batch_size=rows, sync_dist=world > 1)
        return loss

    # --- evaluation ---------------------------------------------------------------------------------------

    def _begin(self, stage: str) -> None:
        self._seen, self._rows, self._columns = set(), 0, 0
        for metric in (*self.scores[stage].values(), self.diversity):
            metric.reset()

    def on_validation_epoch_start(self) -> None:
        self._begin("val")

    def on_test_epoch_start(self) -> None:
        self._begin("test")

    def _add(self, stage: str, name: str, value: Tensor, weight: Tensor | float = 1.0) -> None:
        self._seen.add(name)
        self.scores[stage][name].update(value, weight)

    def _evaluate(self, stage: str, batch: Batch) -> None:
        rows = len(batch["history"])
        self._rows = self._rows or rows
        found = self.terms(batch) if rows > 1 else self.terms(_twice(batch))
        found = {k: v[:rows] if v.ndim else v for k, v in found.items()}
        tokens = found["tokens"].float()
        self._add(stage, "nll", -found["log_p"] / tokens, tokens)
        if "helper" in found:
            many = found["helper_tokens"].float()
            self._add(stage, "helper", -found["helper"] / many, many)
            if self.hparams["objective"] == "var":
                self._add(stage, "plug_in", found["log_p"] - found["helper"])
        if "first" in found and rows == self._rows > 1:  # fewer rows have another K
            self._columns = rows
            for name in ("first", "second", "ess"):
                if name in found:
                    self._add(stage, name, found[name], rows)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("val", batch)

    def on_validation_epoch_end(self) -> None:
        self._log("val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        if "reference" not in batch:
            raise ValueError("a test needs responses to compare with, and these data have none")
        self._evaluate("test", batch)
        ids, lengths, _ = self.responses(batch)
        texts = self._texts(ids, lengths)
        assert self.bleu is not None
        self.bleu.to(self.device).update(texts, batch["reference"])
        self.diversity.update(texts)
        gold = zip(batch["response"].tolist(), batch["response_length"].tolist(), strict=True)
        given = zip(ids.tolist(), lengths.tolist(), strict=True)
        same = [a[:n] == b[:m] for (a, n), (b, m) in zip(given, gold, strict=True)]
        self._add("test", "exact", torch.tensor(same, device=self.device).float())
        if "answer" in batch:
            words = [re.findall(r"\w+", text) for text in texts]
            named = [word in said for word, said in zip(batch["answer"], words, strict=True)]
            self._add("test", "answer", torch.tensor(named, device=self.device).float())

    def on_test_epoch_end(self) -> None:
        self._log("test")
        assert self.bleu is not None
        found = {"bleu_2": self.bleu.of_order(2), "bleu_4": self.bleu.compute()}
        different = self.diversity.compute()
        found |= {k: different[k] for k in ("distinct_1", "distinct_2", "length")}
        self.log_dict({f"test/{k}": v.float() for k, v in found.items()}, sync_dist=True)
        truth = told(getattr(self.trainer, "datamodule", None), "truth")
        if truth and self.hparams["objective"] in DECOMPOSED:
            self.log_dict({"test/first_truth": truth[0], "test/second_truth": truth[1]}, sync_dist=True)

    def _log(self, stage: str) -> None:
        found = {name: self.scores[stage][name].compute() for name in _MEANS if name in self._seen}
        perplexity = {"ppl": found["nll"].exp()}
        if "helper" in found:
            found["helper_nll"] = found.pop("helper")
        if "first" in found:
            log_k = torch.tensor(float(self._columns)).log()
            found |= {"log_k": log_k, "saturation": found["first"] / log_k}
            if stage == "test":
                self._tell_saturated(found)
        for name, value in {**perplexity, **found}.items():
            self.log(f"{stage}/{name}", value.float(), prog_bar=name == "ppl", sync_dist=True, batch_size=1)

    def _tell_saturated(self, found: dict[str, Tensor]) -> None:
        for name in ("first", "second"):
            if name in found and float(found[name]) >= bounds.SATURATED * float(found["log_k"]):
                say(
                    f"{name} is saturated: {float(found[name]):.3f} of at most {float(found['log_k']):.3f} "
                    "nats; the truth may be anything above: raise data.init_args.eval_batch_size"
                )

    # --- responses ----------------------------------------------------------------------------------------

    @torch.no_grad()
    def responses(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Responses as ids (B, Y), their lengths, and log p(y | x') in nats, all (B,)."""
        h, lm = self.hparams, self.network.lm
        drawn = h["decoding"] == "sample"
        copies = h["candidates"] if h["objective"] == "mmi" else 1
        asked = {k: v.repeat_interleave(copies, dim=0) for k, v in batch.items() if isinstance(v, Tensor)}
        history, length, eos = asked["history"], asked["history_length"], h["eos_id"]
        uniform = None
        if drawn:
            many = [
                torch.rand(copies, h["max_length"], generator=generator(_DECODING, int(i)))
                for i in batch["index"]
            ]
            uniform = torch.cat(many).T.to(history.device)
        beams = h["beams"] if h["decoding"] == "beam" else 1
        how = (h["sampling_temperature"], h["top_k"] or None, beams)
        ids, lengths = lm.respond(history, length, h["max_length"], eos, uniform, *how)
        if copies > 1:
            assert self.network.helper is not None
            value = recovery(self.network.helper, asked, ids, lengths).view(-1, copies)
            best = value.argmax(dim=1) + torch.arange(len(value), device=value.device) * copies
            ids, lengths, history, length = ids[best], lengths[best], history[best], length[best]
        whole, ends = language.joined(history, length, ids, lengths)
        return ids, lengths, lm.log_likelihood(lm(whole), whole, length, ends).sum(dim=1)

    def _texts(self, ids: Tensor, lengths: Tensor) -> list[str]:
        rows = [row[:n] for row, n in zip(ids.tolist(), lengths.tolist(), strict=True)]
        return self.vocabulary.texts([[t for t in row if t != self.hparams["eos_id"]] for row in rows])

    def predict_step(self, batch: Batch, batch_idx: int) -> Responses:
        ids, lengths, log_p = self.responses(batch)
        texts, rows = self._texts(ids, lengths), len(ids)
        known = "reference" in batch and all(batch["reference"])
        found = self.terms(batch if rows > 1 else _twice(batch)) if known else {}
        records: list[dict[str, Any]] = []
        for i, text in enumerate(texts):
            record: dict[str, Any] = {"index": int(batch["index"][i])}
            record |= {"history": batch["context"][i].split("\n"), "response": text}
            record["log_p"] = round(float(log_p[i]), 4)
            if known:
                record["reference"] = batch["reference"][i]
                record["log_p_reference"] = round(float(found["log_p"][i]), 4)
            if "each" in found and rows > 1 and self.hparams["objective"] in DECOMPOSED:
                first, second = found["each"][i].tolist()
                record |= {"nats_last_turn": round(first, 4), "nats_history": round(second, 4)}
            records.append(record)
        return Responses(records, self.protocol)

    @property
    def protocol(self) -> str:
        """How responses are made, in words."""
        h = self.hparams
        how = {"greedy": "greedy", "beam": f"beam search, {h['beams']} beams"}.get(h["decoding"])
        drawn = f"drawn among {h['top_k'] or 'all'} tokens at temperature {h['sampling_temperature']:g}"
        more = f", the best of {h['candidates']} by log q(history | response)"
        return (how or drawn) + (more if h["objective"] == "mmi" else "")

    def respond(self, history: str | Sequence[str]) -> str:
        """The response to a history: an utterance, or several, oldest first.

        ``zoo.load("demi_facts").respond(["i live in oslo ...", "...", "where do i live ?"])``

        Raises:
            ValueError: for a history without a word, and weights without a tokenizer.
        """
        turns = [history] if isinstance(history, str) or not isinstance(history, Sequence) else list(history)
        if not turns or not all(isinstance(t, str) and t.strip() for t in turns):
            raise ValueError(f"a history is a text or a list of texts with words, not {history!r:.60}")
        content, eos = self.vocabulary.value or {}, self.hparams["eos_id"]
        longest = content.get("longest", self.network.lm.positions // 2)
        room = content.get("history_tokens", self.network.lm.positions - self.hparams["max_length"])
        ids = [[*row[:longest], eos] for row in self.vocabulary.ids(turns)]
        while len(ids) > 1 and sum(map(len, ids)) > room:
            ids.pop(0)
        whole, length = language.padded([[token for row in ids for token in row]], self.device)
        batch = {"history": whole, "history_length": length, "index": torch.zeros(1, dtype=torch.long)}
        return self._texts(*self.responses(batch)[:2])[0]


def _twice(batch: Batch) -> Batch:
    """One row alone has no negatives; what is per row needs none."""
    return {k: torch.cat([v, v]) if isinstance(v, Tensor) else v for k, v in batch.items()}
