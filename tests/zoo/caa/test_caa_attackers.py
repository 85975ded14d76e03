"""Attackers against closed forms: balls, checkpoints, losses, linear models whose weakest point is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor, nn

from zoo.caa import draws, losses, steered
from zoo.caa.attack import Rules, Setting, Start
from zoo.caa.attackers import ATTACKERS, pool
from zoo.caa.balls import Ball, largest, lengths
from zoo.caa.corruptions import CORRUPTIONS, corrupted
from zoo.caa.fab import _towards, to_plane
from zoo.caa.gradient import Checkpoints, _check_steps, _Rows
from zoo.caa.unrestricted import turned
from zoo.caa.victim import Victim

N, K, SHAPE = 24, 5, (1, 6, 6)


class Linear(nn.Module):
    """z = W x + b: the shortest way over the boundary to class j is known in closed form."""

    def __init__(self, classes: int = K, pixels: int = 36) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(1)
        self.weight = nn.Parameter(torch.randn(classes, pixels, generator=g))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return Linear().eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return 0.3 + 0.4 * torch.rand(N, *SHAPE, generator=torch.Generator().manual_seed(2))


def began(model: nn.Module, images: Tensor) -> tuple[Victim, Start]:
    victim = Victim(model)
    label = victim.logits(images).argmax(dim=1)
    victim.spent()
    return victim, Start(images, images, label, draws.image_keys(0, torch.arange(len(images))))


def breakable(model: nn.Module, start: Start, ball: Ball) -> Tensor:
    """Whether some class is reached inside the ball: gap < eps |w_y - w_j| in the dual norm (no pixel is near
    0 or 1 here)."""
    weight = model.weight.detach()
    difference = weight[None] - weight[start.label][:, None]  # (N, K, D)
    gap = -(difference * start.image.flatten(1)[:, None]).sum(2)
    dual = difference.abs().sum(2) if ball.norm == "linf" else difference.norm(dim=2)
    own = nn.functional.one_hot(start.label, K).bool()
    return (gap < ball.radius * dual).masked_fill(own, False).any(dim=1)


@pytest.mark.parametrize("name", ["PGD", "MI", "CW", "MultiTargeted", "FAB-T", "Square", "DDN", "FGSM"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_linear_model_falls_exactly_where_the_closed_form_says(
    name: str, norm: str, model: nn.Module, images: Tensor
) -> None:
    if norm not in ATTACKERS[name].norms:
        pytest.skip(f"{name} has no {norm}")
    ball = Ball(norm, {"linf": 0.012, "l2": 0.09}[norm])  # type: ignore[arg-type]
    victim, start = began(model, images)
    expected = breakable(model, start, ball)
    assert 5 < expected.sum() < N - 5
    setting = Setting(ball.radius, {"Square": 400, "DDN": 100}.get(name, 40), ball, Rules(eight_bit=False))
    outcome = ATTACKERS[name].run(victim, start, setting)
    fooled = ~victim.right(outcome.image, start.label)
    # an untargeted gradient looks at one class at a time, random search at some directions
    slack = {"FGSM": 4, "PGD": 2, "MI": 2, "CW": 1, "Square": 7, "DDN": 2}.get(name, 0)
    assert not (fooled & ~expected).any()
    assert (expected & ~fooled).sum() <= slack
    assert ball.size(outcome.image - images).max() <= ball.radius + 1e-6
    if outcome.fooled is not None:
        assert torch.equal(outcome.fooled, fooled)


def attainable(model: nn.Module, start: Start, goal: Tensor, eps: float) -> list[bool]:
    """Whether an l_inf change of eps makes z_t the greatest: max s, s <= (w_t - w_j)(x + d) for all j."""
    weight, found = model.weight.detach().double().numpy(), []
    for x, t in zip(start.image.flatten(1).double().numpy(), goal.tolist(), strict=True):
        over = np.delete(weight, t, 0) - weight[t]  # (K - 1, D)
        cost = np.append(np.zeros(over.shape[1]), -1.0)
        rows = np.hstack([over, np.ones((len(over), 1))])
        bounds = [(-eps, eps)] * over.shape[1] + [(None, None)]
        found.append(-linprog(cost, rows, -over @ x, bounds=bounds).fun > 1e-6)
    return found


@pytest.mark.parametrize("name", ["PGD", "MI", "CW", "MultiTargeted", "FAB-T", "Square", "ODI-cos", "FGSM"])
def test_a_linear_model_is_led_to_a_chosen_class_where_a_linear_programme_says(
    name: str, model: nn.Module, images: Tensor
) -> None:
    victim, start = began(model, images)
    start.goal = (start.label + 2) % K
    expected = torch.tensor(attainable(model, start, start.goal, 0.05))
    assert 5 < expected.sum() < N - 5
    assert (expected != breakable(model, start, Ball("linf", 0.05))).sum() > 3  # not the same question
    steps = {"Square": 400, "FGSM": 1}.get(name, 40)
    setting = Setting(0.05, steps, Ball("linf", 0.05))
    outcome = ATTACKERS[name].run(victim, start, setting)
    led = victim.logits(outcome.image).argmax(dim=1) == start.goal
    assert torch.equal(led, expected)
    if outcome.fooled is not None:
        assert torch.equal(outcome.fooled, led)


@pytest.mark.parametrize(
    "name", ["PGD", "MI", "CW", "MultiTargeted", "FAB-T", "CWL2", "DDN", "Square", "Spatial"]
)
def test_a_goal_in_l2_and_of_two_classes_that_is_the_other(name: str, images: Tensor) -> None:
    ball, steps = Ball("l2", 0.25), {"Square": 200, "CWL2": 60}.get(name, 30)
    setting = Setting(0.25, steps, ball, Rules(eight_bit=False))
    victim, start = began(Linear().eval(), images)
    start.goal = (start.label + 2) % K
    first = victim.logits(start.image)
    outcome = ATTACKERS[name].run(victim, start, setting)
    after = victim.logits(outcome.image)
    led = after.argmax(dim=1) == start.goal
    assert 2 <= led.sum() < N
    assert start.lead(after).mean() > start.lead(first).mean()
    if name != "Spatial":
        assert ball.size(outcome.image - images).max() <= 0.25 + 1e-6
    if outcome.fooled is not None:
        assert torch.equal(outcome.fooled, led)
    both, two = [], Linear(classes=2).eval()
    two.weight.data -= two.weight.data.mean(1, keepdim=True)  # near its border
    for goal in (False, True):
        victim, start = began(two, images)
        start.goal = 1 - start.label if goal else None
        outcome = ATTACKERS[name].run(victim, start, setting)
        both.append(victim.logits(outcome.image).argmax(dim=1) != start.label)
    assert both[0].sum() > 2
    assert torch.equal(both[0], both[1])


def test_every_attacker_of_a_ball_stays_in_both_balls(model: nn.Module) -> None:
    images = torch.rand(8, *SHAPE, generator=torch.Generator().manual_seed(3))
    victim, start = began(model, images)
    for norm in ("linf", "l2"):
        for attacker in pool(norm, extra=True):
            outer = Ball(norm, 0.15)  # type: ignore[arg-type]
            moved = outer.project(images + 0.1, images)
            away = Start(moved, images, start.label, start.keys)
            found = attacker.run(victim, away, Setting(0.12, 6, outer)).image
            assert outer.size(found - images).max() <= 0.15 + 1e-6, attacker.name
            assert found.min() >= 0
            assert found.max() <= 1
            if attacker.name not in ("Skip", "DDN", "ODI-cos"):  # these know no local ball
                assert outer.size(found - moved).max() <= 0.12 + 1e-6, attacker.name


def test_fgsm_then_pgd_reaches_the_global_radius_and_not_the_sum_of_both(model: nn.Module) -> None:
    images = torch.full((4, *SHAPE), 0.5)
    victim, start = began(model, images)
    ball, rules = Ball("linf", 0.15), Rules(early_exit=False)
    first = ATTACKERS["FGSM"].run(victim, start, Setting(0.06, 1, ball, rules)).image
    assert largest(first - images).amin().item() == pytest.approx(0.06, abs=1e-6)
    away = Start(first, images, start.label, start.keys)
    second = ATTACKERS["PGD"].run(victim, away, Setting(0.12, 30, ball, rules)).image
    assert largest(second - images).max().item() == pytest.approx(0.15, abs=1e-6)


def test_projections() -> None:
    centre = torch.tensor([0.5, 0.5]).view(1, 1, 1, 2)
    point = torch.tensor([0.9, 0.2]).view(1, 1, 1, 2)
    assert torch.allclose(Ball("linf", 0.1).project(point, centre).flatten(), torch.tensor([0.6, 0.4]))
    assert torch.allclose(Ball("l2", 0.25).project(point, centre).flatten(), torch.tensor([0.7, 0.35]))
    assert torch.equal(Ball("l2", 0.0).project(centre, centre), centre)  # no division by a length of zero


def test_steps_to_a_plane_are_the_shortest_inside_the_box() -> None:
    point = torch.tensor([[0.5, 0.5], [0.1, 0.5]])
    normal, offset = torch.tensor([[3.0, 4.0], [1.0, 1.0]]), torch.tensor([-2.5, -0.2])
    l2 = to_plane(point, normal, offset, "l2")
    assert torch.allclose(l2[0], torch.tensor([-0.12, -0.16]), atol=1e-6)  # -(w x + b) w / |w|^2, |w| = 5
    linf = to_plane(point, normal, offset, "linf")
    assert torch.allclose(linf[0], torch.full((2,), -1 / 7), atol=1e-6)  # (w x + b) / |w|_1
    # the first pixel stops at 0: the second goes the rest of the way
    assert torch.allclose(linf[1], torch.tensor([-0.1, -0.3]), atol=1e-6)


def test_steps_to_a_plane_of_uneven_gradients_are_exact() -> None:
    """Slopes from 1e-9 to 1, as in networks whose borders hardly matter."""
    g = torch.Generator().manual_seed(5)
    points = 0.1 + 0.8 * torch.rand(40, 30, generator=g)
    w = torch.randn(40, 30, generator=g) * 10 ** (-9 * torch.rand(40, 30, generator=g))
    w[:, 0] = 0
    offsets = -(w * points).sum(1) + 0.2 * torch.randn(40, generator=g)
    for norm in ("linf", "l2"):
        step = to_plane(points, w, offsets, norm)
        end = points + step
        assert end.min() >= 0
        assert end.max() <= 1 + 1e-6
        gap = (w * end).sum(1) + offsets
        corner = torch.where(w * (0.2 * 0 + gap.sign()[:, None]) > 0, 0.0, 1.0).where(w != 0, points)
        reachable = gap.abs() < 1e-5
        assert reachable.sum() > 20
        assert torch.allclose(end[~reachable], corner[~reachable], atol=1e-6)
        assert (step[:, 0] == 0).all()
        free = (end > 1e-6) & (end < 1 - 1e-6) & (w != 0)  # those that no wall stops share one multiplier
        ratio = (step / w if norm == "l2" else step.abs()).masked_fill(~free, torch.nan)
        spread = (ratio - ratio.nanmean(1, keepdim=True)).abs() / ratio.nanmean(1, keepdim=True).abs()
        assert spread[reachable].nan_to_num(0).max() < 1e-3


def test_an_iteration_of_fab_looks_once_with_and_once_without_a_gradient(model: nn.Module) -> None:
    images = torch.full((3, *SHAPE), 0.5)
    victim, start = began(model, images)
    ATTACKERS["FAB-T"].run(victim, start, Setting(1e-9, 7, Ball("l2", 1e-9)))  # nothing is fooled
    spent = victim.spent()
    assert (spent.backward, spent.forward) == (3 * 4 * 7, 3 * (1 + 2 * 4 * 7))
    assert ATTACKERS["FAB-T"].backward(7, K) + ATTACKERS["FAB-T"].forward(7, K) == 2 * 4 * 7


def test_ddn_leaves_a_flat_place_by_a_random_step() -> None:
    def flat(x: Tensor) -> Tensor:  # of the second class only beyond a wall that no gradient shows
        far = (x - 0.5).flatten(1).norm(dim=1) > 0.8
        return torch.stack([torch.where(far, 0.0, 1.0), torch.where(far, 1.0, 0.0)], 1) + 0 * x.sum()

    images = torch.full((2, *SHAPE), 0.5)
    victim = Victim(flat)
    keys = draws.image_keys(0, torch.arange(2))
    start = Start(images, images, torch.zeros(2, dtype=torch.long), keys)
    found = ATTACKERS["DDN"].run(victim, start, Setting(1.0, 20, Ball("l2", 2.0))).image
    assert victim.zero_gradients
    size = lengths(found - images)
    assert 0.7 < size.min() <= size.max() < 1.1
    assert not torch.allclose(found[0], found[1])


@pytest.mark.parametrize(
    ("steps", "counts"),
    [(100, [22, 41, 57, 70, 80, 87, 93, 99]), (12, [2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]), (1, [1])],
)
def test_checkpoints_of_the_step_size(steps: int, counts: list[int]) -> None:
    assert Checkpoints.of(steps).counts(steps) == counts


def rows_with(history: list[list[float]], best: list[float], checked: list[float], reduced: bool) -> _Rows:
    count = len(history)
    start = Start(*[torch.zeros(count, 1, 1, 1)] * 2, *[torch.zeros(count, dtype=torch.long)] * 2)
    x, number = torch.ones(count, 1, 1, 1), torch.arange(count)
    losses = (torch.tensor(best), 5 * x, torch.tensor(checked), torch.full((count,), reduced))
    step = torch.full((count,), 0.8)
    return _Rows(number, number, start, x, x, x, step, 3 * x, *losses, torch.tensor(history))


def test_a_step_is_halved_where_the_loss_seldom_rose_or_the_best_stands_still() -> None:
    # the window of 4 after 5 of 8 iterations; in the second row it rises at each of them, in the first at 3
    history = [[0.0, 1.0, 2.0, 3.0, 2.5, 0, 0, 0], [0.0, 1.0, 2.0, 3.0, 4.0, 0, 0, 0]]
    rows = rows_with(history, best=[9.0, 4.0], checked=[9.0, 0.0], reduced=True)
    _check_steps(rows, 4, 4)
    assert rows.reduced.tolist() == [True, False]  # 3 <= 0.75 * 4 < 4
    assert rows.step.tolist() == pytest.approx([0.4, 0.8])
    assert rows.current.flatten().tolist() == [3.0, 1.0]  # goes on from its best point, with its gradient
    assert rows.gradient.flatten().tolist() == [5.0, 1.0]
    assert rows.checked_loss.tolist() == [9.0, 4.0]
    still = rows_with([history[1]] * 2, best=[4.0, 4.0], checked=[4.0, 3.9], reduced=False)
    _check_steps(still, 4, 4)
    assert still.reduced.tolist() == [True, False]
    # the first check compares row 0 with the last row, which is still zero: 3 rises of 3, or 2 below zero
    first = rows_with([[0.5, 1.0, 2.0, 0.0], [-0.5, 1.0, 2.0, 0.0]], [2.0, 2.0], [0.0, 0.0], True)
    _check_steps(first, 2, 3)
    assert first.reduced.tolist() == [False, True]


def test_multi_targeted_aims_at_the_classes_ranked_second_to_tenth(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = Linear(classes=14).eval(), torch.full((2, *SHAPE), 0.5)
    victim, start = began(model, images)
    aimed: list[list[int]] = []

    def noting(z: Tensor, y: Tensor, t: Tensor) -> Tensor:
        aimed.append(t.tolist())
        return z[:, 0]

    monkeypatch.setattr("zoo.caa.attack.targeted_dlr", noting)
    ATTACKERS["MultiTargeted"].run(victim, start, Setting(1e-6, 1, Ball("linf", 1e-6)))
    ranked = victim.logits(images)[0].argsort(descending=True).tolist()
    assert [targets[0] for targets in aimed[::2]] == ranked[1:10]


def test_fab_goes_on_to_its_goal_where_a_third_class_leads() -> None:
    """z_2 passes z_y at 1/7 of brightness more, but z_1 only at 1/4."""

    def classify(x: Tensor) -> Tensor:
        s = x.flatten(1).mean(1) - 0.5
        return torch.stack([1 - 5 * s, 0 * s + 0.5, 2 * s], 1)

    images, zero = torch.full((2, *SHAPE), 0.5), torch.zeros(2).long()
    start = Start(images, images, zero, draws.image_keys(0, torch.arange(2)), zero + 2)
    found = ATTACKERS["FAB-T"].run(Victim(classify), start, Setting(0.4, 10, Ball("linf", 0.4)))
    assert classify(found.image).argmax(1).tolist() == [2, 2]
    assert largest(found.image - images).max() < 0.27


def test_fab_oversteps_the_plane_by_a_twentieth() -> None:
    start = Start(*[torch.full((1, 1, 1, 2), 0.5)] * 2, torch.zeros(1), torch.zeros(1))
    x, slope = start.image, torch.tensor([3.0, 4.0]).view(1, 1, 1, 2)
    moved = _towards(x, torch.tensor([-0.25]), slope, start, Ball("l2", 1.0))
    assert torch.allclose((moved - x).flatten(), 1.05 * torch.tensor([0.03, 0.04]), atol=1e-6)
    away = x + torch.tensor([0.2, 0.0]).view(1, 1, 1, 2)  # |d| = .07, |d_k| = .05, a = min(.58, .1)
    moved = _towards(away, torch.tensor([0.35]), slope, start, Ball("l2", 1.0))
    back = torch.tensor([0.7, 0.5]) - 1.05 * torch.tensor([0.042, 0.056])
    centre = torch.tensor([0.5, 0.5]) + 1.05 * torch.tensor([0.03, 0.04])
    assert torch.allclose(moved.flatten(), 0.9 * back + 0.1 * centre, atol=1e-6)


def test_square_lowers_the_margin_step_by_step(model: nn.Module, images: Tensor) -> None:
    for norm, eps in (("linf", 0.012), ("l2", 0.09)):
        found = []
        for steps in (1, 400):
            victim, start = began(model, images)
            ball = Ball(norm, eps)  # type: ignore[arg-type]
            found.append(int(ATTACKERS["Square"].run(victim, start, Setting(eps, steps, ball)).fooled.sum()))
        assert found[1] >= found[0] + 4


def test_dlr_has_the_papers_value_and_is_unchanged_by_scale_and_shift() -> None:
    z, y, t = torch.tensor([[3.0, 1.0, 0.0, -1.0]]), torch.tensor([0]), torch.tensor([1])
    assert losses.targeted_dlr(z, y, t).item() == pytest.approx(-2 / 3.5, abs=1e-6)
    assert losses.targeted_dlr(7 * z + 2, y, t).item() == pytest.approx(-0.571429, abs=1e-6)
    assert losses.targeted_dlr(z[:, :3], y, t).item() == -2.0  # of 3 classes the margin


def test_the_losses_of_cw_and_cwl2() -> None:
    z, y = torch.tensor([[3.0, 1.0, -2.0], [-90.0, 1.0, 0.0]]), torch.tensor([0, 0])
    assert losses.hinge(z, y).tolist() == [-52.0, 0.0]
    assert losses.hinge(torch.tensor([[3.0, -1.0, -2.0]]), torch.tensor([0])).item() == -54.0  # own is no 0
    # the true class takes part with 0, which matters where all others are below
    assert losses.carlini_wagner(torch.tensor([[3.0, -1.0, -2.0]]), torch.tensor([0])).item() == 3.0
    assert losses.carlini_wagner(z[1:], y[1:]).item() == -20.0
    assert losses.hinge_to(z[:1], torch.tensor([1])).item() == -52.0  # 3 - 1 + 50
    assert losses.carlini_wagner_to(z[:1], torch.tensor([2])).item() == 5.0
    start = Start(z, z, y, y, torch.tensor([1, 0]))
    assert start.lead(z).tolist() == [-2.0, -91.0]
    assert start.carlini_wagner(z).tolist() == [2.0, 1.0 + 90.0]
    assert start.reached(z).tolist() == [False, False]
    assert start.entropy(z)[0].item() == pytest.approx(-math.log(1 + math.exp(2) + math.exp(-3)), abs=1e-5)
    four = torch.tensor([[3.0, 1.0, 0.0, -1.0]])  # of goal 2 the best other class is 0: (0 - 3) / 3.5
    aimed = Start(four, four, torch.tensor([1]), y[:1], torch.tensor([2]))
    assert aimed.towards(four, aimed.goal).item() == pytest.approx(-3 / 3.5, abs=1e-6)  # type: ignore[arg-type]


def test_schedules_of_odi() -> None:
    assert steered.cosine(0, 100) == pytest.approx(0.031)
    assert steered.cosine(50, 100) == pytest.approx((0.031 + 0.00031) / 2)
    assert steered.cyclical(0, 90) == pytest.approx(0.00031)
    assert steered.cyclical(15, 90) == pytest.approx(0.031)
    assert steered.cyclical(30, 90) == pytest.approx(0.00031)
    assert [steered.stepwise(i, 150) for i in (0, 49, 50, 99, 100)] == [0.031, 0.031, 0.0031, 0.0031, 0.00031]


def test_an_early_exit_fools_the_same_images_with_fewer_passes(model: nn.Module, images: Tensor) -> None:
    ball = Ball("linf", 0.012)
    for name in ("PGD", "MI", "CW", "MultiTargeted"):
        found, spent = {}, {}
        for rules in (Rules(), Rules(early_exit=False), Rules(batched_targets=True)):
            victim, start = began(model, images)
            outcome = ATTACKERS[name].run(victim, start, Setting(0.012, 20, ball, rules))
            found[rules], spent[rules] = outcome.fooled, victim.spent()
        first, *others = found.values()
        assert all(torch.equal(first, other) for other in others), name
        targets = 4 if name == "MultiTargeted" else 1
        whole = spent[Rules(early_exit=False)]
        assert whole.backward == targets * 20 * N  # the paper's count to the pass
        assert whole.forward == targets * 21 * N + (N if targets > 1 else 0)
        assert spent[Rules()].backward < 0.9 * whole.backward


def test_what_a_failed_attack_hands_on(model: nn.Module) -> None:
    images = torch.full((6, *SHAPE), 0.5)
    victim, start = began(model, images)
    ball = Ball("linf", 1e-4)  # nothing is fooled
    official = Setting(1e-4, 10, ball, Rules(carry="official"))
    begin = ATTACKERS["PGD"].run(victim, start, official)
    best = ATTACKERS["PGD"].run(victim, start, Setting(1e-4, 10, ball))
    aimed = ATTACKERS["MultiTargeted"].run(victim, start, official)
    assert not begin.fooled.any()
    assert largest(begin.image - images).amin() > 0.9e-4  # the random start, t / max|t|
    loss = [losses.cross_entropy(victim.logits(o.image), start.label) for o in (begin, best)]
    assert (loss[1] > loss[0]).all()
    assert torch.equal(aimed.image, images)


def test_draws_do_not_know_their_batch(model: nn.Module, images: Tensor) -> None:
    keys = draws.image_keys(3, torch.arange(2000))
    assert torch.equal(draws.normal(keys, (3,))[7:9], draws.normal(keys[7:9], (3,)))
    u, g = draws.uniform(keys, (50,)), draws.normal(keys, (50,))
    assert u.mean().item() == pytest.approx(0.5, abs=4 / math.sqrt(12 * 1e5))
    assert 0 <= u.min() < u.max() < 1
    assert g.mean().item() == pytest.approx(0, abs=4 / math.sqrt(1e5))
    assert g.std().item() == pytest.approx(1, abs=0.01)
    assert torch.corrcoef(u.T)[0, 1:].abs().max() < 0.1  # neighbours of one key
    assert not torch.equal(draws.derived(keys, 1, 0), draws.derived(keys, 1))
    victim, start = began(model, images)
    setting = Setting(0.012, 10, Ball("linf", 0.012))
    whole = ATTACKERS["MI"].run(victim, start, setting).image
    assert torch.allclose(
        whole[3:4], ATTACKERS["MI"].run(victim, start.rows(torch.tensor([3])), setting).image
    )


def test_the_pool_has_the_papers_numbers() -> None:
    sizes = {threat: len(pool(threat)) - 1 for threat in ("linf", "l2", "unrestricted")}
    assert sizes == {"linf": 6, "l2": 6, "unrestricted": 19}
    assert sum(sizes.values()) + 1 == 32
    assert len(pool("linf", extra=True)) == 6 + 1 + 4


def test_ddn_finds_the_distance_to_the_boundary(model: nn.Module, images: Tensor) -> None:
    victim, start = began(model, images)
    rules = Rules(early_exit=False, eight_bit=False)
    found = ATTACKERS["DDN"].run(victim, start, Setting(1.0, 300, Ball("l2", 3.0), rules)).image
    weight = model.weight.detach()
    difference = weight[None] - weight[start.label][:, None]
    gap = -(difference * images.flatten(1)[:, None]).sum(2)
    nearest = (gap / difference.norm(dim=2)).nan_to_num(torch.inf, torch.inf).amin(dim=1)
    assert (lengths(found - images) / nearest).median().item() == pytest.approx(1.0, abs=0.1)
    eight = (
        ATTACKERS["DDN"].run(victim, start, Setting(1.0, 30, Ball("l2", 3.0), Rules(early_exit=False))).image
    )
    moved = lengths(eight - images) > 0
    assert ((eight * 255) - (eight * 255).round()).abs()[moved].max() < 1e-3


def test_turning_and_shifting() -> None:
    image = torch.zeros(1, 1, 9, 9)
    image[0, 0, 4, 6] = 1.0
    shifted = turned(image, 2.0, -3.0, 0.0)
    assert shifted[0, 0, 6, 3].item() == pytest.approx(1.0, abs=1e-5)
    above = torch.zeros(1, 1, 9, 9)
    above[0, 0, 2, 4] = 1.0
    places = tuple(divmod(int(turned(x, 0.0, 0.0, 90.0).argmax()), 9) for x in (image, above))
    assert places in (((2, 4), (4, 2)), ((6, 4), (4, 6)))  # turned, not mirrored


def test_corruptions_are_the_tables_and_grow_with_severity() -> None:
    g = torch.Generator().manual_seed(0)
    images = nn.functional.interpolate(torch.rand(3, 3, 4, 4, generator=g), 16, mode="bilinear")
    keys = draws.image_keys(0, torch.arange(3))
    eight = (images * 255).floor() / 255
    for name in CORRUPTIONS:
        change = [(corrupted(images, keys, name, s) - eight).abs().mean().item() for s in (1, 3, 5)]
        assert all(math.isfinite(c) for c in change), name
        assert change[2] > 0.005, name
        if name not in ("saturate", "elastic_transform"):  # whose levels change in kind
            assert change[0] < change[2], name
        grey = corrupted(images[:, :1], keys, name, 3)
        assert grey.shape == (3, 1, 16, 16)
        assert torch.equal(corrupted(images[1:2], keys[1:2], name, 2), corrupted(images, keys, name, 2)[1:2])
    shrunk = corrupted(images, keys, "contrast", 3) - eight.mean(dim=(2, 3), keepdim=True)
    assert torch.allclose(shrunk, 0.2 * (eight - eight.mean(dim=(2, 3), keepdim=True)), atol=1e-6)
    mirrored = corrupted(images, keys, "contrast", 3, mirrored=True)
    assert torch.allclose(mirrored.flip(3), corrupted(images, keys, "contrast", 3), atol=1e-6)
    bright = corrupted(eight * 0 + 0.4, keys, "brightness", 2)
    assert torch.allclose(bright, torch.full_like(bright, 102 / 255 + 0.2), atol=1e-6)


def test_spatial_and_spsa_have_no_backward_pass_and_their_stated_forward_passes(model: nn.Module) -> None:
    images = torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(5))
    victim, start = began(model, images)
    ball = Ball("linf", 0.01)
    for name, passes in (("Spatial", 125), ("SPSA", 25_600)):
        outcome = ATTACKERS[name].run(victim, start, Setting(1.0, 1, ball))
        spent = victim.spent()
        assert (spent.forward, spent.backward) == (2 * passes, 0)
        assert outcome.free
    # SPSA's mean difference is the gradient of a linear model: it goes to the corner of its own ball
    assert largest(outcome.image - images).max().item() <= 16 / 255 + 1e-6
    margin = [losses.margin(victim.logits(x), start.label) for x in (images, outcome.image)]
    assert (margin[1] > margin[0]).all()
