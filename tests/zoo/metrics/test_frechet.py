"""The Frechet distance against scipy, torchmetrics and closed forms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from zoo.metrics.frechet import FrechetDistance, frechet_distance, mean_and_covariance, read_reference


def features(count: int, size: int = 16, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    mixing = torch.randn(size, size, generator=g)
    return torch.randn(count, size, generator=g) @ mixing + torch.randn(size, generator=g)


def scipy_distance(a: Tensor, b: Tensor) -> float:
    (m1, c1), (m2, c2) = (
        (x.double().numpy().mean(0), np.cov(x.double().numpy(), rowvar=False)) for x in (a, b)
    )
    return float(((m1 - m2) ** 2).sum() + np.trace(c1 + c2 - 2 * scipy.linalg.sqrtm(c1 @ c2).real))


def metric_of(real: Tensor, fake: Tensor, parts: int = 1) -> FrechetDistance:
    metric = FrechetDistance(real.shape[1])
    for x, is_real in ((real, True), (fake, False)):
        for part in x.chunk(parts):
            metric.update(part, real=is_real)
    return metric


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_it_equals_scipys_matrix_square_root(seed: int) -> None:
    real, fake = features(200, seed=seed), features(150, seed=seed + 10)
    assert metric_of(real, fake).compute().item() == pytest.approx(scipy_distance(real, fake), rel=1e-6)


def test_it_equals_torchmetrics_formula() -> None:
    from torchmetrics.image.fid import _compute_fid

    real, fake = features(200, seed=1), features(150, seed=2)
    expected = _compute_fid(*mean_and_covariance(real), *mean_and_covariance(fake))
    assert metric_of(real, fake).compute().item() == pytest.approx(expected.item(), rel=1e-6)


def test_one_dimensional_gaussians_have_the_closed_form() -> None:
    """(m1 - m2)^2 + (s1 - s2)^2."""
    found = frechet_distance(
        torch.tensor([1.0]), torch.tensor([[4.0]]), torch.tensor([4.0]), torch.tensor([[25.0]])
    )
    assert found.item() == pytest.approx(9 + 9)


def test_commuting_covariances_have_the_closed_form() -> None:
    a, b = torch.tensor([1.0, 4.0, 9.0]), torch.tensor([4.0, 0.0, 1.0])
    found = frechet_distance(torch.zeros(3), a.diag(), torch.zeros(3), b.diag())
    assert found.item() == pytest.approx(((a.sqrt() - b.sqrt()) ** 2).sum().item())


def test_singular_covariances_stay_finite_and_exact() -> None:
    """Fewer samples than features, and a rank-one covariance on each side."""
    few = features(5, size=16)
    assert metric_of(few, few).compute().item() == pytest.approx(0, abs=1e-5)
    u, v = torch.eye(4, dtype=torch.float64)[0], torch.tensor([0.6, 0.8, 0, 0], dtype=torch.float64)
    found = frechet_distance(torch.zeros(4), torch.outer(u, u) * 4, torch.zeros(4), torch.outer(v, v) * 9)
    assert found.item() == pytest.approx(4 + 9 - 2 * 2 * 3 * 0.6, abs=1e-9)


def test_a_set_has_no_distance_to_itself_and_the_distance_is_symmetric() -> None:
    real, fake = features(300, seed=1), features(300, seed=2)
    assert metric_of(real, real).compute().item() == pytest.approx(0, abs=1e-6)
    assert metric_of(real, fake).compute().item() == pytest.approx(metric_of(fake, real).compute().item())


@pytest.mark.parametrize("parts", [2, 7, 100])
def test_streaming_equals_all_at_once(parts: int) -> None:
    real, fake = features(100, seed=1), features(100, seed=2)
    whole = metric_of(real, fake).compute().item()
    assert metric_of(real, fake, parts).compute().item() == pytest.approx(whole, rel=1e-10)


def test_states_of_two_processes_add_up() -> None:
    real, fake = features(100, seed=1), features(100, seed=2)
    parts = [metric_of(real[r::2], fake[r::2]) for r in range(2)]
    total = FrechetDistance(16)
    for name in total._defaults:
        setattr(total, name, getattr(parts[0], name) + getattr(parts[1], name))
        assert total._reductions[name] is torch.sum or "sum" in str(total._reductions[name])
    total._update_count = 1
    assert total.compute().item() == pytest.approx(metric_of(real, fake).compute().item(), rel=1e-10)


def test_stored_reference_statistics_take_the_place_of_real_features() -> None:
    real, fake = features(100, seed=1), features(100, seed=2)
    metric = FrechetDistance(16)
    metric.set_reference(*mean_and_covariance(real))
    metric.update(fake, real=False)
    assert metric.compute().item() == pytest.approx(metric_of(real, fake).compute().item(), rel=1e-10)
    metric.reset()
    metric.update(real, real=False)
    assert metric.compute().item() == pytest.approx(0, abs=1e-6), "a reset keeps the reference"


def test_sums_stay_float64_under_casts() -> None:
    real, fake = features(100, seed=1) + 100, features(100, seed=2) + 100
    expected = metric_of(real, fake).compute().item()
    metric = metric_of(real, fake)
    for cast in (torch.bfloat16, torch.float32):
        metric.to(cast)
        assert metric.real_outer.dtype == torch.float64
    metric.half()
    assert metric.compute().item() == expected


def test_features_with_a_large_mean_lose_no_digits() -> None:
    real, fake = features(500, seed=1), features(500, seed=2)
    near, far = (
        metric_of(real, fake).compute().item(),
        metric_of(real.double() + 1e3, fake.double() + 1e3).compute(),
    )
    assert far.item() == pytest.approx(near, rel=1e-6)


@pytest.mark.parametrize("kind", ["real", "fake"])
def test_fewer_than_two_samples_are_refused(kind: str) -> None:
    metric = FrechetDistance(4)
    metric.update(torch.randn(1 if kind == "real" else 5, 4), real=True)
    metric.update(torch.randn(1 if kind == "fake" else 5, 4), real=False)
    with pytest.raises(ValueError, match=f"at least two {kind} samples, got 1"):
        metric.compute()


def test_adms_reference_file(tmp_path: Path) -> None:
    mu, sigma = np.arange(3.0), np.eye(3) * 2
    path = tmp_path / "reference.npz"
    np.savez(path, mu=mu, sigma=sigma, mu_s=mu + 1, sigma_s=sigma + 1, arr_0=np.zeros((1, 2, 2, 3), np.uint8))
    mean, covariance = read_reference(path)
    assert (mean.tolist(), covariance.tolist()) == (mu.tolist(), sigma.tolist())
    mean, covariance = read_reference(path, spatial=True)
    assert (mean.tolist(), covariance.tolist()) == ((mu + 1).tolist(), (sigma + 1).tolist())
    np.savez(path, arr_0=mu)
    with pytest.raises(ValueError, match="mu and sigma"):
        read_reference(path)
