"""The bounds: closed forms, invariances and traps of the paper's spec, with its numbers."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
from torch import Tensor

from zoo.demi import bounds, gaussian
from zoo.demi.bounds import boosted_nce, conditional_nce, importance_nce, info_nce, variational_nce

DIM, K, ROWS = 20, 32, 4000
# true total: InfoNCE, I_NCE(x''; y), I_CNCE, I_IS, DEMI exact, DEMI with I_IS; each with the deviation of a
# mean over 4,000 rows (of 80,000 rows, K 32, half and half, optimal critics)
TABLE = {
    2: (1.692, 0.023, 0.923, 0.020, 0.912, 0.020, 1.001, 0.020, 1.835, 0.027, 1.924, 0.028),
    5: (3.017, 0.015, 2.017, 0.022, 2.005, 0.023, 2.332, 0.022, 4.022, 0.030, 4.349, 0.031),
    10: (3.446, 0.003, 3.017, 0.015, 3.011, 0.015, 3.318, 0.010, 6.028, 0.021, 6.335, 0.018),
    15: (3.465, 0.0005, 3.360, 0.008, 3.358, 0.008, 3.458, 0.002, 6.718, 0.011, 6.818, 0.008),
    20: (3.466, 0.0005, 3.446, 0.003, 3.446, 0.003, 3.466, 0.0005, 6.892, 0.005, 6.912, 0.003),
}


def scores(seed: int, *shape: int, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@cache
def drawn(total: float, rows: int = ROWS, k: int = K) -> dict[str, Tensor]:
    """Optimal scores, the partner first: ``joint``, ``psi``, ``phi`` on marginal ones; ``exact`` of phi."""
    g = torch.Generator().manual_seed(7)
    q = math.exp(-total / DIM)
    first, second = math.sqrt(1 - q), math.sqrt(q * (1 - q))  # r2 of x'', r1 of x'
    x = torch.randn(rows, 2, DIM, generator=g)
    mean = torch.stack([first * x[:, 0], first * x[:, 0] + second * x[:, 1]], dim=1)
    variance = torch.tensor([q, q * q]).expand(rows, 2)
    own = mean[:, 1:] + q * torch.randn(rows, 1, DIM, generator=g)
    marginal = torch.cat([own, torch.randn(rows, k - 1, DIM, generator=g)], dim=1)
    near = mean[:, :1] + math.sqrt(q) * torch.randn(rows, k - 1, DIM, generator=g)
    stages = {"joint": (2, 0), "psi": (1, 0), "phi": (2, 1)}
    found = {n: gaussian.oracle_scores(marginal, mean, variance, *s) for n, s in stages.items()}
    return found | {"exact": gaussian.oracle_scores(torch.cat([own, near], dim=1), mean, variance, 2, 1)}


@pytest.mark.parametrize("total", TABLE)
def test_optimal_critics_give_the_table(total: int) -> None:
    s = drawn(total)
    psi, exact, weighted = info_nce(s["psi"]), conditional_nce(s["exact"]), importance_nce(s["phi"], s["psi"])
    found = (info_nce(s["joint"]), psi, exact, weighted, psi + exact, psi + weighted)
    for value, wanted, sd in zip(found, TABLE[total][::2], TABLE[total][1::2], strict=True):
        assert abs(float(value) - wanted) < max(4 * sd, 0.001)


def test_the_boosted_value_is_no_conditional_information() -> None:
    """Trap 4: with I_NCE(x''; y) it counts that twice and passes the truth."""
    s = drawn(2)
    assert float(info_nce(s["psi"]) + boosted_nce(s["phi"], s["psi"])) == pytest.approx(2.61, abs=0.15)
    s = drawn(10)
    assert float(boosted_nce(s["phi"], s["psi"])) == pytest.approx(3.446, abs=0.012)
    # trap 5: a difference of lower bounds bounds nothing
    s = drawn(20)
    assert float(info_nce(s["joint"]) - info_nce(s["psi"])) == pytest.approx(0.020, abs=0.013)


def test_importance_sampling_may_pass_the_truth() -> None:
    s = drawn(3, 4000, 128)
    assert float(conditional_nce(s["exact"])) == pytest.approx(1.441, abs=0.09)
    assert float(importance_nce(s["phi"], s["psi"])) == pytest.approx(1.558, abs=0.09)


def test_more_terms_win_at_equal_sample_cost() -> None:
    single, double = (drawn(5, 4000, k) for k in (64, 32))
    assert float(info_nce(single["joint"])) == pytest.approx(3.46, abs=0.07)
    assert float(info_nce(double["psi"]) + conditional_nce(double["exact"])) == pytest.approx(4.03, abs=0.13)


def test_constants_of_a_row_change_nothing() -> None:
    phi, psi, row = scores(0, 6, 9), scores(1, 6, 9), scores(2, 6, 1, scale=50)
    for moved in (phi + row, phi - row):
        torch.testing.assert_close(info_nce(moved), info_nce(phi))
        torch.testing.assert_close(importance_nce(moved, psi + row), importance_nce(phi, psi))
        torch.testing.assert_close(boosted_nce(moved, psi + row), boosted_nce(phi, psi))


def test_equal_scores_are_0_and_separated_ones_log_k() -> None:
    flat = torch.full((5, 8), 3.0, dtype=torch.float64)
    for value in (info_nce(flat), conditional_nce(flat), importance_nce(flat, flat)):
        assert float(value) == pytest.approx(0, abs=1e-12)
    apart = torch.zeros(5, 8, dtype=torch.float64)
    apart[:, 0] = 100
    for value in (info_nce(apart), importance_nce(apart, scores(0, 5, 8)), boosted_nce(apart, flat)):
        assert float(value) == pytest.approx(math.log(8), abs=1e-9)


def test_weights_are_over_the_negatives_alone() -> None:
    """Trap 2 and 9: the factor K - 1, and no diagonal in the softmax."""
    phi, psi = scores(3, 7, 7), scores(4, 7, 7)
    flat = torch.zeros_like(psi)
    torch.testing.assert_close(importance_nce(phi, flat), info_nce(phi), atol=1e-6, rtol=0)
    two = scores(5, 9, 2)
    for seed in (6, 7):  # one negative has all the weight
        torch.testing.assert_close(importance_nce(two, scores(seed, 9, 2)), info_nce(two))
    weights = bounds.log_weights(psi, "diagonal").exp()
    assert weights.shape == (7, 6)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(7, dtype=torch.float64))
    by_hand = psi[2, [0, 1, 3, 4, 5, 6]].softmax(dim=0)
    torch.testing.assert_close(weights[2], by_hand)
    k, row = 7, 2
    inside = phi[row, row].exp() + (k - 1) * (by_hand * phi[row, [0, 1, 3, 4, 5, 6]].exp()).sum()
    each = importance_nce(*(torch.cat([s[row, [row]], s[row, [0, 1, 3, 4, 5, 6]]])[None] for s in (phi, psi)))
    torch.testing.assert_close(each, phi[row, row] - (inside / k).log())


def test_both_layouts_and_every_order_of_negatives_agree() -> None:
    phi, psi = scores(8, 6, 6), scores(9, 6, 6)

    def first(square: Tensor) -> Tensor:
        rows = [torch.cat([r[[i]], r[:i], r[i + 1 :]]) for i, r in enumerate(square)]
        return torch.stack(rows)

    order = [0, 4, 2, 5, 1, 3]
    for bound in (importance_nce, boosted_nce):
        expected = bound(phi, psi, "diagonal")
        torch.testing.assert_close(bound(first(phi), first(psi)), expected)
        torch.testing.assert_close(bound(first(phi)[:, order], first(psi)[:, order]), expected)
        assert not torch.isclose(bound(phi, psi), expected)  # a (K, K) matrix with the partner first is legal
    torch.testing.assert_close(info_nce(first(phi)), info_nce(phi, "diagonal"))
    torch.testing.assert_close(boosted_nce(phi, torch.zeros_like(phi)), info_nce(phi))
    torch.testing.assert_close(bounds.pointwise(phi, "diagonal").mean(), info_nce(phi, "diagonal"))


def test_the_divergence_is_subtracted_as_its_mean() -> None:
    phi = scores(10, 5, 8)
    torch.testing.assert_close(variational_nce(phi, 0.0), conditional_nce(phi))
    each = torch.arange(5.0)
    torch.testing.assert_close(variational_nce(phi, each), conditional_nce(phi) - 2)
    torch.testing.assert_close(variational_nce(phi, 2), variational_nce(phi, each))


@pytest.mark.parametrize("seed", range(5))
def test_none_exceeds_log_k_and_nothing_is_clamped_below(seed: int) -> None:
    for dtype, room in ((torch.float64, 1e-9), (torch.float32, 1e-5)):
        phi, psi = (scores(s, 40, 6, scale=20).to(dtype) for s in (seed, seed + 50))
        phi[:20, 0] += 200
        for value in (info_nce(phi[:20]), importance_nce(phi[:20], psi[:20])):
            assert float(value) <= math.log(6) + room
        assert float(info_nce(phi[20:])) < -5
    s = drawn(2)
    assert (
        float(importance_nce(s["phi"], -10 * s["phi"])) > 2
    )  # a bad psi gives anything, far above the true 1


def test_scores_of_300_stay_finite_in_16_bits_too() -> None:
    extreme = torch.tensor([[300.0, -300.0, 300.0], [-300.0, 300.0, 0.0]])
    for kind in (torch.float32, torch.bfloat16):
        for bound in (importance_nce, boosted_nce):
            value = bound(extreme.to(kind), -extreme.to(kind))
            assert value.dtype == torch.float32
            assert value.isfinite()


def test_psi_gets_no_gradient_from_the_conditional_term() -> None:
    """Trap 3: it would learn to give confusable negatives less weight."""
    for bound in (importance_nce, boosted_nce):
        phi, psi = (scores(s, 5, 6).requires_grad_() for s in (11, 12))
        bound(phi, psi, "first").backward()
        assert psi.grad is None
        assert phi.grad is not None
        assert float(phi.grad.abs().sum()) > 0


def test_effective_sample_size_and_saturation() -> None:
    assert float(bounds.effective_sample_size(torch.zeros(3, 9))) == pytest.approx(8)
    peaked = torch.zeros(3, 9)
    peaked[:, 4] = 100
    assert float(bounds.effective_sample_size(peaked)) == pytest.approx(1)
    assert float(bounds.effective_sample_size(torch.cat([peaked[:1], torch.zeros(1, 9)]))) == pytest.approx(
        4.5
    )
    assert bounds.saturation(math.log(32), 32) == pytest.approx(1)
    assert bounds.saturation(6.892, 32, terms=2) == pytest.approx(0.994, abs=1e-3)


def test_bounds_beside_the_contrastive_ones_by_hand() -> None:
    phi = scores(13, 4, 5)
    own, others = phi[:, 0], phi[:, 1:]
    dv = own.mean() - others.exp().mean().log()
    torch.testing.assert_close(bounds.donsker_varadhan(phi), dv)
    torch.testing.assert_close(bounds.nguyen_wainwright_jordan(phi), own.mean() - (others - 1).exp().mean())
    clipped = others.exp().clamp(math.exp(-2), math.exp(2)).mean().log()
    torch.testing.assert_close(bounds.smile(phi, 2.0), own.mean() - clipped)
    torch.testing.assert_close(bounds.smile(phi, 100.0), dv)
    js = own.sigmoid().log().mean() + (-others).sigmoid().log().mean()
    torch.testing.assert_close(bounds.jensen_shannon(phi), js)
    square = scores(14, 6, 6)
    first = torch.stack([torch.cat([r[[i]], r[:i], r[i + 1 :]]) for i, r in enumerate(square)])
    for bound in (bounds.donsker_varadhan, bounds.nguyen_wainwright_jordan, bounds.jensen_shannon):
        torch.testing.assert_close(bound(square, "diagonal"), bound(first))
    shifted = bounds.donsker_varadhan(phi + 7)  # one constant for all changes nothing, one of a row does
    torch.testing.assert_close(shifted, dv)
    assert not torch.isclose(bounds.nguyen_wainwright_jordan(phi + 7), bounds.nguyen_wainwright_jordan(phi))


def test_scores_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="K of at least 2"):
        info_nce(torch.zeros(4, 1))
    with pytest.raises(ValueError, match="square"):
        info_nce(torch.zeros(4, 5), "diagonal")
    with pytest.raises(ValueError, match="first or diagonal"):
        info_nce(torch.zeros(4, 4), "last")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="alike"):
        importance_nce(torch.zeros(4, 5), torch.zeros(4, 4))


def test_gaussian_closed_forms() -> None:
    for rho, wanted in ((0.5, 2.8768), (0.9, 16.6073)):
        s = torch.eye(40)
        s[:20, 20:] = s[20:, :20] = rho * torch.eye(20)
        assert gaussian.gaussian_information(s, range(20), range(20, 40)) == pytest.approx(wanted, abs=1e-4)
    for nats, rho in ((2, 0.42576), (4, 0.57418), (6, 0.67171), (8, 0.74207), (10, 0.79506)):
        assert gaussian.correlation_of(nats, 20) == pytest.approx(rho, abs=1e-5)
    # corr(x', y), corr(x'', y), corr(x', x''), each in two components
    s = torch.tensor([[1, 0.2, 0.5], [0.2, 1, 0.3], [0.5, 0.3, 1]])
    s = s * torch.tensor([1, 2, 3]) * torch.tensor([[1], [2], [3]])  # units change nothing
    total = 2 * gaussian.gaussian_information(s, [0, 1], [2])
    first = 2 * gaussian.gaussian_information(s, [1], [2])
    conditional = 2 * gaussian.gaussian_information(s, [0], [2], [1])
    assert (total, first, conditional) == pytest.approx((0.344840, 0.094311, 0.250530), abs=1e-6)
    with pytest.raises(ValueError, match="positive definite"):
        gaussian.gaussian_information(torch.ones(2, 2), [0], [1])


def test_conditioning_may_raise_information() -> None:
    """Trap 7, d = 5: x'' independent of y, yet it tells something about x'."""
    s = torch.tensor([[1, 0.5, 0.5], [0.5, 1, 0.0], [0.5, 0.0, 1]])
    assert 5 * gaussian.gaussian_information(s, [1], [2]) == pytest.approx(0, abs=1e-6)
    assert 5 * gaussian.gaussian_information(s, [0], [2], [1]) == pytest.approx(1.01366, abs=1e-5)
    assert 5 * gaussian.gaussian_information(s, [0], [2]) == pytest.approx(0.71921, abs=1e-5)


def test_divergence_of_gaussians_is_torchs() -> None:
    g = torch.Generator().manual_seed(0)
    mean, tau_mean, tau_log = (torch.randn(4, 3, generator=g) for _ in range(3))
    variance = torch.tensor([0.5, 1.0, 2.0, 0.1])
    p = torch.distributions.Normal(mean, variance.sqrt()[:, None].expand(4, 3))
    q = torch.distributions.Normal(tau_mean, (tau_log / 2).exp())
    expected = torch.distributions.kl_divergence(p, q).sum(dim=1)
    torch.testing.assert_close(gaussian.divergence(mean, variance, tau_mean, tau_log), expected)
