"""Residual networks: known sizes, the outputs of transformers' with the same weights, stems, keys."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn
from transformers import ResNetConfig, ResNetForImageClassification

from zoo.nn.batch_norm import GlobalBatchNorm2d
from zoo.nn.resnet import BLOCKS, ResNet


def size_of(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("name", "classes", "stem", "size"),
    [
        ("resnet18", 1000, "imagenet", 11_689_512),
        ("resnet34", 1000, "imagenet", 21_797_672),
        ("resnet50", 1000, "imagenet", 25_557_032),
        ("resnet101", 1000, "imagenet", 44_549_160),
        ("resnet152", 1000, "imagenet", 60_192_808),
        ("resnet50", 10, "cifar", 23_520_842),
        ("resnet50", 100, "cifar", 23_705_252),
        ("resnet50", None, "imagenet", 23_508_032),
    ],
)
def test_parameters_are_counted_as_published(name: str, classes: int, stem: str, size: int) -> None:
    with torch.device("meta"):
        assert size_of(ResNet(name, classes, stem)) == size


def torchvisions_name(key: str) -> str:
    """A key of transformers' ResNet as torchvision's."""
    if key.startswith("classifier.1."):
        return key.replace("classifier.1", "fc")
    key = key.removeprefix("resnet.")
    leaf = {"convolution": "conv", "normalization": "bn"}
    if key.startswith("embedder."):
        _, _, part, end = key.split(".")
        return f"{leaf[part]}1.{end}"
    found = re.fullmatch(r"encoder\.stages\.(\d)\.layers\.(\d+)\.(shortcut|layer)\.(.+)", key)
    assert found
    stage, block, part, rest = found.groups()
    where = f"layer{int(stage) + 1}.{block}"
    if part == "shortcut":
        kind, end = rest.split(".")
        return f"{where}.downsample.{0 if kind == 'convolution' else 1}.{end}"
    place, kind, end = rest.split(".")
    return f"{where}.{leaf[kind]}{int(place) + 1}.{end}"


def randomised(model: nn.Module, seed: int) -> dict[str, Tensor]:
    """Weights and statistics that differ everywhere."""
    g = torch.Generator().manual_seed(seed)
    state = model.state_dict()
    for key, value in state.items():
        if key.endswith("running_var") or (value.ndim == 1 and key.endswith("weight")):
            value.uniform_(0.5, 1.5, generator=g)
        elif value.is_floating_point():
            value.normal_(0, 0.05, generator=g)
    return state


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_the_outputs_are_those_of_transformers(name: str) -> None:
    kind = "basic" if name == "resnet18" else "bottleneck"
    widths = [64, 128, 256, 512] if kind == "basic" else [256, 512, 1024, 2048]
    config = ResNetConfig(
        depths=list(BLOCKS[name]), hidden_sizes=widths, layer_type=kind, num_labels=7, embedding_size=64
    )
    other = ResNetForImageClassification(config).eval()
    state = randomised(other, 0)
    ours = ResNet(name, 7).eval()
    ours.load_state_dict({torchvisions_name(k): v for k, v in state.items()})
    x = torch.randn(2, 3, 65, 50, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(ours(x), other(x).logits, atol=1e-5, rtol=1e-5)


def test_the_cifar_stem_keeps_the_side() -> None:
    x = torch.rand(1, 3, 32, 32)
    cifar, imagenet = (ResNet("resnet18", None, stem).eval() for stem in ("cifar", "imagenet"))
    assert [f.shape[-1] for f in cifar.stages(x)] == [32, 32, 16, 8, 4]
    assert [f.shape[-1] for f in imagenet.stages(x)] == [16, 8, 4, 2, 1]
    assert isinstance(cifar.maxpool, nn.Identity)
    torch.testing.assert_close(cifar(x), cifar.stages(x)[-1].mean(dim=(2, 3)))


def test_it_begins_as_torchvision_begins() -> None:
    torch.manual_seed(0)
    network = ResNet("resnet18", 10)
    weight = network.layer3[0].conv1.weight.detach()  # 128 channels to 256 of 3 x 3
    assert float(weight.std()) == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.01)
    assert set(network.layer3[0].bn2.weight.tolist()) == {1.0}


def test_the_global_norm_takes_the_same_weights_and_dropout_is_before_fc() -> None:
    with torch.device("meta"):
        plain, shared = ResNet("resnet18", 10), ResNet("resnet18", 10, batch_norm=GlobalBatchNorm2d)
    assert plain.state_dict().keys() == shared.state_dict().keys()
    assert isinstance(shared.layer1[0].bn2, GlobalBatchNorm2d)
    dropped = ResNet("resnet18", 10, dropout=0.5)
    dropped.bn1.eval()
    x = torch.rand(4, 3, 32, 32)
    torch.manual_seed(0)
    found = dropped(x)
    torch.manual_seed(0)
    torch.testing.assert_close(found, dropped.fc(nn.functional.dropout(dropped.pooled(x), 0.5)))


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"name": "resnet20"}, "resnet152"),
        ({"name": "resnet18", "stem": "small"}, "imagenet, cifar"),
        ({"name": "resnet18", "num_classes": 0}, "num_classes is 0"),
        ({"name": "resnet18", "dropout": 1.0}, "dropout is 1.0"),
        ({"name": "resnet18", "channels": -3}, "channels is -3"),
    ],
)
def test_what_makes_no_network_is_refused(given: dict[str, object], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        ResNet(**given)
