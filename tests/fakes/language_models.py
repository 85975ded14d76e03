"""Texts and token ids for the configs of language models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fakes.language import fake_bins, fake_texts

_TINY = {"width": 16, "layers": 1, "heads": 2, "hidden": 32, "context": 32}


def _twin(root: Path, config: dict[str, Any]) -> dict[str, Any]:
    """A few texts of bytes, or ids below 259, for a model that is as small."""
    model, data = (config[k]["init_args"] for k in ("model", "data"))
    if data["layout"] == "bin":
        fake_bins(root, entries=259, end=2)
    else:
        fake_texts(root)
    sizes = {**_TINY, **({"kv_heads": 1} if "llama" in model["model"] else {})}
    return {
        **{f"model.init_args.{k}": v for k, v in sizes.items()},
        "model.init_args.compile": False,
        "data.init_args.tokenizer": "bytes",
        "data.init_args.context": 32,
        "data.init_args.batch_size": 4,
        "data.init_args.num_workers": 0,
        "trainer.accumulate_grad_batches": 2,
        "trainer.precision": "32-true",
    }


TWINS = {"datamodules.TextStream": _twin}
WITHOUT_FILES = {"datamodules.TextStream": lambda given: given.get("layout", "stdlib") == "stdlib"}
