"""What the arguments of :class:`zoo.ActGen` may be together, and what the preset sets."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, get_args

from zoo.actgen.classifiers import RESNETS, VITS, ClassifierName
from zoo.actgen.guidance import Curriculum, GradientNorm, Mask, default_margin
from zoo.actgen.mining import (
    ADVERSARIAL,
    CONTRASTIVE,
    GUIDED,
    MASKED,
    Generation,
    NoneWrong,
    Select,
)
from zoo.actgen.pipeline import Precision
from zoo.actgen.sampling import Guidance, RandomSampler
from zoo.nn.variants import Uses, refuse_unused

OFFICIAL: dict[str, Any] = {
    "guidance": 7.5,
    "margin": 100.0,
    "mask": "official",
    "gradient_norm": "token",
    "step_size": 0.05,
    "double_denorm": True,
}
"""``preset: official``: to compare with recordings of the code."""
CHOICES_OF_GENERATION = get_args(Generation)
_MAKES = tuple(g for g in CHOICES_OF_GENERATION if g != "none")
_MOVES = tuple(dict.fromkeys((*CONTRASTIVE, *ADVERSARIAL)))
_DRAWS = ("random", *GUIDED)
USES: dict[str, Uses] = {
    "generation": {
        **dict.fromkeys(
            (
                "generator",
                "generator_precision",
                "generator_checkpointing",
                "prompt",
                "preset",
                "images_per_round",
                "generation_batch",
                "steps",
                "guidance",
                "generated_weight",
                "duplicate_distance",
                "judge",
            ),
            _MAKES,
        ),
        **dict.fromkeys(("select", "none_wrong", "balanced"), _DRAWS),
        **dict.fromkeys(("guidance_centre", "centre_by_loss", "random_rate"), GUIDED),
        "mask": MASKED,
        **dict.fromkeys(("gradient_steps", "step_size", "gradient_norm"), _MOVES),
        **dict.fromkeys(("margin", "memory_size", "memory_update"), CONTRASTIVE),
        **dict.fromkeys(("adversarial_weight", "double_denorm", "curriculum"), ADVERSARIAL),
        "random_sampler": _DRAWS,
        "strength": ("real_guidance",),
    },
    "classifier": {
        "stem": RESNETS,
        "drop_path": VITS,
        "dropout": (*RESNETS, *VITS),
        "pretrained": (*RESNETS, *VITS),
    },
}
CHOICES: dict[str, Any] = {
    "classifier": ClassifierName,
    "generation": Generation,
    "generator_precision": Precision,
    "test_variants": Generation,
    "select": Select,
    "none_wrong": NoneWrong,
    "mask": Mask,
    "gradient_norm": GradientNorm,
    "curriculum": Curriculum,
    "random_sampler": RandomSampler,
}
_WORDS = {"stem": ("imagenet", "cifar"), "memory_update": ("round", "image"), "preset": (None, "official")}


def check(cls: type, h: Mapping[str, Any], scheduled: bool) -> None:
    """Refuse settings that are no choice, are not used, or contradict each other.

    Args:
        cls: with the defaults.
        h: hyperparameters.
        scheduled: whether a schedule of the user's own is given.

    Raises:
        ValueError: one line that names them.
    """
    for key, allowed in {**{k: get_args(v) for k, v in CHOICES.items()}, **_WORDS}.items():
        if h[key] not in allowed:
            words = ", ".join("null" if a is None else a for a in allowed)
            raise ValueError(f"model.init_args.{key} must be one of {words}, got {h[key]!r}")
    # one word makes an ablation of a config, beside the settings of the full method
    refuse_unused(cls, h, "generation", USES["generation"], [g for g in CHOICES_OF_GENERATION if g != "full"])
    refuse_unused(cls, h, "classifier", USES["classifier"])
    refuse_unused(cls, h, "test_variants", {"test_guides": _MAKES})
    defaults = {k: p.default for k, p in inspect.signature(cls).parameters.items()}
    if h["preset"] == "official":
        for key, value in OFFICIAL.items():
            if h[key] not in (defaults[key], value):
                raise ValueError(
                    f"model.init_args.{key} is {h[key]}, but preset: official has {value}; leave one of "
                    "them out"
                )
    for key in ("min_lr", "warmup_epochs", "warmup_lr"):
        if scheduled and h[key] != defaults[key]:
            raise ValueError(
                f"model.init_args.{key} is of the method's own schedule, which lr_scheduler replaces; leave "
                "one of them out"
            )
    if h["warmup_lr"] != defaults["warmup_lr"] and not h["warmup_epochs"]:
        raise ValueError("model.init_args.warmup_lr needs warmup_epochs")
    if h["memory_update"] == "image" and h["generation_batch"] != 1:
        raise ValueError(
            "model.init_args.memory_update: image makes one image after the other, as the official code; set "
            "model.init_args.generation_batch: 1"
        )


def guidance_of(h: Mapping[str, Any], dimensions: int) -> Guidance:
    """Settings of guided sampling, the preset's in their place.

    Args:
        h: hyperparameters.
        dimensions: of a latent, for the default margin.
    """
    own = {**h, **(OFFICIAL if h["preset"] == "official" else {})}
    margin = default_margin(dimensions) if own["margin"] is None else own["margin"]
    return Guidance(
        steps=own["steps"],
        scale=own["guidance"],
        centre=own["guidance_centre"],
        gradient_steps=own["gradient_steps"],
        step_size=own["step_size"],
        margin=margin,
        adversarial_weight=own["adversarial_weight"],
        mask=own["mask"] if own["generation"] in MASKED else "none",
        gradient_norm=own["gradient_norm"],
        double_denorm=own["double_denorm"],
    )
