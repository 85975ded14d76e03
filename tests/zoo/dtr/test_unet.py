"""ADM's U-Net with routing, against eq. (1) and the released network's size."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.dtr.routing import TaskRouting, task_masks
from zoo.dtr.unet import AttentionBlock, RoutedResBlock, UNet

SMALL: dict[str, Any] = {
    "input_size": 8, "in_channels": 1, "channels": 32, "multipliers": (1, 2), "res_blocks": 1,
    "attention": (4,), "head_channels": 16, "groups": 8, "num_classes": 10,
}  # fmt: skip


def randomise(module: nn.Module) -> Any:
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=g) * 0.1)
    return module.eval()


def official_block(block: RoutedResBlock, z: Tensor, c: Tensor, m: Tensor) -> Tensor:
    """guided-diffusion's ResBlock with scale-shift norm, whose residual branch sees m z."""
    p = dict(block.named_parameters())

    def resample(x: Tensor) -> Tensor:
        if block.resample == "up":
            return x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        if block.resample == "down":
            return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4
        return x

    h = F.silu(F.group_norm(m * z, 8, p["in_layers.0.weight"], p["in_layers.0.bias"]))
    h = F.conv2d(resample(h), p["in_layers.2.weight"], p["in_layers.2.bias"], padding=1)
    e = F.linear(F.silu(c), p["emb_layers.1.weight"], p["emb_layers.1.bias"])[:, :, None, None]
    scale, shift = e.chunk(2, dim=1)
    h = F.group_norm(h, 8, p["out_layers.0.weight"], p["out_layers.0.bias"]) * (1 + scale) + shift
    h = F.conv2d(F.silu(h), p["out_layers.3.weight"], p["out_layers.3.bias"], padding=1)
    skip = resample(z)
    if "skip_connection.weight" in p:
        skip = F.conv2d(skip, p["skip_connection.weight"], p["skip_connection.bias"])
    return skip + h


@pytest.mark.parametrize(("out", "resample"), [(32, ""), (64, ""), (32, "up"), (32, "down")])
def test_a_block_is_skip_plus_block_of_the_masked_input(out: int, resample: str) -> None:
    block = randomise(RoutedResBlock(32, out, 128, TaskRouting(32, 1), 0.5, 8, resample))
    z, c, t = torch.randn(4, 32, 8, 8), torch.randn(4, 128), torch.tensor([0, 500, 900, 999])
    m = task_masks(32)[t].float()[:, :, None, None]
    found = block(z, c, t)
    torch.testing.assert_close(found, official_block(block, z, c, m), atol=1e-5, rtol=0)
    assert (found - official_block(block, z, c, torch.ones_like(m))).abs().max() > 1e-2
    # the skip path sees all channels: a change of the masked ones passes through it alone
    if not resample and out == 32:
        shifted = block(z + 5 * (1 - m), c, t) - found
        torch.testing.assert_close(shifted, (5 * (1 - m)).expand_as(z), atol=1e-5, rtol=0)


def test_each_block_is_masked_at_its_own_input_width() -> None:
    network = UNet(**SMALL)
    widths = [b.in_layers[0].num_channels for b in network.blocks]
    assert widths == [32, 32, 32, 64, 64, 128, 96, 64, 96, 64]
    assert [b.routing.channels for b in network.blocks] == widths
    assert [b.routing.active for b in network.blocks] == [int(0.8 * w) for w in widths]


def test_adms_64_pixel_network_has_296_million_parameters() -> None:
    with torch.device("meta"):
        network = UNet(routing="none")
    # ADM has no null class: its table is one row (768) shorter
    assert round((sum(p.numel() for p in network.parameters()) - 768) / 1e6) == 296


@pytest.mark.parametrize("routing", ["dtr", "random", "none"])
def test_a_fresh_network_returns_exactly_zero(routing: Any) -> None:
    network = UNet(**SMALL, routing=routing)
    out = network(torch.randn(3, 1, 8, 8), torch.tensor([0, 500, 999]), torch.tensor([0, 9, 10]))
    assert torch.equal(out, torch.zeros(3, 2, 8, 8))


def test_beta_one_is_the_plain_network_to_the_bit() -> None:
    kinds = (("none", 0.8), ("dtr", 1.0), ("dtr", 0.8))
    plain, routed, masked = (randomise(UNet(**SMALL, routing=r, beta=b)) for r, b in kinds)
    x, t, y = torch.randn(2, 1, 8, 8), torch.tensor([3, 999]), torch.tensor([1, 10])
    assert torch.equal(plain(x, t, y), routed(x, t, y))
    assert (plain(x, t, y) - masked(x, t, y)).abs().max() > 1e-3


@pytest.mark.parametrize("routing", ["dtr", "random"])
def test_a_batch_of_mixed_timesteps_equals_the_stack_of_singletons(routing: Any) -> None:
    network = randomise(UNet(**SMALL, routing=routing))
    x, t, y = torch.randn(3, 1, 8, 8), torch.tensor([0, 900, 999]), torch.tensor([1, 2, 3])
    singles = torch.cat([network(x[i : i + 1], t[i : i + 1], y[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(network(x, t, y), singles, atol=1e-4, rtol=0)


def test_random_routing_is_stored_per_block() -> None:
    tables = [b.routing.masks for b in UNet(**SMALL, routing="random").blocks]
    assert sum("routing.masks" in k for k in UNet(**SMALL, routing="random").state_dict()) == len(tables)
    assert not torch.equal(tables[0], tables[1])
    again = UNet(**SMALL, routing="random").blocks
    assert all(torch.equal(a, b.routing.masks) for a, b in zip(tables, again, strict=True))
    assert not any("routing" in k for k in UNet(**SMALL).state_dict())


def test_attention_is_packed_as_three_by_heads_by_dim() -> None:
    block, z = randomise(AttentionBlock(16, 8, 8)), torch.randn(2, 16, 3, 3)
    x = F.group_norm(z.flatten(2), 8, block.norm.weight, block.norm.bias)
    q, k, v = block.qkv(x).split(16, dim=1)
    heads = []
    for part in (slice(0, 8), slice(8, 16)):
        weights = torch.einsum("bcn,bcm->bnm", q[:, part], k[:, part]).div(8**0.5).softmax(-1)
        heads.append(torch.einsum("bnm,bcm->bcn", weights, v[:, part]))
    expected = z + block.proj_out(torch.cat(heads, dim=1)).view_as(z)
    torch.testing.assert_close(block(z), expected, atol=1e-5, rtol=0)


def test_activation_checkpointing_changes_nothing() -> None:
    x, t, y = torch.randn(2, 1, 8, 8), torch.tensor([5, 990]), torch.tensor([1, 2])
    plain, saving = (
        randomise(UNet(**SMALL, dropout=0.0, activation_checkpointing=on)).train() for on in (False, True)
    )
    assert torch.equal(plain(x, t, y), saving(x, t, y))


def test_float_timesteps_and_odd_sizes_are_refused() -> None:
    with pytest.raises(TypeError, match="timesteps must be integers"):
        UNet(**SMALL)(torch.randn(1, 1, 8, 8), torch.tensor([1.0]), torch.tensor([0]))
    with pytest.raises(ValueError, match="cannot be halved"):
        UNet(**{**SMALL, "input_size": 7})
    with pytest.raises(ValueError, match="multiple of 8"):
        UNet(**{**SMALL, "channels": 20})
    with pytest.raises(ValueError, match="unet_head_channels must divide 64"):
        UNet(**{**SMALL, "head_channels": 48})


# ADM's 64-pixel network: encoder, middle, decoder, level by level; a decoder block also sees its skip.
ADM_64_WIDTHS = [
    *(192, 192, 192, 192), *(192, 384, 384, 384), *(384, 576, 576, 576), *(576, 768, 768), *(768, 768),
    *(1536, 1536, 1536, 1344, 768), *(1344, 1152, 1152, 960, 576), *(960, 768, 768, 576, 384),
    *(576, 384, 384, 384),
]  # fmt: skip
ACTIVE = {192: 153, 384: 307, 576: 460, 768: 614, 960: 768, 1152: 921, 1344: 1075, 1536: 1228}


def test_masks_of_adms_network_have_each_blocks_width_and_share() -> None:
    with torch.device("meta"):
        blocks = UNet().blocks
    assert [b.routing.channels for b in blocks] == ADM_64_WIDTHS
    assert [b.routing.active for b in blocks] == [ACTIVE[w] for w in ADM_64_WIDTHS]  # int(0.8 C), truncated
    for width in sorted(set(ADM_64_WIDTHS)):
        starts = next(b for b in blocks if b.routing.channels == width).routing.starts
        assert starts[[0, 999]].tolist() == [0, width - ACTIVE[width]]


@pytest.mark.parametrize("routing", ["dtr", "random", "none"])
def test_a_fresh_block_is_the_identity(routing: Any) -> None:
    """To the bit, at every timestep, also with the masked channels; a resampling block is its resampling."""
    z, c, t = torch.randn(4, 32, 8, 8), torch.randn(4, 64), torch.tensor([0, 500, 900, 999])
    block = RoutedResBlock(32, 32, 64, TaskRouting(32, 1, routing), groups=8)
    assert torch.equal(block(z, c, t), z)
    down = RoutedResBlock(32, 32, 64, TaskRouting(32, 1, routing), groups=8, resample="down")
    assert torch.equal(down(z, c, t), F.avg_pool2d(z, 2))
    up = RoutedResBlock(32, 32, 64, TaskRouting(32, 1, routing), groups=8, resample="up")
    assert torch.equal(up(z, c, t), z.repeat_interleave(2, 2).repeat_interleave(2, 3))
    wider = RoutedResBlock(32, 64, 64, TaskRouting(32, 1, routing), groups=8)
    assert torch.equal(wider(z, c, t), wider.skip_connection(z))
    assert torch.equal(AttentionBlock(32, 16, 8)(z), z)


def test_a_mask_is_the_same_on_all_pixels_and_differs_between_samples() -> None:
    block = randomise(RoutedResBlock(32, 32, 128, TaskRouting(32, 1), groups=8))
    z, c = torch.randn(1, 32, 8, 8), torch.randn(1, 128)
    rest = {0: slice(25, 32), 999: slice(0, 7)}  # int(0.8 32) = 25 channels are on
    for t, off in rest.items():
        changed = z.clone()
        changed[:, off, 3, 5] += 100  # one pixel of masked channels
        difference = block(changed, c, torch.tensor([t])) - block(z, c, torch.tensor([t]))
        torch.testing.assert_close(difference, changed - z, atol=1e-4, rtol=0)
    both = block(z.expand(2, -1, -1, -1), c.expand(2, -1), torch.tensor([0, 999]))
    assert (both[0] - both[1]).abs().max() > 1e-2
