"""Guided DDPM sampling of variants of images, many at once and each as if it were alone.

One image is a function of its seed, guide, class and settings: its noise has a generator of its own, its loss
touches its own two rows of embeddings, and its mask is normalised by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.actgen.generator import Generator, respaced
from zoo.actgen.guidance import (
    GradientNorm,
    Mask,
    accumulated_mask,
    dissimilarity_loss,
    guidance_weight,
    normalized_gradient,
    normalized_mask,
    resized,
    token_attention,
    towards_guide,
)
from zoo.diffusion.losses import posterior_mean, predict_x0, q_sample
from zoo.diffusion.samplers import SampleNoise
from zoo.diffusion.schedules import NoiseSchedule

RandomSampler = Literal["ddpm", "pndm"]
_LEAST_VARIANCE = 1e-20


@dataclass(frozen=True)
class Guidance:
    """Settings of guided sampling.

    Attributes:
        steps: N of the sampler.
        scale: s of classifier-free guidance.
        centre: gamma_i = sigmoid(centre - i).
        gradient_steps: first steps that move the prompt embeddings.
        step_size: by which they move.
        margin: rho of the dissimilarity loss.
        adversarial_weight: lambda.
        mask: ``none``, ``normalized`` or ``official``.
        gradient_norm: ``token`` or ``global``.
        double_denorm: the official code's x / 2 + 1 / 2 of an image that is in [0, 1] already.
    """

    steps: int = 40
    scale: float = 7.5
    centre: float = 12.5
    gradient_steps: int = 10
    step_size: float = 0.05
    margin: float = 200.0
    adversarial_weight: float = 0.1
    mask: Mask = "normalized"
    gradient_norm: GradientNorm = "token"
    double_denorm: bool = False


@dataclass
class Job:
    """Images to make together.

    Attributes:
        labels: classes, B.
        seeds: one of each image.
        guides: pictures (B, C, S, S) in [-1, 1] at the generator's size; None for plain generation.
        adversarial: which images are pushed against the classifier.
        memories: stored latents of the class of each image, (K, D); empty ones do not push.
        centres: of each image's gamma; None is the settings'.
    """

    labels: Sequence[int]
    seeds: Sequence[int]
    guides: Tensor | None = None
    adversarial: Sequence[bool] = ()
    memories: Sequence[Tensor] = ()
    centres: Sequence[float] | None = None


@dataclass
class Made:
    """What a job gives.

    Attributes:
        latents: x of the last step (B, C, h, h), float32.
        images: decoded, in [0, 1] (B, C, S, S).
        masks: mean over the steps (B, 1, h, h); 1 without a mask.
        prompts: what each was asked as.
        gradients: norm of each image's gradient at each of the first steps (steps, B).
    """

    latents: Tensor
    images: Tensor
    masks: Tensor
    prompts: list[str]
    gradients: list[Tensor] = field(default_factory=list)


def guided_eps(both: Tensor, scale: float) -> Tensor:
    """eps_u + s (eps_c - eps_u) of predictions (2 B, ...), the unconditional half first; s = 1 is eps_c."""
    null, conditional = both.chunk(2)
    return conditional if scale == 1 else null + scale * (conditional - null)


def deviation(schedule: NoiseSchedule, t: Tensor) -> Tensor:
    """sqrt((1 - abar_prev) / (1 - abar) b) of the DDPM step at respaced timesteps (B,), at least 1e-10.
    (B, 1, 1, 1)"""
    table = schedule.tables
    variance = (1 - table["alpha_bar_prev"]) / (1 - table["alpha_bar"]) * table["beta"]
    return variance.clamp(min=_LEAST_VARIANCE).sqrt().float()[t.cpu()].to(t.device).view(-1, 1, 1, 1)


def to_unit(images: Tensor) -> Tensor:
    """[-1, 1] -> [0, 1], clamped."""
    return (images / 2 + 0.5).clamp(0, 1)


def sample_guided(
    generator: Generator,
    job: Job,
    settings: Guidance,
    classifier: Callable[[Tensor], Tensor] | None = None,
    size: int | None = None,
    watch: Callable[[int, dict[str, Any]], None] = lambda i, state: None,
) -> Made:
    """Variants of the guides.

    x' and x_g' are a DDPM step of the sample and of the guide's own trajectory, with the same noise; then
    x = x' - gamma m (x' - x_g'). In the first steps the embeddings go down the gradient of
    L_contra + lambda L_adv, L_adv = -CE(classifier(image(x0)), y), and are used from the next step on.

    Args:
        generator: frozen.
        job: images, with guides.
        settings: of the sampling.
        classifier: images (B, C, S, S) in [0, 1] at its own size -> class scores; frozen.
        size: side of the classifier's images.
        watch: called after each step with its number and tensors.
    """
    assert job.guides is not None
    h, device, many = settings, generator.device, len(job.labels)
    schedule = respaced(generator, h.steps)
    prompts = generator.prompts(job.labels)
    c, tokens = prompts.embeddings.clone(), prompts.tokens
    noise = SampleNoise(job.seeds, generator.latent_shape, device)
    guide = generator.encode(job.guides.to(device), noise())
    x, x_g = noise(), noise()
    centres = [h.centre] * many if job.centres is None else job.centres
    adversarial = torch.tensor(list(job.adversarial) or [False] * many, device=device)
    memories = [m.to(device) for m in job.memories] or [torch.empty(0)] * many
    pushed = bool(adversarial.any()) or any(len(m) for m in memories)
    generator.keep_maps(h.mask != "none")
    side = generator.latent_shape[1]
    mask: Tensor | None = None
    total = torch.zeros(many, 1, side, side, device=device)
    gradients: list[Tensor] = []
    for i in range(h.steps):
        place = h.steps - 1 - i
        t = torch.full((many,), place, device=device)
        moves = pushed and i < h.gradient_steps
        with torch.set_grad_enabled(moves):
            c = c.detach().requires_grad_(moves)
            eps = guided_eps(generator.eps(x, int(schedule.original_timesteps[place]), c), h.scale)
            x0 = predict_x0(schedule, x, t, eps)
            direction = None
            if moves:
                loss = dissimilarity_loss(x0, memories, h.margin)
                if classifier is not None and bool(adversarial.any()):
                    loss = loss + h.adversarial_weight * _adversarial(
                        generator, x0, job.labels, adversarial, classifier, size, h.double_denorm
                    )
                (direction,) = torch.autograd.grad(loss.sum(), c)
        with torch.no_grad():
            x0 = x0.detach()
            shared = deviation(schedule, t) * noise()
            stepped = posterior_mean(schedule, x0, x, t) + shared
            x_g = posterior_mean(schedule, guide, x_g, t) + shared
            mask = _mask(generator, tokens, h.mask, side, mask)
            total += 1 if mask is None else mask
            gamma = torch.tensor([guidance_weight(i, centre) for centre in centres], device=device)
            x = towards_guide(stepped, x_g, gamma.view(-1, 1, 1, 1), mask)
            if direction is not None:
                gradients.append(direction.detach().float().pow(2).sum(dim=(0, 2, 3)).sqrt().cpu())
                c = c - h.step_size * normalized_gradient(direction, h.gradient_norm)
            watch(i, {"x": x, "stepped": stepped, "x_g": x_g, "x0": x0, "c": c, "mask": mask, "eps": eps})
    generator.keep_maps(False)
    with torch.no_grad():
        images = to_unit(generator.decode(x))
    return Made(x, images, total / h.steps, prompts.texts, gradients)


def _mask(
    generator: Generator, tokens: Tensor, kind: Mask, side: int, before: Tensor | None
) -> Tensor | None:
    if kind == "none":
        return None
    maps = generator.maps()
    if kind == "normalized":
        return normalized_mask([token_attention(m.chunk(2)[1], tokens) for m in maps], side)
    halves = [[token_attention(half, tokens) for half in m.chunk(2)] for m in maps]
    return accumulated_mask([(null + conditional) / 2 for null, conditional in halves], side, before)


def _adversarial(
    generator: Generator,
    x0: Tensor,
    labels: Sequence[int],
    chosen: Tensor,
    classifier: Callable[[Tensor], Tensor],
    size: int | None,
    double_denorm: bool,
) -> Tensor:
    """L_adv of each image, 0 of those that are not chosen (B,)."""
    rows = chosen.nonzero().flatten()
    picture = to_unit(generator.decode(x0[rows]))
    picture = picture if size is None else resized(picture, size)
    if double_denorm:
        picture = picture / 2 + 0.5
    with torch.autocast(x0.device.type, enabled=False):
        scores = classifier(picture.float()).float()
    y = torch.tensor(list(labels), device=x0.device)[rows]
    found = torch.zeros(len(x0), device=x0.device)
    return found.index_put((rows,), -F.cross_entropy(scores, y, reduction="none"))


@torch.no_grad()
def sample_random(
    generator: Generator, job: Job, steps: int, scale: float, sampler: RandomSampler = "ddpm"
) -> Made:
    """Plain generation from prompts alone.

    Args:
        generator: frozen.
        job: images, without guides.
        steps: of the sampler.
        scale: s.
        sampler: ``ddpm``, or ``pndm``, the default of the pipeline that the official code calls.
    """
    prompts = generator.prompts(job.labels)
    noise = SampleNoise(job.seeds, generator.latent_shape, generator.device)
    generator.keep_maps(False)
    noise()  # the guide's, so that a seed gives the same x with and without one
    x = noise()
    noise()
    if sampler == "pndm":
        x = _pndm(generator, x, prompts.embeddings, steps, scale)
    else:
        schedule = respaced(generator, steps)
        x = _ddpm(generator, schedule, x, prompts.embeddings, steps, scale, noise)
    return _made(generator, x, prompts.texts)


def _made(generator: Generator, x: Tensor, texts: list[str]) -> Made:
    side = generator.latent_shape[1]
    ones = torch.ones(len(x), 1, side, side, device=x.device)
    return Made(x, to_unit(generator.decode(x)), ones, texts)


def _ddpm(
    generator: Generator,
    schedule: NoiseSchedule,
    x: Tensor,
    c: Tensor,
    begin: int,
    scale: float,
    noise: SampleNoise,
) -> Tensor:
    """The last ``begin`` steps down."""
    for place in reversed(range(begin)):
        t = torch.full((len(x),), place, device=x.device)
        eps = guided_eps(generator.eps(x, int(schedule.original_timesteps[place]), c), scale)
        x = posterior_mean(schedule, predict_x0(schedule, x, t, eps), x, t) + deviation(schedule, t) * noise()
    return x


def _pndm(generator: Generator, x: Tensor, c: Tensor, steps: int, scale: float) -> Tensor:
    from diffusers import PNDMScheduler

    solver = PNDMScheduler(
        num_train_timesteps=generator.schedule.timesteps,
        trained_betas=generator.schedule.tables["beta"].float().numpy(),
        skip_prk_steps=True,
        set_alpha_to_one=False,
        steps_offset=generator.offset,
    )
    solver.set_timesteps(steps)
    for t in solver.timesteps:
        eps = guided_eps(generator.eps(x, int(t), c), scale)
        x = solver.step(eps, int(t), x, return_dict=False)[0]
    return x


@torch.no_grad()
def sample_image_to_image(generator: Generator, job: Job, steps: int, scale: float, strength: float) -> Made:
    """RealGuidance (He et al. 2023): noise a real image to ``strength`` of the way and denoise it again.

    Args:
        generator: frozen.
        job: images, with guides.
        steps: of the whole way.
        scale: s.
        strength: in (0, 1]; 1 begins at (nearly) pure noise.
    """
    assert job.guides is not None
    prompts = generator.prompts(job.labels)
    noise = SampleNoise(job.seeds, generator.latent_shape, generator.device)
    generator.keep_maps(False)
    guide = generator.encode(job.guides.to(generator.device), noise())
    schedule = respaced(generator, steps)
    begin = max(1, min(steps, int(steps * strength)))
    t = torch.full((len(guide),), begin - 1, device=guide.device)
    x = q_sample(schedule, guide, t, noise())
    return _made(
        generator, _ddpm(generator, schedule, x, prompts.embeddings, begin, scale, noise), prompts.texts
    )
