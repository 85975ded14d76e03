"""SeqCo: sequence-level contrastive learning for summarisation (Xu et al., AAAI 2022)."""

from __future__ import annotations

from typing import Any

from zoo.declaration import Method, lazy

_SMALL: dict[str, Any] = {
    "backbone": "bart",
    "sizes": {
        "d_model": 8,
        **{f"{side}_layers": 1 for side in ("encoder", "decoder")},
        **{f"{side}_attention_heads": 2 for side in ("encoder", "decoder")},
        **{f"{side}_ffn_dim": 8 for side in ("encoder", "decoder")},
        "max_position_embeddings": 32,
    },
    "vocab_size": 185,
    "special_ids": [3, 184],
    "max_length": 8,
    "min_length": 0,
    "sample_length": 8,
    "beams": 1,
    "weight_xy": 0.5,
    "weight_xyhat": 0.0,
}

METHODS = (
    Method(
        "SeqCo",
        page="seqco",
        title="SeqCo",
        about="Sequence-level contrastive learning (Xu et al., AAAI 2022): document, summary and generated "
        "summary are views of one meaning",
        small=(
            _SMALL,
            {**_SMALL, "weight_xy": 0.0},
            {**_SMALL, "weight_xyhat": 0.5, "similarity": "cls"},
            {**_SMALL, "weight_yyhat": "0:0,10:0.5", "representation": "decoder"},
            {**_SMALL, "similarity": "in_batch"},
            {**_SMALL, "similarity": "queue", "queue_size": 12},
            {**_SMALL, "weight_xyhat": 0.5, "weight_policy": 0.1, "policy_baseline": "mean"},
        ),
        data={
            "class_path": "datamodules.Summaries",
            "init_args": {"format": "procedural", "batch_size": 8, "max_source": 24, "max_target": 12},
        },
        weights="weights",
        converts="fairseq's BART and SeqCo checkpoints, transformers folders",
    ),
)

__getattr__ = lazy(__name__, METHODS)
