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
    # settings of a decoding that neither decoding nor table names are no idle ones: `reply` may ask for it
    if h["rerank"] and h["replies"] == 1:
        raise ValueError(
            "model.init_args.rerank orders several replies, but replies is 1; set model.init_args.replies to "
            "more, with decoding: beam or sample, or leave it out"
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
