"""Encoder-decoders: counts of OpenNMT's, prefixes against single steps, pads, decoding by hand."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn, tensor

from zoo.nn.decoding import beam_search, generate, inverse_cdf
from zoo.nn.encoder_decoder import GRU, RNN, Encoded, State, Transformer, sinusoids

PAD, BOS, EOS, V = 1, 2, 3, 11
NETWORKS = {
    "gru": lambda: GRU(V, 8),
    "rnn": lambda: RNN(V, 8, 2, 0.0),
    "transformer": lambda: Transformer(V, 8, 2, 2, 16, 0.0),
    "tied": lambda: Transformer(V, 8, 1, 2, 16, 0.0, tied=True),
}
SOURCE = tensor([[4, 5, 6, 7], [8, 9, PAD, PAD], [PAD] * 4])


def counted(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_parameters_are_opennmts() -> None:
    with torch.device("meta"):
        base = Transformer(100)
        lstm = RNN(100)
    assert counted(base.encoder[0]) == 3_152_384
    assert counted(base.encoder) + counted(base.encoder_norm) == 18_915_328
    assert counted(base.decoder[0]) == 4_204_032
    assert counted(base.decoder) + counted(base.decoder_norm) == 25_225_216
    assert counted(base) == 18_915_328 + 25_225_216 + 3 * 100 * 512 + 100
    cells = 4 * 500 * 1000 + 4000  # of a layer that reads 500 features
    assert counted(lstm.encoder) == 2 * cells
    assert counted(lstm.decoder) == 2 * cells + 4 * 500 * 500
    assert counted(lstm) == 4 * cells + 10**6 + 3 * 500**2 + 3 * 100 * 500 + 100


@pytest.mark.parametrize("name", NETWORKS)
def test_a_prefix_at_once_is_its_tokens_one_by_one(name: str) -> None:
    network = NETWORKS[name]().eval()
    encoded = network.encode(SOURCE)
    prefix = tensor([[BOS, 4, 5, 6], [BOS, 9, 4, 4], [BOS, 7, 8, 9]])
    at_once = network.decode(prefix, encoded)
    state = network.begin(encoded)
    for place in range(4):
        logits, state = network.step(prefix[:, place], state)
        assert torch.allclose(logits, at_once[:, place], atol=1e-5)
    rows = tensor([2, 0, 0])
    logits, _ = network.step(tensor([5, 6, 7]), state.select(rows))
    again = network.decode(
        torch.cat([prefix[rows], tensor([[5], [6], [7]])], 1), network.encode(SOURCE[rows])
    )
    assert torch.allclose(logits, again[:, -1], atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_pads_of_a_source_and_its_batch_mates_change_nothing(name: str) -> None:
    network = NETWORKS[name]().eval()
    prefix = tensor([[BOS, 4, 5]])
    alone = network.decode(prefix, network.encode(SOURCE[1:2, :2]))
    noise = torch.zeros(1, 3, 4, 8)
    noise[0, 1, 2:] = 100.0  # at padded positions, which nobody reads
    together = network.decode(prefix.expand(3, -1), network.encode(SOURCE).perturbed(noise))
    assert torch.allclose(alone[0], together[1], atol=1e-5)
    assert torch.isfinite(together).all()  # an empty source, too


@pytest.mark.parametrize("name", NETWORKS)
def test_zero_noise_is_the_plain_network(name: str) -> None:
    network = NETWORKS[name]().eval()
    encoded, prefix = network.encode(SOURCE), tensor([[BOS, 4, 5]]).expand(3, -1)
    plain = network.decode(prefix, encoded)
    noisy = network.decode(prefix, encoded.perturbed(0.0 * torch.randn(1, 3, 4, 8)))
    assert torch.equal(noisy, plain)


def test_positions_are_opennmts_sinusoids() -> None:
    found = sinusoids(tensor([0, 3, 7]), 8)
    for row, place in enumerate((0, 3, 7)):
        for i in range(4):
            angle = place / 10000 ** (2 * i / 8)
            wanted = [math.sin(angle), math.cos(angle)]
            assert found[row, 2 * i : 2 * i + 2].tolist() == pytest.approx(wanted, abs=1e-6)
    network = NETWORKS["transformer"]().eval()
    swapped = network.encode(tensor([[5, 4, 6, 7]])).states[:, [1, 0, 2, 3]]
    assert not torch.allclose(network.encode(SOURCE[:1]).states, swapped, atol=1e-3)


def test_the_transformer_is_torchs_with_its_norm_first() -> None:
    ours = Transformer(V, 8, 1, 2, 16, 0.0).eval()
    layer: Any = ours.encoder[0]
    reference = nn.TransformerEncoderLayer(
        8, 2, 16, 0.0, batch_first=True, norm_first=True, layer_norm_eps=1e-6
    )
    a, f = layer.attention, layer.feed_forward
    with torch.no_grad():
        reference.self_attn.in_proj_weight.copy_(torch.cat([a.query.weight, a.key.weight, a.value.weight]))
        reference.self_attn.in_proj_bias.copy_(torch.cat([a.query.bias, a.key.bias, a.value.bias]))
    for mine, theirs in (
        (a.output, reference.self_attn.out_proj), (f.inner, reference.linear1), (f.outer, reference.linear2),
        (layer.norm, reference.norm1), (f.norm, reference.norm2),
    ):  # fmt: skip
        theirs.load_state_dict(mine.state_dict())
    x = torch.randn(2, 5, 8)
    mask = tensor([[True] * 5, [True] * 3 + [False] * 2])
    found, wanted = layer(x, mask[:, None, None]), reference.train()(x, src_key_padding_mask=~mask)
    assert torch.allclose(found[mask], wanted[mask], atol=1e-5)


class Table(nn.Module):
    """Logits of the next token from the last one alone, the same for every source."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def begin(self, encoded: Encoded) -> State:
        return State(encoded, None, 0, lambda past, rows: None)

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        return self.logits[tokens], state


def sources(count: int) -> Encoded:
    return Encoded(torch.zeros(count, 1, 1), torch.ones(count, 1, dtype=torch.bool))


def test_beam_search_finds_what_trying_everything_finds() -> None:
    logits = 2 * torch.randn(6, 6, generator=torch.Generator().manual_seed(3))
    table = Table(logits)
    logp = logits.clone()
    logp[:, [PAD, BOS]] = -torch.inf
    logp = logp.log_softmax(-1)

    def score(row: tuple[int, ...]) -> float:
        return float(sum(logp[a, b] for a, b in itertools.pairwise((BOS, *row))))

    words = [0, 4, 5]
    every = [(*w, EOS) for n in range(4) for w in itertools.product(words, repeat=n)]
    every += itertools.product(words, repeat=4)  # not ended at the cap
    best = sorted(every, key=score, reverse=True)
    rows, scores = beam_search(table, sources(2), 30, 4, BOS, EOS, PAD)
    assert [tuple(t for t in r if t != PAD) for r in rows[1, :5].tolist()] == best[:5]
    assert scores[0, :5].tolist() == pytest.approx([score(r) for r in best[:5]], abs=1e-5)
    greedy = generate(table, sources(1), 4, BOS, EOS, PAD)
    one, _ = beam_search(table, sources(1), 1, 4, BOS, EOS, PAD)
    assert torch.equal(greedy, one[:, 0])


def test_draws_follow_the_softmax_and_the_uniform_numbers() -> None:
    logits = tensor([0.1, 0.2, 0.7]).log().expand(3, -1)
    assert inverse_cdf(logits, tensor([0.05, 0.25, 0.999999])).tolist() == [0, 1, 2]
    never = tensor([[-torch.inf, 0.0, -torch.inf]])
    assert [inverse_cdf(never, tensor([u])).item() for u in (0.0, 0.9999999)] == [1, 1]
    table = Table(torch.zeros(6, 6))
    uniform = torch.rand(50, 400, generator=torch.Generator().manual_seed(0))
    rows = generate(table, sources(400), 50, BOS, EOS, PAD, uniform)
    assert not (rows == BOS).any()
    first_eos = (rows == EOS).int().argmax(dim=1)
    assert all((r[e + 1 :] == PAD).all() for r, e in zip(rows, first_eos, strict=True) if r[e] == EOS)
    share = (rows[:, 0] == 4).float().mean()
    assert share == pytest.approx(0.25, abs=0.06)
    capped = generate(table, sources(400), 3, BOS, EOS, PAD, uniform)
    assert torch.equal(capped, rows[:, :3])
    assert not (capped == PAD).any(dim=1).all()  # no EOS is added at the cap
    narrow = generate(
        Table(tensor([[0.0, 0, 0, 1, 3, 2]] * 6)), sources(400), 1, BOS, EOS, PAD, uniform, 1.0, 2
    )
    assert {*narrow.flatten().tolist()} == {4, 5}
