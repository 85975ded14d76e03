"""What the arguments of :class:`zoo.SeqCo` may be together, and the special tokens that they name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, get_args

from zoo.nn.variants import Uses, refuse_unused
from zoo.seqco import backbones
from zoo.seqco.network import Similarity
from zoo.seqco.sampling import Special
from zoo.seqco.views import Representation, ViewFormat
from zoo.seqco.weighting import Pair, Schedule

USES: dict[str, Uses] = {
    "similarity": {
        "temperature": ("in_batch", "queue"),
        "mask_padding": ("cross_attention", "in_batch"),
        "queue_size": ("queue",),
    },
    "bertscore": {"bertscore_layer": "a folder"},
    "generated": {
        "sample_every": ("online",),
        "sample_beams": ("online",),
        "sample_top_p": ("online",),
    },
}


def check(cls: type, h: Mapping[str, Any], weights: Mapping[Pair, Schedule]) -> None:
    """Refuse settings that are no choice, are not used, or contradict each other.

    Args:
        cls: with the defaults.
        h: hyperparameters.
        weights: of the pairs.

    Raises:
        ValueError: one line that names them.
    """
    for choice, uses in USES.items():
        refuse_unused(cls, h, choice, uses)
    _check_used(cls, h, weights)
    choices = {
        "similarity": get_args(Similarity),
        "representation": get_args(Representation),
        "view_format": get_args(ViewFormat),
        "contrast_reduction": ("token_sum", "mean"),
        "generated": ("online", "cached"),
        "policy_baseline": ("none", "mean"),
    }
    for key, allowed in choices.items():
        if h[key] not in allowed:
            raise ValueError(f"{key} must be one of {', '.join(allowed)}, got {h[key]!r}")
    if h["decoder_start"] not in (None, "eos", "pad", "bos"):
        raise ValueError(f"decoder_start must be null, eos, pad or bos, got {h['decoder_start']!r}")
    if h["min_length"] > h["max_length"]:
        raise ValueError(
            f"model.init_args.min_length is {h['min_length']}, more than max_length {h['max_length']}"
        )
    if h["candidates"] > h["beams"]:
        raise ValueError(f"model.init_args.candidates is {h['candidates']}, more than beams {h['beams']}")
    if h["sample_length"] < 2:
        raise ValueError("model.init_args.sample_length must be at least 2: the start token and one more")
    if h["representation"] == "decoder" and weights["yyhat"].is_zero:
        raise ValueError(
            "model.init_args.representation is decoder, which is for y and yhat where they are compared; "
            "set model.init_args.weight_yyhat, or leave it out"
        )
    if h["representation"] == "decoder" and h["view_format"] == "shifted":
        raise ValueError(
            "view_format: shifted is a form of encoder inputs; leave it out with representation: decoder"
        )


_OF_DRAWN = ("generated", "sample_every", "sample_beams", "sample_top_p")
_OF_COMPARED = (
    *("symmetrical", "similarity", "mask_padding", "view_format", "target_dropout", "detach_encoder"),
    "reuse_source",
)


def _check_used(cls: type, h: Mapping[str, Any], weights: Mapping[Pair, Schedule]) -> None:
    """Refuse what acts on nothing because weights are 0, or because a search is none.

    What full recipes set for all arms, a baseline's too, is not among it: ``contrast_reduction``,
    ``ema_decay``, ``sample_length``, ``restart_at``.
    """
    defaults = {name: p.default for name, p in inspect.signature(cls).parameters.items()}
    reasons: list[tuple[tuple[str, ...], str]] = []
    if weights["xyhat"].is_zero and weights["yyhat"].is_zero:
        reasons.append((_OF_DRAWN, "no generated summary is compared: set weight_xyhat or weight_yyhat"))
    if all(weight.is_zero for weight in weights.values()) and not h["monitor"]:
        reasons.append((_OF_COMPARED, "nothing is compared: set weight_xy, weight_xyhat or weight_yyhat"))
    if h["sample_beams"] > 1:
        reasons.append((("sample_top_p",), "sample_beams searches and draws nothing: set sample_beams: 1"))
    # 1 and 2 are the recipes', which may be searched greedily, too
    if h["beams"] == 1 and h["length_penalty"] != 1:
        reasons.append((("length_penalty",), "it orders beams, of which there is 1: set beams to more"))
    for names, why in reasons:
        for name in names:
            if h[name] != defaults[name]:
                raise ValueError(
                    f"model.init_args.{name} is {h[name]}, but {why}, or leave it out (its default is "
                    f"{defaults[name]})"
                )


def check_policy(h: Mapping[str, Any], weights: Mapping[Pair, Schedule], policy: Schedule) -> None:
    """Refuse a policy gradient without what it needs: drawn summaries, and a similarity of each token.

    Raises:
        ValueError: one line that names the setting.
    """
    if policy.is_zero:
        if h["policy_baseline"] != "none":
            raise ValueError("model.init_args.policy_baseline is of a policy gradient; set weight_policy")
        return
    if weights["xyhat"].is_zero:
        raise ValueError(
            "model.init_args.weight_policy needs weight_xyhat: the similarity of document and generated "
            "summary is the reward, and has to be learned"
        )
    wanted = {
        "similarity": "cross_attention",
        "generated": "online",
        "view_format": "natural",
        "sample_beams": 1,
        "sample_top_p": 1.0,
    }
    for key, value in wanted.items():
        if h[key] != value:
            raise ValueError(
                f"model.init_args.weight_policy needs {key}: {value}, got {h[key]}: the tokens it makes "
                "likelier are draws of the model, each with its similarity"
            )


def special_tokens(h: Mapping[str, Any], kind: str) -> Special:
    """Ids of the tokens that are no text.

    Args:
        h: hyperparameters.
        kind: the backbone's ``model_type``, which says what its decoder begins with.

    Raises:
        ValueError: for an id beyond the vocabulary, or a start that is none.
    """
    ids = [h["pad_token_id"], h["eos_token_id"], *h["special_ids"], h["bos_token_id"]]
    if max(ids) >= h["vocab_size"]:
        raise ValueError(
            f"model.init_args.vocab_size is {h['vocab_size']}, but a special token has the id {max(ids)}"
        )
    start = h["decoder_start"] or ("eos" if kind in ("bart", "led", "mbart") else "pad")
    if h["bos_token_id"] < 0 and start == "bos":
        raise ValueError("decoder_start: bos needs a bos_token_id, which is -1")
    bos = None if h["bos_token_id"] < 0 else h["bos_token_id"]
    return Special(h["pad_token_id"], h["eos_token_id"], bos, h[f"{start}_token_id"], tuple(h["special_ids"]))


def check_positions(h: Mapping[str, Any], config: Any, draws: bool) -> None:
    """Refuse summaries that are longer than the decoder's positions.

    Args:
        h: hyperparameters.
        config: of the backbone.
        draws: whether summaries are drawn while training.
    """
    longest = backbones.target_positions_of(config)
    for key in ("max_length", *["sample_length"] * draws):
        if longest is not None and h[key] > longest:
            raise ValueError(f"model.init_args.{key} is {h[key]}, but the decoder has {longest} positions")


def check_lengths(data_lengths: Mapping[str, int | None], config: Any) -> None:
    """Refuse data that are cut at more tokens than the backbone has positions.

    Args:
        data_lengths: ``max_source`` and ``max_target`` of the data, None where they do not tell.
        config: of the backbone.
    """
    room = {
        "max_source": backbones.positions_of(config),
        "max_target": backbones.target_positions_of(config),
    }
    for key, positions in room.items():
        found = data_lengths[key]
        if found is not None and positions is not None and found > positions:
            raise ValueError(
                f"data.init_args.{key} is {found}, but the model has {positions} positions; set "
                f"data.init_args.{key}: {positions}, or model.init_args.sizes to a model with more"
            )
