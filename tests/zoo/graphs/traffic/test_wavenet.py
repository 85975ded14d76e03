"""Graph WaveNet against a straightforward version written from the equations; its size, causality, batch
norm."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from zoo.graphs.traffic.wavenet import GraphWaveNet

DILATIONS = (1, 2) * 4
EDGES = torch.tensor([[0.0, 1, 3], [0, 0, 2], [0, 0, 0]])


def wavenet(**options: object) -> GraphWaveNet:
    network = GraphWaveNet(3, **{"outputs": 4, "hidden": 6, "skip": 8, "end": 9, "dropout": 0.0, **options})  # type: ignore[arg-type]
    network.set_graph(EDGES)
    for layer in network.layers[:-1]:
        layer.norm.running_mean.normal_()
        layer.norm.running_var.uniform_(0.5, 2)
    return network.eval()


def reference(network: GraphWaveNet, x: Tensor) -> Tensor:
    """One item (T, N, C) with T >= 13 -> (outputs, N): convolutions frame by frame, float64."""
    s = {k: v.double() for k, v in network.state_dict().items()}

    def linear(name: str, z: Tensor) -> Tensor:
        return z @ s[f"{name}.weight"].T + s[f"{name}.bias"]

    walks = [EDGES.double() / EDGES.sum(1, keepdim=True).clamp(min=1)]
    walks.append(EDGES.T.double() / EDGES.T.sum(1, keepdim=True).clamp(min=1))
    if network.embedding:
        walks.append(torch.softmax(torch.relu(s["source"] @ s["target"].T), dim=1))
    frames = [linear("start", f) for f in x.double()]
    skip = torch.zeros(())
    for i, dilation in enumerate(DILATIONS):
        gated = []
        for t in range(dilation, len(frames)):
            z = linear(f"layers.{i}.taps", torch.cat([frames[t - dilation], frames[t]], dim=1))
            half = z.shape[1] // 2
            gated.append(torch.tanh(z[:, :half]) * torch.sigmoid(z[:, half:]))
        skip = skip + linear(f"layers.{i}.skip", gated[-1])  # the last frame is the one that the output has
        if i == len(DILATIONS) - 1:
            assert len(gated) == 1
            break
        after = []
        for t, frame in enumerate(gated):
            terms = [frame] + [torch.zeros(())] * (2 * len(walks))
            for w, walk in enumerate(walks):
                for k in (1, 2):
                    terms[1 + (k - 1) * len(walks) + w] = torch.linalg.matrix_power(walk, k) @ frame
            y = linear(f"layers.{i}.graph", torch.cat(terms, dim=1)) + frames[t + dilation]
            n = f"layers.{i}.norm"
            y = (y - s[f"{n}.running_mean"]) / (s[f"{n}.running_var"] + 1e-5).sqrt()
            after.append(y * s[f"{n}.weight"] + s[f"{n}.bias"])
        frames = after
    return linear("end.3", torch.relu(linear("end.1", torch.relu(skip)))).T


@pytest.mark.parametrize("embedding", [10, 0])
def test_graph_wavenet_is_the_straightforward_version(embedding: int) -> None:
    network, x = wavenet(embedding=embedding), torch.randn(2, 13, 3, 2)
    for item, result in zip(x, network(x), strict=True):
        expected = reference(network, item)
        assert float(expected.std()) > 0.05
        assert torch.allclose(result.double(), expected, atol=1e-5)


def test_twelve_frames_are_padded_on_the_left_to_thirteen() -> None:
    network = wavenet()
    assert network.receptive_field == 13
    x = torch.randn(2, 12, 3, 2)
    assert torch.allclose(network(x), network(functional.pad(x, (0, 0, 0, 0, 1, 0))), atol=1e-6)
    # more than the receptive field: frames before the last 13 do not matter
    earlier = network(torch.cat([torch.randn(2, 5, 3, 2), x, x[:, :1]], 1))
    assert torch.allclose(earlier, network(torch.cat([x, x[:, :1]], 1)), atol=1e-6)


def test_the_learned_graph_is_a_row_softmax() -> None:
    network = wavenet()
    adaptive = network.adaptive()
    assert torch.allclose(adaptive.sum(1), torch.ones(3))
    assert not torch.allclose(adaptive.sum(0), torch.ones(3))
    assert not torch.allclose(adaptive, adaptive.T)
    network(torch.randn(1, 12, 3, 2)).sum().backward()
    assert network.source.grad is not None
    assert float(network.source.grad.abs().max()) > 0


def test_size_is_the_released_one_less_what_it_never_reads() -> None:
    """309,400 for METR-LA, of which 8 residual convolutions (1,056 each), the last graph convolution (7,200)
    and its norm (64) have no part in the output; such weights would stop DDP."""
    with torch.device("meta"):
        network = GraphWaveNet(207)
    assert sum(p.numel() for p in network.parameters()) == 309_400 - 8 * 1_056 - 7_200 - 64 == 293_688


def test_every_weight_has_a_gradient() -> None:
    network = wavenet().train()
    network(torch.randn(4, 12, 3, 2)).square().sum().backward()
    assert all(p.grad is not None for p in network.parameters())
