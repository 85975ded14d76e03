"""Inception of the TF-2015 graph, against the graph written out step by step.

Outside this suite the network was compared with torch-fidelity 0.4.0 (FeatureExtractorInceptionV3; the
package imports torchvision, hence not here) on random weights and images of 64, 256 and 400 pixels: pool_3
and unbiased logits differed by 0.0.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.metrics.inception import InceptionV3, load_inception, resize_like_tensorflow1


def random_inception(seed: int = 0) -> InceptionV3:
    """Random weights whose features neither vanish nor explode."""
    torch.manual_seed(seed)
    network = InceptionV3()
    for key, value in network.state_dict().items():
        if key.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif key.endswith(("running_mean", "bn.bias", "fc.bias")):
            value.normal_(std=0.1)
        elif key.endswith("conv.weight"):
            value.mul_(2)
    return network


@pytest.fixture(scope="module")
def network() -> InceptionV3:
    return random_inception()


def written_out(p: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """pool_3 and mixed_6/conv of the graph for a 299 x 299 input in 0..255, block by block."""

    def conv(name: str, x: Tensor, stride: int = 1, valid: bool = False) -> Tensor:
        w = p[f"{name}.conv.weight"]
        pad = (0, 0) if valid else (w.shape[2] // 2, w.shape[3] // 2)
        y = F.conv2d(x, w, stride=stride, padding=pad)
        mean, var, g, b = (
            p[f"{name}.bn.{k}"][:, None, None] for k in ("running_mean", "running_var", "weight", "bias")
        )
        return torch.relu((y - mean) / torch.sqrt(var + 1e-3) * g + b)

    def chain(prefix: str, names: str, x: Tensor) -> Tensor:
        for n in names.split():
            x = conv(f"{prefix}.{n}", x)
        return x

    def average(x: Tensor) -> Tensor:  # the mean of the pixels that exist
        ones = torch.ones_like(x)
        return F.avg_pool2d(x, 3, 1, 1) * 9 / (F.avg_pool2d(ones, 3, 1, 1) * 9)

    def shrink(x: Tensor) -> Tensor:
        return F.max_pool2d(x, 3, 2)

    x = (x - 128) * 0.0078125
    x = conv("Conv2d_2a_3x3", conv("Conv2d_1a_3x3", x, 2, True), 1, True)
    x = shrink(conv("Conv2d_2b_3x3", x))
    x = shrink(conv("Conv2d_4a_3x3", conv("Conv2d_3b_1x1", x), 1, True))
    for b in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
        five, double = "branch5x5_1 branch5x5_2", "branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3"
        parts = [chain(b, "branch1x1", x), chain(b, five, x), chain(b, double, x)]
        x = torch.cat([*parts, chain(b, "branch_pool", average(x))], 1)
    b = "Mixed_6a"
    double = conv(f"{b}.branch3x3dbl_3", chain(b, "branch3x3dbl_1 branch3x3dbl_2", x), 2, True)
    x = torch.cat([conv(f"{b}.branch3x3", x, 2, True), double, shrink(x)], 1)
    for b in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
        if b == "Mixed_6d":
            mixed_6_conv = conv(f"{b}.branch1x1", x)
        seven, double = ("branch7x7", 3), ("branch7x7dbl", 5)
        parts = [chain(b, " ".join(f"{n}_{i + 1}" for i in range(k)), x) for n, k in (seven, double)]
        x = torch.cat([chain(b, "branch1x1", x), *parts, chain(b, "branch_pool", average(x))], 1)
    b = "Mixed_7a"
    small = conv(f"{b}.branch3x3_2", chain(b, "branch3x3_1", x), 2, True)
    large = chain(b, "branch7x7x3_1 branch7x7x3_2 branch7x7x3_3", x)
    x = torch.cat([small, conv(f"{b}.branch7x7x3_4", large, 2, True), shrink(x)], 1)
    for b in ("Mixed_7b", "Mixed_7c"):
        single, double = chain(b, "branch3x3_1", x), chain(b, "branch3x3dbl_1 branch3x3dbl_2", x)
        split = [chain(b, f"branch3x3_2{k}", single) for k in "ab"]
        split += [chain(b, f"branch3x3dbl_3{k}", double) for k in "ab"]
        pooled = average(x) if b == "Mixed_7b" else F.max_pool2d(x, 3, 1, 1)
        x = torch.cat([chain(b, "branch1x1", x), *split, chain(b, "branch_pool", pooled)], 1)
    return F.avg_pool2d(x, 8).flatten(1), mixed_6_conv


def test_features_are_those_of_the_graph(network: InceptionV3) -> None:
    images = torch.randint(0, 256, (2, 3, 299, 299), dtype=torch.uint8)
    found = network(images)
    state = network.state_dict()
    pool_3, mixed_6_conv = written_out(state, images.float())
    torch.testing.assert_close(found.pool_3, pool_3, atol=1e-5, rtol=1e-5)
    # the graph's order: row, column, channel
    spatial = torch.stack([mixed_6_conv[:, :7, i, j] for i in range(17) for j in range(17)], 1).flatten(1)
    torch.testing.assert_close(found.spatial, spatial, atol=1e-5, rtol=1e-5)
    assert found.spatial.shape == (2, 2023)
    torch.testing.assert_close(found.logits, pool_3 @ state["fc.weight"].T, atol=1e-4, rtol=1e-5)
    assert state["fc.bias"].abs().max() > 0.1  # a head with its bias would differ


def test_it_has_the_published_number_of_parameters(network: InceptionV3) -> None:
    sizes = {k: p.numel() for k, p in network.named_parameters()}
    assert sum(sizes.values()) == 23_850_960
    assert sum(v for k, v in sizes.items() if not k.startswith("fc.")) == 21_785_568
    assert not any(p.requires_grad for p in network.parameters())


def test_batch_norms_stay_in_evaluation_mode(network: InceptionV3) -> None:
    assert not network.train().training
    assert not network.train().Mixed_7c.branch_pool.bn.training


@pytest.mark.parametrize("size", [(64, 64), (256, 256), (400, 300), (299, 299)])
def test_the_resize_is_tensorflow_ones(size: tuple[int, int]) -> None:
    """ResizeBilinear without half pixels: output pixel i reads the input at i in / out; no antialiasing."""
    image = np.random.default_rng(0).uniform(0, 255, size)
    expected = np.empty((20, 20))
    for a, i in enumerate(range(0, 299, 15)):
        for b, j in enumerate(range(0, 299, 15)):
            y, x = i * size[0] / 299, j * size[1] / 299
            top, left = math.floor(y), math.floor(x)
            bottom, right = min(top + 1, size[0] - 1), min(left + 1, size[1] - 1)
            upper = image[top, left] + (image[top, right] - image[top, left]) * (x - left)
            lower = image[bottom, left] + (image[bottom, right] - image[bottom, left]) * (x - left)
            expected[a, b] = upper + (lower - upper) * (y - top)
    resized = resize_like_tensorflow1(torch.tensor(image)[None, None].float())
    found = resized[0, 0, ::15, ::15]
    assert found.numpy() == pytest.approx(expected, abs=0.02)  # float32 positions, slopes up to 255
    if size == (299, 299):
        assert torch.equal(resized[0, 0], torch.tensor(image).float())
    else:
        half_pixel = F.interpolate(
            torch.tensor(image)[None, None].float(), (299, 299), mode="bilinear", align_corners=False
        )
        assert (half_pixel - resized).abs().max() > 10


@pytest.mark.parametrize("counters", [True, False])
def test_weights_of_the_torch_port_load(network: InceptionV3, tmp_path: Path, counters: bool) -> None:
    """The port's file was written before batch norms counted their batches."""
    state = {k: v for k, v in network.state_dict().items() if counters or "num_batches" not in k}
    torch.save(state, tmp_path / "pt_inception.pth", _use_new_zipfile_serialization=counters)
    loaded = load_inception(tmp_path / "pt_inception.pth")
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in state.items())


def broken_weights(kind: str, folder: Path, network: InceptionV3) -> Path:
    path, state = folder / "pt_inception.pth", network.state_dict()
    if kind == "missing":
        state = {k: v for k, v in state.items() if not k.startswith("Mixed_7c.branch_pool")}
    elif kind == "foreign":
        state = {**state, "AuxLogits.fc.weight": torch.zeros(1)}
    elif kind == "shape":
        state = {**state, "fc.weight": torch.zeros(1000, 2048)}
    torch.save(["a list"] if kind == "list" else {"a": object()} if kind == "pickle" else state, path)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:100_000])
    if kind == "absent":
        path.unlink()
    return path


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("missing", r"5 keys are missing \(first Mixed_7c.branch_pool.bn.bias\)"),
        ("foreign", r"1 are not of this network \(first AuxLogits.fc.weight\)"),
        ("shape", r"fc.weight is \(1000, 2048\), not \(1008, 2048\)"),
        ("list", "is no state_dict.*download"),
        ("pickle", "holds pickled objects"),
        ("truncated", "is damaged.*download"),
        ("absent", "no Inception weights at .*pytorch-fid"),
    ],
)
def test_files_that_are_not_the_weights_are_refused(
    kind: str, says: str, network: InceptionV3, tmp_path: Path
) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=says) as caught:
        load_inception(broken_weights(kind, tmp_path, network))
    assert "\n" not in str(caught.value)
