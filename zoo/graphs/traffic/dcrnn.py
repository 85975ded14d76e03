"""DCRNN (Li et al., ICLR 2018): GRUs whose products are diffusion convolutions, sequence to sequence.

The loop over time is where the seconds go. Per step and layer, the state is diffused once and serves the
layer's own gates at the next step and the input of the layer above; the input's share of both gates and the
candidate is one product. Signals are (N, B, C), so that a diffusion to all supports is one matrix product.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo.graphs.traffic.supports import diffusion_supports


def diffuse(supports: Tensor, x: Tensor) -> Tensor:
    """[x, P_1 x, ..., P_M x] side by side: supports (M, N, N), x (N, B, C) -> (N, B, (M + 1) C)."""
    nodes, batch, channels = x.shape
    moved = supports.flatten(0, 1) @ x.reshape(nodes, batch * channels)  # (M N, B C)
    moved = moved.view(-1, nodes, batch, channels).permute(1, 2, 0, 3).flatten(2)
    return torch.cat([x, moved], dim=2)


class DiffusionGRU(nn.Module):
    """GRU cell with diffusion convolutions.

    r, u = sigmoid(G * [x, h] + b), c = tanh(C * [x, r h] + b), h' = u h + (1 - u) c, where
    ``W * x`` = sum over the M + 1 supports of P_m x W_m. The weights are split into those of x (all three
    products side by side) and of h. The bias of the gates begins at 1.
    """

    def __init__(self, channels: int, hidden: int, supports: int) -> None:
        super().__init__()
        self.hidden = hidden
        joint = (supports + 1) * (channels + hidden)
        self.input_weight = nn.Parameter(torch.empty((supports + 1) * channels, 3 * hidden))
        self.gate_weight = nn.Parameter(torch.empty((supports + 1) * hidden, 2 * hidden))
        self.candidate_weight = nn.Parameter(torch.empty((supports + 1) * hidden, hidden))
        self.bias = nn.Parameter(torch.cat([torch.ones(2 * hidden), torch.zeros(hidden)]))
        # Glorot over the joint matrices of [x, h]
        gate, candidate = ((2 / (joint + n * hidden)) ** 0.5 for n in (2, 1))
        nn.init.normal_(self.input_weight[:, : 2 * hidden], std=gate)
        nn.init.normal_(self.input_weight[:, 2 * hidden :], std=candidate)
        nn.init.normal_(self.gate_weight, std=gate)
        nn.init.normal_(self.candidate_weight, std=candidate)

    def forward(self, moved_x: Tensor, h: Tensor, moved_h: Tensor, supports: Tensor) -> Tensor:
        """Diffused input (N, B, (M + 1) C), state (N, B, H) and the diffused state -> new state."""
        of_x = moved_x @ self.input_weight + self.bias
        gates = torch.sigmoid(of_x[..., : 2 * self.hidden] + moved_h @ self.gate_weight)
        r, u = gates.chunk(2, dim=-1)
        c = torch.tanh(of_x[..., 2 * self.hidden :] + diffuse(supports, r * h) @ self.candidate_weight)
        return torch.lerp(c, h, u)


class DCRNN(nn.Module):
    """Encoder and decoder of ``layers`` diffusion GRUs with ``hidden`` units.

    Args:
        outputs: steps of the forecast.
        channels: of the input; the decoder sees the forecast value alone.
        hidden: units of a layer.
        layers: of encoder and of decoder.
        order: K, steps of the diffusion, in both directions.
        num_nodes: N, for the supports that travel with the weights.
    """

    supports: Tensor

    def __init__(
        self,
        num_nodes: int,
        outputs: int = 12,
        channels: int = 2,
        hidden: int = 64,
        layers: int = 2,
        order: int = 2,
    ) -> None:
        super().__init__()
        self.outputs, self.order = outputs, order
        self.encoder, self.decoder = (
            nn.ModuleList(DiffusionGRU(first if i == 0 else hidden, hidden, 2 * order) for i in range(layers))
            for first in (channels, 1)
        )
        self.projection = nn.Linear(hidden, 1)
        self.register_buffer("supports", torch.zeros(2 * order, num_nodes, num_nodes))

    def set_graph(self, adjacency: Tensor) -> None:
        """Take the graph (N, N) with [i, j] the weight of i -> j."""
        self.supports.copy_(diffusion_supports(adjacency, self.order))

    def forward(self, x: Tensor, teacher: Tensor | None = None, taught: Tensor | None = None) -> Tensor:
        """(B, lags, N, C) -> (B, outputs, N).

        Args:
            x: the past.
            teacher: (B, outputs, N) the truth, for scheduled sampling.
            taught: (outputs,) bool; where true, the decoder's next input is the truth, not its own forecast.
        """
        x = x.permute(1, 2, 0, 3)  # (T, N, B, C)
        _, nodes, batch, _ = x.shape
        first: DiffusionGRU = self.encoder[0]  # type: ignore[assignment]
        h = x.new_zeros(nodes, batch, first.hidden)
        states = [h for _ in self.encoder]
        moved = [diffuse(self.supports, h) for h in states[:1]] * len(states)
        for frame in x:
            self._step(self.encoder, frame, states, moved)
        signal = x.new_zeros(nodes, batch, 1)
        forecast = []
        for step in range(self.outputs):
            self._step(self.decoder, signal, states, moved)
            signal = self.projection(states[-1])
            forecast.append(signal)
            if taught is not None and teacher is not None and bool(taught[step]):
                signal = teacher[:, step].T[..., None]
        return torch.cat(forecast, dim=2).permute(1, 2, 0)

    def _step(self, cells: nn.ModuleList, x: Tensor, states: list[Tensor], moved: list[Tensor]) -> None:
        """One step of all layers, which replaces their states (N, B, H) and diffused states."""
        moved_x = diffuse(self.supports, x)
        for i, cell in enumerate(cells):
            states[i] = cell(moved_x, states[i], moved[i], self.supports)
            moved[i] = moved_x = diffuse(self.supports, states[i])


def teaching_probability(step: int, decay: float) -> float:
    """Inverse sigmoid decay of scheduled sampling: c / (c + exp(i / c))."""
    # exp overflows far past the point where this is 0
    return decay / (decay + float(torch.tensor(min(step / decay, 700.0), dtype=torch.float64).exp()))
