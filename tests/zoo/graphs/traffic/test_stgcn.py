"""STGCN against a straightforward version written from the equations, its sizes, its port's weights, traps 12
and 16."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import cli
import zoo
from zoo.graphs.traffic.stgcn import STGCN
from zoo.graphs.traffic.supports import chebyshev, diffusion_supports, renormalised, scaled_laplacian

KERNELS = ("cheb", "1st")


def directed(nodes: int, seed: int = 0) -> Tensor:
    """A weighted directed graph with a diagonal of ones, as METR-LA's."""
    random = torch.Generator().manual_seed(seed)
    weights = torch.rand(nodes, nodes, generator=random)
    weights = weights * (torch.rand(nodes, nodes, generator=random) < 0.4)
    return weights - torch.diag(weights.diagonal()) + torch.eye(nodes)


def stgcn(kernel: str, nodes: int = 7, **options: Any) -> STGCN:
    network = STGCN(nodes, kernel=kernel, dropout=0.0, **options)  # type: ignore[arg-type]
    for p in network.parameters():  # also those that begin at 0 or 1
        p.data = 0.3 * torch.randn_like(p)
    network.set_graph(directed(nodes))
    return network.eval()


def shift_operator(weights: Tensor, kernel: str) -> Tensor:
    nodes = len(weights)
    w = torch.zeros(nodes, nodes, dtype=torch.float64)
    for i in range(nodes):
        for j in range(nodes):
            if i != j:
                w[i, j] = max(weights[i, j], weights[j, i])
    if kernel == "1st":
        w += torch.eye(nodes)
        degree = w.sum(1)
        return w / degree.sqrt()[:, None] / degree.sqrt()[None]
    degree = w.sum(1)
    laplacian = torch.eye(nodes) - w / degree.sqrt()[:, None] / degree.sqrt()[None]
    return 2 * laplacian / torch.linalg.eigvalsh(laplacian).max() - torch.eye(nodes)


def gate(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    """Input (T, N, C) of one item."""
    weight, bias = state[f"{name}.causal_conv.weight"][..., 0], state[f"{name}.causal_conv.bias"]
    kernel, out = weight.shape[2], weight.shape[0] // 2
    frames = []
    for t in range(kernel - 1, len(x)):
        z = bias + sum(x[t - kernel + 1 + k] @ weight[:, :, k].T for k in range(kernel))
        residual = x[t]
        if residual.shape[1] < out:
            residual = torch.cat([residual, residual.new_zeros(len(residual), out - residual.shape[1])], 1)
        elif residual.shape[1] > out:
            key = f"{name}.align.align_conv"
            residual = residual @ state[f"{key}.weight"][..., 0, 0].T + state[f"{key}.bias"]
        frames.append((z[:, :out] + residual) / (1 + torch.exp(-z[:, out:])))
    return torch.stack(frames)


def norm(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    """Over nodes and channels of each frame."""
    frames = []
    for frame in x:
        deviation = frame - frame.mean()
        scaled = deviation / (deviation.square().mean() + 1e-12).sqrt()
        frames.append(scaled * state[f"{name}.weight"] + state[f"{name}.bias"])
    return torch.stack(frames)


def graph(x: Tensor, state: dict[str, Tensor], name: str, kernel: str, support: Tensor) -> Tensor:
    align = f"{name}.align.align_conv"
    x = x @ state[f"{align}.weight"][..., 0, 0].T + state[f"{align}.bias"]
    if kernel == "1st":
        theta = state[f"{name}.graph_conv.weight"]
        return x + torch.stack([support @ f @ theta for f in x]) + state[f"{name}.graph_conv.bias"]
    theta = state[f"{name}.cheb_graph_conv.weight"]
    frames = []
    for f in x:
        terms = [f, support @ f]
        while len(terms) < len(theta):
            terms.append(2 * support @ terms[-1] - terms[-2])
        frames.append(sum(term @ t for term, t in zip(terms, theta, strict=True)))
    return x + torch.stack(frames) + state[f"{name}.cheb_graph_conv.bias"]


def reference(x: Tensor, state: dict[str, Tensor], kernel: str, weights: Tensor) -> Tensor:
    """(T, N, C) -> (outputs, N) in float64."""
    state = {k: v.double() for k, v in state.items()}
    support, x = shift_operator(weights.double(), kernel), x.double()
    for i in range(2):
        name = f"st_blocks.{i}"
        x = graph(gate(x, state, f"{name}.tmp_conv1"), state, f"{name}.graph_conv", kernel, support)
        x = norm(gate(x.clamp(min=0), state, f"{name}.tmp_conv2"), state, f"{name}.tc2_ln")
    x = norm(gate(x, state, "output.tmp_conv1"), state, "output.tc1_ln")
    (x,) = x  # trap 16: one frame is left
    x = (x @ state["output.fc1.weight"].T + state["output.fc1.bias"]).clamp(min=0)
    return (x @ state["output.fc2.weight"].T + state["output.fc2.bias"]).T


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("channels", "outputs"), [(1, 1), (2, 12)])
def test_stgcn_is_the_straightforward_version(kernel: str, channels: int, outputs: int) -> None:
    network = stgcn(kernel, channels=channels, outputs=outputs)
    x = torch.randn(3, 12, 7, channels)
    found = network(x)
    assert found.shape == (3, outputs, 7)
    for item, result in zip(x, found, strict=True):
        expected = reference(item, network.state_dict(), kernel, directed(7))
        assert float(expected.std()) > 0.1
        assert torch.allclose(result.double(), expected, rtol=1e-4, atol=1e-4)


def test_layer_norm_has_the_ports_epsilon() -> None:
    """With torch's own 1e-5 the port's outputs are missed by 3e-5 to 3e-4."""
    network = stgcn("cheb")
    norms = [m for m in network.modules() if isinstance(m, torch.nn.LayerNorm)]
    found = [(m.eps, tuple(m.weight.shape)) for m in norms]
    assert found == [(1e-12, (7, 64)), (1e-12, (7, 64)), (1e-12, (7, 128))]


@pytest.mark.parametrize(
    ("nodes", "unused", "count"),
    [(207, True, 244_609), (228, True, 255_361), (207, False, 229_825), (228, False, 240_577)],
)
def test_parameter_counts_are_the_specs(nodes: int, unused: bool, count: int) -> None:
    with torch.device("meta"):
        network = STGCN(nodes, unused_aligns=unused)
    assert sum(p.numel() for p in network.parameters()) == count


def test_a_path_of_three_has_the_known_laplacian() -> None:
    """L of a path a - b - c with unit weights has eigenvalues 0, 1, 2: 2 L / 2 - I = -D^-1/2 W D^-1/2."""
    path = torch.tensor([[0.0, 1, 0], [0, 0, 1], [0, 0, 0]])  # directed, symmetrised by the maximum
    half = 0.5**0.5
    expected = torch.tensor([[0, -half, 0], [-half, 0, -half], [0, -half, 0]])
    assert torch.allclose(scaled_laplacian(path), expected, atol=1e-6)
    assert torch.allclose(scaled_laplacian(path + torch.eye(3)), expected, atol=1e-6)  # diagonal dropped
    terms = chebyshev(scaled_laplacian(path), 3)
    assert torch.allclose(terms[2], 2 * expected @ expected - torch.eye(3), atol=1e-6)
    first = torch.tensor([[1 / 2, 6**-0.5, 0], [6**-0.5, 1 / 3, 6**-0.5], [0, 6**-0.5, 1 / 2]])
    assert torch.allclose(renormalised(path), first, atol=1e-6)
    assert torch.allclose(renormalised(path + torch.eye(3)), first, atol=1e-6)


@pytest.mark.parametrize("kernel", KERNELS)
def test_an_isolated_sensor_gives_finite_numbers(kernel: str) -> None:
    network = stgcn(kernel, nodes=3)
    network.set_graph(torch.tensor([[1.0, 1, 0], [0, 1, 0], [0, 0, 1]]))
    assert bool(network.supports.isfinite().all())
    assert bool(network(torch.randn(2, 12, 3, 1)).isfinite().all())


def test_twelve_frames_leave_one() -> None:
    """Trap 16."""
    network, frames = stgcn("cheb"), []
    for block in network.st_blocks:
        block.register_forward_hook(lambda m, i, o: frames.append(o.shape[2]))
    network.output.tmp_conv1.register_forward_hook(lambda m, i, o: frames.append(o.shape[2]))
    network(torch.randn(1, 12, 7, 1))
    assert frames == [8, 4, 1]
    with pytest.raises(ValueError, match="lags must be at least 9, got 8"):
        STGCN(7, lags=8)


@torch.no_grad()
def test_a_later_value_changes_no_earlier_output() -> None:
    """Trap 16: a gate is causal, output frame t reads input frames t - 2 .. t (counted from the end)."""
    network = stgcn("cheb")
    first, x = network.st_blocks[0].tmp_conv1, torch.randn(1, 1, 12, 7)
    changed = x.clone()
    changed[:, :, 8] += 1  # frame 8 is the last one read by output frame 6
    difference = (first(changed) - first(x)).abs().amax(dim=(0, 1, 3))
    assert difference[:6].tolist() == [0.0] * 6
    assert bool((difference[6:9] > 1e-3).all())
    assert difference[9:].tolist() == [0.0]
    # of all blocks together: frames 0-7 of the input make frame 0 of the 4 left, the last input frame only
    # frame 3
    changed = x.clone()
    changed[:, :, 11] += 1

    def left(values: Tensor) -> Tensor:
        for block in network.st_blocks:
            values = block(values, network.supports)
        return values

    difference = (left(changed) - left(x)).abs().amax(dim=(0, 1, 3))
    assert difference[:3].tolist() == [0.0] * 3
    assert float(difference[3]) > 1e-3


def test_another_number_of_sensors_is_refused() -> None:
    """Trap 12: LayerNorm over (N, C) ties the weights to N."""
    with pytest.raises(ValueError, match=r"for 7 sensors.* have 8"):
        stgcn("cheb")(torch.randn(1, 12, 8, 1))


def port_file(path: Path, kernel: str, unused: bool = True) -> dict[str, Tensor]:
    network = STGCN(9, kernel=kernel, unused_aligns=unused)  # type: ignore[arg-type]
    state = {k: 0.3 * torch.randn_like(v) for k, v in network.state_dict().items() if k != "supports"}
    torch.save(state, path)
    return state


CONV1, CONV2 = ([f"tmp_conv{i}.{k}" for k in ("causal_conv", "align.align_conv")] for i in (1, 2))
BLOCK = [*CONV1, "graph_conv.align.align_conv", "graph_conv.cheb_graph_conv", *CONV2, "tc2_ln"]
LAYERS = [f"st_blocks.{i}.{k}" for i in (0, 1) for k in BLOCK]
LAYERS += [f"output.{k}" for k in (*CONV1, "tc1_ln", "fc1", "fc2")]
PORT_KEYS = {f"{layer}.{p}" for layer in LAYERS for p in ("weight", "bias")}


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_ports_weights_convert_both_ways_to_the_bit(kernel: str, tmp_path: Path) -> None:
    state = port_file(tmp_path / "port.pth", kernel)
    names = {k.replace("cheb_graph_conv", "graph_conv") for k in PORT_KEYS} if kernel == "1st" else PORT_KEYS
    assert set(state) == names
    ours, back = tmp_path / "ours.safetensors", tmp_path / "back.pth"
    command = ["convert", str(tmp_path / "port.pth"), "--method", "forecast", "--set", "target_step=3"]
    assert cli.main([*command, "--out", str(ours)]) == 0
    assert cli.main(["convert", str(ours), "--to", "port", "--out", str(back)]) == 0
    again = torch.load(back, weights_only=True)
    assert set(again) == set(state)
    assert all(torch.equal(again[k], state[k]) for k in state)

    module = zoo.load(str(ours))
    assert isinstance(module, zoo.SpatioTemporalForecaster)
    assert (module.hparams["arch"], module.hparams["num_nodes"]) == (f"stgcn_{kernel}", 9)
    assert not module.taken  # graph and scale come from the data
    module.network.set_graph(directed(9))  # type: ignore[operator]
    x = torch.randn(2, 12, 9, 1)
    expected = torch.stack([reference(item, state, kernel, directed(9)) for item in x])
    assert torch.allclose(module.network(x).double(), expected, rtol=1e-4, atol=1e-4)


def test_a_model_without_unused_aligns_is_written_with_zeros_there(tmp_path: Path) -> None:
    from zoo.graphs.traffic.weights import port_state

    module = zoo.SpatioTemporalForecaster(arch="stgcn_cheb", num_nodes=9, target_step=3)
    state = port_state(module)
    assert set(state) == PORT_KEYS
    assert not state["output.tmp_conv1.align.align_conv.weight"].any()
    assert torch.equal(state["output.fc1.weight"], module.network.state_dict()["output.fc1.weight"])


def test_port_weights_that_do_not_fit_are_one_line(tmp_path: Path, capsys: Any) -> None:
    state = port_file(tmp_path / "port.pth", "cheb")
    torch.save({"a": torch.zeros(2)}, tmp_path / "other.pth")
    torch.save({**state, "output.fc1.weight": torch.zeros(3, 3)}, tmp_path / "shape.pth")
    (tmp_path / "broken.pth").write_bytes(b"x")
    cases = [
        ("port.pth", [], "--set target_step=3"),
        ("port.pth", ["num_nodes=8", "target_step=3"], "its num_nodes is 9, which contradicts"),
        ("other.pth", ["target_step=3"], "no weights of STGCN's port"),
        ("shape.pth", ["target_step=3"], "output.fc1.weight does not fit"),
        ("broken.pth", ["target_step=3"], "is damaged or no PyTorch file"),
    ]
    for name, settings, text in cases:
        flags = [f for s in settings for f in ("--set", s)]
        command = ["convert", str(tmp_path / name), "--method", "forecast", *flags]
        assert cli.main([*command, "--out", str(tmp_path / "x.safetensors")]) == 1
        (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("zoo: error")]
        assert text in line


@pytest.mark.parametrize("nodes", [1, 4])
def test_supports_of_sensors_without_roads_are_finite(nodes):
    roads = torch.zeros(nodes, nodes)
    if nodes > 1:
        roads[0, 1] = 0.5  # the others are alone
    found = [chebyshev(scaled_laplacian(roads), 3), renormalised(roads), diffusion_supports(roads, 2)]
    assert all(t.isfinite().all() for t in found)
