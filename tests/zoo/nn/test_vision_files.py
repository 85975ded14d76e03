"""Files of torchvision and timm: which network they are of, what is taken and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from zoo.nn.resnet import ResNet
from zoo.nn.vision_files import (
    PIXELS,
    load_resnet,
    load_vision_transformer,
    read_resnet,
    read_vision_transformer,
)
from zoo.nn.vision_transformer import VisionTransformer


def resnet(name: str = "resnet18", classes: int | None = 7, stem: str = "imagenet") -> ResNet:
    torch.manual_seed(1)
    return ResNet(name, classes, stem).eval()


def vit(classes: int | None = 7) -> VisionTransformer:
    torch.manual_seed(1)
    return VisionTransformer("vit_tiny_patch16_224", classes, image_size=48).eval()


def alike(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    found, wanted = one.state_dict(), other.state_dict()
    return found.keys() == wanted.keys() and all(torch.equal(v, wanted[k]) for k, v in found.items())


def saved(state: dict[str, Tensor], path: Path) -> Path:
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


@pytest.mark.parametrize(
    ("name", "classes", "stem"),
    [("resnet18", 7, "cifar"), ("resnet50", None, "imagenet"), ("resnet34", 3, "imagenet")],
)
def test_a_resnet_is_told_by_its_tensors(name: str, classes: int | None, stem: str, tmp_path: Path) -> None:
    network = resnet(name, classes, stem)
    found = read_resnet(saved(network.state_dict(), tmp_path / "x.safetensors"))
    assert alike(found, network)
    assert not found.training
    assert all(p.requires_grad and p.device.type == "cpu" for p in found.parameters())
    x = torch.rand(1, 3, 40, 40)
    torch.testing.assert_close(found(x), network(x), atol=1e-6, rtol=1e-6)


def test_a_vision_transformer_is_told_by_its_tensors(tmp_path: Path) -> None:
    network = vit()
    found = read_vision_transformer(saved({"model": network.state_dict()}, tmp_path / "x.pth"))
    assert alike(found, network)
    assert found.image_size == 48
    with pytest.raises(ValueError, match=r"x\.pth holds a ViT of width 192, which is no deit_base"):
        read_vision_transformer(tmp_path / "x.pth", "deit_base_patch16_224")


def test_prefixes_wrappers_and_half_precision(tmp_path: Path) -> None:
    network = resnet()
    state = {f"module.model.{k}": v.half() if v.ndim else v for k, v in network.state_dict().items()}
    state |= {"module.attacker.model.fc.bias": torch.zeros(7), "module.normalizer.new_mean": torch.zeros(3)}
    path = saved({"state_dict": state, "epoch": 3}, tmp_path / "cifar_linf_8.pt")
    found = read_resnet(path, prefix="module.model.")
    assert found.fc.weight.dtype == torch.float32
    torch.testing.assert_close(found.fc.weight, network.fc.weight.half().float(), atol=0, rtol=0)
    with pytest.raises(ValueError, match=r"cifar_linf_8\.pt: no name begins with module\.encoder\."):
        read_resnet(path, prefix="module.encoder.")
    both = {"state_dict_ema": network.state_dict(), "state_dict": resnet(classes=3).state_dict()}
    assert alike(read_resnet(saved(both, tmp_path / "ema.pth")), network)
    plain = {f"module.{k}": v for k, v in network.state_dict().items() if not k.endswith("tracked")}
    assert alike(read_resnet(saved(plain, tmp_path / "old.pth")), network)


def test_a_trunk_is_taken_without_its_head(tmp_path: Path) -> None:
    path = saved(resnet().state_dict(), tmp_path / "x.pth")
    torch.manual_seed(2)
    ours = ResNet("resnet18", 3)
    head = ours.fc.weight.clone()
    load_resnet(ours, path, head=False)
    assert torch.equal(ours.fc.weight, head)
    assert torch.equal(ours.layer4[1].conv2.weight, resnet().layer4[1].conv2.weight)
    with pytest.raises(
        ValueError, match=r"x\.pth: fc\.bias does not fit: it is \(7,\) in the file and \(3,\)"
    ):
        load_resnet(ours, path)
    path = saved(vit().state_dict(), tmp_path / "v.pth")
    transformer = vit(3)
    load_vision_transformer(transformer, path, head=False)
    assert torch.equal(transformer.pos_embed, vit().pos_embed)
    with pytest.raises(ValueError, match=r"head\.bias does not fit"):
        load_vision_transformer(transformer, path)


def _changed(state: dict[str, Tensor], key: str, value: Tensor | None) -> dict[str, Tensor]:
    return {k: v for k, v in state.items() if k != key} | ({} if value is None else {key: value})


@pytest.mark.parametrize(
    ("key", "value", "word"),
    [
        ("conv1.weight", torch.zeros(64, 3, 5, 5), "5 x 5, 7 x 7 and 3 x 3 are read"),
        ("conv1.weight", None, r"no ResNet: conv1\.weight is missing"),
        ("conv1.0.weight", torch.zeros(2), "deep stem"),
        ("layer1.2.conv1.weight", torch.zeros(64, 64, 3, 3), "it has 3, 2, 2, 2 basic blocks"),
        ("layer1.0.se.fc1.weight", torch.zeros(2), "squeeze-and-excitation"),
        ("layer1.0.conv1.weight", torch.zeros(64, 2, 3, 3), r"layer1\.0\.conv1\.weight does not fit"),
        ("bn1.weight", torch.full((64,), torch.nan), "NaN"),
        ("fc.weight", torch.zeros(0, 512), r"shape \[0, 512\]"),
    ],
)
def test_other_files_than_resnets_are_refused(
    key: str, value: Tensor | None, word: str, tmp_path: Path
) -> None:
    path = saved(_changed(resnet().state_dict(), key, value), tmp_path / "x.pth")
    with pytest.raises(ValueError, match=word) as found:
        read_resnet(path)
    assert str(path) in str(found.value)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("key", "value", "word"),
    [
        ("dist_token", torch.zeros(1, 1, 192), "distilled DeiT"),
        ("blocks.0.ls1.gamma", torch.zeros(192), "layer scale"),
        ("fc_norm.weight", torch.zeros(192), "mean over tokens"),
        ("pos_embed", torch.zeros(1, 9, 192), "9 positions are no class token and a square"),
        ("patch_embed.proj.weight", torch.zeros(100, 3, 16, 16), "width 100; those of 192, 384, 768"),
        ("blocks.12.norm1.weight", torch.zeros(192), r"blocks\.12\.norm1\.weight does not fit"),
        ("layer1.0.conv1.weight", torch.zeros(2), "a ResNet; read_resnet"),
    ],
)
def test_other_files_than_plain_vits_are_refused(key: str, value: Tensor, word: str, tmp_path: Path) -> None:
    path = saved(_changed(vit().state_dict(), key, value), tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=word) as found:
        read_vision_transformer(path)
    assert str(path) in str(found.value)


def test_each_reader_names_the_other_and_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="read_vision_transformer reads it"):
        read_resnet(saved(vit().state_dict(), tmp_path / "v.pth"))
    with pytest.raises(ValueError, match="read_resnet reads it"):
        read_vision_transformer(saved(resnet().state_dict(), tmp_path / "r.pth"))
    with pytest.raises(FileNotFoundError, match=r"no file .*absent\.pth"):
        read_resnet(tmp_path / "absent.pth")
    with pytest.raises(ValueError, match="holds no tensors"):
        read_resnet(saved({}, tmp_path / "empty.pth"))


def test_pixels_are_those_of_the_publishers() -> None:
    assert PIXELS["resnet50"] == PIXELS["deit_base_patch16_224"]
    assert PIXELS["vit_small_patch16_224"] == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
