"""Which settings of AMI go together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zoo.ami.information import Cycle
from zoo.nn.variants import refuse_unused

_TRANSFORMERS = ("transformer_base", "transformer_tiny")
_OWN = ("gru", "rnn", *_TRANSFORMERS)
_OF_VARIANT = {
    "width": _OWN,
    "layers": ("rnn", *_TRANSFORMERS),
    "heads": _TRANSFORMERS,
    "hidden": _TRANSFORMERS,
    "dropout": _OWN,
    "tied": _OWN,
    "pretrained_forward": ("hf",),
    "pretrained_backward": ("hf",),
    "architecture": ("hf",),
}
_OF_NOISE = {
    "noise_std": ("gaussian",),
    "rho": ("learned",),
    "noise_limit": ("learned",),
    "noise_grad": ("learned",),
    "noise_batches": ("learned",),
    "pretrain_noise": ("learned",),
}


def check_settings(module: type, h: Mapping[str, Any]) -> None:
    """Refuse settings that are impossible, or that others leave without use.

    Args:
        module: whose constructor has the defaults.
        h: hyperparameters.

    Raises:
        ValueError: in one line.
    """
    refuse_unused(module, h, "variant", _OF_VARIANT)
    refuse_unused(module, h, "noise", _OF_NOISE)
    refuse_unused(module, h, "source_model", {"pretrain_source": (True,)})
    if h["rollout"] == "teacher_forced":
        refuse_unused(module, h, "rollout", {"temperature": ("sample",)})
    if not h["table"]:
        raise ValueError("model.init_args.table names no decoding; choose of greedy, beam, sample")
    ids = (h["pad_id"], h["bos_id"], h["eos_id"])
    if max(ids) >= h["vocab_size"] or h["eos_id"] in ids[:2]:
        raise ValueError(
            f"pad_id, bos_id and eos_id {ids} must lie below vocab_size {h['vocab_size']}, eos_id apart"
        )
    _check_decoding(h)


def _check_decoding(h: Mapping[str, Any]) -> None:
    used = {h["decoding"], *h["table"]}
    for option, of, default in (
        ("sampling_temperature", "sample", 1.0),
        ("top_k", "sample", 10),
        ("length_penalty", "beam", 0.0),
        ("beam", "beam", 5),
    ):
        if of not in used and h[option] != default:
            raise ValueError(
                f"model.init_args.{option} is {h[option]}, which decoding: {h['decoding']} does not use: "
                f"beams do not sample; leave it out, or set decoding, or an entry of table, to {of}"
            )
    if h["replies"] > h["beam"] and h["decoding"] == "beam":
        raise ValueError(
            f"model.init_args.replies is {h['replies']}, but a beam of {h['beam']} has no more replies "
            "than that"
        )
    if h["replies"] > 1 and h["decoding"] == "greedy" and not h["test_noise"]:
        raise ValueError(
            "decoding: greedy has one reply for a history; set model.init_args.decoding to beam or sample, "
            "or test_noise: true"
        )


def cycle_of(h: Mapping[str, Any]) -> Cycle:
    """Stages and turns of these settings; without learned noise and in the arm ``mle`` there is no noise
    turn.

    Raises:
        ValueError: for a cycle without a batch.
    """
    noisy = h["noise"] == "learned"
    stages = (h["pretrain_forward"], h["pretrain_backward"], h["pretrain_noise"] if noisy else 0)
    noise_turn = h["noise_batches"] if noisy and h["objective"] != "mle" else 0
    turns = (h["forward_batches"], h["backward_batches"], noise_turn)
    if not sum(turns):
        raise ValueError("a cycle needs model.init_args.forward_batches or backward_batches of at least 1")
    return Cycle((*stages, h["pretrain_source"]), turns, h["adversarial_every"])
