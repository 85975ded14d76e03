"""Where the CLS tokens look: attention rollout (Abnar & Zuidema, 2020) through streams and bottleneck."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from zoo.mbt.network import Block, FusionNetwork


@contextmanager
def _recording(network: FusionNetwork) -> Iterator[list[Block]]:
    blocks = [m for m in network.modules() if isinstance(m, Block)]
    for block in blocks:
        block.recorded = []
    try:
        yield blocks
    finally:
        for block in blocks:
            block.recorded = None


@torch.no_grad()
def attention_rollout(
    network: FusionNetwork,
    inputs: dict[str, Tensor],
    source: str | None = None,
    fuse: bool = True,
    present: Tensor | None = None,
) -> dict[str, Tensor]:
    """Rollout of the CLS tokens over the patches of each modality, (B, *grid), rows summing to at most 1.

    Each layer's attention, the mean of the heads, is a matrix over all tokens: streams and bottleneck;
    0.5 (A + I) stands for attention and residual path, and the product over the layers is followed back from
    the CLS tokens. A new bottleneck token is the mean of its copies. For pooled networks (``gap``) the rows
    of all tokens are averaged.

    Args:
        inputs: ``rgb`` and ``spectrogram`` as the network takes them.
        source: follow one modality's CLS token alone; None averages them.
        fuse: False leaves the exchange out.
        present: bool (B, M), which of the given modalities a sample has; the map of an absent one is 0.
    """
    streams = network.embed(inputs.get("rgb"), inputs.get("spectrogram"))
    names, sizes = list(streams), [z.shape[1] for z in streams.values()]
    with _recording(network) as blocks:
        network.encode(streams, present, fuse)
        records = {id(block): list(block.recorded or []) for block in blocks}
    tokens = 0 if network.bottleneck is None else network.bottleneck.shape[1]
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    total = sum(sizes) + tokens
    first = next(iter(streams.values()))
    row = torch.zeros(len(first), total, device=first.device, dtype=torch.float32)
    there = torch.ones_like(row[:, : len(names)]) if present is None else present.to(row.dtype)
    shares = there / there.sum(dim=1, keepdim=True).clamp(min=1)
    for i, name in enumerate(names):
        if source in (None, name):
            places = [starts[i]] if network.classifier == "token" else range(starts[i], starts[i] + sizes[i])
            row[:, list(places)] = there[:, i, None]
    row = row / row.sum(dim=1, keepdim=True).clamp(min=1)
    for layer in reversed(range(network.depth)):
        before = torch.zeros_like(row)
        own = sum(sizes)
        if tokens and not (fuse and layer >= network.fusion_layer):
            before[:, own:] += row[:, own:]
        joint = network.fusion == "shared_self_attention" and fuse and layer >= network.fusion_layer
        if joint:
            record = records[id(network.stack(names[0])[layer])].pop()
            row = 0.5 * row + 0.5 * torch.einsum("bq,bqk->bk", row, record.float())
            continue
        for i in reversed(range(len(names))):
            record = records[id(network.stack(names[i])[layer])].pop().float()
            columns = _columns(i, starts, sizes, record.shape[2], own, tokens)
            queries = list(range(starts[i], starts[i] + sizes[i]))
            weight = row[:, queries]
            before[:, queries] += 0.5 * weight
            if record.shape[1] > sizes[i]:  # bottleneck rows: the mean of the present copies
                share = row[:, own:] * shares[:, i, None]
                before[:, own:] += 0.5 * share
                weight = torch.cat([weight, share], dim=1)
            before[:, columns] += 0.5 * torch.einsum("bq,bqk->bk", weight, record)
        row = before
    skip = int(network.classifier == "token")
    return {
        name: row[:, starts[i] + skip : starts[i] + sizes[i]].unflatten(1, network.grids[name])
        for i, name in enumerate(names)
    }


def _columns(i: int, starts: list[int], sizes: list[int], keys: int, own: int, tokens: int) -> list[int]:
    """Where the keys of modality i's block lie among all tokens."""
    mine = list(range(starts[i], starts[i] + sizes[i]))
    if keys == sizes[i]:
        return mine
    if keys == sizes[i] + tokens and tokens:
        return mine + list(range(own, own + tokens))
    others = [c for j in range(len(sizes)) if j != i for c in range(starts[j], starts[j] + sizes[j])]
    return others + mine
