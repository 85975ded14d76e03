"""Files of published defences: names, wrappers, normalisation, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cli
import zoo
from zoo.caa import network, weights
from zoo.caa.network import WideResNet
from zoo.caa.target import load_target
from zoo.nn.resnet import ResNet


@pytest.fixture(autouse=True)
def small_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(network.WIDE, "wrn_28_10", (10, 1))


def filled(model: nn.Module) -> nn.Module:
    g = torch.Generator().manual_seed(0)
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            value.copy_(0.1 * torch.randn(value.shape, generator=g))
            if name.endswith("running_var"):
                value.abs_().add_(0.5)
    return model.eval()


def carmon(model: nn.Module) -> dict[str, Any]:
    """``state_dict`` of DataParallel, with the block that TRADES' code makes and never uses."""
    state = {f"module.{k}": v for k, v in model.state_dict().items()}
    unused = {k.replace("block1.", "sub_block1."): v for k, v in state.items() if "block1." in k}
    return {"state_dict": {**state, **unused}, "epoch": 3, "num_epochs": 200}


def library(model: nn.Module) -> dict[str, Any]:
    """The robustness library's CIFAR ResNet: kuangliu's names, and an attacker and normaliser beside it."""
    state: dict[str, Tensor] = {}
    for key, value in model.state_dict().items():
        theirs = key.replace(".downsample.", ".shortcut.").replace("fc.", "linear.")
        state[f"module.model.{theirs}"] = value
        state[f"module.attacker.model.{theirs}"] = value + 1
    mean = torch.tensor([0.4914, 0.4822, 0.4465]).view(3, 1, 1)
    std = torch.tensor([0.2023, 0.1994, 0.2010]).view(3, 1, 1)
    for place in ("normalizer", "attacker.normalize"):
        state |= {f"module.{place}.new_mean": mean, f"module.{place}.new_std": std}
    return {"model": state, "epoch": 1}


@pytest.mark.parametrize("kind", ["carmon", "library", "bare"])
def test_a_published_file_gives_the_same_scores(kind: str, tmp_path: Path) -> None:
    model = filled(WideResNet(10, 1, 10) if kind == "carmon" else ResNet("resnet18", 10, "cifar"))
    content = {"carmon": carmon, "library": library, "bare": lambda m: m.state_dict()}[kind](model)
    torch.save(content, tmp_path / "official.pt")
    out = tmp_path / "ours.safetensors"
    more = ["--set", "normalisation=half"] if kind == "bare" else []
    command = ["convert", str(tmp_path / "official.pt"), "--method", "robust", "--out", str(out), *more]
    assert cli.main(command) == 0
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    given = {"carmon": image, "bare": 2 * image - 1}.get(kind)
    if given is None:
        mean, std = (torch.tensor(s).view(1, 3, 1, 1) for s in network.STATISTICS["cifar"])
        given = (image - mean) / std
    with torch.no_grad():
        found, expected = load_target(str(out))(image), model(given)
    assert torch.allclose(found, expected, atol=1e-5)
    assert expected.std() > 1e-3
    loaded = zoo.load(out)
    assert loaded.hparams["arch"] == ("wrn_28_10" if kind == "carmon" else "resnet18")
    assert not loaded.network.training


def test_the_networks_have_the_published_parameter_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.device("meta"):
        found = [
            sum(p.numel() for p in model.parameters())
            for model in (WideResNet(28, 10, 10), WideResNet(34, 10, 10), ResNet("resnet50", 10, "cifar"))
        ]
    assert found == [36_479_194, 46_160_474, 23_520_842]


def test_a_wide_network_is_the_one_of_its_equations() -> None:
    model = filled(WideResNet(10, 2, 7))
    state, x = model.state_dict(), torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))

    def normed(y: Tensor, at: str) -> Tensor:
        names = ("running_mean", "running_var", "weight", "bias")
        return nn.functional.batch_norm(y, *(state[f"{at}.{n}"] for n in names)).relu()

    y = nn.functional.conv2d(x, state["conv1.weight"], padding=1)
    for stage, stride in ((1, 1), (2, 2), (3, 2)):
        at = f"block{stage}.layer.0"
        a = normed(y, f"{at}.bn1")
        b = nn.functional.conv2d(a, state[f"{at}.conv1.weight"], stride=stride, padding=1)
        b = nn.functional.conv2d(normed(b, f"{at}.bn2"), state[f"{at}.conv2.weight"], padding=1)
        y = b + nn.functional.conv2d(a, state[f"{at}.convShortcut.weight"], stride=stride)
    y = normed(y, "bn1").mean(dim=(2, 3)) @ state["fc.weight"].T + state["fc.bias"]
    with torch.no_grad():
        assert torch.allclose(model(x), y, atol=1e-5)


def preactivation() -> dict[str, Tensor]:
    state = ResNet("resnet18", 10, "cifar").state_dict()
    return {k: v for k, v in state.items() if not k.startswith("bn1.")}


@pytest.mark.parametrize(
    ("content", "given", "words"),
    [
        (lambda: {"state_dict": {"a": torch.ones(2)}}, {}, "no conv1.weight in it"),
        (dict, {}, "no conv1.weight in it"),
        (lambda: WideResNet(16, 2, 10).state_dict(), {}, "a WRN-16-2; read are wrn_28_10"),
        (preactivation, {}, "a pre-activation ResNet, which is not read"),
        (lambda: ResNet("resnet34", 10, "cifar").state_dict(), {}, r"\(3, 4, 6, 3\) basic blocks are none"),
        (lambda: {**WideResNet(10, 1, 10).state_dict(), "new_mean": torch.full((3,), 0.3)}, {}, "is none of"),
        (lambda: carmon(WideResNet(10, 1, 10)), {"num_classes": 5}, "contradicts --set num_classes=5"),
        (lambda: {**WideResNet(10, 1, 10).state_dict(), "more": torch.ones(1)}, {}, "more does not fit"),
        (lambda: {k: v * torch.nan for k, v in WideResNet(10, 1, 10).state_dict().items()}, {}, "holds NaN"),
    ],
)
def test_other_files_are_refused_in_one_line(
    content: Any, given: dict[str, Any], words: str, tmp_path: Path
) -> None:
    torch.save(content(), tmp_path / "official.pt")
    with pytest.raises(ValueError, match=words) as caught:
        weights.read(tmp_path / "official.pt", given)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)
