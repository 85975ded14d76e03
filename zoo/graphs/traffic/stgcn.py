"""STGCN (Yu et al., IJCAI 2018): gated temporal convolutions around a graph convolution.

Parameter names and figures are those of the PyTorch port github.com/hazdzz/stgcn, whose weights load here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.graphs.traffic.supports import chebyshev, renormalised, scaled_laplacian

Kernel = Literal["cheb", "1st"]


class Align(nn.Module):
    """C -> C' channels: a 1 x 1 convolution to fewer, zeros appended to more, nothing for as many.

    Args:
        unused: keep the convolution where it is not used too, as the port does. It is frozen: it gets no
            gradient, which DDP would take for an error.
    """

    def __init__(self, channels: int, out_channels: int, unused: bool = False) -> None:
        super().__init__()
        self.growth = out_channels - channels
        if self.growth < 0 or unused:
            self.align_conv = nn.Conv2d(channels, out_channels, 1)
        if self.growth >= 0 and unused:
            self.align_conv.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        if self.growth < 0:
            return self.align_conv(x)
        return functional.pad(x, (0, 0, 0, 0, 0, self.growth)) if self.growth else x


class TemporalGate(nn.Module):
    """(P + residual) * sigmoid(Q), [P, Q] a causal convolution of ``kernel`` frames without padding.

    Shapes: (B, C, T, N) -> (B, C', T - kernel + 1, N). The residual is the input without its first frames.
    """

    def __init__(self, channels: int, out_channels: int, kernel: int, unused: bool = False) -> None:
        super().__init__()
        self.kernel = kernel
        self.causal_conv = nn.Conv2d(channels, 2 * out_channels, (kernel, 1))
        self.align = Align(channels, out_channels, unused)

    def forward(self, x: Tensor) -> Tensor:
        p, q = self.causal_conv(x).chunk(2, dim=1)
        return (p + self.align(x[:, :, self.kernel - 1 :])) * torch.sigmoid(q)


class KernelWeight(nn.Module):
    """Theta of a graph convolution and its bias: (Ks, C, C) for Chebyshev terms, (C, C) for the first
    order."""

    def __init__(self, channels: int, terms: int | None) -> None:
        super().__init__()
        shape = (channels, channels) if terms is None else (terms, channels, channels)
        self.weight = nn.Parameter(torch.empty(shape))
        self.bias = nn.Parameter(torch.empty(channels))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        fan_in, _ = nn.init._calculate_fan_in_and_fan_out(self.weight)
        nn.init.uniform_(self.bias, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))


class GraphConvolution(nn.Module):
    """x' = align(x), y = sum_k T_k(S) x' Theta_k + b, returned is y + x'.

    Theta is applied first: sum_k T_k (x' Theta_k) is the same, and T_0 = I then costs nothing.
    """

    def __init__(self, channels: int, out_channels: int, kernel: Kernel, terms: int, unused: bool) -> None:
        super().__init__()
        self.align = Align(channels, out_channels, unused)
        if kernel == "cheb":
            self.cheb_graph_conv = KernelWeight(out_channels, terms)
        else:
            self.graph_conv = KernelWeight(out_channels, None)

    def forward(self, x: Tensor, supports: Tensor) -> Tensor:
        x = self.align(x)
        if hasattr(self, "graph_conv"):
            theta = self.graph_conv
            return theta.bias[:, None, None] + x + _project(x, theta.weight) @ supports[0].T
        theta = self.cheb_graph_conv
        # (Ks, in, out) as one 1 x 1 convolution to Ks * out channels
        parts = _project(x, theta.weight.transpose(0, 1).flatten(1)).chunk(len(theta.weight), dim=1)
        y = theta.bias[:, None, None] + x + parts[0]
        for part, support in zip(parts[1:], supports[1:], strict=True):
            y = y + part @ support.T
        return y


def _project(x: Tensor, weight: Tensor) -> Tensor:
    """Channels times ``weight`` (in, out); (B, in, T, N) -> (B, out, T, N)."""
    return functional.conv2d(x, weight.T[:, :, None, None])


class Block(nn.Module):
    """Temporal gate, graph convolution, relu, temporal gate, LayerNorm over (N, C), dropout."""

    def __init__(
        self,
        num_nodes: int,
        channels: int,
        widths: Sequence[int],
        kernel: Kernel,
        terms: int,
        kernel_time: int,
        dropout: float,
        unused: bool,
    ) -> None:
        super().__init__()
        first, middle, last = widths
        self.tmp_conv1 = TemporalGate(channels, first, kernel_time, unused)
        self.graph_conv = GraphConvolution(first, middle, kernel, terms, unused)
        self.tmp_conv2 = TemporalGate(middle, last, kernel_time, unused)
        self.tc2_ln = nn.LayerNorm([num_nodes, last], eps=1e-12)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, supports: Tensor) -> Tensor:
        x = self.graph_conv(self.tmp_conv1(x), supports).relu()
        x = self.tmp_conv2(x)
        x = self.tc2_ln(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.dropout(x)


class Output(nn.Module):
    """Temporal gate over all frames that are left, LayerNorm, two linear layers with a relu between."""

    def __init__(
        self, num_nodes: int, channels: int, width: int, outputs: int, frames: int, unused: bool
    ) -> None:
        super().__init__()
        self.tmp_conv1 = TemporalGate(channels, width, frames, unused)
        self.tc1_ln = nn.LayerNorm([num_nodes, width], eps=1e-12)
        self.fc1 = nn.Linear(width, width)
        self.fc2 = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.tc1_ln(self.tmp_conv1(x).permute(0, 2, 3, 1))  # (B, 1, N, C)
        return self.fc2(self.fc1(x).relu()).permute(0, 3, 1, 2)


class STGCN(nn.Module):
    """Two blocks of channels 64-16-64 and an output block of width 128: 12 frames -> 8 -> 4 -> 1.

    Args:
        num_nodes: N; LayerNorm ties the weights to it.
        lags: frames of the input.
        outputs: steps that are predicted at once; 1 in the paper and the port.
        channels: of the input.
        kernel: ``cheb`` or ``1st`` order.
        terms: Ks of the Chebyshev kernel.
        kernel_time: Kt.
        widths: channels of a block.
        output_width: of the output block.
        dropout: after each block.
        unused_aligns: keep the port's unused 1 x 1 convolutions, see :class:`Align`.

    Raises:
        ValueError: if the frames do not last to the output.
    """

    supports: Tensor

    def __init__(
        self,
        num_nodes: int,
        lags: int = 12,
        outputs: int = 1,
        channels: int = 1,
        kernel: Kernel = "cheb",
        terms: int = 3,
        kernel_time: int = 3,
        widths: Sequence[int] = (64, 16, 64),
        output_width: int = 128,
        dropout: float = 0.5,
        unused_aligns: bool = False,
    ) -> None:
        super().__init__()
        frames = lags - 4 * (kernel_time - 1)
        if frames < 1:
            raise ValueError(
                f"STGCN takes {4 * (kernel_time - 1)} frames away in its two blocks, so lags must be at "
                f"least {4 * (kernel_time - 1) + 1}, got {lags}"
            )
        self.num_nodes, self.kernel, self.terms = num_nodes, kernel, terms
        inner = (kernel, terms, kernel_time, dropout, unused_aligns)
        self.st_blocks = nn.ModuleList(
            [Block(num_nodes, channels, widths, *inner), Block(num_nodes, widths[-1], widths, *inner)]
        )
        self.output = Output(num_nodes, widths[-1], output_width, outputs, frames, unused_aligns)
        count = terms if kernel == "cheb" else 1
        self.register_buffer("supports", torch.zeros(count, num_nodes, num_nodes))

    def set_graph(self, adjacency: Tensor) -> None:
        """Take the graph (N, N); the supports travel with the weights."""
        if self.kernel == "cheb":
            self.supports.copy_(chebyshev(scaled_laplacian(adjacency), self.terms))
        else:
            self.supports.copy_(renormalised(adjacency)[None])

    def forward(self, x: Tensor) -> Tensor:
        """(B, lags, N, C) -> (B, outputs, N)."""
        if x.shape[2] != self.num_nodes:
            raise ValueError(
                f"this STGCN is for {self.num_nodes} sensors, to which its LayerNorm weights belong; the "
                f"data have {x.shape[2]}"
            )
        x = x.permute(0, 3, 1, 2)  # (B, C, T, N)
        for block in self.st_blocks:
            x = block(x, self.supports)
        return self.output(x)[:, :, 0]
