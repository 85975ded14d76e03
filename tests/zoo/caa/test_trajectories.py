"""Attackers step by step against loops that are written as the paper's code has them, early exits off."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.caa import draws, losses
from zoo.caa.attack import Rules, Setting, Start
from zoo.caa.attackers import ATTACKERS
from zoo.caa.balls import Ball
from zoo.caa.fab import to_plane
from zoo.caa.gradient import random_start
from zoo.caa.steered import cosine
from zoo.caa.unrestricted import turned
from zoo.caa.victim import Victim

N, K, SHAPE = 16, 6, (1, 6, 6)
Scores = Callable[[Tensor], Tensor]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        net = nn.Sequential(nn.Flatten(), nn.Linear(36, 24), nn.Tanh(), nn.Linear(24, K)).eval()
    net[1].weight.data *= 6
    net[3].weight.data *= 3
    return net


def began(model: nn.Module, norm: str, eps: float) -> tuple[Victim, Start]:
    """Images that stand a little away from their anchors, as in the middle of a policy."""
    g = torch.Generator().manual_seed(5)
    anchor = torch.rand(N, *SHAPE, generator=g)
    image = Ball(norm, eps / 3).project(anchor + eps * torch.randn(N, *SHAPE, generator=g), anchor)  # type: ignore[arg-type]
    victim = Victim(model)
    return victim, Start(image, anchor, victim.logits(image).argmax(1), draws.image_keys(0, torch.arange(N)))


def slope(model: Scores, x: Tensor, loss: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    x = x.detach().requires_grad_()
    z = model(x)
    value = loss(z)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    return z.detach(), value.detach(), gradient


def per_image(value: Tensor) -> Tensor:
    return value.view(-1, 1, 1, 1)


def norms(x: Tensor) -> Tensor:
    return per_image(x.flatten(1).norm(dim=1))


def into(x: Tensor, centre: Tensor, radius: float, norm: str) -> Tensor:
    if norm == "linf":
        return torch.max(torch.min(x, centre + radius), centre - radius).clamp(0, 1)
    d = x - centre
    return (centre + d * norms(d).clamp(max=radius) / (norms(d) + 1e-12)).clamp(0, 1)


def apgd(
    model: Scores, start: Start, x: Tensor, setting: Setting, loss: Callable[[Tensor], Tensor], momentum: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """What was stored, whether anything was misclassified, and the best-loss point."""
    norm, mag, eps, steps = setting.ball.norm, setting.magnitude, setting.ball.radius, setting.steps
    k, least, shorter = (max(int(s * steps), 1) for s in (0.22, 0.06, 0.03))
    z, value, g = slope(model, x, loss)
    stored, hit = x.clone(), z.argmax(1) != start.label
    best, best_value, best_g, checked = x.clone(), value.clone(), g.clone(), value.clone()
    reduced, step = torch.ones(N, dtype=torch.bool), torch.full((N, 1, 1, 1), 2 * mag)
    history, counter, before = torch.zeros(steps, N), 0, x.clone()
    for i in range(steps):
        moved, before = x - before, x.clone()
        direction = g.sign() if norm == "linf" else g / (norms(g) + 1e-12)
        aim = into(x + step * direction, start.image, mag, norm)
        a = 0.75 if momentum and i > 0 else 1.0
        x = into(into(x + a * (aim - x) + (1 - a) * moved, start.image, mag, norm), start.anchor, eps, norm)
        z, value, g = slope(model, x, loss)
        wrong = z.argmax(1) != start.label
        stored[wrong], hit = x[wrong], hit | wrong
        better = value > best_value
        best[better], best_value[better], best_g[better] = x[better], value[better], g[better]
        history[i] = value
        counter += 1
        if counter == k:
            rises = sum((history[i - j] > history[i - j - 1]).float() for j in range(k))
            halve = (rises <= 0.75 * k) | (~reduced & (checked >= best_value))
            reduced, checked = halve, best_value.clone()
            step[halve] /= 2
            x, g = x.clone(), g.clone()
            x[halve], g[halve] = best[halve], best_g[halve]
            counter, k = 0, max(k - shorter, least)
    return stored, hit, best


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", ["PGD", "MI", "CW"])
def test_the_loop_of_apgd(name: str, norm: str, model: nn.Module) -> None:
    eps = {"linf": 0.02, "l2": 0.1}[norm]
    victim, start = began(model, norm, eps)
    ball = Ball(norm, eps)  # type: ignore[arg-type]

    def loss(z: Tensor) -> Tensor:
        if name != "CW":
            return functional.cross_entropy(z, start.label, reduction="none")
        own = functional.one_hot(start.label, K).float()
        other = ((1 - own) * z - 1e4 * own).amax(1)
        return -((own * z).sum(1) - other + 50).clamp(min=0)

    for steps in (1, 12, 40):
        setting = Setting(0.75 * eps, steps, ball, Rules(early_exit=False))
        first = random_start(start, setting, draws.derived(start.keys, 1))
        stored, hit, best = apgd(model, start, first, setting, loss, momentum=name == "MI")
        if steps == 40:
            assert 2 < hit.sum() < N - 2
        found = ATTACKERS[name].run(victim, start, setting)
        assert torch.equal(found.fooled, hit)  # type: ignore[arg-type]
        expected = torch.where(per_image(hit), stored, best)
        near = {"linf": 1e-6, "l2": 1e-4}[norm]  # l_2 steps magnify the last bit of a gradient
        assert torch.allclose(found.image, expected, atol=near)
        official = Setting(0.75 * eps, steps, ball, Rules(early_exit=False, carry="official"))
        assert torch.allclose(ATTACKERS[name].run(victim, start, official).image, stored, atol=near)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_multi_targeted_runs_the_loop_for_each_rank_and_later_ones_win(norm: str, model: nn.Module) -> None:
    eps = {"linf": 0.02, "l2": 0.1}[norm]
    victim, start = began(model, norm, eps)
    setting = Setting(eps, 12, Ball(norm, eps), Rules(early_exit=False))  # type: ignore[arg-type]
    order, expected = model(start.image).argsort(1), start.image.clone()
    for rank in range(2, K + 1):
        target = order[:, -rank]

        def loss(z: Tensor, target: Tensor = target) -> Tensor:
            top = z.sort(1, descending=True).values
            gap = z.gather(1, start.label[:, None]) - z.gather(1, target[:, None])
            return -gap[:, 0] / (top[:, 0] - 0.5 * top[:, 2] - 0.5 * top[:, 3] + 1e-12)

        first = random_start(start, setting, draws.derived(start.keys, rank))
        stored, hit, _ = apgd(model, start, first, setting, loss, momentum=True)
        expected[hit] = stored[hit]
    assert 2 < (expected != start.image).flatten(1).any(1).sum() < N
    assert torch.allclose(ATTACKERS["MultiTargeted"].run(victim, start, setting).image, expected, atol=1e-4)


def test_odi(model: nn.Module) -> None:
    for eps, official in ((0.1, False), (0.1, True)):
        victim, start = began(model, "linf", eps)
        setting = Setting(0.05, 9, Ball("linf", eps), Rules(official_steps=official))
        scale = 1.0 if official else eps / (8 / 255)
        w = draws.uniform(draws.derived(start.keys, 1), (K,), -1, 1)
        x = start.image + 0.05 * draws.uniform(draws.derived(start.keys, 2), SHAPE, -1, 1)
        x = x.clamp(0, 1)
        for i in range(10 + 9):
            if i < 10:
                _, _, g = slope(model, x, lambda z, w=w: (w * z).sum(1))  # type: ignore[misc]
            else:
                _, _, g = slope(model, x, lambda z, s=start: losses.margin(z, s.label))  # type: ignore[misc]
            step = 0.031 if i < 10 else cosine(i - 10, 9)
            x = into(x + step * scale * g.sign(), start.anchor, eps, "linf")
        assert torch.allclose(ATTACKERS["ODI-cos"].run(victim, start, setting).image, x, atol=1e-6)


def test_cwl2(model: nn.Module) -> None:
    victim, start = began(model, "l2", 0.4)
    delta = torch.zeros_like(start.image, requires_grad=True)
    adam = torch.optim.Adam([delta], lr=0.01)
    own = functional.one_hot(start.label, K).float()
    for _ in range(25):
        z = model(start.image + delta)
        cost = 2 * delta.square().sum() + (
            (own * z).sum(1) - ((1 - own) * z).amax(1)
        ).clamp(min=-20).sum()  # fmt: skip
        adam.zero_grad()
        cost.backward()
        adam.step()
    x = (start.image + delta.detach()).clamp(0, 1)
    offset = x - start.image
    x = start.image + offset * norms(offset).clamp(max=0.2) / (norms(offset) + 1e-12)
    x = into(x, start.anchor, 0.4, "l2")
    found = ATTACKERS["CWL2"].run(victim, start, Setting(0.2, 25, Ball("l2", 0.4))).image
    assert torch.allclose(found, x, atol=1e-5)
    assert (norms(offset) > 0.2).any()


def test_ddn(model: nn.Module) -> None:
    victim, start = began(model, "l2", 0.4)
    x, steps = start.image, 30
    delta, norm = torch.zeros_like(x), torch.ones(N, 1, 1, 1)
    best, least = torch.zeros_like(x), norms(torch.max(x, 1 - x))
    for i in range(steps):
        ce = lambda z: functional.cross_entropy(z, start.label, reduction="none")  # noqa: E731
        z, _, g = slope(model, x + delta, ce)
        adversarial = per_image(z.argmax(1) != start.label)
        smaller = adversarial & (norms(delta) < least)
        best, least = torch.where(smaller, delta, best), torch.where(smaller, norms(delta), least)
        rate = 0.01 + (1 - 0.01) * (1 + math.cos(math.pi * i / steps)) / 2
        delta = delta + rate * g / norms(g)
        norm = norm * (1 - (2 * adversarial.float() - 1) * 0.05)
        delta = delta * norm / norms(delta)
        delta = (((x + delta) * 255).round() / 255).clamp(0, 1) - x
    assert (best != 0).flatten(1).any(1).all()
    assert (norms(best) > 0.4).any()
    shrunk = x + best * norms(best).clamp(max=0.4) / (norms(best) + 1e-12)
    expected = into(shrunk, start.anchor, 0.4, "l2")
    found = ATTACKERS["DDN"].run(victim, start, Setting(1.0, steps, Ball("l2", 0.4), Rules(early_exit=False)))
    assert torch.allclose(found.image, expected, atol=1e-5)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_fab(norm: str, model: nn.Module) -> None:
    eps = {"linf": 0.02, "l2": 0.1}[norm]
    victim, start = began(model, norm, eps)
    start.anchor = start.image
    size = (lambda d: per_image(d.flatten(1).abs().amax(1))) if norm == "linf" else norms
    order, expected = model(start.image).argsort(1), start.image.clone()
    taken = torch.zeros(N, dtype=torch.bool)
    for rank in range(2, K + 1):
        target = order[:, -rank]
        x, best, least = start.image.clone(), start.image.clone(), torch.full((N, 1, 1, 1), 1e10)
        for _ in range(8):

            def gap(z: Tensor, target: Tensor = target) -> Tensor:
                return (z.gather(1, target[:, None]) - z.gather(1, start.label[:, None]))[:, 0]

            _, value, g = slope(model, x, gap)
            w, b = g.flatten(1), value - (g * x).flatten(1).sum(1)
            step, back = (to_plane(p.flatten(1), w, b, norm).view_as(x) for p in (x, start.image))
            a = size(step).clamp(min=1e-8) / (size(step).clamp(min=1e-8) + size(back).clamp(min=1e-8))
            a = a.clamp(max=0.1)
            x = ((x + 1.05 * step) * (1 - a) + (start.image + 1.05 * back) * a).clamp(0, 1)
            wrong = per_image(model(x).argmax(1) != start.label)
            closer = wrong & (size(x - start.image) < least)
            best, least = torch.where(closer, x, best), torch.where(closer, size(x - start.image), least)
            x = torch.where(wrong, start.image + 0.9 * (x - start.image), x)
        hit = ~taken & (least.flatten() <= eps)
        expected[hit], taken = best[hit], taken | hit
    assert 2 < taken.sum() < N
    setting = Setting(eps, 8, Ball(norm, eps), Rules(early_exit=False))  # type: ignore[arg-type]
    found = ATTACKERS["FAB-T"].run(victim, start, setting)
    assert torch.equal(found.fooled, taken)  # type: ignore[arg-type]
    assert torch.allclose(found.image[taken], expected[taken], atol=1e-5)


def test_spatial_takes_the_worst_of_its_grid_and_any_success_before_others(model: nn.Module) -> None:
    victim, start = began(model, "linf", 0.02)
    label = start.label.clone()
    found = ATTACKERS["Spatial"].run(victim, start, Setting(1.0, 1, Ball("linf", 1.0)))
    tried = []
    for down in (-5, -2.5, 0, 2.5, 5):
        for right in (-5, -2.5, 0, 2.5, 5):
            tried += [turned(start.image, down, right, angle) for angle in (-31, -15.5, 0, 15.5, 31)]
    z = torch.stack([model(x).detach() for x in tried])  # (125, N, K)
    loss = torch.stack([functional.cross_entropy(row, label, reduction="none") for row in z])
    wrong = z.argmax(2) != label
    rank = loss.double() + 1e6 * wrong
    assert torch.equal(found.fooled, wrong.any(0))  # type: ignore[arg-type]
    expected = torch.stack([tried[int(rank[:, n].argmax())][n] for n in range(N)])
    assert torch.allclose(found.image, expected, atol=1e-6)


def test_spatial_prefers_a_success_to_a_failure_of_greater_loss() -> None:
    """The label wins among ten nearly equal scores at a loss that a near defeat of two does not reach."""
    images = torch.zeros(1, 1, 11, 11)
    images[0, 0, 5, 5] = 1.0

    def classify(x: Tensor) -> Tensor:
        at = x[:, 0, 5, 5]  # unmoved: right, at a great loss; moved away: wrong, at a small one
        right = torch.stack([torch.full_like(at, 0.2), *[torch.full_like(at, 0.1)] * 9], 1)
        wrong = torch.stack([torch.full_like(at, 5.0), torch.full_like(at, 5.1), *[at * 0] * 8], 1)
        return torch.where(at[:, None] > 0.5, right, wrong)

    start = Start(images, images, torch.tensor([0]), draws.image_keys(0, torch.arange(1)))
    found = ATTACKERS["Spatial"].run(Victim(classify), start, Setting(1.0, 1, Ball("linf", 1.0)))
    assert bool(found.fooled)
    assert classify(found.image).argmax(1).item() == 1


def test_square_has_its_schedule_and_its_squares_of_the_whole_width_of_the_ball(model: nn.Module) -> None:
    from zoo.caa.square import _patched, share_of

    places = (0, 10, 11, 50, 51, 200, 201, 500, 501, 1000, 1001, 2000, 2001, 4001, 6001, 8001)
    halvings = (0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 7, 8, 9)
    assert [share_of(i, 10000) for i in places] == [0.8 / 2**h for h in halvings]
    assert share_of(26, 5000) == 0.8 / 4  # place 52 of 10,000
    _, start = began(model, "linf", 0.1)
    x = start.image + 0.1  # at the upper face: a square of -2 eps goes to the lower one
    tried = _patched(x, start, Setting(0.1, 9, Ball("linf", 0.1)), 2, start.keys)
    change = (tried - x).flatten(1)
    assert (change != 0).sum(1).tolist() == [4] * N
    assert torch.allclose(change.abs().amax(1), torch.full((N,), 0.2), atol=1e-6)
