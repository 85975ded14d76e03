"""Pairs of known information: the truth is that of the numbers that come out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from datamodules import KnownInformation
from datamodules.tabular import families
from datamodules.tabular.draws import uniforms
from zoo.demi.gaussian import gaussian_information, oracle_scores

Array = np.ndarray[Any, Any]


def drawn(items: int = 20_000, **settings: Any) -> tuple[KnownInformation, dict[str, Tensor]]:
    data = KnownInformation(test_items=items, **settings)
    data.setup("test")
    return data, data.test_set.__getitems__(list(range(items)))


def test_half_and_half_has_the_spec_s_loadings() -> None:
    for total, r1, r2 in ((5, 0.415054, 0.470318), (10, 0.488519, 0.627271), (20, 0.482228, 0.795060)):
        assert KnownInformation(total_mi=total).loadings == pytest.approx([r2, r1], abs=1e-6)
    assert 10 * -math.log(1 - 0.488519**2) == pytest.approx(
        2.7266, abs=1e-3
    )  # I(x'; y) is not I(x'; y | x'')


@pytest.mark.parametrize(
    "settings",
    [{}, {"corr": 0.6}, {"subviews": 3, "split": [0.5, 0.3, 0.2]}, {"subviews": 3, "corr": 0.4}],
)
def test_gaussian_pairs_have_the_information_that_is_asked_for(settings: dict[str, Any]) -> None:
    """Of the sample's covariance, and of the mean and variance that come with it."""
    data, batch = drawn(dim=2, total_mi=1.5, **settings)
    n, x, y = data.subviews, batch["subviews"], batch["y"]
    columns = torch.cat([x.flatten(1), y], dim=1)
    covariance = columns.T.cov()
    torch.testing.assert_close(covariance.diagonal(), torch.ones(2 * n + 2), atol=0.04, rtol=0)
    ys = [2 * n, 2 * n + 1]
    for i, share in enumerate(data.shares):
        given = list(range(2 * i))
        found = gaussian_information(covariance, [2 * i, 2 * i + 1], ys, given)
        assert found == pytest.approx(1.5 * share, abs=0.04)
        diagonal = oracle_scores(y[:, None], batch["mean"], batch["variance"], i + 1, i)
        assert float(diagonal.mean()) == pytest.approx(1.5 * share, abs=0.06)
    for i in range(n - 1):  # the data's corr, whatever the information
        assert float(covariance[2 * i, 2 * i + 2]) == pytest.approx(data.corr, abs=0.03)


def density_ratio(family: str, x: Array, y: Array, total: float) -> Array:
    """log p(x, y) / p(x) p(y), written by another hand than the families."""
    dim = x.shape[1]
    if family == "student_t":
        rho = families.correlation_of(total - families.student_excess(10, dim, dim), dim)
        eye = np.eye(dim)
        whole = np.block([[eye, rho * eye], [rho * eye, eye]])
        t = stats.multivariate_t
        both = t(np.zeros(2 * dim), whole, df=10).logpdf(np.concatenate([x, y], axis=1))
        return np.asarray(
            both - t(np.zeros(dim), eye, df=10).logpdf(x) - t(np.zeros(dim), eye, df=10).logpdf(y)
        )
    if family == "mixture":
        rho = families._solved(lambda r: total / dim - families.mixture_information(r), 0.0, 1.0)
        s = math.sqrt(1 - rho**2)
        each = 0.5 * (stats.norm.pdf(y, rho * x, s) + stats.norm.pdf(y, -rho * x, s))
        return np.log(each / stats.norm.pdf(y)).sum(axis=1)
    width = families.noise_width(total / dim)
    y = y * math.sqrt(1 / 12 + width**2 / 3) + 0.5
    overlap = np.minimum(1, y + width) - np.maximum(0, y - width)  # p(y) = overlap / 2e, p(y|x) = 1 / 2e
    return -np.log(overlap).sum(axis=1)


@pytest.mark.parametrize(("family", "total"), [("student_t", 1.2), ("mixture", 1.0), ("additive_noise", 1.6),
                                               ("additive_noise", 0.4)])  # fmt: skip
def test_other_families_have_the_information_that_is_asked_for(family: Any, total: float) -> None:
    _, batch = drawn(dim=2, family=family, total_mi=total)
    ratio = density_ratio(
        family, batch["subviews"][:, -1].double().numpy(), batch["y"].double().numpy(), total
    )
    assert ratio.mean() == pytest.approx(total, abs=4 * ratio.std() / math.sqrt(len(ratio)) + 1e-3)


def test_bent_families_are_the_gaussian_s_pairs_bent_by_a_bijection() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((50, 5))
    turned = families.spiral(x, 0.7)
    np.testing.assert_allclose((turned**2).sum(axis=1), (x**2).sum(axis=1))
    np.testing.assert_allclose(families.spiral(turned, -0.7), x, atol=1e-12)
    assert np.abs(turned - x)[:, :4].max() > 1
    assert families.half_cube(np.array([4.0, -4.0, 0.0])).tolist() == [8.0, -8.0, 0.0]
    _, batch = drawn(dim=2, family="half_cube", total_mi=1.5)
    values = torch.cat([batch["subviews"][:, -1], batch["y"]], dim=1)
    straight = values.sign() * values.abs() ** (2 / 3)
    assert gaussian_information(straight.T.cov(), [0, 1], [2, 3]) == pytest.approx(1.5, abs=0.04)


def test_closed_forms_of_the_families() -> None:
    assert families.noise_width(0.5) == pytest.approx(0.5)
    assert families.noise_width(0.25) == pytest.approx(1.0)
    assert families.student_excess(1e6, 3, 3) == pytest.approx(0, abs=1e-4)
    assert families.mixture_information(0.0) == pytest.approx(0, abs=1e-9)
    gaussian = -0.5 * math.log(1 - 0.99**2)
    assert gaussian - math.log(2) < families.mixture_information(0.99) < gaussian  # all but a coin's bit


def test_x_itself_is_the_last_subview_and_noise_falls() -> None:
    _, batch = drawn(dim=2, family="spiral", total_mi=1.0, noises=[2.0, 0.5])
    clean = batch["subviews"][:, 2:]
    deviations = (batch["subviews"][:, :2] - clean).std(dim=(0, 2))
    torch.testing.assert_close(deviations, torch.tensor([2.0, 0.5]), atol=0.03, rtol=0)


def test_training_pairs_are_fresh_and_a_function_of_where_they_stand() -> None:
    data = KnownInformation(dim=3, total_mi=1.0)
    data.setup("fit")
    one = data.train_set.__getitems__([(0, 5), (1, 5), (0, 6)])
    again = data.train_set.__getitems__([(0, 6), (0, 5)])
    assert torch.equal(one["y"][[2, 0]], again["y"])
    assert not torch.equal(one["y"][0], one["y"][1])
    held = [s.__getitems__([5])["y"] for s in (data.val_set, data.test_set)]
    assert not torch.equal(*held)
    u = uniforms(np.arange(2000, dtype=np.uint64), 5)
    assert stats.kstest(u.ravel(), "uniform").pvalue > 1e-3
    assert np.abs(np.corrcoef(u.T) - np.eye(5)).max() < 0.1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"total_mi": 500.0}, "more than 10 nats a component"),
        ({"split": [0.5, 0.4]}, "shares with sum 1"),
        ({"subviews": 3, "split": [0.5, 0.5]}, "must be 3 shares"),
        ({"family": "student_t", "dim": 3, "total_mi": 0.01}, "degrees of freedom alone"),
        ({"family": "spiral", "dim": 1, "total_mi": 1.0}, "turns pairs of components"),
        ({"family": "half_cube", "noises": [0.5, 1.0]}, "several that fall"),
        ({"family": "half_cube", "corr": 0.5}, "does not use"),
        ({"family": "cauchy"}, "family must be one of"),
    ],
)
def test_what_makes_no_sense_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        KnownInformation(**settings)
