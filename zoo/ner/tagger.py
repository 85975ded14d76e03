"""Encoder and decoder in one network, and what of a batch an acquisition function looks at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.ner import acquisition as scores
from zoo.ner.decoders import CRFDecoder, Decoded, LinearDecoder, LSTMDecoder
from zoo.ner.network import BEGIN, END, CharEncoder, Encoded, WordEncoder
from zoo.ner.transformer import TransformerEncoder

Passes = Literal["all", "decoder"]


class Tagger(nn.Module):
    """h_enc = encoder(words), p(y|x) by the decoder.

    Args:
        encoder: gives (B, T, D) of the real words of an :class:`Encoded` or a transformer's batch.
        decoder: see :mod:`zoo.ner.decoders`.
    """

    def __init__(self, encoder: nn.Module, decoder: LSTMDecoder | CRFDecoder | LinearDecoder) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, words: Tensor, characters: Tensor, forms: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        """What ``zoo export`` writes.

        Args:
            words: int64 (B, T) ids of the real words, 0 at padding; the marks are set here.
            characters: int64 (W, L) as of an :class:`Encoded`.
            forms: int64 (B, T) which of the W each word is, 0 at padding.
            lengths: int64 (B,) of each sentence.

        Returns:
            ``tags`` int64 (B, T), -1 at padding, by greedy decoding, and ``mnlp`` (B,), log P(y*)/n.
        """
        place = torch.arange(words.shape[1] + 2, device=words.device)
        first, last = place == 0, place == lengths[:, None] + 1
        words = torch.where(first, BEGIN, torch.where(last, END, functional.pad(words, (1, 1))))
        forms = torch.where(first | last, 1, functional.pad(forms, (1, 1)))
        batch = Encoded(words, characters, forms, lengths)
        decoded = self.decode(batch)
        mnlp = scores.mnlp(decoded.log_p, lengths).float()
        return {"tags": torch.where(batch.mask, decoded.tags, -1), "mnlp": mnlp}

    def loss(self, batch: Encoded, tags: Tensor) -> Tensor:
        """-log p(y|x) of each sentence, (B,); ``tags`` int64 (B, T), whatever at padding."""
        return self.decoder.negative_log_likelihood(self.encoder(batch), batch.mask, tags.clamp(min=0))

    def decode(self, batch: Encoded, beam: int = 1) -> Decoded:
        """The tags taken for the best: greedy or by beam, of a CRF Viterbi's."""
        return self.decode_states(self.encoder(batch), batch.mask, beam)

    def decode_states(self, h: Tensor, mask: Tensor, beam: int = 1) -> Decoded:
        """:meth:`decode` of encoded words."""
        if beam > 1 and isinstance(self.decoder, LSTMDecoder):
            return self.decoder.beam(h, mask, beam)
        return self.decoder.decode(h, mask)


def build_encoder(h: Mapping[str, Any]) -> Any:
    """The encoder that the arguments of :class:`zoo.ActiveNER` describe."""
    if h["word_encoder"] == "transformer":
        return TransformerEncoder(h["backbone"], h["dropout"])
    characters = None
    if h["char_encoder"] != "none":
        characters = CharEncoder(
            h["char_encoder"],
            h["num_characters"],
            h["char_dim"],
            h["char_filters"],
            h["char_kernel"],
            h["char_layers"],
            h["char_hidden"],
            h["dropout"],
            h["char_residual"],
        )
    return WordEncoder(
        h["word_encoder"],
        characters,
        h["num_words"],
        h["word_dim"],
        h["word_filters"],
        h["word_kernel"],
        h["word_layers"],
        h["word_hidden"],
        h["dropout"],
        h["word_residual"],
    )


def build_decoder(h: Mapping[str, Any], width: int) -> LSTMDecoder | CRFDecoder | LinearDecoder:
    """The decoder that they describe, of states of ``width``."""
    count, kind = len(h["tags"]), h["tag_decoder"]
    if kind == "lstm":
        return LSTMDecoder(width, count, h["decoder_hidden"], h["dropout"], h["feedback"])
    return (CRFDecoder if kind == "crf" else LinearDecoder)(width, count, h["dropout"])


@contextmanager
def monte_carlo(network: nn.Module, seed: int) -> Iterator[None]:
    """Dropout layers alone in training mode, and the global generator as it was afterwards.

    Args:
        network: in eval mode.
        seed: of the dropout within.
    """
    layers = [m for m in network.modules() if isinstance(m, nn.Dropout)]
    device = next(network.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        try:
            for layer in layers:
                layer.train()
            yield
        finally:
            for layer in layers:
                layer.eval()


@dataclass
class Scored:
    """What is known of each sentence of a batch.

    Attributes:
        score: of the acquisition function, (B,), double.
        tags: the best tags, (B, T).
        mnlp: log P(y*) / n, (B,).
        vectors: mean of h_enc over the real words, (B, D).
    """

    score: Tensor
    tags: Tensor
    mnlp: Tensor
    vectors: Tensor


@torch.no_grad()
def score_batch(
    network: Tagger, batch: Encoded, acquisition: str, passes: int, seed: int, repeated: Passes = "all"
) -> Scored:
    """Scores of one batch of the pool; the network must be in eval mode.

    Args:
        network: that is unsure.
        batch: sentences.
        acquisition: name of the score.
        passes: M of the stochastic ones.
        seed: of their dropout.
        repeated: ``decoder`` encodes once and repeats the decoder, whose dropout alone acts then.
    """
    h, mask = network.encoder(batch), batch.mask
    decoded = network.decode_states(h, mask)
    mnlp = scores.mnlp(decoded.log_p, batch.lengths)
    vectors = (h * mask[..., None]).sum(1) / batch.lengths[:, None]
    if acquisition == "lc":
        score = decoded.log_p
    elif acquisition == "entropy":
        score = scores.masked_mean(scores.entropy(decoded.probabilities.double()), mask)
    elif acquisition == "margin":
        score = scores.masked_mean(scores.margin(decoded.probabilities), mask)
    elif acquisition in scores.STOCHASTIC:
        score = _stochastic(network, batch, h, acquisition, passes, seed, repeated)
    else:
        score = mnlp
    return Scored(score.double(), decoded.tags, mnlp, vectors)


def _stochastic(
    network: Tagger, batch: Encoded, h: Tensor, acquisition: str, passes: int, seed: int, repeated: Passes
) -> Tensor:
    mask = batch.mask
    votes, mean_p, mean_entropy = [], None, None
    with monte_carlo(network, seed):
        for _ in range(passes):
            state = network.encoder(batch) if repeated == "all" else h
            decoded = network.decode_states(state, mask)
            votes.append(decoded.tags)
            p = decoded.probabilities.double()
            mean_p = p if mean_p is None else mean_p + p
            entropy = scores.entropy(p)
            mean_entropy = entropy if mean_entropy is None else mean_entropy + entropy
    if acquisition == "bald":
        return scores.variation_ratio(torch.stack(votes), mask)
    assert mean_p is not None
    assert mean_entropy is not None
    return scores.mutual_information(mean_p / passes, mean_entropy / passes, mask)
