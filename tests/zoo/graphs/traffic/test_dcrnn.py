"""DCRNN against a straightforward version written from the equations, traps 5 and scheduled sampling."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import zoo
from zoo.graphs.traffic.dcrnn import DCRNN, diffuse, teaching_probability
from zoo.graphs.traffic.supports import diffusion_supports, transition

# a -> b with weight 1, a -> c with weight 3, b -> c with weight 2: no symmetry to hide behind
EDGES = torch.tensor([[0.0, 1, 3], [0, 0, 2], [0, 0, 0]])


def dcrnn(nodes: int = 3, **options: int) -> DCRNN:
    network = DCRNN(nodes, **{"outputs": 4, "hidden": 5, **options})
    for p in network.parameters():
        p.data += 0.3 * torch.randn_like(p)
    network.set_graph(EDGES)
    return network.eval()


def convolution(x: Tensor, weights: Tensor, w: Tensor, order: int) -> Tensor:
    """X th_0 + sum_k (D_O^-1 W)^k X th_k + (D_I^-1 W^T)^k X th'_k for x (N, C), one matrix after the
    other."""
    nodes, channels = x.shape
    out, inn = torch.zeros(nodes, nodes).double(), torch.zeros(nodes, nodes).double()
    for i in range(nodes):
        for j in range(nodes):
            if w[i].sum() > 0:
                out[i, j] = w[i, j] / w[i].sum()
            if w[:, i].sum() > 0:
                inn[i, j] = w[j, i] / w[:, i].sum()
    parts = [x]
    for walk in (out, inn):
        parts += [torch.linalg.matrix_power(walk, k) @ x for k in range(1, order + 1)]
    theta = weights.view(len(parts), channels, -1)
    return sum((p @ t for p, t in zip(parts, theta, strict=True)), torch.zeros(()))


def gru(x: Tensor, h: Tensor, state: dict[str, Tensor], w: Tensor, order: int) -> Tensor:
    """The naive cell: convolutions of [x, h] with joint weights."""
    hidden = h.shape[1]
    terms = 1 + 2 * order
    of_x = state["input_weight"].view(terms, x.shape[1], 3 * hidden)

    def joint(columns: slice, of_h: Tensor) -> Tensor:
        both = torch.cat([of_x[..., columns], of_h.view(terms, hidden, -1)], dim=1)
        return both.flatten(0, 1)

    bias = state["bias"]
    gates = joint(slice(0, 2 * hidden), state["gate_weight"])
    z = torch.sigmoid(convolution(torch.cat([x, h], 1), gates, w, order) + bias[: 2 * hidden])
    r, u = z[:, :hidden], z[:, hidden:]
    candidate = joint(slice(2 * hidden, None), state["candidate_weight"])
    c = torch.tanh(convolution(torch.cat([x, r * h], 1), candidate, w, order) + bias[2 * hidden :])
    return u * h + (1 - u) * c


def reference(network: DCRNN, x: Tensor, w: Tensor, teacher: Tensor | None, taught: list[bool]) -> Tensor:
    """One item (T, N, C) -> (outputs, N)."""
    states = {k: v.double() for k, v in network.state_dict().items()}

    def cell(name: str) -> dict[str, Tensor]:
        return {k.removeprefix(f"{name}."): v for k, v in states.items() if k.startswith(f"{name}.")}

    layers, hidden = len(network.encoder), states["encoder.0.gate_weight"].shape[1] // 2
    h = [torch.zeros(x.shape[1], hidden).double() for _ in range(layers)]

    def step(stack: str, signal: Tensor) -> None:
        for i in range(layers):
            h[i] = gru(signal, h[i], cell(f"{stack}.{i}"), w.double(), network.order)
            signal = h[i]

    for frame in x.double():
        step("encoder", frame)
    signal, forecast = torch.zeros(x.shape[1], 1).double(), []
    for t in range(network.outputs):
        step("decoder", signal)
        signal = h[-1] @ states["projection.weight"].T + states["projection.bias"]
        forecast.append(signal[:, 0])
        if taught[t] and teacher is not None:
            signal = teacher[t].double()[:, None]
    return torch.stack(forecast)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("order", [1, 2])
def test_dcrnn_is_the_straightforward_version(layers: int, order: int) -> None:
    network = dcrnn(layers=layers, order=order)
    x, teacher = torch.randn(2, 6, 3, 2), torch.randn(2, 4, 3)
    for taught in ([False] * 4, [True, False, True, True]):
        found = network(x, teacher, torch.tensor(taught))
        for item, truth, result in zip(x, teacher, found, strict=True):
            expected = reference(network, item, EDGES, truth, taught)
            assert float(expected.std()) > 0.05
            assert torch.allclose(result.double(), expected, atol=1e-5)
    assert torch.equal(network(x), network(x, teacher, torch.zeros(4, dtype=torch.bool)))


def test_diffusion_goes_along_the_edges() -> None:
    """Trap 5: D_O^-1 W has rows that sum to 1 over the targets; W^T has those over the sources."""
    forward, backward = diffusion_supports(EDGES, 1)
    assert torch.equal(forward, torch.tensor([[0, 0.25, 0.75], [0, 0, 1], [0, 0, 0]]))
    assert torch.allclose(backward, torch.tensor([[0, 0, 0], [1.0, 0, 0], [0.6, 0.4, 0]]))
    assert not torch.allclose(forward.T, backward)
    # a signal at c reaches a and b forward (they point to it), one at a reaches b and c backward
    signal = torch.tensor([0.0, 0, 1]).view(3, 1, 1)
    moved = diffuse(diffusion_supports(EDGES, 2), signal)[:, 0]
    assert torch.allclose(moved[:, 1], torch.tensor([0.75, 1, 0]))  # P_f
    assert torch.allclose(moved[:, 2], torch.tensor([0.25, 0, 0]))  # P_f^2: a -> b -> c
    assert torch.equal(moved[:, 3:], torch.zeros(3, 2))  # nothing is behind c


def test_the_transposed_graph_gives_another_forecast() -> None:
    """Trap 5: a network fed A^T for A is not the same network."""
    network, x = dcrnn(), torch.randn(2, 6, 3, 2)
    right = network(x)
    network.set_graph(EDGES.T)
    assert float((network(x) - right).abs().max()) > 1e-2


def test_a_sensor_without_edges_has_zero_rows() -> None:
    assert torch.equal(transition(torch.zeros(2, 2)), torch.zeros(2, 2))


def test_size_is_the_papers() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in DCRNN(207).parameters()) == 372_353


def test_gates_begin_open_and_weights_have_glorots_deviation() -> None:
    cell = DCRNN(3).encoder[1]
    assert cell.bias[:128].eq(1).all()
    assert cell.bias[128:].eq(0).all()
    assert float(cell.gate_weight.std()) == pytest.approx(math.sqrt(2 / (640 + 128)), rel=0.03)
    assert float(cell.input_weight[:, 128:].std()) == pytest.approx(math.sqrt(2 / (640 + 64)), rel=0.03)


def test_teaching_decays_by_the_inverse_sigmoid() -> None:
    assert teaching_probability(0, 2000) == pytest.approx(2000 / 2001)
    assert teaching_probability(8000, 2000) == pytest.approx(2000 / (2000 + math.exp(4)))
    assert teaching_probability(round(2000 * math.log(2000)), 2000) == pytest.approx(0.5, abs=1e-3)
    assert teaching_probability(10**9, 2000) < 1e-12


def test_coins_are_a_function_of_seed_and_step(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    module = zoo.SpatioTemporalForecaster("dcrnn", num_nodes=3, horizon=6, hidden=4, teaching_decay=1.0)
    module.network.set_graph(EDGES)  # type: ignore[operator]
    seen: list[list[bool]] = []
    original = module.network.forward
    monkeypatch.setattr(
        module.network,
        "forward",
        lambda x, y=None, taught=None: seen.append(taught.tolist()) or original(x, y, taught),
    )
    monkeypatch.setattr(module, "log", lambda *a, **k: None)
    batch = {"x": torch.rand(2, 12, 3, 2), "y": torch.rand(2, 6, 3) + 1, "time": torch.zeros(2, 6).long()}

    def coins(step: int, seed: str, noise: int) -> list[bool]:
        monkeypatch.setenv("PL_GLOBAL_SEED", seed)
        monkeypatch.setattr(type(module), "trainer", SimpleNamespace(global_step=step))
        torch.manual_seed(noise)  # the global generator has no part in it
        module.training_step(batch, 0)
        return seen[-1]

    steps = [coins(0, "0", i) for i in range(3)]
    assert steps[0] == steps[1] == steps[2]
    many = [coins(s % 2, str(s), 0) for s in range(40)]
    assert len({tuple(c) for c in many}) > 8
    share = sum(map(sum, many)) / (40 * 6)
    assert share == pytest.approx((0.5 + 1 / (1 + math.e)) / 2, abs=0.1)
