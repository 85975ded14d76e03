"""The classifier under attack: trained weights of the zoo, or a callable of the user's own."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

import zoo

_CALLABLE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


class Target(nn.Module):
    """Images in [0, 1] -> logits, the normalisation inside: the model is given (x - mean) / std.

    Args:
        model: a module, put into evaluation mode, or any callable.
        mean: of each channel, or one for all.
        std: likewise.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, model: Callable[[Tensor], Tensor], mean: Sequence[float] = (0.0,), std: Sequence[float] = (1.0,)
    ) -> None:
        super().__init__()
        if len(mean) != len(std):
            raise ValueError(f"mean has {len(mean)} values and std {len(std)}; give one of each per channel")
        self.model = model
        self.register_buffer("mean", torch.tensor(list(mean)).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(list(std)).view(1, -1, 1, 1))
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        channels = self.mean.shape[1]
        if channels not in (1, images.shape[1]):
            raise ValueError(
                f"model.init_args.mean has {channels} values, but the images have {images.shape[1]} channels"
            )
        try:
            found: Any = self.model((images - self.mean) / self.std)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # of a model of whatever kind
            text = str(error).strip().partition("\n")[0][:200]
            raise ValueError(
                f"the target cannot classify images of shape {tuple(images.shape)}: "
                f"{text or type(error).__name__}"
            ) from error
        if not isinstance(found, Tensor):
            raise ValueError(
                f"the target gives a {type(found).__name__}, but must give a tensor with one row of class "
                "scores for each image"
            )
        return found


def load_target(name: str, mean: Sequence[float] | None = None, std: Sequence[float] | None = None) -> Target:
    """The target of a name.

    Args:
        name: whatever :func:`zoo.load` takes, or ``module:callable``: an ``nn.Module``, a class of such or
            any other callable, images (N, C, H, W) -> logits (N, K).
        mean: what is subtracted from images in [0, 1]; null: as the class's ``image_range`` says, else 0.
        std: what they are divided by then.

    Raises:
        FileNotFoundError, ValueError: one line on what cannot be attacked.
    """
    if (mean is None) != (std is None):
        raise ValueError("model.init_args.mean and model.init_args.std belong together; set both or none")
    found: Any = _own(name) if _CALLABLE.fullmatch(name) else zoo.load(name)
    if mean is None or std is None:
        low, high = getattr(type(found), "image_range", (0.0, 1.0))
        mean, std = [low / (low - high)], [1 / (high - low)]
    if isinstance(found, LightningModule) and type(found).forward is LightningModule.forward:
        if not isinstance(getattr(found, "network", None), nn.Module):
            raise ValueError(
                f"model.init_args.target: {name!r} holds a {type(found).__name__}, which has neither a "
                "forward nor a network of images"
            )
        found = found.network
    return Target(found, mean, std)


def _own(name: str) -> Any:
    """``module:callable`` of the user's own."""
    module, _, attribute = name.partition(":")
    try:
        home = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0] and error.name != module:
            raise  # something that the user's file needs
        raise FileNotFoundError(
            f"model.init_args.target: no module {module!r}; put {module}.py into the current folder"
        ) from None
    if not hasattr(home, attribute):
        raise ValueError(f"model.init_args.target: module {module!r} has no {attribute!r}")
    found = getattr(home, attribute)
    if inspect.isclass(found) and issubclass(found, nn.Module):
        found = found()
    if not callable(found):
        raise ValueError(
            f"model.init_args.target: {name} is a {type(found).__name__}; it must be callable with images"
        )
    return found
