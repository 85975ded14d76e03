"""Guided sampling with the embedded generator: guidance rows, gradients, masks, each image as if alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zoo
from zoo.actgen.attention import keep_attention
from zoo.actgen.digit_generator import DigitGenerator
from zoo.actgen.generator import EmbeddedGenerator, respaced
from zoo.actgen.guidance import normalized_mask, token_attention
from zoo.actgen.sampling import (
    Guidance,
    Job,
    deviation,
    guided_eps,
    sample_guided,
    sample_image_to_image,
    sample_random,
)
from zoo.diffusion.losses import posterior_mean, predict_x0
from zoo.diffusion.samplers import SampleNoise

SETTINGS = Guidance(steps=8, scale=3.0, centre=2.5, gradient_steps=3, margin=40.0)


@pytest.fixture(scope="module")
def generator() -> EmbeddedGenerator:
    torch.manual_seed(0)
    return EmbeddedGenerator(DigitGenerator(), "random")


@pytest.fixture(scope="module")
def trained() -> EmbeddedGenerator:
    return EmbeddedGenerator(zoo.load("actgen_generator_digits"), "trained")


@pytest.fixture(scope="module")
def classifier() -> nn.Module:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    return net.eval()


def job(count: int = 4, adversarial: bool = True, memory: bool = True) -> Job:
    g = torch.Generator().manual_seed(2)
    guides = torch.rand(4, 1, 8, 8, generator=g) * 2 - 1
    memories = [torch.randn(3, 64, generator=g) if memory else torch.empty(0) for _ in range(4)]
    return Job(
        [1, 2, 3, 4][:count],
        [11, 12, 13, 14][:count],
        guides[:count],
        [adversarial] * count,
        memories[:count],
    )


def watched(generator: EmbeddedGenerator, job: Job, settings: Guidance, *more: Any) -> tuple[Any, list[Any]]:
    states: list[dict[str, Any]] = []

    def keep(i: int, state: dict[str, Any]) -> None:
        states.append({k: v.detach().clone() if isinstance(v, Tensor) else v for k, v in state.items()})

    made = sample_guided(generator, job, settings, *(more or (None,)), watch=keep)
    return made, states


def test_the_generator_has_the_published_sizes() -> None:
    module = DigitGenerator()
    assert sum(p.numel() for p in module.network.unet.parameters()) == 271_937
    assert sum(p.numel() for p in module.network.text.parameters()) == 544
    assert float(module.schedule.tables["alpha_bar"][-1]) == pytest.approx(0.00466, abs=5e-6)


def test_tokens_are_begin_class_end_pad_and_the_empty_prompt() -> None:
    text = DigitGenerator().network.text
    rows = text(torch.tensor([7, -1])) - text.places
    table = text.table.weight
    assert torch.allclose(rows[0], table[[10, 7, 11, 12]], atol=1e-6)
    assert torch.allclose(rows[1], table[[10, 11, 12, 12]], atol=1e-6)


def test_the_unconditional_half_comes_first(generator: EmbeddedGenerator) -> None:
    x, prompts = torch.randn(2, 1, 8, 8), generator.prompts([3, 5])
    both = generator.eps(x, 501, prompts.embeddings)
    network = generator.network
    with torch.no_grad():
        times = torch.full((2,), 501)
        conditional, null = network(x, times, torch.tensor([3, 5])), network(x, times, torch.tensor([-1, -1]))
    assert torch.allclose(guided_eps(both, 1.0), conditional, atol=1e-5)
    assert torch.allclose(guided_eps(both, 4.0), null + 4 * (conditional - null), atol=1e-4)


def test_maps_come_from_six_layers_and_change_no_number(generator: EmbeddedGenerator) -> None:
    x, c = torch.randn(2, 1, 8, 8), generator.prompts([3, 5]).embeddings
    fused = generator.eps(x, 501, c)
    generator.keep_maps(True)
    opened = generator.eps(x, 501, c)
    maps = generator.maps()
    generator.keep_maps(False)
    assert torch.allclose(fused, opened, atol=1e-5)
    assert sorted(m.shape[1] for m in maps) == [16, 16, 16, 64, 64, 64]
    assert all(torch.allclose(m.sum(dim=2), torch.ones(4, m.shape[1]), atol=1e-5) for m in maps)
    assert not generator.maps()


def test_a_recomputed_forward_keeps_no_second_map(generator: EmbeddedGenerator) -> None:
    kept = keep_attention(generator.network.unet, {4})
    assert len(kept) == 3
    generator._kept = kept
    generator.eps(torch.randn(1, 1, 8, 8), 5, generator.prompts([1]).embeddings)
    before = [p.kept for p in kept.values()]
    generator.network(torch.randn(1, 1, 8, 8), torch.tensor([900]), torch.tensor([2]))
    assert all(p.kept is b for p, b in zip(kept.values(), before, strict=True))
    generator.keep_maps(False)
    with pytest.raises(ValueError, match="no cross-attention where latents have side 3"):
        keep_attention(generator.network.unet, {3})


def test_the_guides_trajectory_ends_at_the_guide(generator: EmbeddedGenerator) -> None:
    g = torch.Generator().manual_seed(3)
    schedule = respaced(generator, 40)
    guide, x = torch.rand(1, 1, 8, 8, generator=g), torch.randn(1, 1, 8, 8, generator=g)
    for place in reversed(range(40)):
        t = torch.tensor([place])
        x = posterior_mean(schedule, guide, x, t) + deviation(schedule, t) * torch.randn(
            1, 1, 8, 8, generator=g
        )
    assert float((x - guide).abs().max()) < 1e-6
    _, states = watched(
        generator, job(1, False, False), Guidance(steps=40, mask="none", centre=100.0, scale=1.0)
    )
    assert float((states[-1]["x"] - job(1).guides).abs().max()) < 1e-4  # gamma of 1 all the way


def test_the_guides_trajectory_does_not_know_the_sample(generator: EmbeddedGenerator) -> None:
    """Other classes: other samples, but the guide goes its way to the bit, by its own posterior."""
    asked = job(2, False, False)
    _, states = watched(generator, asked, SETTINGS)
    _, others = watched(generator, replace(asked, labels=[7, 8]), SETTINGS)
    assert not torch.equal(states[3]["x"], others[3]["x"])
    assert all(torch.equal(a["x_g"], b["x_g"]) for a, b in zip(states, others, strict=True))


def test_the_mask_is_of_the_conditional_row(generator: EmbeddedGenerator) -> None:
    asked = job(2, False, False)
    tokens, seen = generator.prompts(asked.labels).tokens, []

    def keep(i: int, state: dict[str, Any]) -> None:
        halves = [m.chunk(2) for m in generator.maps()]
        rows = [normalized_mask([token_attention(h[k], tokens) for h in halves], 8) for k in (0, 1)]
        assert torch.equal(state["mask"], rows[1])
        seen.append(float((rows[0] - rows[1]).abs().max()))

    sample_guided(generator, asked, SETTINGS, watch=keep)
    assert min(seen) > 0.05


def test_no_guidance_is_the_plain_sample_to_the_bit(generator: EmbeddedGenerator) -> None:
    plain = sample_random(generator, job(2), 8, 3.0)
    free, _ = watched(generator, job(2, False, False), Guidance(steps=8, scale=3.0, centre=-1e3, mask="none"))
    assert torch.equal(free.latents, plain.latents)


def test_each_image_is_the_same_alone_and_in_a_batch(
    trained: EmbeddedGenerator, classifier: nn.Module
) -> None:
    generator = trained
    for settings in (Guidance(20, 3.0, 6.25, 5, margin=12.5), Guidance(20, 3.0, 6.25, 5, mask="official")):
        together = sample_guided(generator, job(4), settings, classifier)
        whole = job(4)
        assert whole.guides is not None
        for i in range(4):
            one = Job(
                [whole.labels[i]], [whole.seeds[i]], whole.guides[i : i + 1], [True], [whole.memories[i]]
            )
            alone = sample_guided(generator, one, settings, classifier)
            assert torch.allclose(alone.images[0], together.images[i], atol=1e-5)
            assert torch.allclose(alone.masks[0], together.masks[i], atol=1e-5)


def test_gradients_move_the_embeddings_in_the_first_steps_alone(
    generator: EmbeddedGenerator, classifier: nn.Module
) -> None:
    before = generator.prompts([1, 2, 3, 4]).embeddings
    made, states = watched(generator, job(4), SETTINGS, classifier)
    assert len(made.gradients) == 3
    assert all(bool((g > 0).all()) for g in made.gradients)
    assert not torch.equal(states[0]["c"], before)
    assert torch.equal(states[2]["c"], states[7]["c"])
    step = (states[1]["c"] - states[0]["c"]).norm(dim=2)
    assert torch.allclose(step, torch.full_like(step, 0.05), atol=1e-4)
    parameters = [*generator.network.parameters(), *classifier.parameters()]
    assert all(p.grad is None for p in parameters)
    _, states = watched(generator, job(4, False, False), SETTINGS, classifier)
    assert all(torch.equal(s["c"], before) for s in states)


def test_one_image_that_is_pushed_leaves_its_neighbours_embeddings(
    generator: EmbeddedGenerator, classifier: nn.Module
) -> None:
    mixed = job(4, False, False)
    mixed.adversarial = [False, True, False, False]
    before = generator.prompts(mixed.labels).embeddings
    _, states = watched(generator, mixed, SETTINGS, classifier)
    moved = [not torch.equal(states[-1]["c"][:, i], before[:, i]) for i in range(4)]
    assert moved == [False, True, False, False]


def test_a_step_raises_the_classifiers_loss_and_the_distance_to_memory(
    generator: EmbeddedGenerator, classifier: nn.Module
) -> None:
    """The new embeddings on the same noisy image: what the gradient was of."""
    for adversarial, memory in ((True, False), (False, True)):
        asked = job(1, adversarial, memory)
        settings = Guidance(
            steps=8, scale=1.0, gradient_steps=1, step_size=1e-3, margin=1e3, adversarial_weight=1.0,
            gradient_norm="global",
        )  # fmt: skip
        _, states = watched(generator, asked, settings, classifier)
        schedule = respaced(generator, 8)
        c0, c1 = generator.prompts(asked.labels).embeddings, states[0]["c"]
        noise = SampleNoise(asked.seeds, (1, 8, 8))
        noise()
        x, t = noise(), torch.tensor([7])
        values = []
        for c in (c0, c1):
            eps = guided_eps(generator.eps(x, int(schedule.original_timesteps[7]), c), 1.0).detach()
            x0 = predict_x0(schedule, x, t, eps)
            if adversarial:
                image = (x0 / 2 + 0.5).clamp(0, 1)
                loss = nn.functional.cross_entropy(classifier(image).detach(), torch.tensor([1]))
                values.append(float(loss))
            else:
                values.append(float((asked.memories[0] - x0.flatten(1)).norm(dim=1).mean()))
        assert values[1] > values[0]


def test_the_background_is_free_under_the_papers_mask_and_not_under_the_codes(
    generator: EmbeddedGenerator,
) -> None:
    _, states = watched(generator, job(4, False, False), SETTINGS)
    for state in states:
        free = state["mask"] == 0
        assert bool(free.any())
        assert torch.equal(state["x"][free], state["stepped"][free])
    _, states = watched(generator, job(4, False, False), Guidance(steps=8, scale=3.0, mask="official"))
    assert all(float(state["mask"].min()) >= 1 for state in states)
    assert float((states[-1]["mask"] - states[0]["mask"]).min()) > 0


def test_the_codes_second_denormalisation_darkens_nothing_below_one_half(
    generator: EmbeddedGenerator,
) -> None:
    seen: list[Tensor] = []

    def classifier(images: Tensor) -> Tensor:
        seen.append(images.detach())
        return images.flatten(1)[:, :10]

    for double in (False, True):
        seen.clear()
        sample_guided(
            generator, job(2), Guidance(steps=4, gradient_steps=2, double_denorm=double), classifier
        )
        assert len(seen) == 2
        least = min(float(s.min()) for s in seen)
        assert least == (0.5 if double else 0.0)


def test_plain_samplers_and_image_to_image(generator: EmbeddedGenerator) -> None:
    asked = job(2)
    plain = sample_random(generator, asked, 8, 3.0, "pndm")
    assert torch.isfinite(plain.latents).all()
    assert torch.equal(plain.latents, sample_random(generator, asked, 8, 3.0, "pndm").latents)
    near = sample_image_to_image(generator, asked, 8, 1.0, 0.01)
    far = sample_image_to_image(generator, asked, 8, 1.0, 1.0)
    assert asked.guides is not None
    distance = [float((m.latents - asked.guides).pow(2).mean()) for m in (near, far)]
    assert distance[0] < 0.1 * distance[1]
