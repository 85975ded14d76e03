"""Reverse attention and its networks: the sizes, offsets and traps of the papers."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.ras.attention import ReverseAttention, attention_weight, bilinear_profile, crop_offset, deconvolve_to
from zoo.ras.losses import cross_entropy, intersection_over_union, side_losses
from zoo.ras.network import VARIANTS, RASNetwork, build

SMALL = (61, 83)
# (factor, side) -> where Crop begins, from the kernels, strides and paddings of the prototxt
OFFSETS = {
    (32, 6): 28, (2, 6): 2, (16, 5): 12, (2, 5): 2, (8, 4): 4, (2, 4): 1, (4, 3): 2, (2, 3): 1, (2, 2): 1,
}  # fmt: skip


def tiny(**switches: object) -> RASNetwork:
    torch.manual_seed(0)
    network = build("tiny", **switches)  # type: ignore[arg-type]
    assert isinstance(network, RASNetwork)
    return network.eval()


def zero_residuals(network: RASNetwork) -> None:
    for side in range(1, 6):
        nn.init.zeros_(network.stage(side).last.weight)
        nn.init.zeros_(network.stage(side).last.bias)  # type: ignore[arg-type]


def test_found_regions_vanish_missed_ones_pass_and_undecided_ones_are_halved() -> None:
    u = torch.tensor([20.0, -20.0, 0.0]).view(1, 1, 1, 3)
    a = attention_weight(u).flatten()
    assert a[0] < 3e-9
    assert (a[1], a[2]) == (pytest.approx(1, abs=1e-8), 0.5)
    assert torch.allclose(attention_weight(u), 1 - u.sigmoid(), atol=1e-7)
    assert torch.equal(attention_weight(u, "forward"), u.sigmoid())
    assert torch.equal(attention_weight(u, "none"), torch.ones_like(u))  # not one half


@pytest.mark.parametrize("attention", ["reverse", "forward", "none"])
def test_a_stage_is_the_equation_raw_features_multiplied_before_the_reduction(attention: str) -> None:
    torch.manual_seed(0)
    unit = ReverseAttention(12, 4).double()
    f, u = torch.randn(2, 12, 7, 9).double(), torch.randn(2, 1, 7, 9).double()
    a = {"reverse": 1 - u.sigmoid(), "forward": u.sigmoid(), "none": torch.ones_like(u)}[attention]
    x = unit.conv1(f * a)  # no ReLU here
    x = unit.conv2(x).relu()
    x = unit.conv3(x).relu()
    expected = unit.conv4(x) + u  # the logit, not its sigmoid
    torch.testing.assert_close(unit(f, u, attention), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(unit(f, u, attention, residual=False), expected - u, rtol=0, atol=1e-12)


def test_the_ports_multiply_after_the_reduction_which_a_bias_tells_apart() -> None:
    torch.manual_seed(0)
    unit = ReverseAttention(12, 4, order="after").double()
    f, u = torch.randn(1, 12, 5, 6).double(), torch.randn(1, 1, 5, 6).double()
    a = torch.sigmoid(-u)
    after, before = unit.convert(f) * a, unit.convert(f * a)
    bias = unit.convert.bias.view(1, -1, 1, 1) * (1 - a)  # type: ignore[union-attr]
    torch.testing.assert_close(before - after, bias, rtol=0, atol=1e-12)
    torch.testing.assert_close(unit(f, u), unit.convs(after) + u, rtol=0, atol=1e-12)


def test_the_gradient_reaches_the_coarse_map_by_both_ways() -> None:
    torch.manual_seed(0)
    unit, f = ReverseAttention(6, 4), torch.randn(1, 6, 5, 5)
    gradients = []
    for attention in ("reverse", "none"):
        u = torch.zeros(1, 1, 5, 5, requires_grad=True)
        unit(f, u, attention).sum().backward()
        assert u.grad is not None
        gradients.append(u.grad)
    assert torch.equal(gradients[1], torch.ones(1, 1, 5, 5))  # the sum alone
    assert (gradients[0] - 1).abs().max() > 1e-4  # and the weight


def test_an_unknown_order_is_refused() -> None:
    with pytest.raises(ValueError, match="order is before or after"):
        ReverseAttention(3, order="middle")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("variant", "parameters"),
    [("vgg16", 20_228_934), ("resnet50_v1", 24_697_989), ("resnet50_v2", 24_585_156), ("tiny", 277_822)],
)
def test_parameter_counts_are_the_papers(variant: str, parameters: int) -> None:
    with torch.device("meta"):
        network = build(variant)  # type: ignore[arg-type]
    assert sum(p.numel() for p in network.parameters()) == parameters
    if variant == "vgg16":
        assert 4e-6 * parameters == pytest.approx(81, abs=0.2)  # MB, the paper's
        parts = {
            n: sum(p.numel() for p in getattr(network, n).parameters())
            for n in ("backbone", "dsn6", "dsn5", "dsn4", "dsn3", "dsn2", "dsn1")
        }
        assert list(parts.values()) == [14_714_688, 5_047_553, 107_265, 107_265, 90_881, 82_689, 78_593]
    elif variant != "tiny":
        counts = [sum(p.numel() for p in m.parameters()) for m in network.children()]
        expected = {
            "resnet50_v1": [23_508_032, 625_473, 176_961, 144_193, 127_809, 115_521],
            "resnet50_v2": [23_508_032, 626_625, 177_473, 144_705, 128_321],
        }
        assert counts == expected[variant]


def test_pools_give_the_published_sizes() -> None:
    expected = {
        ("torch", SMALL): [(61, 83), (30, 41), (15, 20), (7, 10), (3, 5), (1, 2)],
        ("caffe", SMALL): [(61, 83), (31, 42), (16, 21), (8, 11), (5, 6), (3, 4)],
        ("torch", (64, 96)): [(64, 96), (32, 48), (16, 24), (8, 12), (4, 6), (2, 3)],
        ("caffe", (64, 96)): [(64, 96), (32, 48), (16, 24), (8, 12), (5, 7), (3, 4)],
    }
    for (pool, size), sizes in expected.items():
        features = tiny(pool=pool).backbone(torch.rand(1, 3, *size))
        assert [tuple(f.shape[2:]) for f in features] == sizes, (pool, size)


@pytest.mark.parametrize("variant", ["tiny", "resnet50_v1", "resnet50_v2"])
@pytest.mark.parametrize("size", [SMALL, (33, 40), (97, 64)])
def test_any_size_comes_back(variant: str, size: tuple[int, int]) -> None:
    network = build(variant).eval()  # type: ignore[arg-type]
    image = torch.rand(1, 3, *size)
    with torch.no_grad():
        assert network(image).shape == (1, 1, *size)
        assert network(image, all_sides=True).shape == (1, len(network.sides), *size)
        if variant == "tiny":
            assert tiny(pool="caffe")(image, all_sides=True).shape == (1, 6, *size)


def test_taps_of_vgg_are_after_the_relu_and_named_as_torchvisions() -> None:
    with torch.device("meta"):
        network = build("vgg16")
    convolutions = {int(k.split(".")[2]) for k in network.state_dict() if k.startswith("backbone")}
    assert convolutions == {0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28}
    assert network.backbone.taps == [3, 8, 15, 22, 29]
    assert all(f.min() >= 0 for f in tiny().backbone(torch.rand(1, 3, 64, 64)))


def test_nothing_that_enlarges_is_a_parameter() -> None:
    for pool in ("torch", "caffe"):
        names = tiny(pool=pool).state_dict()
        assert all(n.startswith(("backbone.features.", "dsn")) for n in names)


def test_multi_scale_context_keeps_the_size_and_dilates_as_the_ports() -> None:
    network = build("resnet50_v1")
    context = network.mscm
    seen = [
        [
            (m.kernel_size[0], m.dilation[0])
            for m in getattr(context, f"branch{i}")
            if isinstance(m, nn.Conv2d)
        ]
        for i in range(1, 5)
    ]
    assert seen == [[(1, 1), (3, 1)], [(3, 1), (3, 2)], [(5, 1), (3, 4)], [(7, 1), (3, 6)]]
    assert context(torch.randn(1, 2048, 5, 4)).shape == (1, 1, 5, 4)


def test_crop_offsets_follow_from_the_pools() -> None:
    """The two of 1.5 are rounded away from zero."""
    assert {key: crop_offset(*key) for key in OFFSETS} == OFFSETS


def test_the_deconvolution_is_bilinear_inside_and_fades_at_the_border() -> None:
    assert bilinear_profile(2).tolist() == [0.25, 0.75, 0.75, 0.25]
    ones = torch.ones(1, 1, 6, 6)
    found = deconvolve_to(ones, (12, 12), 2, 2)  # offset 1: one pixel of border left
    assert found[0, 0, 0, 0] == pytest.approx(0.75**2)
    assert torch.allclose(found[0, 0, 1:-1, 1:-1], torch.ones(10, 10))
    coarse = torch.randn(1, 1, 6, 7)
    inside = functional.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False)
    torch.testing.assert_close(
        deconvolve_to(coarse, (12, 14), 2, 2)[..., 2:-2, 2:-2], inside[..., 2:-2, 2:-2], rtol=0, atol=1e-6
    )


def test_a_pool_with_padding_shifts_the_grid_which_the_offset_undoes() -> None:
    """A bump at the centre of a side-6 pixel comes back within half a pixel of where that pixel looks."""
    logits = torch.zeros(1, 1, 3, 4)
    logits[0, 0, 1, 1] = 1
    large = deconvolve_to(logits, SMALL, 32, 6)[0, 0]
    y, x = np.unravel_index(int(large.argmax()), SMALL)
    # pools 4 and 5 are centred on every second input, pools 1-3 on 3.5 of 8: 3.5 + 32
    assert abs(y - 35.5) <= 0.5
    assert abs(x - 35.5) <= 0.5


@pytest.mark.parametrize(("pool", "variant"), [("torch", "tiny"), ("caffe", "tiny")])
def test_without_residuals_the_map_is_the_chained_up_sampling_of_the_global_one(
    pool: str, variant: str
) -> None:
    network = tiny(pool=pool)
    nn.init.normal_(network.dsn6.conv5.weight, std=1.0)
    zero_residuals(network)
    image = torch.rand(1, 3, *SMALL)
    with torch.no_grad():
        found = network.refine(image)
        sizes = [tuple(f.shape[2:]) for f in network.backbone(network.normalise(image))]
        chained = found.logits[6]
        for side, to in itertools.pairwise((6, 5, 4, 3, 2, 1)):
            chained = network.enlarge(chained, side, to, sizes[to - 1])  # type: ignore[arg-type]
            assert torch.equal(found.logits[to], found.coarse[to])  # y_i = u_i exactly
        last = network(image)
        assert torch.equal(last, chained)
        # not the one-step up-sampling of side 6, and one sigmoid, not two
        assert (last - network(image, all_sides=True)[:, -1:]).abs().max() > 1e-3
        one_step = network.enlarge(found.logits[6], 6, 0, SMALL)
        assert torch.equal(network(image, all_sides=True)[:, -1:], one_step)


def test_the_prediction_is_side_1() -> None:
    network = tiny()
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        sides = network(image, all_sides=True)
        found = network.refine(image)
    assert torch.equal(network(image), sides[:, :1])
    assert torch.equal(sides[:, :1], found.logits[1])
    assert [tuple(y.shape[2:]) for y in found.logits.values()] == [
        (2, 3), (4, 6), (8, 12), (16, 24), (32, 48), (64, 96),
    ]  # fmt: skip


def test_the_ports_interpolate_with_aligned_corners() -> None:
    network = build("resnet50_v2").eval()
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        y = network.refine(image).logits[2]
        expected = functional.interpolate(y, (64, 64), mode="bilinear", align_corners=True)
        assert torch.equal(network(image), expected)
        assert y.shape == (1, 1, 16, 16)  # predicted from 1/4; v1 from 1/2
        assert build("resnet50_v1").eval().refine(image).logits[1].shape == (1, 1, 32, 32)


def test_without_refinement_there_is_the_global_map_alone() -> None:
    network = tiny(refinement=False)
    image = torch.rand(1, 3, 64, 96)
    assert (list(network.refine(image).logits), network(image, all_sides=True).shape) == ([6], (1, 1, 64, 96))
    assert not any(n.startswith("dsn1") for n in network.state_dict())


def test_caffes_pixels_are_bgr_minus_the_mean() -> None:
    network = tiny(pool="caffe")
    image = torch.zeros(1, 3, 2, 2)
    image[:, 0] = 1.0  # red
    expected = torch.tensor([-104.00699, -116.66877, 255 - 122.67892])
    torch.testing.assert_close(network.normalise(image)[0, :, 0, 0], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("variant", "mean", "deviation"),
    [
        ("tiny", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("resnet50_v1", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("resnet50_v2", (0.488431, 0.466275, 0.403686), (0.222627, 0.219490, 0.225490)),  # of 255: 124.55 ...
    ],
)
def test_other_pixels_are_normalised_by_their_own_statistics(
    variant: Any, mean: tuple[float, ...], deviation: tuple[float, ...]
) -> None:
    network = build(variant)
    expected = torch.tensor([(0.5 - m) / d for m, d in zip(mean, deviation, strict=True)])
    found = network.normalise(torch.full((1, 3, 1, 1), 0.5)).flatten()
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


def test_heads_of_vgg_start_at_a_hundredth_and_the_second_ports_are_kaimings() -> None:
    torch.manual_seed(0)
    network = build("vgg16")
    assert float(network.dsn6.conv2.weight.std()) == pytest.approx(0.01, rel=0.02)
    assert float(network.dsn3.conv2.weight.std()) == pytest.approx(0.01, rel=0.05)
    assert network.dsn3.conv1.bias.abs().max() == 0
    port = build("resnet50_v2")
    assert float(port.ra3.convs[0].weight.std()) == pytest.approx(math.sqrt(2 / 576), rel=0.05)


@pytest.mark.parametrize("variant", VARIANTS)
def test_unknown_choices_are_refused(variant: str) -> None:
    with pytest.raises(ValueError, match="pool is torch, or caffe for a VGG"):
        build(variant, pool="max")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="variant must be one of vgg16"):
        build("vgg19")  # type: ignore[arg-type]


def zero_last(network: RASNetwork) -> None:
    zero_residuals(network)
    nn.init.zeros_(network.dsn6.conv5.weight)
    nn.init.zeros_(network.dsn6.conv5.bias)  # type: ignore[arg-type]


def test_the_loss_of_zero_logits_is_six_times_ln_2() -> None:
    network = tiny()
    zero_last(network)
    mask = (torch.rand(2, 1, *SMALL) > 0.7).float()
    losses = side_losses(network(torch.rand(2, 3, *SMALL), all_sides=True), mask)
    assert (losses.shape, float(losses.sum().detach())) == ((6,), pytest.approx(4.1589, abs=1e-4))


def test_half_the_size_quarters_the_sum_and_leaves_the_mean() -> None:
    large, small = (torch.zeros(1, 6, s, s) for s in (64, 32))
    of = lambda y, how: float(side_losses(y, torch.ones(1, 1, *y.shape[2:]), "bce", how).sum())  # noqa: E731
    assert of(large, "sum") == pytest.approx(4 * of(small, "sum"))
    assert of(large, "mean") == pytest.approx(of(small, "mean"))
    assert of(large, "sum") == pytest.approx(64 * 64 * of(large, "mean"))


def test_the_iou_loss_is_the_ports() -> None:
    torch.manual_seed(0)
    logits, mask = torch.randn(3, 2, 5, 5), (torch.rand(3, 1, 5, 5) > 0.5).float()
    p = logits.sigmoid()
    expected = torch.zeros(2)
    for side in range(2):
        for image in range(3):
            overlap = (p[image, side] * mask[image, 0]).sum()
            union = (p[image, side] + mask[image, 0]).sum()
            expected[side] += (1 - (overlap + 1) / (union - overlap + 1)) / 3
    torch.testing.assert_close(intersection_over_union(logits, mask), expected)
    both = side_losses(logits, mask, "bce_iou")
    torch.testing.assert_close(both, cross_entropy(logits, mask) + expected)


def reference(network: RASNetwork, image: Tensor) -> list[Tensor]:
    """The equations of the paper, written down once more."""
    f = network.backbone(network.normalise(image))
    d = network.dsn6
    y = d.conv5(d.conv4(d.conv3(d.conv2(d.conv1(f[5])).relu()).relu()).relu())
    found = [y]
    for i in (5, 4, 3, 2, 1):
        u = functional.interpolate(y, f[i - 1].shape[2:], mode="bilinear", align_corners=False)
        g = f[i - 1] * (1 - u.sigmoid())
        s = network.stage(i)
        y = s.conv4(s.conv3(s.conv2(s.conv1(g)).relu()).relu()) + u
        found.append(y)
    size = image.shape[2:]
    return [functional.interpolate(y, size, mode="bilinear", align_corners=False) for y in found[::-1]]


def test_the_network_is_the_papers_equations() -> None:
    network = tiny()
    for side in range(1, 6):  # larger residuals than those of the start
        nn.init.normal_(network.stage(side).last.weight, std=0.3)
    image = torch.rand(2, 3, *SMALL)
    with torch.no_grad():
        expected = torch.cat(reference(network, image), dim=1)
        found = network(image.contiguous(memory_format=torch.channels_last), all_sides=True)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def caffe_reference(network: RASNetwork, image: Tensor) -> list[Tensor]:
    """The prototxt, written down once more: fixed deconvolutions and crops."""

    def enlarged(y: Tensor, factor: int, side: int, size: tuple[int, int]) -> Tensor:
        k = torch.arange(2 * factor, dtype=y.dtype)
        profile = 1 - (k - (factor - 0.5)).abs() / factor
        large = functional.conv_transpose2d(y, (profile[:, None] * profile)[None, None], stride=factor)
        o = OFFSETS[factor, side]
        return large[..., o : o + size[0], o : o + size[1]]

    f = network.backbone(network.normalise(image))
    d = network.dsn6
    y = d.conv5(d.conv4(d.conv3(d.conv2(d.conv1(f[5])).relu()).relu()).relu())
    size = (image.shape[2], image.shape[3])
    found = [enlarged(y, 32, 6, size)]
    for i in (5, 4, 3, 2, 1):
        u = enlarged(y, 2, i + 1, (f[i - 1].shape[2], f[i - 1].shape[3]))
        s = network.stage(i)
        y = s.conv4(s.conv3(s.conv2(s.conv1(f[i - 1] * (1 - u.sigmoid()))).relu()).relu()) + u
        found.append(y if i == 1 else enlarged(y, 2 ** (i - 1), i, size))
    return found[::-1]


@pytest.mark.parametrize("size", [SMALL, (64, 96)])
def test_the_network_with_caffes_pools_is_the_prototxt(size: tuple[int, int]) -> None:
    network = tiny(pool="caffe").double()
    nn.init.normal_(network.dsn6.conv5.weight, std=0.3)
    for side in range(1, 6):
        nn.init.normal_(network.stage(side).last.weight, std=0.3)
    image = torch.rand(2, 3, *size).double()
    with torch.no_grad():
        expected = torch.cat(caffe_reference(network, image), dim=1)
        found = network(image, all_sides=True)
    assert expected.std(dim=(0, 2, 3)).min() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def port(variant: str) -> Any:
    """A port in eval mode whose every layer matters: random statistics, logits about 0 with a spread of 1."""
    torch.manual_seed(0)
    network = build(variant).double().eval()  # type: ignore[arg-type]
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor in (layer.weight, layer.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)  # type: ignore[arg-type]
            for tensor in (layer.bias, layer.running_mean):
                nn.init.normal_(tensor, std=0.3)  # type: ignore[arg-type]
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d) and name.startswith(("mscm", "ra")):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.normal_(layer.bias, std=0.3)  # type: ignore[arg-type]
    with torch.no_grad():
        for side in network.sides:  # else the attention is 0 or 1 everywhere
            last = network.mscm.score if side == 5 else network.stage(side).last
            found = network.refine(torch.rand(2, 3, *SMALL).double())
            r = found.logits[side] - found.coarse.get(side, 0)
            last.weight /= r.std()
            last.bias.copy_((last.bias - r.mean()) / r.std())
    return network


def port_reference(network: Any, image: Tensor, normed: bool) -> list[Tensor]:
    """Side outputs of a port at the picture's size, fine to coarse, from its equations and its state dict."""
    p = network.state_dict()
    mean, deviation = {
        False: ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        True: ((124.55 / 255, 118.90 / 255, 102.94 / 255), (56.77 / 255, 55.97 / 255, 57.50 / 255)),
    }[normed]
    x = (image - image.new_tensor(mean).view(3, 1, 1)) / image.new_tensor(deviation).view(3, 1, 1)

    def conv(x: Tensor, name: str, dilation: int = 1) -> Tensor:
        w = p[f"{name}.weight"]
        return functional.conv2d(
            x, w, p[f"{name}.bias"], dilation=dilation, padding=dilation * (w.shape[-1] // 2)
        )

    def norm(x: Tensor, name: str) -> Tensor:
        names = ("running_mean", "running_var", "weight", "bias")
        return functional.batch_norm(x, *(p[f"{name}.{n}"] for n in names)) if normed else x

    def reduced(x: Tensor, name: str) -> Tensor:
        x = norm(conv(x, f"{name}.convert"), f"{name}.bn")
        return x.relu() if normed else x

    def enlarged(y: Tensor, size: torch.Size) -> Tensor:
        return functional.interpolate(y, size, mode="bilinear", align_corners=True)

    trunk, gap = network.backbone, 3 if normed else 2  # layers from one convolution to the next
    f = {1: trunk.bn1(trunk.conv1(x)).relu()}
    deep = functional.max_pool2d(f[1], 3, 2, 1)
    for i in (1, 2, 3, 4):
        deep = f[i + 1] = getattr(trunk, f"layer{i}")(deep)
    context, branches = reduced(f[5], "mscm"), []
    for i, dilation in ((1, 1), (2, 2), (3, 4), (4, 6)):
        b = norm(conv(context, f"mscm.branch{i}.0"), f"mscm.branch{i}.1").relu()
        second = f"mscm.branch{i}.{gap}"
        branches.append(norm(conv(b, second, dilation), f"mscm.branch{i}.{gap + 1}").relu())
    y = conv(torch.cat(branches, dim=1), "mscm.score")
    found = [y]
    for i in (4, 3, 2) if normed else (4, 3, 2, 1):
        u = enlarged(y, f[i].shape[2:])
        r = (-u).sigmoid() * reduced(f[i], f"ra{i}")
        for k in range(3):
            r = norm(conv(r, f"ra{i}.convs.{gap * k}"), f"ra{i}.convs.{gap * k + 1}").relu()
        y = conv(r, f"ra{i}.convs.{3 * gap}") + u
        found.append(y)
    return [enlarged(y, image.shape[2:]) for y in found[::-1]]


@pytest.mark.parametrize("variant", ["resnet50_v1", "resnet50_v2"])
def test_a_port_is_its_equations(variant: str) -> None:
    network, image = port(variant), torch.rand(2, 3, *SMALL).double()
    with torch.no_grad():
        expected = torch.cat(port_reference(network, image, variant.endswith("v2")), dim=1)
        found = network(image, all_sides=True)
    assert expected.std(dim=(0, 2, 3)).min() > 0.3
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)  # the statistics are float32 buffers


def test_the_trunk_is_the_resnet_of_transformers() -> None:
    from transformers import ResNetConfig, ResNetModel

    trunk = port("resnet50_v1").backbone
    theirs = ResNetModel(ResNetConfig(downsample_in_bottleneck=False)).double().eval()
    parts = {"conv": "convolution", "bn": "normalization"}
    state = {}
    for key, value in trunk.state_dict().items():
        *place, layer, kind = key.split(".")
        if not place:
            name = f"embedder.embedder.{parts[layer.rstrip('1')]}"
        elif "downsample" in place:
            name = f"{_block(place)}.shortcut.{('convolution', 'normalization')[int(layer)]}"
        else:
            name = f"{_block(place)}.layer.{int(layer[-1]) - 1}.{parts[layer[:-1]]}"
        state[f"{name}.{kind}"] = value
    theirs.load_state_dict(state)
    image = torch.rand(1, 3, *SMALL).double()
    with torch.no_grad():
        first, *ours = trunk.stages(image)
        stem, *stages = theirs(image, output_hidden_states=True).hidden_states
    assert first.min() == 0  # after the ReLU
    torch.testing.assert_close(functional.max_pool2d(first, 3, 2, 1), stem, rtol=1e-10, atol=1e-10)
    for a, b in zip(ours, stages, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def _block(place: list[str]) -> str:
    return f"encoder.stages.{int(place[0][-1]) - 1}.layers.{place[1]}"
