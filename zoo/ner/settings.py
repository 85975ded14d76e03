"""Which options of the tagger belong together: what the chosen variant does not use is refused."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from zoo.nn.variants import refuse_unused

_CNN, _LSTM, _LIGHT = ("cnn",), ("lstm",), ("cnn", "lstm")
_USES_OF_CHARACTERS = {
    "char_filters": _CNN,
    "char_kernel": _CNN,
    "char_layers": _CNN,
    "char_residual": _CNN,
    "char_hidden": _LSTM,
    "char_dim": _LIGHT,
}
_USES_OF_WORDS = {
    "word_filters": _CNN,
    "word_kernel": _CNN,
    "word_layers": _CNN,
    "word_residual": _CNN,
    "word_hidden": _LSTM,
    "word_dim": _LIGHT,
    "word_drop": _LIGHT,
    "backbone": ("transformer",),
}
_USES_OF_TAGS = {"decoder_hidden": ("lstm",), "feedback": ("lstm",), "beam": ("lstm",)}
_USES_OF_SCORE = {
    "mc_passes": ("bald", "bald_mi"),
    "mc_repeats": ("bald", "bald_mi"),
    "candidates": ("submod",),
    "max_similarity": ("mnlp", "lc", "bald", "bald_mi", "entropy", "margin"),
}


def check_settings(cls: type, h: Mapping[str, Any], scheduled: bool) -> None:
    """Refuse settings that exclude each other.

    Args:
        cls: whose constructor has the defaults.
        h: its arguments.
        scheduled: whether a schedule of the learning rate is given.

    Raises:
        ValueError: naming the option and what to do.
    """
    if h["word_encoder"] == "transformer":
        if h["backbone"] is None:
            raise ValueError("model.init_args.backbone names the transformer of word_encoder: transformer")
        for name in (*_USES_OF_CHARACTERS, "char_encoder"):
            if h[name] != default_of(cls, name):
                raise ValueError(
                    f"model.init_args.{name} is {h[name]}, which word_encoder: transformer does not use; "
                    f"leave it out (its default is {default_of(cls, name)})"
                )
    else:
        refuse_unused(cls, h, "char_encoder", _USES_OF_CHARACTERS)
    refuse_unused(cls, h, "word_encoder", _USES_OF_WORDS)
    refuse_unused(cls, h, "tag_decoder", _USES_OF_TAGS)
    refuse_unused(cls, h, "acquisition", _USES_OF_SCORE)
    if h["stop_training"] and h["stop_agreement"] is None:
        raise ValueError("model.init_args.stop_training ends at stop_agreement, which is null; set both")
    if not h["warm_start"] and scheduled:
        raise ValueError(
            "warm_start: false starts the optimiser anew each round, which "
            "model.init_args.lr_scheduler would run across; leave it out"
        )
    if len(set(h["tags"])) < len(h["tags"]) or "O" not in h["tags"]:
        raise ValueError(f"model.init_args.tags must be different names with O among them, got {h['tags']}")


def default_of(cls: type, name: str) -> Any:
    """Of an argument of a constructor."""
    return inspect.signature(cls).parameters[name].default


def scheme_of(tags: Sequence[str]) -> str:
    """The scheme that names of tags are of, by their letters."""
    letters = {tag[:1] for tag in tags}
    if letters & {"L", "U"}:
        return "bilou"
    return "iobes" if letters & {"E", "S"} else "iob2"
