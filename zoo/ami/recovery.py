"""What a backward network q(S|T) recovers of the source of a reply."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from zoo.ami.information import join_rows, lengths_of, sequence_nll
from zoo.ami.noise import placed

Batch = Mapping[str, Any]


def recovery_logits(
    network: Any, batch: Batch, reply: Tensor, pad: int, copies: int = 1, extra: Tensor | None = None
) -> Tensor:
    """Logits of the tokens to recover, (copies B, R - 1, V), from sources ``context`` + ``reply``.

    Args:
        network: a backward one.
        batch: of the data, B pairs.
        reply: ids without ends, (copies B, T).
        pad: id.
        copies: replies to each source, the first of all sources first.
        extra: is added to the embeddings of the reply, (copies B, T, d).
    """
    context = batch["context"].repeat(copies, 1)
    source = join_rows(context, reply, pad)
    if extra is not None:
        extra = placed(extra, lengths_of(context, pad), lengths_of(reply, pad), source.shape[1])
    encoded = network.encode(source, extra)
    logits: Tensor = network.decode(batch["recover"][:, :-1].repeat(copies, 1), encoded)
    return logits


def no_reply(batch: Batch) -> Tensor:
    """Replies (B, 0): what is recovered from the history alone."""
    target: Tensor = batch["target"]
    return target[:, :0]


def recovery_nll(
    network: Any,
    batch: Batch,
    reply: Tensor,
    pad: int,
    copies: int = 1,
    mean: bool = False,
    extra: Tensor | None = None,
) -> Tensor:
    """-log q(S|T') of each reply, (copies B,); for the arguments see :func:`recovery_logits`.

    Args:
        mean: over the tokens of S; else their sum.
    """
    logits = recovery_logits(network, batch, reply, pad, copies, extra)
    return sequence_nll(logits, batch["recover"][:, 1:].repeat(copies, 1), pad, mean)
