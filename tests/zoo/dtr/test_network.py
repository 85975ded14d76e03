"""DiT with routing, against eq. (1) of DTR, the official code's form of it and DiT's published sizes."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.dtr.network import SIZES, Attention, DiT, DiTBlock, position_table, timestep_features
from zoo.dtr.routing import task_masks

SMALL = {"input_size": 8, "in_channels": 1, "width": 48, "depth": 3, "heads": 3, "num_classes": 10}


def randomise(module: nn.Module, std: float = 0.1) -> nn.Module:
    """Random non-zero weights everywhere: a fresh network is the identity and hides mistakes."""
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=g) * std)
    return module


def random_block(width: int = 48) -> DiTBlock:
    block = DiTBlock(width, heads=3)
    randomise(block)
    return block


def inputs(batch: int = 4, width: int = 48, tokens: int = 16) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(2)
    return torch.randn(batch, tokens, width, generator=g), torch.randn(batch, width, generator=g)


def official_block(block: DiTBlock, z: Tensor, c: Tensor, m: Tensor) -> Tensor:
    """The released code: r = m z; h = r + g1 Attn(..); h = h + g2 MLP(..); h + (1 - m) z."""
    b, n, d = z.shape
    w = block.adaLN_modulation[1]
    sh1, sc1, g1, sh2, sc2, g2 = (x[:, None] for x in F.linear(F.silu(c), w.weight, w.bias).chunk(6, dim=1))

    def norm(x: Tensor) -> Tensor:
        mean, var = x.mean(dim=-1, keepdim=True), x.var(dim=-1, keepdim=True, unbiased=False)
        return (x - mean) / (var + 1e-6).sqrt()

    def attention(x: Tensor) -> Tensor:
        heads, size = block.attn.heads, d // block.attn.heads
        qkv = F.linear(x, block.attn.qkv.weight, block.attn.qkv.bias).reshape(b, n, 3, heads, size)
        q, k, v = (qkv[:, :, i].transpose(1, 2) for i in range(3))
        weights = (q @ k.transpose(-2, -1) / math.sqrt(size)).softmax(dim=-1)
        out = (weights @ v).transpose(1, 2).reshape(b, n, d)
        return F.linear(out, block.attn.proj.weight, block.attn.proj.bias)

    def mlp(x: Tensor) -> Tensor:
        x = F.linear(x, block.mlp.fc1.weight, block.mlp.fc1.bias)
        x = 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        return F.linear(x, block.mlp.fc2.weight, block.mlp.fc2.bias)

    r = m * z
    h = r + g1 * attention(norm(r) * (1 + sc1) + sh1)
    h = h + g2 * mlp(norm(h) * (1 + sc2) + sh2)
    return h + (1 - m) * z


def test_a_block_equals_the_official_form_with_random_gates() -> None:
    block, (z, c) = random_block(), inputs()
    m = task_masks(48)[[0, 400, 900, 999]].float()[:, None]
    out = block(z, c, m)
    assert (out - z).abs().mean() > 0.05, "gates are open"
    torch.testing.assert_close(out, official_block(block, z, c, m), atol=1e-5, rtol=0)


def test_a_block_without_routing_equals_the_official_form_with_a_full_mask() -> None:
    block, (z, c) = random_block(), inputs()
    expected = official_block(block, z, c, torch.ones(4, 1, 48))
    torch.testing.assert_close(block(z, c), expected, atol=1e-5, rtol=0)


def test_the_mask_acts_once_at_the_input_of_the_block() -> None:
    """Eq. (1): Block(m z) depends on the masked input alone, and it writes to all channels."""
    block, (z, c) = random_block(), inputs()
    m = task_masks(48)[[0, 400, 900, 999]].float()[:, None]
    change = block(z, c, m) - z
    # zeroing the masked channels of z changes nothing that the block sees
    torch.testing.assert_close(block(m * z, c, m) - m * z, change, atol=1e-5, rtol=0)
    # and it equals the unrouted block on m z
    torch.testing.assert_close(block(m * z, c) - m * z, change, atol=1e-5, rtol=0)
    masked = change[(m == 0).expand_as(change)]
    assert masked.abs().min() > 0
    assert masked.abs().mean() > 0.05, "attention and MLP write to masked channels too"
    # the MLP sees what attention wrote to masked channels
    attention_only = random_block()
    nn.init.zeros_(attention_only.mlp.fc2.weight)
    nn.init.zeros_(attention_only.mlp.fc2.bias)
    a = attention_only(z, c, m) - z
    assert a[(m == 0).expand_as(a)].abs().mean() > 0.01


def test_the_residual_stream_keeps_masked_channels() -> None:
    block, (z, c) = random_block(), inputs()
    m = task_masks(48)[[0, 400, 900, 999]].float()[:, None]
    shifted = z + 5 * (1 - m)
    moved = block(shifted, c, m) - block(z, c, m)
    torch.testing.assert_close(moved, 5 * (1 - m).expand_as(z), atol=1e-5, rtol=0)


def test_norms_take_their_statistics_over_all_channels() -> None:
    """No renormalisation by 1 / beta: a block of width D on m z sees D entries, the zeroed ones included."""
    block = random_block()
    z = torch.ones(1, 16, 48) * 3
    m = torch.cat([torch.ones(38), torch.zeros(10)])[None, None]
    seen: list[Tensor] = []
    block.attn.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        block.adaLN_modulation[1].weight.zero_()
        block.adaLN_modulation[1].bias.zero_()
        block(z, torch.zeros(1, 48), m)
    mean = 3 * 38 / 48
    var = (38 * (3 - mean) ** 2 + 10 * mean**2) / 48
    assert seen[0][0, 0, 0].item() == pytest.approx((3 - mean) / math.sqrt(var + 1e-6), abs=1e-5)
    assert seen[0][0, 0, 47].item() == pytest.approx(-mean / math.sqrt(var + 1e-6), abs=1e-5)


@pytest.mark.parametrize("which", ["first", "second"])
def test_both_norms_use_eps_1e_6(which: str) -> None:
    """With inputs of size 1e-3 an eps of 1e-5 would shrink the normalised values by a factor of 3."""
    block = DiTBlock(48, heads=3)
    z = torch.randn(1, 16, 48) * 1e-3
    seen: list[Tensor] = []
    part = block.attn if which == "first" else block.mlp
    part.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        block.adaLN_modulation[1].weight.zero_()
        block.adaLN_modulation[1].bias.zero_()
        block(z, torch.zeros(1, 48))
    expected = (z - z.mean(-1, keepdim=True)) / (z.var(-1, keepdim=True, unbiased=False) + 1e-6).sqrt()
    torch.testing.assert_close(seen[0], expected, atol=1e-5, rtol=0)


def test_the_final_norm_uses_eps_1e_6_and_modulates() -> None:
    network = DiT(**SMALL)
    layer = network.final_layer
    randomise(layer)
    z, c = torch.randn(2, 16, 48) * 1e-3, torch.randn(2, 48)
    shift, scale = layer.adaLN_modulation[1](F.silu(c)).chunk(2, dim=1)
    normed = (z - z.mean(-1, keepdim=True)) / (z.var(-1, keepdim=True, unbiased=False) + 1e-6).sqrt()
    modulated = normed * (1 + scale[:, None]) + shift[:, None]
    expected = F.linear(modulated, layer.linear.weight, layer.linear.bias)
    torch.testing.assert_close(layer(z, c), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("mask", [None, "t=999"])
def test_a_fresh_block_is_exactly_the_identity(mask: str | None) -> None:
    network = DiT(**SMALL)
    z, c = inputs()
    m = None if mask is None else task_masks(48)[[999] * 4].float()[:, None]
    for block in network.blocks:
        assert torch.equal(block(z, c, m), z)


@pytest.mark.parametrize("routing", ["dtr", "random", "none"])
def test_a_fresh_network_returns_exactly_zero(routing: str) -> None:
    network = DiT(**SMALL, routing=routing)
    out = network(torch.randn(3, 1, 8, 8), torch.tensor([0, 500, 999]), torch.tensor([0, 9, 10]))
    assert out.shape == (3, 2, 8, 8)
    assert torch.equal(out, torch.zeros_like(out))


def test_beta_one_is_plain_dit_to_the_bit() -> None:
    plain, routed = DiT(**SMALL, routing="none"), DiT(**SMALL, beta=1.0)
    randomise(plain)
    routed.load_state_dict(plain.state_dict())
    x, t, y = torch.randn(4, 1, 8, 8), torch.tensor([0, 300, 700, 999]), torch.tensor([1, 2, 3, 10])
    assert torch.equal(plain(x, t, y), routed(x, t, y))
    differently = DiT(**SMALL)
    differently.load_state_dict(plain.state_dict())
    assert (plain(x, t, y) - differently(x, t, y)).abs().max() > 1e-2


@pytest.mark.parametrize("routing", ["dtr", "random"])
def test_a_batch_of_mixed_timesteps_equals_the_stack_of_singletons(routing: str) -> None:
    network = randomise(DiT(**SMALL, routing=routing))
    x, t, y = torch.randn(4, 1, 8, 8), torch.tensor([0, 500, 900, 999]), torch.tensor([1, 2, 3, 4])
    singles = torch.cat([network(x[i : i + 1], t[i : i + 1], y[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(network(x, t, y), singles, atol=1e-5, rtol=0)


def test_routing_does_not_touch_embeddings_or_the_final_layer() -> None:
    """With closed gates the blocks are the identity, so routing must not change the output at all."""
    plain, routed = DiT(**SMALL, routing="none"), DiT(**SMALL)
    randomise(plain)
    with torch.no_grad():
        for block in plain.blocks:
            block.adaLN_modulation[1].weight.zero_()
            block.adaLN_modulation[1].bias.zero_()
    routed.load_state_dict(plain.state_dict())
    x, t, y = torch.randn(2, 1, 8, 8), torch.tensor([600, 999]), torch.tensor([1, 2])
    assert torch.equal(plain(x, t, y), routed(x, t, y))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_floating_timesteps_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match=r"timesteps must be integers in 0\.\.999"):
        DiT(**SMALL)(torch.randn(1, 1, 8, 8), torch.tensor([3.0], dtype=dtype), torch.tensor([0]))


SIZES_TABLE = {
    # size: p=2 with and without the fixed position table, p=4 and p=8 with it
    "S": (32_963_360, 32_865_056, 32_945_024, 33_148_160),
    "B": (130_512_416, 130_315_808, 130_475_648, 130_881_536),
    "L": (458_102_816, 457_840_672, 458_053_760, 458_594_816),
    "XL": (675_129_632, 674_834_720, 675_074_432, 675_683_072),
}


def closed_form(depth: int, d: int, p: int, tokens: int) -> int:
    return (
        depth * (18 * d * d + 15 * d)
        + (4 * p * p * d + d)
        + (d * d + 258 * d)
        + 1001 * d
        + tokens * d
        + (2 * d * d + 2 * d + 8 * p * p * (d + 1))
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("p", "column"), [(2, 0), (4, 2), (8, 3)])
def test_parameter_counts_are_those_of_the_paper(size: str, p: int, column: int) -> None:
    with torch.device("meta"):
        network = DiT(patch_size=p, **SIZES[size], routing="none")
    parameters = sum(x.numel() for x in network.parameters())
    with_table = parameters + network.pos_embed.numel()
    assert with_table == SIZES_TABLE[size][column]
    assert with_table == closed_form(SIZES[size]["depth"], SIZES[size]["width"], p, (32 // p) ** 2)
    if p == 2:
        assert parameters == SIZES_TABLE[size][1]


def test_sizes_of_the_paper() -> None:
    found = {k: (v["depth"], v["width"], v["heads"]) for k, v in SIZES.items()}
    assert found == {"S": (12, 384, 6), "B": (12, 768, 12), "L": (24, 1024, 16), "XL": (28, 1152, 16)}


def test_multiply_accumulates_of_dit_s_2() -> None:
    """6.06 G multiply-accumulates per forward; two FLOPs each. Counted on S/2 with the math attention."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        network = DiT(**SIZES["S"], routing="none")
        args = torch.empty(1, 4, 32, 32), torch.zeros(1, dtype=torch.long), torch.zeros(1, dtype=torch.long)
    network.pos_embed = network.pos_embed.to("meta")
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        network(*args)
    assert counter.get_total_flops() / 2e9 == pytest.approx(6.06, abs=0.005)


def test_the_position_table_of_s_2_sums_to_the_known_value() -> None:
    assert position_table(384, 16).double().sum().item() == pytest.approx(44720.3385, abs=5e-3)


def test_the_position_table_has_the_column_first() -> None:
    table = position_table(48, 4)[0]
    w = 10000.0 ** (-torch.arange(12, dtype=torch.float64) / 12)
    for token, (i, j) in enumerate((i, j) for i in range(4) for j in range(4)):
        expected = torch.cat([(j * w).sin(), (j * w).cos(), (i * w).sin(), (i * w).cos()])
        torch.testing.assert_close(table[token].double(), expected, atol=1e-6, rtol=0)


def test_the_position_table_is_no_parameter_and_not_stored() -> None:
    network = DiT(**SMALL)
    assert "pos_embed" not in network.state_dict()
    assert "pos_embed" not in dict(network.named_parameters())


def test_time_features_divide_by_128_and_put_the_cosine_first() -> None:
    t = torch.tensor([0, 1, 500, 999])
    features = timestep_features(t)
    w = 10000.0 ** (-torch.arange(128, dtype=torch.float64) / 128)
    angles = t.double()[:, None] * w
    assert features.shape == (4, 256)
    expected = torch.cat([angles.cos(), angles.sin()], 1)
    torch.testing.assert_close(features.double(), expected, atol=2e-4, rtol=0)
    assert features[0].tolist() == [1.0] * 128 + [0.0] * 128
    # The lowest frequency is 10000^(-127/128); dividing by 127 would make it 1e-4.
    assert features[3, 127].item() == pytest.approx(math.cos(999 * 10000 ** (-127 / 128)), abs=1e-6)
    assert abs(features[3, 127].item() - math.cos(999 / 10000)) > 5e-4


def test_time_features_stay_exact_in_a_bfloat16_network() -> None:
    network = DiT(**SMALL).to(torch.bfloat16)
    seen: list[Tensor] = []
    network.t_embedder.mlp.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    network(torch.randn(2, 1, 8, 8, dtype=torch.bfloat16), torch.tensor([998, 999]), torch.tensor([0, 1]))
    assert torch.equal(seen[0], timestep_features(torch.tensor([998, 999])).to(torch.bfloat16))
    assert not torch.equal(seen[0][0], seen[0][1])


def test_qkv_is_packed_as_three_by_heads_by_dim() -> None:
    attention = Attention(6, heads=2)
    randomise(attention, std=0.5)
    x = torch.randn(1, 5, 6)
    weight, bias = attention.qkv.weight.split(6), attention.qkv.bias.split(6)
    q, k, v = (x @ w.T + b for w, b in zip(weight, bias, strict=True))
    heads = []
    for h in range(2):
        part = slice(3 * h, 3 * h + 3)
        weights = (q[..., part] @ k[..., part].mT / math.sqrt(3)).softmax(-1)
        heads.append(weights @ v[..., part])
    expected = attention.proj(torch.cat(heads, dim=-1))
    torch.testing.assert_close(attention(x), expected, atol=1e-5, rtol=0)


def test_unpatchify_puts_h_w_p_q_c_into_place() -> None:
    network = DiT(**SMALL)
    tokens = torch.arange(16 * 2 * 2 * 2, dtype=torch.float32).view(1, 16, 8)
    image = network.unpatchify(tokens)
    for c, y, x in [(0, 0, 0), (1, 0, 0), (0, 0, 1), (0, 1, 0), (1, 7, 5), (0, 3, 6)]:
        token, inside = (y // 2) * 4 + x // 2, ((y % 2) * 2 + x % 2) * 2 + c
        assert image[0, c, y, x].item() == token * 8 + inside


def test_patches_are_embedded_row_by_row() -> None:
    network = DiT(**SMALL)
    randomise(network.x_embedder)
    x = torch.randn(1, 1, 8, 8)
    tokens = network.x_embedder(x)
    w, b = network.x_embedder.proj.weight.flatten(1), network.x_embedder.proj.bias
    patch = x[0, :, 2:4, 6:8].flatten()  # row 1, column 3
    torch.testing.assert_close(tokens[0, 1 * 4 + 3], w @ patch + b, atol=1e-5, rtol=0)


def test_initialisation_is_the_official_one() -> None:
    network = DiT(input_size=16, in_channels=4, width=192, depth=2, heads=3, num_classes=1000)
    for name, p in network.named_parameters():
        zero = name.endswith("bias") or "adaLN" in name or name == "final_layer.linear.weight"
        assert bool((p == 0).all()) == zero, name
    for block in network.blocks:
        for linear in (block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2):
            bound = math.sqrt(6 / sum(linear.weight.shape))
            assert linear.weight.abs().max().item() == pytest.approx(bound, rel=1e-3)
            assert linear.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    bound = math.sqrt(6 / (192 + 4 * 2 * 2))  # Xavier on the flattened (D, 4 p^2) weight
    assert network.x_embedder.proj.weight.abs().max().item() == pytest.approx(bound, rel=1e-2)
    mlp = network.t_embedder.mlp
    for normal in (network.y_embedder.embedding_table.weight, mlp[0].weight, mlp[2].weight):
        assert normal.std().item() == pytest.approx(0.02, rel=0.02)


def test_the_label_table_has_a_null_row_only_with_classes() -> None:
    assert (DiT(**SMALL).y_embedder.embedding_table.weight.shape, DiT(**SMALL).null_label) == ((11, 48), 10)
    unconditional = DiT(**{**SMALL, "num_classes": 1})
    assert (unconditional.y_embedder.embedding_table.weight.shape, unconditional.null_label) == ((1, 48), 0)


def test_without_learned_variance_the_output_is_eps_alone() -> None:
    network = DiT(**SMALL, learn_sigma=False)
    assert network(torch.randn(2, 1, 8, 8), torch.tensor([1, 2]), torch.tensor([1, 2])).shape == (2, 1, 8, 8)


def test_activation_checkpointing_changes_neither_output_nor_gradient() -> None:
    x, t, y = torch.randn(2, 1, 8, 8), torch.tensor([5, 990]), torch.tensor([1, 2])
    results = []
    for on in (False, True):
        network = randomise(DiT(**SMALL, activation_checkpointing=on)).train()
        out = network(x, t, y)
        out.square().mean().backward()
        results.append((out.detach(), network.blocks[0].attn.qkv.weight.grad))
    assert torch.equal(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1], atol=1e-6, rtol=0)


def test_a_bfloat16_network_stays_close_to_float32() -> None:
    network = randomise(DiT(**SMALL), std=0.05)
    x, t, y = torch.randn(2, 1, 8, 8), torch.tensor([300, 999]), torch.tensor([1, 2])
    exact = network(x, t, y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = network(x, t, y)
    assert (mixed.float() - exact).abs().max() < 0.05 * exact.abs().max()
    half = network.to(torch.bfloat16)(x.bfloat16(), t, y)
    assert (half.float() - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.parametrize(
    "bad", [{"patch_size": 3}, {"heads": 5}, {"num_classes": 0}, {"depth": 0}, {"width": 6, "heads": 1}]
)
def test_impossible_networks_are_refused(bad: dict[str, int]) -> None:
    with pytest.raises(ValueError):
        DiT(**{**SMALL, **bad})
