"""The Active-NER LightningModule: an epoch is a round, at whose end the pool is asked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.optim import SGD

from zoo.metrics.spans import OverlapF1, SpanF1
from zoo.ner.acquisition import Acquisition
from zoo.ner.decoders import DecoderName
from zoo.ner.network import (
    FIRST,
    PAD,
    UNKNOWN,
    CharEncoderName,
    Encoded,
    WordEncoderName,
    drop_words,
    initialise,
)
from zoo.ner.report import TaggedText
from zoo.ner.rounds import Rounds
from zoo.ner.schemes import spans_of, split_tag, strict_spans
from zoo.ner.settings import check_settings, scheme_of
from zoo.ner.tagger import Passes, Tagger, build_decoder, build_encoder
from zoo.ner.vocabulary import Vocabulary
from zoo.nn.data_fit import DataSizes, check_fit
from zoo.nn.optim import with_schedule
from zoo.nn.ranges import Count, Depth, Fraction, Many, Rate, Share, Size, check_ranges
from zoo.randomness import generator, global_seed

_WORD_DROP = 701
_CONLL = [f"{m}-{t}" for t in ("LOC", "MISC", "ORG", "PER") for m in "BIES"]


class ActiveNER(LightningModule):
    """Deep active learning for named entities (Shen et al., ICLR 2018): characters -> words -> tags.

    An epoch is a round. When its updates are made and its F1 is known, the model scores the sentences that
    nobody has labelled, the least certain ones are labelled up to the data's budget, and the next round
    trains the same weights (``warm_start``) on all of them.

    Batches have ``words`` (lists of texts), ``tags`` int64 (B, T) with -1 at padding and ``spans``; see
    :class:`datamodules.NER`. Its vocabulary is part of the weights.

    Args:
        tags: names of the K tags, of one scheme; decided by the data.
        num_words: words of the vocabulary.
        num_characters: characters of the vocabulary.
        char_encoder: ``cnn``, ``lstm`` or ``none``.
        word_encoder: ``cnn``, ``lstm`` or a ``transformer``.
        tag_decoder: ``lstm``, ``crf`` or ``linear``, a softmax of each word.
        char_dim: width of the character embeddings.
        char_filters: of each convolution over characters.
        char_kernel: its width.
        char_layers: convolutions over characters.
        char_residual: add each layer's input to its output, through a 1x1 convolution where widths differ.
        char_hidden: units of the character LSTM, per direction.
        word_dim: width of the word embeddings.
        word_filters: of each convolution over words.
        word_kernel: its width.
        word_layers: convolutions over words.
        word_residual: as ``char_residual``.
        word_hidden: units of the word LSTM, per direction.
        decoder_hidden: units of the decoder's LSTM.
        backbone: transformer of the Hugging Face hub or a local folder, first sub-token of each word.
        dropout: everywhere.
        word_drop: share of the words that become [UNK] in training.
        loss_reduction: over the words of a batch: their ``sum`` (the paper, whose rate of .001 needs it) or
            ``mean``.
        feedback: the tag before, in training: ``gold`` or the decoder's own, ``greedy``.
        beam: hypotheses of the decoding for validation, test and prediction; 1 is greedy.
        acquisition: who is asked: ``mnlp``, ``lc``, ``bald`` (the paper's: variation ratio), ``bald_mi``
            (mutual information), ``submod``, ``random``, ``entropy``, ``margin``; ``random_length`` draws
            sentences of the lengths that MNLP would ask, ``random_entity`` draws among those with a
            predicted entity.
        mc_passes: passes with dropout, M.
        mc_repeats: what is repeated: ``all``, or the ``decoder`` alone.
        candidates: c of submod: the candidates have c times the budget.
        max_similarity: a sentence whose mean state has a larger cosine to one that is asked before it waits;
            null asks near copies too.
        pool_sample: score a random sample of the pool of this size; null scores all.
        warm_start: later rounds go on with the weights; false starts each round from the first ones, with a
            new optimiser.
        target_f1: F1 whose cost in words is reported.
        stop_agreement: say that more labels hardly help when successive models agree so far (Cohen's kappa,
            the mean of three rounds) on the data's held-out sample.
        stop_training: end the run then.
        optimizer: of all parameters.
        lr_scheduler: stepped every update.

    Raises:
        ValueError: for settings that exclude each other.
    """

    data_sizes: ClassVar[DataSizes] = {
        "tags": "tags",
        "num_words": "num_words",
        "num_characters": "num_characters",
        "word_dim": "vector_size",
    }

    def __init__(
        self,
        tags: Sequence[str] = ("O", *_CONLL),
        num_words: Many = 1000,
        num_characters: Many = 100,
        char_encoder: CharEncoderName = "cnn",
        word_encoder: WordEncoderName = "cnn",
        tag_decoder: DecoderName = "lstm",
        char_dim: Size = 25,
        char_filters: Size = 50,
        char_kernel: Size = 5,
        char_layers: Depth = 1,
        char_residual: bool = True,
        char_hidden: Size = 25,
        word_dim: Size = 100,
        word_filters: Size = 800,
        word_kernel: Size = 3,
        word_layers: Depth = 2,
        word_residual: bool = False,
        word_hidden: Size = 100,
        decoder_hidden: Size = 256,
        backbone: str | None = None,
        dropout: Rate = 0.5,
        word_drop: Rate = 0.5,
        loss_reduction: Literal["sum", "mean"] = "sum",
        feedback: Literal["gold", "greedy"] = "gold",
        beam: Depth = 1,
        acquisition: Acquisition = "mnlp",
        mc_passes: Depth = 100,
        mc_repeats: Passes = "all",
        candidates: Count = 4,
        max_similarity: Fraction | None = None,
        pool_sample: Many | None = None,
        warm_start: bool = True,
        target_f1: Share | None = None,
        stop_agreement: Fraction | None = None,
        stop_training: bool = False,
        optimizer: OptimizerCallable = lambda p: SGD(p, lr=1e-3),
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        check_ranges(ActiveNER, locals())
        super().__init__()
        tags = list(tags)
        self.save_hyperparameters(ignore=["optimizer", "lr_scheduler"])
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        check_settings(ActiveNER, self.hparams, lr_scheduler is not None)
        self.entity_types = list(dict.fromkeys(kind for _, kind in map(split_tag, tags) if kind))
        self.scheme = scheme_of(tags)
        light = word_encoder != "transformer"
        self.vocabulary = Vocabulary(num_words, num_characters) if light else None
        encoder = build_encoder(self.hparams)
        self.network = Tagger(encoder, build_decoder(self.hparams, encoder.width))
        initialise(self.network.decoder)
        if self.vocabulary is not None:
            initialise(encoder)
        self._make_metrics([])

    # --- data ---------------------------------------------------------------------------------------------

    def configure_callbacks(self) -> Sequence[Callback]:
        return [Rounds()]

    def setup(self, stage: str) -> None:
        data = getattr(self.trainer, "datamodule", None)
        # trained weights bring their words along, and meet other texts
        knows = self.vocabulary is None or not self.vocabulary.is_empty
        sizes = dict.fromkeys(
            ("num_words", "num_characters", "word_dim"), lambda own, found: knows or own == found
        )
        check_fit(self, tags=lambda own, found: list(own) == list(found), **sizes)
        if self.vocabulary is None and getattr(data, "vectors", None):
            raise ValueError(
                "data.init_args.embeddings has vectors of words, which word_encoder: transformer does not "
                "use: its backbone has its own; leave them out"
            )
        self._make_metrics(list(getattr(data, "genres", ()) or ()))
        if stage == "fit" and self.vocabulary is not None and self.vocabulary.is_empty:
            if data is None or getattr(data, "num_words", None) is None:
                raise ValueError("ActiveNER learns its words from the data of a pool: use datamodules.NER")
            self.vocabulary.fill(data.vocabulary_words, data.vocabulary_characters)
            self._take_vectors(data.vectors)

    @torch.no_grad()
    def _take_vectors(self, vectors: dict[str, Tensor]) -> None:
        """Pretrained embeddings of the words that have some."""
        embedding: Any = self.network.encoder.embedding
        assert self.vocabulary is not None
        for word, vector in vectors.items():
            embedding.weight[self.vocabulary.id_of(word)] = vector

    def _make_metrics(self, genres: list[str]) -> None:
        self.genres = genres
        for stage in ("val", "test"):
            self.add_module(f"{stage}_f1", SpanF1(self.entity_types, genres))
        self.add_module("test_strict", SpanF1(self.entity_types))
        self.add_module("test_overlap", OverlapF1())

    def encode(self, sentences: Sequence[Sequence[str]]) -> Encoded:
        """Words as numbers on the module's device."""
        if self.vocabulary is None:
            return self.network.encoder.encode(sentences, self.device)  # type: ignore[operator]
        return self.vocabulary.encode(sentences, self.device)

    # --- training -----------------------------------------------------------------------------------------

    def configure_optimizers(self) -> Any:
        return with_schedule(self.optimizer(self.network.parameters()), self.lr_scheduler)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        encoded = self.encode(batch["words"])
        if self.hparams["word_drop"] and self.vocabulary is not None:
            encoded = drop_words(encoded, self._word_draws(encoded, batch_idx), self.hparams["word_drop"])
        total = self.network.loss(encoded, batch["tags"]).sum()
        words = encoded.lengths.sum()
        self.log("train/loss_per_word", (total / words).detach(), prog_bar=True, batch_size=int(words))
        if self.hparams["loss_reduction"] == "sum":
            # processes average their gradients
            return total * self.trainer.world_size
        return total / self._mean_over_processes(words)

    def _word_draws(self, encoded: Encoded, batch_idx: int) -> Tensor:
        """Uniform (B, T - 2), a function of (seed, step, place in the global batch)."""
        world, rank = self.trainer.world_size, self.global_rank
        key = (_WORD_DROP, global_seed(), self.trainer.global_step, batch_idx)
        size = (encoded.words.shape[1] - 2,)
        rows = [
            torch.rand(size, generator=generator(*key, rank + world * row))
            for row in range(len(encoded.lengths))
        ]
        return torch.stack(rows).to(self.device)

    def _mean_over_processes(self, words: Tensor) -> Tensor:
        if self.trainer.world_size == 1:
            return words
        every = words.clone().float()
        torch.distributed.all_reduce(every)
        return every / self.trainer.world_size

    # --- evaluation ---------------------------------------------------------------------------------------

    @torch.no_grad()
    def tag_batch(self, sentences: Sequence[Sequence[str]]) -> tuple[list[list[str]], list[float]]:
        """Names of the tags of each sentence, and log P(y*)/n. Longer and shorter ones may stand together."""
        encoded = self.encode(sentences)
        decoded = self.network.decode(encoded, self.hparams["beam"])
        rows = decoded.tags.tolist()
        names = [
            [self.hparams["tags"][t] for t in row[: len(s)]] for row, s in zip(rows, sentences, strict=True)
        ]
        return names, (decoded.log_p / encoded.lengths).tolist()

    def tag(self, sentences: str | Sequence[str | Sequence[str]]) -> list[list[tuple[int, int, str]]]:
        """Entities of sentences: texts with blanks between words, or lists of words.

        Args:
            sentences: a single string is one sentence.

        Returns:
            (first word, word after the last, type) of each entity of each sentence.

        Raises:
            ValueError: for what is neither a text nor a list of words.
        """
        if not isinstance(sentences, Iterable) or isinstance(sentences, bytes | Mapping | Set):
            raise ValueError(f"a sentence is a text, or a list of its words, not {sentences!r:.60}")
        given = [sentences] if isinstance(sentences, str) else list(sentences)
        for s in given:
            if not isinstance(s, str) and not (
                isinstance(s, Sequence) and all(isinstance(w, str) and w for w in s)
            ):
                raise ValueError(f"a sentence is a text, or a list of its words, not {s!r:.60}")
        words = [s.split() if isinstance(s, str) else list(s) for s in given]
        filled = [w for w in words if w]
        self.eval()
        found = iter(self.tag_batch(filled)[0] if filled else [])
        return [spans_of(next(found)) if w else [] for w in words]

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self._evaluate(batch, "val")

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self._evaluate(batch, "test")

    def _evaluate(self, batch: dict[str, Any], stage: str) -> None:
        if "spans" not in batch:
            raise ValueError(f"the {stage} set has sentences without labels: they cannot be scored")
        names, _ = self.tag_batch(batch["words"])
        found = [spans_of(tags) for tags in names]
        groups = batch["genre"].tolist() if self.genres else None
        getattr(self, f"{stage}_f1").update(batch["spans"], found, groups)
        if stage == "test":
            if self.scheme != "iob1":
                self.test_strict.update(batch["spans"], [strict_spans(t, self.scheme) for t in names])  # type: ignore[operator, union-attr]
            self.test_overlap.update(batch["spans"], found)  # type: ignore[operator, union-attr]

    def on_validation_epoch_end(self) -> None:
        found = self._computed("val_f1")
        self.log("val/f1", found["f1"], prog_bar=True, sync_dist=True)
        self.log_dict({f"val/{k}": found[k] for k in ("precision", "recall")}, sync_dist=True)

    def on_test_epoch_end(self) -> None:
        found = self._computed("test_f1")
        if self.scheme != "iob1":
            found["strict_f1"] = self._computed("test_strict")["f1"]
        found |= {f"{k}_f1": v for k, v in self._computed("test_overlap").items()}
        self.log_dict({f"test/{k}": v for k, v in found.items()}, sync_dist=True)

    def _computed(self, name: str) -> dict[str, Tensor]:
        """Values over all processes, each of the whole set; the metric is emptied."""
        metric: Any = getattr(self, name)
        found: dict[str, Tensor] = metric.compute()
        metric.reset()
        return found

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> TaggedText:
        names, scores = self.tag_batch(batch["words"])
        spans = [spans_of(tags) for tags in names]
        return TaggedText(
            batch["words"], spans, scores, batch.get("spans"), batch["index"].tolist(), self.global_rank
        )

    # --- export -------------------------------------------------------------------------------------------

    dynamic_dims: ClassVar[dict[str, dict[int, str]]] = {
        "words": {0: "batch", 1: "places"},
        "characters": {0: "forms", 1: "letters"},
        "forms": {0: "batch", 1: "places"},
        "lengths": {0: "batch"},
    }

    def inputs(self, sentences: Sequence[Sequence[str]]) -> dict[str, Tensor]:
        """Sentences, lists of words, as an exported file takes them."""
        found = self.encode(sentences)
        real = found.mask
        words, forms = (torch.where(real, x[:, 1:-1], 0) for x in (found.words, found.forms))
        return {"words": words, "characters": found.characters, "forms": forms, "lengths": found.lengths}

    def example_inputs(self, batch: int) -> dict[str, Tensor]:
        """Random sentences of 1, 3, 5, ... words; every id is among them in time.

        Raises:
            ValueError: for a network whose loops hang on what is in a sentence.
        """
        h = self.hparams
        for key, given in (("word_encoder", h["word_encoder"]), ("char_encoder", h["char_encoder"])):
            if given not in ("cnn", "none"):
                raise ValueError(f"ActiveNER cannot be exported with {key}: {given}; cnn has fixed shapes")
        if h["tag_decoder"] == "crf":
            raise ValueError("ActiveNER cannot be exported with tag_decoder: crf; lstm and linear can")
        lengths = torch.tensor([1 + (2 * i) % (batch + 4) for i in range(batch)])
        places, forms, letters = int(lengths.max()), 2 * batch + 3, batch + 5
        real = torch.arange(places) < lengths[:, None]
        words = torch.randint(UNKNOWN, h["num_words"] + FIRST, real.shape)
        characters = torch.randint(FIRST, h["num_characters"] + FIRST, (forms, letters))
        characters[torch.arange(letters) >= torch.randint(3, letters + 1, (forms, 1))] = PAD
        characters[0] = PAD
        tensors = (
            torch.where(real, words, PAD),
            characters,
            torch.where(real, torch.randint(2, forms, real.shape), 0),
            lengths,
        )
        return dict(zip(self.dynamic_dims, (t.to(self.device) for t in tensors), strict=True))
