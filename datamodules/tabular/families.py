"""Pairs whose mutual information is known: Gaussians and five families that are not (Czyz et al. 2023).

Each family turns uniform numbers into (x, y), both (B, d), whose information is a total that is asked for.
All nats. Components are independent pairs, except for the degrees of freedom that Student's t shares.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from datamodules.tabular.draws import normals

Array = np.ndarray[Any, Any]
Family = Literal["gaussian", "student_t", "spiral", "half_cube", "additive_noise", "mixture"]


@dataclass(frozen=True)
class Pairs:
    """How pairs are drawn.

    Attributes:
        uniforms: numbers that an item takes.
        draw: uniform (B, ``uniforms``) -> x, y (B, d).
    """

    uniforms: int
    draw: Callable[[Array], tuple[Array, Array]]


def correlation_of(total: float, dim: int) -> float:
    """The correlation of d Gaussian component pairs with so many nats: I = -(d/2) log(1 - rho^2)."""
    return math.sqrt(-math.expm1(-2 * total / dim))


def student_excess(degrees: float, dim_x: int, dim_y: int) -> float:
    """Information of a multivariate t beyond that of the Gaussian of its correlations (Arellano-Valle 2013).

    f(nu) + f(nu + m + n) - f(nu + m) - f(nu + n) with f(x) = log Gamma(x/2) - (x/2) digamma(x/2).
    """
    from scipy.special import digamma, gammaln

    def f(x: float) -> float:
        return float(gammaln(x / 2) - x / 2 * digamma(x / 2))

    return f(degrees) + f(degrees + dim_x + dim_y) - f(degrees + dim_x) - f(degrees + dim_y)


def noise_width(information: float) -> float:
    """e of Y = X + N, X uniform on (0, 1) and N on (-e, e), with so many nats.

    I = e - log(2 e) for e up to 1/2, 1 / (4 e) beyond.
    """
    if information <= 0.5:
        return 1 / (4 * information)
    return _solved(lambda e: e - math.log(2 * e) - information, 0.0, 0.5)


def mixture_information(rho: float) -> float:
    """Nats of one pair of y = +-rho x + sqrt(1 - rho^2) noise, a sign by a fair coin, by quadrature.

    y given x is half N(rho x, s^2) and half N(-rho x, s^2); the entropy of the equal mixture of N(+-a, 1) is
    that of the normal + a^2 - E log cosh(a^2 + a z).
    """
    grid = np.linspace(-9, 9, 361)
    weight = np.exp(-(grid**2) / 2)
    weight = weight / weight.sum()
    s = math.sqrt(1 - rho**2)
    a = rho * np.abs(grid)[:, None] / s
    u = np.abs(a**2 + a * grid[None])
    log_cosh = u + np.log1p(np.exp(-2 * u)) - math.log(2)
    return float(-math.log(s) - weight @ (a[:, 0] ** 2 - log_cosh @ weight))


def _solved(falling: Callable[[float], float], low: float, high: float) -> float:
    """Where a falling function crosses 0 between two ends, which are not asked."""
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return (low + high) / 2


def spiral(x: Array, speed: float) -> Array:
    """Components turned in pairs by ``speed`` x |x|^2: invertible, since it keeps the norm. (B, d)."""
    angle = speed * (x**2).sum(axis=1, keepdims=True)
    found = x.copy()
    even = x.shape[1] // 2 * 2
    a, b = x[:, 0:even:2], x[:, 1:even:2]
    found[:, 0:even:2] = np.cos(angle) * a - np.sin(angle) * b
    found[:, 1:even:2] = np.sin(angle) * a + np.cos(angle) * b
    return found


def half_cube(x: Array) -> Array:
    """sign(x) |x|^(3/2), which makes tails heavy and keeps information."""
    return np.asarray(np.sign(x) * np.abs(x) ** 1.5)


def pairs_of(family: Family, total: float, dim: int, degrees: float, speed: float) -> Pairs:
    """The pairs of a family that is not ``gaussian``, with ``total`` nats.

    Args:
        family: which.
        total: nats.
        dim: d of x and of y.
        degrees: of freedom, of Student's t.
        speed: of the spiral.

    Raises:
        ValueError: for a Student's t with less than its degrees of freedom alone give, or a spiral of one
            component.
    """
    if family == "additive_noise":
        return _additive(noise_width(total / dim), dim)
    if family == "mixture":
        # -log rises with rho, hence the sign
        rho = _solved(lambda r: total / dim - mixture_information(r), 0.0, 1.0)
        return _mixture(rho, dim)
    if family == "student_t":
        excess = student_excess(degrees, dim, dim)
        if total < excess:
            raise ValueError(
                f"data.init_args.total_mi is {total}, but {degrees} degrees of freedom alone give "
                f"{excess:.3f} nats in {dim} + {dim} components: raise total_mi or degrees"
            )
        return _student(correlation_of(total - excess, dim), dim, degrees)
    if family == "spiral" and dim < 2:
        raise ValueError("data.init_args.dim is 1, but a spiral turns pairs of components: set 2 or more")
    bent: Callable[[Array], Array] = (lambda z: spiral(z, speed)) if family == "spiral" else half_cube
    return _gaussian(correlation_of(total, dim), dim, bent)


def _gaussian(rho: float, dim: int, bent: Callable[[Array], Array]) -> Pairs:
    def draw(u: Array) -> tuple[Array, Array]:
        x, noise = np.split(normals(u), 2, axis=1)
        return bent(x), bent(rho * x + math.sqrt(1 - rho**2) * noise)

    return Pairs(2 * dim, draw)


def _student(rho: float, dim: int, degrees: float) -> Pairs:
    def draw(u: Array) -> tuple[Array, Array]:
        from scipy.special import gammaincinv

        x, noise = np.split(normals(u[:, 1:]), 2, axis=1)
        stretch = np.sqrt(degrees / (2 * gammaincinv(degrees / 2, u[:, :1])))  # chi^2 by its inverse
        return stretch * x, stretch * (rho * x + math.sqrt(1 - rho**2) * noise)

    return Pairs(2 * dim + 1, draw)


def _additive(width: float, dim: int) -> Pairs:
    def draw(u: Array) -> tuple[Array, Array]:
        x, noise = np.split(u, 2, axis=1)
        y = x + width * (2 * noise - 1)
        return (x - 0.5) * math.sqrt(12), (y - 0.5) / math.sqrt(1 / 12 + width**2 / 3)

    return Pairs(2 * dim, draw)


def _mixture(rho: float, dim: int) -> Pairs:
    def draw(u: Array) -> tuple[Array, Array]:
        signs = np.where(u[:, 2 * dim :] < 0.5, -1.0, 1.0)
        x, noise = np.split(normals(u[:, : 2 * dim]), 2, axis=1)
        return x, signs * rho * x + math.sqrt(1 - rho**2) * noise

    return Pairs(3 * dim, draw)
