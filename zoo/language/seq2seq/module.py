"""The LightningModule of sequence-to-sequence language models."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.nn import functional

from zoo.language.seq2seq.baselines import Dictionary, copied
from zoo.language.seq2seq.network import (
    SHAPES,
    SIZES,
    FeedForward,
    Model,
    settings_of_folder,
    start_from,
    t5,
)
from zoo.language.seq2seq.report import Translations
from zoo.language.seq2seq.scores import TextScores
from zoo.language.updates import TokenMean, decay_groups
from zoo.nn.data_fit import DataSizes, check_fit, told
from zoo.nn.decoding import beam_search, generate, gnmt_penalty
from zoo.nn.kept_tokenizer import KeptTokenizer
from zoo.nn.optim import with_schedule
from zoo.nn.parallel import refuse_sharding
from zoo.nn.processes import evaluated, total
from zoo.nn.ranges import Depth, Many, ManyOrZero, NonNegative, Positive, Rate, Share, Size, check_ranges
from zoo.nn.variants import Uses, refuse_unused
from zoo.randomness import generator, global_seed
from zoo.reports import say, write_protocol

Batch = dict[str, Any]
Decoding = Literal["greedy", "beam", "sample"]
_STREAM = 52_01
_USES: Uses = {
    **dict.fromkeys(("beam", "length_penalty"), ("beam",)),
    **dict.fromkeys(("temperature", "top_k", "top_p"), ("sample",)),
}
_FOUND = ("width", "layers", "heads", "head_width", "hidden")


class Seq2SeqLM(LightningModule):
    """An encoder-decoder of texts, T5 (Raffel et al. 2020), for translation.

    The loss is the cross-entropy of the target's tokens with smoothed labels, whose uniform part has the
    target, too: a mean over all tokens of the optimiser step, micro-batches and processes alike. For batches
    see :mod:`datamodules.text.pairs`: ``source`` (B, S) without ends, ``target`` (B, T) from BOS to EOS,
    whose BOS becomes T5's start, the pad; evaluation adds the texts ``history`` and ``reference``.

    ``test`` scores the outputs by BLEU and chrF of sacrebleu over the corpus, beside those of the copied
    source and of a dictionary of single words learned from the training pairs.

    Args:
        model: whose sizes are taken where the next five are null: ``t5-small``, ``t5-base``, ``t5-large``.
        width: of the states.
        layers: of encoder and of decoder.
        heads: of each attention.
        head_width: of a head; heads times it need not be the width.
        hidden: inner width of the feed-forward layers.
        feed_forward: ``relu``, or ``gated-gelu`` of T5 1.1.
        scaled: states are multiplied by width^-.5 before the one table of words makes logits of them.
        embedding_std: of that table at first. T5's 1 is for Adafactor, whose steps grow with the weights;
            AdamW learns faster from .05 with ``scaled: false``.
        vocab_size: V; at least the entries of the tokenizer.
        pad_id: of the tokenizer.
        bos_id: likewise.
        eos_id: likewise.
        pretrained: a folder of transformers' T5 (safetensors), with whose weights and sizes a fresh ``fit``
            begins; its tokenizer is ``data.init_args.tokenizer``.
        dropout: rate.
        label_smoothing: of the training loss.
        max_length: most tokens of an output, EOS included.
        decoding: ``greedy``, ``beam`` or ``sample``.
        beam: width.
        length_penalty: alpha of GNMT's ((5 + length) / 6)^alpha, by which a beam's log p is divided.
        temperature: of draws.
        top_k: draw among so many words; 0 among all.
        top_p: draw from the nucleus.
        generate_batches: batches of a validation whose outputs are scored, the first; 0 scores none.
        compile: compile encoder and decoder.
        optimizer: called with the parameters; gains have no weight decay.
        lr_scheduler: called with the optimizer, every step.

    Raises:
        ValueError: for impossible settings.
    """

    data_sizes: ClassVar[DataSizes] = {
        "vocab_size": "vocab_size",
        "pad_id": "pad_id",
        "bos_id": "bos_id",
        "eos_id": "eos_id",
    }
    divides_gradients: ClassVar[bool] = True

    def __init__(
        self,
        model: Model = "t5-small",
        width: Size | None = None,
        layers: Depth | None = None,
        heads: Depth | None = None,
        head_width: Size | None = None,
        hidden: Size | None = None,
        feed_forward: FeedForward = "relu",
        scaled: bool = True,
        embedding_std: Positive = 1.0,
        vocab_size: Many = 32128,
        pad_id: ManyOrZero = 0,
        bos_id: ManyOrZero = 0,
        eos_id: ManyOrZero = 1,
        pretrained: str | None = None,
        dropout: Rate = 0.1,
        label_smoothing: Rate = 0.1,
        max_length: Depth = 128,
        decoding: Decoding = "beam",
        beam: Depth = 4,
        length_penalty: NonNegative = 0.6,
        temperature: Positive = 1.0,
        top_k: ManyOrZero = 0,
        top_p: Share = 1.0,
        generate_batches: ManyOrZero = 2,
        compile: bool = False,
        optimizer: OptimizerCallable = lambda p: torch.optim.AdamW(p, lr=5e-4),
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        check_ranges(Seq2SeqLM, locals())
        super().__init__()
        self.save_hyperparameters(ignore=["optimizer", "lr_scheduler"])
        if model not in SHAPES:
            raise ValueError(f"model.init_args.model must be one of {', '.join(SHAPES)}, got {model!r}")
        if feed_forward not in ("relu", "gated-gelu"):
            raise ValueError(f"model.init_args.feed_forward must be relu or gated-gelu, got {feed_forward!r}")
        if decoding not in ("greedy", "beam", "sample"):
            raise ValueError(f"model.init_args.decoding must be greedy, beam or sample, got {decoding!r}")
        refuse_unused(Seq2SeqLM, self.hparams, "decoding", _USES)
        self._pretrained = self._start_of(pretrained)
        h = self.hparams
        if max(h["pad_id"], h["bos_id"], h["eos_id"]) >= h["vocab_size"] or h["eos_id"] == h["pad_id"]:
            raise ValueError(
                f"pad_id, bos_id and eos_id {h['pad_id'], h['bos_id'], h['eos_id']} must lie below "
                f"vocab_size {h['vocab_size']}, eos_id apart from the pad"
            )
        self.sizes = {k: n if h[k] is None else h[k] for k, n in zip(SIZES, SHAPES[h["model"]], strict=True)}
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.network = t5(
            h["vocab_size"],
            self.sizes,
            h["pad_id"],
            h["eos_id"],
            dropout,
            h["feed_forward"],
            h["scaled"],
            embedding_std,
        )
        self.vocabulary = KeptTokenizer()
        self.update = TokenMean()
        for name in ("nll_sum", "token_count"):
            self.register_buffer(name, torch.zeros((), dtype=torch.float64), persistent=False)
        self.scores: dict[str, TextScores] = {}
        self._dictionary: Dictionary | None = None

    nll_sum: Tensor
    token_count: Tensor

    def _start_of(self, pretrained: str | None) -> Path | None:
        """The folder that a fresh training begins with; its sizes become those of the module."""
        if pretrained is None:
            return None
        folder = Path(pretrained)
        if not folder.is_dir():
            raise ValueError(f"model.init_args.pretrained {pretrained} is no folder of transformers' T5")
        found = settings_of_folder(folder)
        for key in _FOUND:
            given = self.hparams[key]
            if given is not None and given != found[key]:
                raise ValueError(
                    f"model.init_args.{key} is {given}, but {pretrained} has {found[key]}: leave it out"
                )
        self.hparams.update({**found, "pretrained": None})
        return folder

    # --- set-up -----------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        refuse_sharding(self)
        check_fit(self, vocab_size=lambda own, found: own >= found)
        data = getattr(self.trainer, "datamodule", None)
        self.vocabulary.take(data)
        longest = told(data, "longest")
        if longest is not None and longest + 1 > self.hparams["max_length"]:
            raise ValueError(
                f"data.init_args.longest is {longest}, which with EOS is more than "
                f"model.init_args.max_length: {self.hparams['max_length']}; lower the one, or raise the other"
            )
        fresh = (
            stage == "fit" and self.trainer.ckpt_path is None and not getattr(self, "_given_weights", False)
        )
        if fresh and self._pretrained is not None:
            say(f"starts from {self._pretrained} ({start_from(self.network, self._pretrained)} tensors)")
        if self.hparams["compile"]:
            for part in (self.network.model.get_encoder(), self.network.model.get_decoder()):
                part.compile()

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        self._given_weights = True  # a fine-tuning starts from these, not from `pretrained`
        return super().load_state_dict(*args, **kwargs)

    def configure_optimizers(self) -> Any:
        return with_schedule(self.optimizer(decay_groups(self.network)), self.lr_scheduler)

    # --- training ---------------------------------------------------------------------------------------

    def _summed(self, batch: Batch, smoothing: float) -> tuple[Tensor, Tensor]:
        """(sum of the losses of the target's tokens, how many)."""
        target = batch["target"]
        logits = self.network.decode(target[:, :-1], self.network.encode(batch["source"]))
        labels = target[:, 1:]
        loss = functional.cross_entropy(
            logits.float().flatten(0, 1),
            self._labels(labels).flatten(),
            reduction="sum",
            label_smoothing=smoothing,
        )
        return loss, self._real(labels).sum()

    def _real(self, labels: Tensor) -> Tensor:
        """Tokens up to EOS, which may be told from pads by their place alone."""
        eos = labels == self.hparams["eos_id"]
        return eos.long().cumsum(dim=1) - eos.long() == 0

    def _labels(self, labels: Tensor) -> Tensor:
        return labels.where(self._real(labels), -100)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self.update.add(self, *self._summed(batch, self.hparams["label_smoothing"]))

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        loss, tokens = self.update.divide(self)
        self.log("train/loss", loss, prog_bar=True, batch_size=1)
        self.log("train/tokens", tokens, batch_size=1)

    # --- evaluation -------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        self._begin(["model"])

    def on_test_epoch_start(self) -> None:
        pairs = getattr(getattr(self.trainer, "datamodule", None), "training_pairs", None)
        self._dictionary = Dictionary(pairs()) if callable(pairs) else None
        self._begin(["model", "copy", *(["dictionary"] if self._dictionary else [])])

    def _begin(self, rows: Sequence[str]) -> None:
        self.nll_sum.zero_()
        self.token_count.zero_()
        self.scores = {name: TextScores() for name in rows}

    def _evaluate(self, batch: Batch, generates: bool) -> None:
        summed, count = self._summed(batch, 0.0)
        self.nll_sum += summed.double()
        self.token_count += count
        if not generates or "reference" not in batch:
            return
        index, sources, references = batch["index"].tolist(), batch["history"], batch["reference"]
        rows, _ = self._decoded(batch["source"], index)
        outputs = {"model": self.vocabulary.texts(rows), "copy": copied(sources)}
        if self._dictionary is not None and "dictionary" in self.scores:
            outputs["dictionary"] = self._dictionary(sources)
        for name, scores in self.scores.items():
            scores.update(index, outputs[name], references)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch, batch_idx < self.hparams["generate_batches"])

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch, True)

    def on_validation_epoch_end(self) -> None:
        self._report("val")

    def on_test_epoch_end(self) -> None:
        signatures = self._report("test")
        for signature in signatures:
            say(signature)
        how = {"decoding": self.protocol, "scorers": signatures, **self.vocabulary.described()}
        write_protocol(self.trainer.log_dir, {"model": how})

    def _report(self, stage: str) -> list[str]:
        summed, count = total(self.nll_sum), total(self.token_count)
        signatures: list[str] = []
        if count:
            nll = float(summed / count)
            self.log(f"{stage}/nll", nll, rank_zero_only=False)
            self.log(f"{stage}/perplexity", float(torch.tensor(nll).exp()), rank_zero_only=False)
        lowercase = bool(told(getattr(self.trainer, "datamodule", None), "lowercase"))
        for name, scores in self.scores.items():
            found, signatures = scores.compute(lowercase)
            for key, value in found.items():
                end = "" if name == "model" else f"_{name}"
                self.log(
                    f"{stage}/{key}{end}", value, prog_bar=key == "bleu" and not end, rank_zero_only=False
                )
        return signatures

    # --- outputs ----------------------------------------------------------------------------------------

    @property
    def protocol(self) -> str:
        """How outputs are made, in words."""
        h = self.hparams
        return {
            "greedy": "greedy",
            "beam": f"beam {h['beam']}, GNMT length penalty {h['length_penalty']}",
            "sample": f"drawn at temperature {h['temperature']}, top-k {h['top_k'] or 'all'}, "
            f"top-p {h['top_p']}",
        }[h["decoding"]] + f", at most {h['max_length']} tokens"

    @torch.no_grad()
    def _decoded(self, source: Tensor, index: Sequence[int]) -> tuple[Tensor, Tensor]:
        """(ids (B, T) with EOS, log p (B,)) of each source; draws are a function of (seed, index)."""
        h, network = self.hparams, self.network
        ends = (h["bos_id"], h["eos_id"], h["pad_id"])
        with evaluated(network):
            encoded = network.encode(source)
            if h["decoding"] == "beam":
                penalty = partial(gnmt_penalty, h["length_penalty"])
                rows = beam_search(network, encoded, h["beam"], h["max_length"], *ends, penalty)[0][:, 0]
            else:
                uniform = None
                if h["decoding"] == "sample":
                    draws = [
                        torch.rand(h["max_length"], generator=generator(_STREAM, global_seed(), i))
                        for i in index
                    ]
                    uniform = torch.stack(draws, dim=1).to(self.device)
                rows = generate(
                    network,
                    encoded,
                    h["max_length"],
                    *ends,
                    uniform,
                    h["temperature"],
                    h["top_k"] or None,
                    h["top_p"],
                )
            start = rows.new_full((len(rows), 1), h["bos_id"])
            logits = network.decode(torch.cat([start, rows[:, :-1]], dim=1), encoded).float()
            nll = functional.cross_entropy(
                logits.flatten(0, 1), self._labels(rows).flatten(), reduction="none"
            )
        return rows, -nll.view_as(rows).sum(dim=1)

    def predict_step(self, batch: Batch, batch_idx: int) -> Translations:
        index = batch["index"].tolist()
        rows, log_p = self._decoded(batch["source"], index)
        texts = self.vocabulary.texts(rows)
        return Translations(
            batch["history"], texts, log_p.tolist(), batch.get("reference", []), index, self.protocol
        )

    def translate(self, texts: str | Sequence[str]) -> list[str]:
        """A translation of each text; a single string is one text.

        ``zoo.load("runs/seq2seq_django_de/version_0/checkpoints/best.ckpt").translate("Save and continue")``

        Raises:
            ValueError: for an empty text, and for weights without a tokenizer.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        if not all(text.strip() for text in texts):
            raise ValueError("a text to translate must have a word")
        longest = int((self.vocabulary.value or {}).get("longest", self.hparams["max_length"]))
        found = []
        for number, ids in enumerate(self.vocabulary.ids(texts)):
            if len(ids) > longest:
                say(f"text {number} has {len(ids)} tokens, of which {longest} are read")
            rows, _ = self._decoded(torch.tensor([ids[:longest]], device=self.device), [number])
            found += self.vocabulary.texts(rows)
        return found

    # --- export -----------------------------------------------------------------------------------------

    dynamic_dims: ClassVar[dict[str, dict[int, str]]] = {}
