"""The implicit field: coordinates, clamp, loss, which points a step sees."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import zoo
from zoo.imnet.field import (
    chosen_points,
    coordinates,
    density_weights,
    field_loss,
    grid_points,
    kl_divergence,
    leaky_clamp,
    reparameterised,
    stride_two_layers,
)
from zoo.imnet.network import (
    CNNDecoder,
    ImageEncoder,
    ImplicitDecoder,
    LatentLayers,
    ShapeAutoencoder,
    ShapeEncoder,
    SingleView,
)


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_v2_coordinates_are_centres_of_256_cells() -> None:
    unit = (torch.tensor([0.0, 255.0]) + 0.5) / 256
    assert coordinates(unit, "v2").tolist() == [-0.498046875, 0.498046875]
    assert coordinates(unit, "v1").tolist() == [-0.99609375, 0.99609375]
    # v1 counts cells of the training resolution
    assert coordinates((torch.tensor([0.0, 15.0]) + 0.5) / 16, "v1").tolist() == [-0.9375, 0.9375]


def test_grid_is_indexed_ij() -> None:
    points = grid_points(4).view(4, 4, 4, 3)
    assert points[3, 0, 1].tolist() == [0.875, 0.125, 0.375]


def test_leaky_clamp_values_and_slopes() -> None:
    h = torch.tensor([-1.0, 0.0, 0.5, 1.0, 2.0])
    assert torch.allclose(leaky_clamp(h), torch.tensor([-0.01, 0.0, 0.5, 1.0, 1.01]), atol=1e-7)
    x = torch.tensor([-3.0, 0.4, 5.0], requires_grad=True)
    leaky_clamp(x).sum().backward()
    assert x.grad is not None
    assert torch.allclose(x.grad, torch.tensor([0.01, 1.0, 0.01]))


def test_loss_is_a_plain_mean_or_weighted_per_shape() -> None:
    predicted = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    values = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    assert float(field_loss(predicted, values)) == pytest.approx((1 + 0 + 0.25 + 0.25) / 4)
    weight = torch.tensor([[3.0, 1.0], [1.0, 1.0]])
    assert float(field_loss(predicted, values, weight)) == pytest.approx((0.75 + 0.25) / 2)


def test_density_weights_are_one_over_the_points_of_a_cell() -> None:
    unit = torch.tensor([[[0.01, 0.01, 0.01], [0.02, 0.02, 0.02], [0.9, 0.1, 0.5], [1.0, 1.0, 1.0]]])
    assert density_weights(unit).tolist() == [[0.5, 0.5, 1.0, 1.0]]


def test_contiguous_blocks_are_aligned_and_one_for_the_batch() -> None:
    seen = set()
    for seed in range(40):
        rows = chosen_points(3, 16384, 4096, "contiguous", torch.Generator().manual_seed(seed))
        assert torch.equal(rows[0], rows[2])
        assert torch.equal(rows[0], torch.arange(int(rows[0, 0]), int(rows[0, 0]) + 4096))
        seen.add(int(rows[0, 0]))
    assert seen == {0, 4096, 8192, 12288}


def test_random_points_differ_between_shapes_and_never_repeat() -> None:
    rows = chosen_points(2, 100, 40, "random", torch.Generator().manual_seed(0))
    assert len(rows[0].unique()) == len(rows[1].unique()) == 40
    assert set(rows[0].tolist()) != set(rows[1].tolist())
    few = chosen_points(2, 30, 40, "random", torch.Generator().manual_seed(0))
    assert torch.equal(few[1], torch.arange(30))


def test_consecutive_blocks_follow_the_epochs() -> None:
    g = torch.Generator()
    firsts = [int(chosen_points(1, 32768, 16384, "consecutive", g, epoch)[0, 0]) for epoch in range(4)]
    assert firsts == [0, 16384, 0, 16384]


def test_divergence_of_the_prior_is_zero() -> None:
    assert kl_divergence(torch.zeros(2, 5), torch.zeros(2, 5)).tolist() == [0.0, 0.0]
    assert float(kl_divergence(torch.ones(1, 2), torch.zeros(1, 2))) == pytest.approx(1.0)
    assert float(kl_divergence(torch.zeros(1, 1), torch.full((1, 1), math.log(4)))) == pytest.approx(
        0.8068528
    )


def test_a_variational_code_has_the_deviation_and_not_the_variance() -> None:
    code = reparameterised(torch.tensor([1.0]), torch.tensor([math.log(9)]), torch.tensor([2.0]))
    assert float(code) == pytest.approx(7.0)


@pytest.mark.parametrize("size", [4, 24, 48, 63])
def test_sides_that_do_not_halve_to_4_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"got {size}"):
        stride_two_layers(size)


def test_parameter_counts_are_the_published_ones() -> None:
    with torch.device("meta"):
        encoder, decoder = ShapeEncoder(), ImplicitDecoder()
        assert (parameters(encoder), parameters(decoder)) == (6_949_120, 3_054_593)
        assert parameters(ShapeAutoencoder(encoder, decoder)) == 10_003_713
        image = ImageEncoder()
        assert (parameters(image), parameters(SingleView(image, decoder))) == (17_462_976, 20_517_569)
        assert parameters(ImplicitDecoder(128, version="v1")) == 3_309_185
        assert parameters(ImplicitDecoder(100, 2, 64, "v1")) == 900_737
        assert parameters(ShapeEncoder(128, version="v1")) == 4_852_320 + 960
        assert parameters(CNNDecoder(128)) == 4_852_193 + 960
        assert parameters(LatentLayers(128, 128)) == 4_722_816
        assert parameters(LatentLayers(128, 1)) == 4_462_593


def test_instance_norm_keeps_no_statistics_and_first_convs_have_no_bias() -> None:
    keys = set(ShapeEncoder(8, 32, 4).state_dict())
    assert keys == {"conv_1.weight", "conv_2.weight", "conv_3.weight", "conv_4.weight", "conv_4.bias"}


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_first_layer_without_the_repeat_is_the_layer_on_point_and_code(version: str) -> None:
    """The concatenation is [point, z]: swapped, official weights would load and mean nothing."""
    torch.manual_seed(0)
    decoder = ImplicitDecoder(5, 3, 4, version, init="he").double()  # type: ignore[arg-type]
    points, z = torch.rand(2, 7, 3).double(), torch.rand(2, 5).double()
    a = torch.cat([points, z[:, None].expand(-1, 7, -1)], dim=-1)
    h = a
    for k in range(1, decoder.hidden + 1):
        if k > 1 and version == "v1":
            h = torch.cat([h, a], dim=-1)
        h = functional.leaky_relu(decoder.layer(k)(h), 0.02)
    out = decoder.layer(decoder.hidden + 1)(h)[..., 0]
    expected = out.sigmoid() if version == "v1" else leaky_clamp(out)
    assert torch.allclose(decoder(points, z), expected, atol=1e-12)


def test_one_layer_by_hand() -> None:
    decoder = ImplicitDecoder(1, 1, 1, "v2")
    with torch.no_grad():
        for p in decoder.parameters():
            p.zero_()
        decoder.layer(1).weight[0] = torch.tensor([2.0, 3.0])  # 2 p + 3 z
        for k in range(2, 8):
            decoder.layer(k).weight[0, 0] = 1.0
    with torch.no_grad():
        value = decoder(torch.tensor([[[0.1]]]), torch.tensor([[0.2]]))
    assert float(value) == pytest.approx(0.8)


def test_paper_initialisation() -> None:
    torch.manual_seed(0)
    decoder = ImplicitDecoder(256)
    for k in range(1, 8):
        layer = decoder.layer(k)
        assert (float(layer.weight.std()), layer.bias.abs().max()) == (pytest.approx(0.02, rel=0.25), 0)
    outputs = decoder(torch.rand(1, 50, 3) - 0.5, torch.rand(1, 256))
    assert outputs.abs().max() < 0.01


@pytest.mark.parametrize("size", [28, 32, 64])
def test_two_dimensional_networks_mirror(size: int) -> None:
    encoder, decoder = ShapeEncoder(10, size, 4, "v1", 2), CNNDecoder(10, size, 4, 2)
    x = torch.rand(2, 1, size, size)
    assert (encoder(x).shape, decoder(torch.rand(2, 10)).shape) == ((2, 10), (2, size, size))
    sides = [plan[0] for plan in encoder.plan]
    assert sides == {28: [28, 28, 14, 7], 32: [32, 16, 8], 64: [64, 32, 16, 8]}[size]


def test_same_padding_of_28_is_tensorflows() -> None:
    """A symmetric pad of 1 would give 27 and 3."""
    plan = ShapeEncoder(10, 28, 4, "v1", 2).plan
    assert [p[2:] for p in plan] == [(1, 2), (1, 1), (1, 1), (1, 2)]


def test_deconvolution_is_the_transpose_of_the_padded_convolution() -> None:
    """<conv(x), y> = <x, deconv(y)> layer by layer, also where 'same' is lopsided."""
    torch.manual_seed(0)
    encoder, decoder = ShapeEncoder(3, 28, 2, "v1", 2).double(), CNNDecoder(3, 28, 2, 2).double()
    k = 4  # 7 -> 4 of the encoder, 4 -> 7 of the decoder
    conv, deconv = encoder.conv_4, decoder.deconv_2
    x, y = torch.randn(1, 8, 7, 7).double(), torch.randn(1, 16, 4, 4).double()
    padded = functional.pad(x, (1, 2, 1, 2))
    forward = functional.conv2d(padded, conv.weight, stride=2)  # type: ignore[arg-type]
    back = functional.conv_transpose2d(y, conv.weight, stride=2)[:, :, 1:8, 1:8]  # type: ignore[arg-type]
    assert float((forward * y).sum()) == pytest.approx(float((x * back).sum()))
    assert deconv.weight.shape == (16, 8, k, k)  # type: ignore[union-attr]
    assert decoder.plan[0] == encoder.plan[-1]
    # the decoder itself crops so: one value at the left edge of its first plane
    decoder.eval()
    seen: list[Tensor] = []
    decoder.norm_2.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    z = torch.randn(1, 3).double()
    decoder(z)
    first = functional.leaky_relu(decoder.norm_1(decoder.deconv_1(z[:, :, None, None])), 0.02)
    assert torch.allclose(seen[0], decoder.deconv_2(first)[:, :, 1:8, 1:8])


def test_the_vae_of_pictures_has_128_means_and_128_log_variances() -> None:
    for kind in (zoo.IMAE, zoo.CNNAE):
        module = kind(version="v1", dims=2, input_size=28, variational=True)
        assert (module.network.encoder.conv_5.out_channels, module.z_dim) == (256, 128)
    assert zoo.IMAE(version="v1", dims=2, input_size=28).z_dim == 100
    assert zoo.IMAE(version="v1", variational=True).z_dim == 128


def test_single_views_of_the_first_release_are_cut_at_0_6() -> None:
    assert zoo.IMSVR(version="v1", width=2, image_width=2).hparams["threshold"] == 0.6
    assert zoo.IMSVR(width=2, image_width=2).hparams["threshold"] == 0.5


def test_image_encoder_inverts_the_view_itself() -> None:
    torch.manual_seed(0)
    encoder = ImageEncoder(6, 4).eval()
    view = torch.rand(1, 1, 128, 128)
    seen: list[Tensor] = []
    encoder.conv_0.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    code = encoder(view)
    assert torch.equal(seen[0], 1 - view)
    assert code.shape == (1, 6)
    assert 0 < float(code.min()) <= float(code.max()) < 1


def test_codes_lie_in_the_unit_interval() -> None:
    network = ShapeAutoencoder(ShapeEncoder(8, 16, 4), ImplicitDecoder(8, 3, 4))
    z = network.encode(torch.rand(2, 1, 16, 16, 16) * 100)
    assert 0 < float(z.min()) <= float(z.max()) < 1
    assert z.shape == (2, 8)


def fitted(init: str, steps: int, seed: int) -> float:
    """Loss of a decoder without code on a sphere of radius .3, in units where the square is [-.5, .5]."""
    torch.manual_seed(seed)
    decoder = ImplicitDecoder(1, 3, 16, "v2", init)  # type: ignore[arg-type]
    optimizer = torch.optim.Adam(decoder.parameters(), lr=1e-3)
    loss = torch.zeros(())
    for _ in range(steps):
        points = torch.rand(1, 1024, 3) - 0.5
        values = (points.norm(dim=2) < 0.3).float()
        loss = field_loss(decoder(points, torch.zeros(1, 1)), values)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(loss.detach())


@pytest.mark.parametrize("init", ["paper", "he"])
def test_a_sphere_is_learned_in_150_steps(init: str) -> None:
    torch.set_num_threads(1)
    assert math.isfinite(loss := fitted(init, 150, 0))
    assert loss < 0.03
