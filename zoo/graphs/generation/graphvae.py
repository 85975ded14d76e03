"""GraphVAE: a whole graph at once, as probabilities of N_max nodes and of all pairs of them.

Simonovsky & Komodakis, "GraphVAE: Towards Generation of Small Graphs Using Variational Autoencoders", ICANN
2018.
"""

from __future__ import annotations

import itertools

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional


class GraphVAE(nn.Module):
    """q(z | A) by two graph convolutions and a gated sum over the nodes, p(A | z) by an MLP.

    The decoder gives logits (N_max, N_max), symmetric: the diagonal says whether a node is there (the padded
    node channel), the rest whether an edge is, given its nodes.

    Args:
        max_nodes: N_max.
        latent: size of z.
        encoder: widths of the two graph convolutions and of the pooled graph.
        decoder: widths of the MLP.
    """

    pairs: Tensor

    def __init__(
        self,
        max_nodes: int,
        latent: int = 40,
        encoder: tuple[int, int, int] = (32, 64, 128),
        decoder: tuple[int, ...] = (128, 256, 512),
    ) -> None:
        super().__init__()
        self.max_nodes, self.latent = max_nodes, latent
        first, second, pooled = encoder
        self.own = nn.ModuleList([nn.Linear(2, first), nn.Linear(first, second)])
        self.neighbours = nn.ModuleList(
            [nn.Linear(2, first, bias=False), nn.Linear(first, second, bias=False)]
        )
        self.gate, self.value = nn.Linear(second, pooled), nn.Linear(second, pooled)
        self.posterior = nn.Linear(pooled, 2 * latent)
        widths = (latent, *decoder)
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise(widths):
            layers += [nn.Linear(a, b), nn.ReLU()]
        self.decoder = nn.Sequential(*layers, nn.Linear(widths[-1], max_nodes * (max_nodes + 1) // 2))
        self.register_buffer("pairs", torch.triu_indices(max_nodes, max_nodes), persistent=False)

    def encode(self, adjacency: Tensor, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance (B, latent) of adjacency (B, N, N); the order of the nodes plays no part."""
        a = adjacency.float()
        there = (torch.arange(a.shape[1], device=a.device) < nodes[:, None]).float()[:, :, None]
        degree = a.sum(dim=2, keepdim=True)
        h = torch.cat([there, degree / self.max_nodes], dim=2)
        for own, others in zip(self.own, self.neighbours, strict=True):
            h = functional.relu(own(h) + others(a @ h / degree.clamp(min=1)))
        pooled = (there * self.gate(h).sigmoid() * self.value(h)).sum(dim=1)
        mean, log_variance = self.posterior(functional.relu(pooled)).chunk(2, dim=1)
        return mean, log_variance

    def forward(self, z: Tensor) -> Tensor:
        """Logits (B, N_max, N_max), symmetric, of codes z (B, latent)."""
        upper = self.decoder(z)
        logits = upper.new_zeros(z.shape[0], self.max_nodes, self.max_nodes)
        logits[:, self.pairs[0], self.pairs[1]] = upper
        logits[:, self.pairs[1], self.pairs[0]] = upper
        return logits


def with_nodes(adjacency: Tensor, nodes: Tensor, max_nodes: int) -> Tensor:
    """Adjacency (B, N, N) -> float (B, N_max, N_max) with ones on the diagonal where a node is."""
    padded = functional.pad(adjacency.float(), (0, max_nodes - adjacency.shape[2]) * 2)
    there = torch.arange(max_nodes, device=padded.device) < nodes[:, None]
    return padded + torch.diag_embed(there.float())


def reconstruction_loss(logits: Tensor, target: Tensor) -> Tensor:
    """-log p(A | z) per graph (B,): mean over the N nodes plus mean over the N (N - 1) ordered pairs.

    The paper's normalisation (its equation 2), with the target of :func:`with_nodes`.
    """
    losses = functional.binary_cross_entropy_with_logits(logits.float(), target, reduction="none")
    size = losses.shape[1]
    there = losses.diagonal(dim1=1, dim2=2).sum(dim=1)
    return there / size + (losses.sum(dim=(1, 2)) - there) / (size * (size - 1))


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) || N(0, I)) per graph (B,), in nats."""
    mean, log_variance = mean.float(), log_variance.float()
    return -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(dim=1)


def most_likely(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Point estimate: the nodes with probability at least 1/2 and their edges likewise.

    Returns:
        adjacency: (B, N_max, N_max), the nodes that are there first.
        nodes: int64 (B,), at least 1.
    """
    there = logits.diagonal(dim1=1, dim2=2) >= 0
    order = (~there).to(torch.uint8).argsort(dim=1, stable=True)
    nodes = there.sum(dim=1).clamp(min=1)
    edges = (logits >= 0) & there[:, :, None] & there[:, None, :]
    edges = edges & ~torch.eye(edges.shape[1], dtype=torch.bool, device=edges.device)
    rows = edges.gather(1, order[:, :, None].expand_as(edges))
    return rows.gather(2, order[:, None, :].expand_as(edges)), nodes


def _similarity(target: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """s_ia,ia (B, i, a), and the decoder's part A~_ab A~_aa A~_bb (B, a, b) of s_ia,jb."""
    probability = logits.float().sigmoid()
    there = probability.diagonal(dim1=1, dim2=2)
    edge = probability * there[:, :, None] * there[:, None, :]
    edge = edge - torch.diag_embed(edge.diagonal(dim1=1, dim2=2))
    return target.diagonal(dim1=1, dim2=2)[:, :, None] * there[:, None, :], edge


@torch.no_grad()
def pooling_match(target: Tensor, logits: Tensor, iterations: int = 20) -> Tensor:
    """Order (B, N_max) of the decoder's places that fits the target best: place ``order[b, i]`` is node i.

    Max-pooling matching (Cho et al., CVPR 2014), x_ia <- s_ia,ia x_ia + sum_j max_b s_ia,jb x_jb, normalised
    each time, then the Hungarian algorithm. Absent nodes of the target have no similarity and take what is
    left. The similarity of edges is a product, A_ij times A~_ab, so that an iteration is O(B N_max^3).
    """
    node_similarity, edge = _similarity(target, logits)
    bonds = target - torch.diag_embed(target.diagonal(dim1=1, dim2=2))
    x = torch.full_like(node_similarity, 1 / target.shape[1])
    for _ in range(iterations):
        # m[b, a, j] = max over places c of edge[a, c] x[j, c]
        best = (edge[:, :, None, :] * x[:, None, :, :]).amax(dim=3)
        x = x * node_similarity + torch.einsum("bij,baj->bia", bonds, best)
        x = x / x.flatten(1).norm(dim=1).clamp(min=1e-12)[:, None, None]
    score = x.cpu().numpy()
    found = [torch.from_numpy(linear_sum_assignment(s, maximize=True)[1]) for s in score]
    return torch.stack(found).to(target.device)


def reordered(logits: Tensor, order: Tensor) -> Tensor:
    """Logits (B, N, N) with places in ``order`` (B, N)."""
    rows = logits.gather(1, order[:, :, None].expand_as(logits))
    return rows.gather(2, order[:, None, :].expand_as(logits))
