"""The networks of AMI: forward p(T|S), backward q(S|T), the latent noise, and their sizes."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zoo.ami.noise import NoiseSampler
from zoo.nn.encoder_decoder import GRU, RNN, Encoded, EncoderDecoder, Transformer

Variant = Literal["gru", "rnn", "transformer_base", "transformer_tiny", "hf"]

# width, layers, heads, feed-forward width, dropout
SIZES: dict[str, tuple[int, int, int, int, float]] = {
    "gru": (64, 1, 0, 0, 0.0),
    "rnn": (500, 2, 0, 0, 0.3),
    "transformer_base": (512, 6, 8, 2048, 0.1),
    "transformer_tiny": (64, 2, 4, 128, 0.1),
}


def encoder_decoder(
    variant: str,
    vocab_size: int,
    pad: int,
    tied: bool = False,
    width: int | None = None,
    layers: int | None = None,
    heads: int | None = None,
    hidden: int | None = None,
    dropout: float | None = None,
) -> EncoderDecoder:
    """A network of a variant; sizes that are None are the table's.

    Raises:
        ValueError: for a width that the heads do not divide.
    """
    own = SIZES[variant]
    d, depth, parts, inner = (g or o for g, o in zip((width, layers, heads, hidden), own[:4], strict=True))
    rate = own[4] if dropout is None else dropout
    if variant == "gru":
        return GRU(vocab_size, d, rate, pad, tied)
    if variant == "rnn":
        return RNN(vocab_size, d, depth, rate, pad, tied)
    return Transformer(vocab_size, d, depth, parts, inner, rate, pad, tied)


def networks_of(h: Mapping[str, Any]) -> tuple[Any, Any, str | None]:
    """Forward and backward network of a module's settings, and the architecture of ``hf`` as JSON."""
    if h["variant"] != "hf":
        sizes = [h[k] for k in ("width", "layers", "heads", "hidden", "dropout")]
        first, second = (
            encoder_decoder(h["variant"], h["vocab_size"], h["pad_id"], h["tied"], *sizes) for _ in range(2)
        )
        return first, second, h["architecture"]
    from zoo.ami.pretrained import pretrained_pair

    return pretrained_pair(
        h["architecture"], h["pretrained_forward"], h["pretrained_backward"], h["vocab_size"], h["pad_id"]
    )


def source_network(h: Mapping[str, Any], backward: Any) -> Any:
    """A network of the backward one's kind, which models S alone: its source is the history without a reply.
    Of ``hf`` it begins with the backward one's weights."""
    if h["variant"] == "hf":
        return copy.deepcopy(backward)
    sizes = [h[k] for k in ("width", "layers", "heads", "hidden", "dropout")]
    return encoder_decoder(h["variant"], h["vocab_size"], h["pad_id"], h["tied"], *sizes)


class AMINetwork(nn.Module):
    """Forward and backward network of one class with weights of their own, and the noise between the forward
    one's encoder and decoder.

    Args:
        forward_network: p(T|S).
        backward_network: q(S|T).
        noise: the sampler is learned; else there is none.
    """

    def __init__(self, forward_network: Any, backward_network: Any, noise: bool) -> None:
        super().__init__()
        self.forward_network, self.backward_network = forward_network, backward_network
        self.noise = NoiseSampler(forward_network.width) if noise else None

    def forward(self, source: Tensor, prefix: Tensor) -> Tensor:
        """Logits (B, T, V) of p(T|S) after each token of ``prefix`` (B, T), for sources (B, S)."""
        encoded = self.forward_network.encode(source)
        logits: Tensor = self.forward_network.decode(prefix, encoded)
        return logits

    def noise_of(self, encoded: Encoded, normal: Tensor) -> Tensor:
        """n = mu(h) + sigma(h) eps of the learned sampler for draws (K, B, S, d)."""
        assert self.noise is not None
        found: Tensor = self.noise(encoded.states, normal)
        return found


def shifted(labels: Tensor, bos: int) -> Tensor:
    """What a decoder reads to predict ``labels`` (B, T): BOS, then all but the last."""
    return torch.cat([labels.new_full((len(labels), 1), bos), labels[:, :-1]], dim=1)
