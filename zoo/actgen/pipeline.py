"""Stable Diffusion behind the generator interface: a diffusers folder or hub id, from safetensors alone."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zoo.actgen.attention import KeptAttention, keep_attention
from zoo.actgen.generator import Prompts
from zoo.diffusion.autoencoder import load_vae
from zoo.diffusion.schedules import NoiseSchedule
from zoo.hub.foreign import Damaged, TooLarge, check_finite, checked_folder, read_json

Precision = Literal["float32", "float16", "bfloat16"]
_LAYOUT = (
    "unet/, vae/, text_encoder/, tokenizer/ and scheduler/ with safetensors, as diffusers saves a pipeline"
)
_PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")


def load_pipeline(name: str, precision: Precision = "float32") -> Any:
    """diffusers' ``StableDiffusionPipeline``, frozen, in eval mode on the CPU, without a safety checker.

    Args:
        name: local folder or hub id; nothing in it is unpickled.
        precision: of its weights.

    Raises:
        FileNotFoundError, ValueError: one line on what is missing or does not fit.
    """
    folder = _folder(name)
    if missing := [part for part in _PARTS if not (folder / part).is_dir()]:
        raise FileNotFoundError(f"{folder} has no {missing[0]}/: a Stable Diffusion folder has {_LAYOUT}")
    try:
        with _quiet():
            return _pipeline(name, folder, precision)
    except (Damaged, TooLarge, FileNotFoundError, _Unfit):
        raise
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{folder} cannot be loaded as a Stable Diffusion pipeline ({reason})") from None


class _Unfit(ValueError):
    """A pipeline that is whole, but of another kind."""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Neither library's remarks on what is not installed, nor their bars."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    levels = (of_diffusers.get_verbosity(), of_transformers.get_verbosity())
    bars = of_transformers.is_progress_bar_enabled()
    of_diffusers.set_verbosity(logging.CRITICAL)
    of_transformers.set_verbosity(logging.CRITICAL)
    of_transformers.disable_progress_bar()
    try:
        yield
    finally:
        of_diffusers.set_verbosity(levels[0])
        of_transformers.set_verbosity(levels[1])
        if bars:
            of_transformers.enable_progress_bar()


def _pipeline(name: str, folder: Path, precision: Precision) -> Any:
    from diffusers import DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    read_json(folder / "scheduler" / "scheduler_config.json")
    scheduler = DDPMScheduler.from_pretrained(str(folder / "scheduler"))
    kind = scheduler.config.get("prediction_type", "epsilon")
    if kind != "epsilon":
        raise _Unfit(
            f"{name} predicts {kind}, but guided sampling needs a model that predicts the noise (Stable "
            "Diffusion 2.1-base does, 2.1 at 768 pixels does not)"
        )
    parts = {
        "unet": _weights(UNet2DConditionModel, folder / "unet", low_cpu_mem_usage=False),
        "vae": load_vae(str(folder / "vae")),
        "text_encoder": _weights(CLIPTextModel, folder / "text_encoder"),
    }
    for part in parts.values():
        nn.Module.to(part, getattr(torch, precision))
        part.requires_grad_(False).eval()
    with checked_folder(folder / "tokenizer"):
        tokenizer = CLIPTokenizer.from_pretrained(str(folder / "tokenizer"))
    pipe = StableDiffusionPipeline(
        **parts,
        tokenizer=tokenizer,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _folder(name: str) -> Path:
    if os.path.isdir(name):
        return Path(name)
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise FileNotFoundError(
            f"no generator at {name}: give registered weights of zoo.DigitGenerator (zoo list weights), a "
            f"diffusers folder ({_LAYOUT}) or a hub id such as stabilityai/stable-diffusion-2-1-base"
        )
    from huggingface_hub import snapshot_download

    try:
        wanted = [f"{part}/*{end}" for part in _PARTS for end in (".json", ".txt", ".safetensors")]
        return Path(snapshot_download(name, allow_patterns=wanted, ignore_patterns=["*.fp16.*", "*non_ema*"]))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise FileNotFoundError(f"cannot get {name} from the hub ({reason}); give a local folder") from None


def _weights(cls: Any, folder: Path, **options: Any) -> Any:
    """A part from safetensors, all of whose weights are in the file.

    Raises:
        ValueError: for weights that are missing or do not fit, or are no numbers.
    """
    with checked_folder(folder):
        model, report = cls.from_pretrained(
            str(folder), use_safetensors=True, output_loading_info=True, **options
        )
    lost = [str(k) for kind in ("missing_keys", "mismatched_keys") for k in report[kind]]
    if lost := [k for k in lost if "position_ids" not in k]:
        raise ValueError(f"{folder}: {len(lost)} weights are missing or do not fit, for example {lost[0]}")
    check_finite(model.state_dict(), folder)
    return model


class PipelineGenerator:
    """Stable Diffusion, conditioned on ``a photo of CLASS``.

    Args:
        pipe: of :func:`load_pipeline`.
        class_names: of the classes, by number.
        prompt: with ``{}`` where the name goes.
        name: for the manifest.
        checkpointing: recompute the UNet in the backward pass.

    Raises:
        ValueError: for a prompt without ``{}``.
    """

    def __init__(
        self, pipe: Any, class_names: Sequence[str], prompt: str, name: str, checkpointing: bool = False
    ) -> None:
        if prompt.count("{}") != 1:
            raise ValueError(
                f"model.init_args.prompt needs one {{}} for the name of the class, got {prompt!r}"
            )
        self.pipe, self.name, self.template = pipe, name, prompt
        self.class_names, self.num_classes = list(class_names), len(class_names)
        config = pipe.unet.config
        self.latent_shape = (config.in_channels, config.sample_size, config.sample_size)
        self.factor = 2 ** (len(pipe.vae.config.block_out_channels) - 1)
        side = config.sample_size * self.factor
        self.picture_shape = (3, side, side)
        self.scale = float(pipe.vae.config.scaling_factor)
        self.schedule = NoiseSchedule(pipe.scheduler.betas)
        self.offset = int(pipe.scheduler.config.get("steps_offset", 1))
        self.device = torch.device("cpu")
        if checkpointing:
            pipe.unet.enable_gradient_checkpointing()
        self._all = dict(pipe.unet.attn_processors)
        self._kept: dict[str, KeptAttention] = {}
        self._encoded: dict[int, tuple[Tensor, Tensor, str]] = {}

    def to(self, device: torch.device) -> None:
        if device != self.device:
            for part in (self.pipe.unet, self.pipe.vae, self.pipe.text_encoder):
                nn.Module.to(part, device)
            self.device, self._encoded = device, {}

    def keep_maps(self, wanted: bool) -> None:
        self.pipe.unet.set_attn_processor(dict(self._all))
        side = self.latent_shape[1] // 4
        self._kept = keep_attention(self.pipe.unet, {side}) if wanted else {}

    def class_tokens(self, label: int) -> list[int]:
        """Places of a class's name among the prompt's tokens; the first, BOS, is 0."""
        before = self.template.partition("{}")[0].strip()
        tokenizer = self.pipe.tokenizer
        start = 1 + len(tokenizer(before, add_special_tokens=False).input_ids)
        many = len(tokenizer(self.class_names[label], add_special_tokens=False).input_ids)
        most = tokenizer.model_max_length - 1
        if not many or start + many > most:
            raise ValueError(
                f"class {self.class_names[label]!r} has {many} tokens; a prompt has room for {most - start}"
            )
        return list(range(start, start + many))

    @torch.no_grad()
    def _encode_text(self, label: int) -> tuple[Tensor, Tensor, str]:
        if label not in self._encoded:
            text = self.template.format(self.class_names[label])
            conditional, null = self.pipe.encode_prompt(text, self.device, 1, True)
            tokens = torch.zeros(conditional.shape[1], device=self.device)
            tokens[self.class_tokens(label)] = 1
            self._encoded[label] = (torch.stack([null[0], conditional[0]]).float(), tokens, text)
        return self._encoded[label]

    def prompts(self, labels: Sequence[int]) -> Prompts:
        found = [self._encode_text(int(label)) for label in labels]
        rows = torch.stack([f[0] for f in found], dim=1)
        return Prompts(rows, torch.stack([f[1] for f in found]), [f[2] for f in found])

    @torch.no_grad()
    def encode(self, images: Tensor, noise: Tensor) -> Tensor:
        posterior = self.pipe.vae.encode(images.to(self.pipe.vae.dtype)).latent_dist
        return (posterior.mean.float() + posterior.std.float() * noise) * self.scale

    def decode(self, latents: Tensor) -> Tensor:
        vae = self.pipe.vae
        return vae.decode((latents / self.scale).to(vae.dtype), return_dict=False)[0].float()

    def eps(self, x: Tensor, t: int, embeddings: Tensor) -> Tensor:
        for processor in self._kept.values():
            processor.forget()
        unet = self.pipe.unet
        both, rows = torch.cat([x, x]).to(unet.dtype), embeddings.flatten(0, 1).to(unet.dtype)
        times = torch.full((len(both),), t, device=x.device)
        return unet(both, times, rows, return_dict=False)[0].float()

    def maps(self) -> list[Tensor]:
        return [p.kept for p in self._kept.values() if p.kept is not None]
