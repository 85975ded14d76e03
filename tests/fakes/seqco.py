"""A small SeqCo and its procedural data."""

from __future__ import annotations

from typing import Any

import torch
from quiet import quiet_trainer
from torch import Tensor

import datamodules
from zoo.seqco import SeqCo
from zoo.seqco.sampling import Special

SIZES: dict[str, Any] = {
    "d_model": 16,
    **{f"{side}_layers": 1 for side in ("encoder", "decoder")},
    **{f"{side}_attention_heads": 2 for side in ("encoder", "decoder")},
    **{f"{side}_ffn_dim": 32 for side in ("encoder", "decoder")},
    "max_position_embeddings": 32,
}
BART = Special(pad=1, eos=2, bos=0, start=2, others=(3, 184))


def small(dropout: float = 0.0, **given: Any) -> SeqCo:
    sizes = {**SIZES, "dropout": dropout, "attention_dropout": dropout}
    arguments: dict[str, Any] = {
        "vocab_size": 185,
        "special_ids": [3, 184],
        "weight_xyhat": 0.0,
        "beams": 1,
        "min_length": 0,
        "max_length": 8,
        "sample_length": 8,
        "optimizer": lambda p: torch.optim.SGD(p, lr=0.1),
    }
    return SeqCo("bart", sizes, **arguments | given)


def data(**given: Any) -> Any:
    return datamodules.Summaries(
        **{"format": "procedural", "batch_size": 8, "max_source": 24, "max_target": 8} | given
    )


def fitted(module: SeqCo, steps: int = 1, accumulate: int = 1, **given: Any) -> SeqCo:
    trainer = quiet_trainer(max_steps=steps, limit_val_batches=0, accumulate_grad_batches=accumulate)
    trainer.fit(module, data(**given))
    return module


def one_batch(rows: int = 4) -> dict[str, Tensor]:
    made = data(batch_size=rows)
    made.setup("fit")
    batch: dict[str, Tensor] = made.train_set.__getitems__(list(range(rows)))
    return batch
