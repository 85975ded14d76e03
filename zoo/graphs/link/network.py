r"""Graph auto-encoders (Kipf & Welling 2016), adversarially regularised ones (Pan et al. 2018), their losses.

Probabilities are p_uv = sigmoid(z_u . z_v). The sampled losses are PyG's, to the last digit of float64.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.graphs.node.network import ArchOptions, NodeArch, NodeNetwork, Structure

EPS = 1e-15
LARGEST_LOG_SIGMA = 10.0
Decoder = Literal["dot", "mlp"]


# --- pairs ------------------------------------------------------------------------------------------------


def pair_codes(pairs: Tensor, nodes: int) -> Tensor:
    """Place (P,) of each pair i < j in the order (0, 1), (0, 2), ..., (1, 2), ..."""
    first, second = pairs
    return first * nodes - first * (first + 1) // 2 + second - first - 1


def pairs_of(codes: Tensor, nodes: int) -> Tensor:
    """Inverse of :func:`pair_codes`: (P,) -> (2, P)."""
    rows = torch.arange(nodes, device=codes.device)
    starts = rows * nodes - rows * (rows + 1) // 2
    first = torch.searchsorted(starts, codes, right=True) - 1
    return torch.stack([first, codes - starts[first] + first + 1])


def sample_non_edges(edges: Tensor, nodes: int, count: int, generator: torch.Generator) -> Tensor:
    """``count`` independent uniform pairs i < j (2, count) that are none of ``edges`` (2, P), i < j.

    Ranks among the free pairs become pairs by binary search: no rejection, no (N, N) matrix.

    Raises:
        ValueError: for a complete graph.
    """
    taken = pair_codes(edges, nodes).sort().values
    free = nodes * (nodes - 1) // 2 - len(taken)
    if free < 1:
        raise ValueError(f"the graph of {nodes} nodes is complete: it has no non-edge to train against")
    rank = torch.randint(free, (count,), generator=generator, device=edges.device)
    below = taken - torch.arange(len(taken), device=edges.device)  # free pairs before each edge
    return pairs_of(rank + torch.searchsorted(below, rank, right=True), nodes)


# --- losses -----------------------------------------------------------------------------------------------


def _mean(values: Tensor) -> Tensor:
    """The mean, of nothing 0."""
    return values.mean() if len(values) else values.sum()


def reconstruction_loss(edges: Tensor, non_edges: Tensor) -> Tensor:
    """-mean log(p + 1e-15) over edges - mean log(1 - p + 1e-15) over non-edges, from logits (P,) and (K,)."""
    return -_mean(torch.log(edges.sigmoid() + EPS)) - _mean(torch.log(1 - non_edges.sigmoid() + EPS))


def dense_reconstruction_loss(z: Tensor, edges: Tensor) -> Tensor:
    """Kipf & Welling's own loss over all N^2 entries of A + I, O(N^2) memory.

    norm * BCE(Z Z^T, A + I; weight of ones (N^2 - s) / s), norm = N^2 / (2 (N^2 - s)), s = sum of A.

    Args:
        z: (N, D).
        edges: pairs i < j (2, P).
    """
    nodes, ones = len(z), 2 * edges.shape[1]
    target = torch.eye(nodes, device=z.device, dtype=z.dtype)
    target[edges[0], edges[1]] = 1
    target[edges[1], edges[0]] = 1
    rest = nodes * nodes - ones
    weight = torch.tensor(rest / max(ones, 1), device=z.device, dtype=z.dtype)
    loss = functional.binary_cross_entropy_with_logits(z @ z.T, target, pos_weight=weight)
    return nodes * nodes / (2 * rest) * loss


def kl_loss(mean: Tensor, log_sigma: Tensor) -> Tensor:
    """KL(N(mu, sigma^2) || N(0, 1)), a mean over nodes of -1/2 sum_j (1 + 2 s - mu^2 - e^2s); (N, D) each."""
    return -0.5 * (1 + 2 * log_sigma - mean.square() - log_sigma.exp().square()).sum(dim=1).mean()


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """-mean log(sigmoid(D(n)) + 1e-15) - mean log(1 - sigmoid(D(z)) + 1e-15), from logits; z is detached."""
    return -torch.log(real.sigmoid() + EPS).mean() - torch.log(1 - fake.sigmoid() + EPS).mean()


def regularisation_loss(fake: Tensor) -> Tensor:
    """-mean log(sigmoid(D(z)) + 1e-15): the encoder wants its code taken for noise."""
    return -torch.log(fake.sigmoid() + EPS).mean()


# --- networks ---------------------------------------------------------------------------------------------


def perceptron(sizes: Sequence[int]) -> nn.Sequential:
    """Linear layers of the given widths with ReLU between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class LinkAutoencoder(nn.Module):
    """Any node architecture as encoder, a decoder of pairs, and for ARGA a discriminator of codes.

    A variational encoder's last layer is twice as wide: its halves are mu and log sigma, clamped above at 10.
    For a GCN these are the two layers GCN_mu and GCN_sigma over the one shared hidden layer.

    Args:
        features: F.
        arch: of the encoder.
        hidden: width of the layers before the last.
        embedding: D.
        num_layers: of the encoder.
        dropout: of the encoder.
        variational: whether the code is a distribution.
        decoder: ``dot`` (no weights), or ``mlp`` over z_u * z_v, which is symmetric.
        discriminator: hidden widths of D; None has no D.
        **options: of the encoder's architecture, see :class:`zoo.graphs.node.network.ArchOptions`.
    """

    def __init__(
        self,
        features: int,
        arch: NodeArch = "gcn",
        hidden: int = 32,
        embedding: int = 16,
        num_layers: int = 2,
        dropout: float = 0.0,
        variational: bool = False,
        decoder: Decoder = "dot",
        discriminator: Sequence[int] | None = None,
        **options: Unpack[ArchOptions],
    ) -> None:
        super().__init__()
        self.variational = variational
        width = 2 * embedding if variational else embedding
        self.encoder = NodeNetwork(arch, features, hidden, width, num_layers, dropout, **options)
        self.decoder = perceptron([embedding, hidden, 1]) if decoder == "mlp" else None
        self.discriminator = None if discriminator is None else perceptron([embedding, *discriminator, 1])

    def encode(self, x: Tensor, graph: Tensor | Structure) -> tuple[Tensor, Tensor | None]:
        """mu (N, D) and log sigma (N, D) or None; the graph is edge_index (2, E), or prepared."""
        code: Tensor = self.encoder(x, graph)
        if not self.variational:
            return code, None
        mean, log_sigma = code.chunk(2, dim=1)
        return mean, log_sigma.clamp(max=LARGEST_LOG_SIGMA)

    def decode(self, z: Tensor, pairs: Tensor) -> Tensor:
        """Logits (P,) of pairs (2, P)."""
        product = z[pairs[0]] * z[pairs[1]]
        return product.sum(dim=1) if self.decoder is None else self.decoder(product).squeeze(1)

    def forward(self, x: Tensor, graph: Tensor | Structure, pairs: Tensor) -> Tensor:
        """Logits (P,) of pairs from mu, as evaluation takes them."""
        return self.decode(self.encode(x, graph)[0], pairs)


def draw_code(mean: Tensor, log_sigma: Tensor | None, generator: torch.Generator) -> Tensor:
    """z = mu + eps exp(s), eps ~ N(0, I); mu where there is no sigma."""
    if log_sigma is None:
        return mean
    noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
    return mean + noise * log_sigma.exp()
