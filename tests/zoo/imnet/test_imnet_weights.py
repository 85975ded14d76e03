"""Official weights: the keys of the release, both ways, strictly; variables of the TensorFlow code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import cli
import zoo
from zoo.imnet import imae_weights, imsvr_weights
from zoo.imnet.network import ImageEncoder, ImplicitDecoder, ShapeEncoder


def official(encoder: torch.nn.Module, name: str, decoder: torch.nn.Module) -> dict[str, Tensor]:
    """A state dict with the release's prefixes, of random numbers."""
    torch.manual_seed(1)
    state = {f"{name}.{k}": torch.randn_like(v.float()).abs() for k, v in encoder.state_dict().items()}
    return state | {f"generator.{k}": torch.randn_like(v) for k, v in decoder.state_dict().items()}


def test_the_names_are_the_releases() -> None:
    with torch.device("meta"):
        autoencoder, single = zoo.IMAE(), zoo.IMSVR()
    keys = set(autoencoder.network.state_dict())
    expected = {f"encoder.conv_{k}.weight" for k in range(1, 6)} | {"encoder.conv_5.bias"}
    expected |= {f"generator.linear_{k}.{part}" for k in range(1, 8) for part in ("weight", "bias")}
    assert keys == expected
    assert autoencoder.network.state_dict()["generator.linear_1.weight"].shape == (1024, 259)
    keys = set(single.network.state_dict())
    assert {"img_encoder.conv_0.weight", "img_encoder.bn_0.running_mean", "img_encoder.conv_10.bias"} <= keys
    assert {f"img_encoder.res_{k}.conv_s.weight" for k in (3, 5, 7)} <= keys
    assert not any(f"res_{k}.conv_s" in key for key in keys for k in (1, 2, 4, 6, 8))
    assert "img_encoder.conv_10.bias" in keys
    assert "img_encoder.conv_9.bias" not in keys


def test_autoencoder_round_trip(tmp_path: Path) -> None:
    state = official(ShapeEncoder(8, 32, 4), "encoder", ImplicitDecoder(8, 3, 4))
    path = tmp_path / "IM_AE.model64-399.pth"
    torch.save(state, path)
    ours, back = tmp_path / "ours.safetensors", tmp_path / "back.pth"
    assert cli.main(["convert", str(path), "--method", "imae", "--out", str(ours)]) == 0
    module: Any = zoo.load(ours)
    assert (module.z_dim, module.generator_width, module.hparams["input_size"]) == (8, 4, 32)
    for key, value in state.items():
        assert torch.equal(module.network.state_dict()[key], value)
    assert cli.main(["convert", str(ours), "--to", "pytorch", "--out", str(back)]) == 0
    again = torch.load(back, weights_only=True)
    assert again.keys() == state.keys()
    assert all(torch.equal(again[k], v) for k, v in state.items())


def test_single_view_round_trip(tmp_path: Path) -> None:
    state = official(ImageEncoder(8, 4), "img_encoder", ImplicitDecoder(8, 3, 4))
    without = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    path = tmp_path / "IM_SVR.model-999.pth"
    torch.save(without, path)
    ours = tmp_path / "ours.safetensors"
    assert cli.main(["convert", str(path), "--method", "imsvr", "--out", str(ours)]) == 0
    module: Any = zoo.load(ours)
    assert bool(module.decodes)
    for key, value in without.items():
        assert torch.equal(module.network.state_dict()[key], value)


@pytest.mark.parametrize(("change", "text"), [
    (lambda s: s.pop("encoder.conv_2.weight"), "conv_2.weight does not fit|does not fit|no weights"),
    (lambda s: s.update(extra=torch.zeros(2)), "extra does not fit"),
    (lambda s: s.update({"generator.linear_3.weight": torch.zeros(2, 2)}), "linear_3.weight does not fit"),
    (lambda s: s.pop("generator.linear_4.weight"), "does not fit|no weights of IM-AE"),
])  # fmt: skip
def test_loading_is_strict(change: Any, text: str, tmp_path: Path) -> None:
    state = official(ShapeEncoder(8, 32, 4), "encoder", ImplicitDecoder(8, 3, 4))
    change(state)
    path = tmp_path / "x.pth"
    torch.save(state, path)
    with pytest.raises(ValueError, match=text) as caught:
        imae_weights.read(path, {})
    assert "\n" not in str(caught.value)


def test_damaged_and_foreign_files_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="is damaged or no PyTorch file"):
        imae_weights.read(path, {})
    with pytest.raises(FileNotFoundError, match="no file"):
        imsvr_weights.read(tmp_path / "missing.pth", {})
    state = official(ShapeEncoder(8, 32, 4), "encoder", ImplicitDecoder(8, 3, 4))
    torch.save(state, path)
    with pytest.raises(ValueError, match="its z_dim is 8, which contradicts --set z_dim=16"):
        imae_weights.read(path, {"z_dim": 16})


def test_tensorflow_variables_of_v1_are_transposed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = zoo.IMAE(version="v1", input_size=16, z_dim=8, width=2, encoder_width=4)
    names = ("h1_lin", "h4_lin", "h5_lin", "h6_lin", "h7_lin", "h8_lin")
    variables: dict[str, Any] = {"global_step": np.zeros(1)}
    for key, value in module.network.state_dict().items():
        array = torch.rand_like(value.float()).numpy() if value.ndim else None
        layer, _, part = key.removeprefix("generator.").removeprefix("encoder.").rpartition(".")
        if array is None:
            continue
        if key.startswith("generator"):
            name = f"simple_net/{names[int(layer[-1]) - 1]}/{'Matrix' if part == 'weight' else 'bias'}"
            variables[name] = array.T
        elif layer.startswith("conv"):
            variables[f"encoder/{layer}/{'w' if part == 'weight' else 'biases'}"] = (
                array.transpose(2, 3, 4, 1, 0) if array.ndim == 5 else array
            )
        else:
            of = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean",
                  "running_var": "moving_variance"}  # fmt: skip
            variables[f"encoder/bn_{layer[-1]}/{of[part]}"] = array
        variables[f"{key}/Adam"] = np.zeros(1)
    path = tmp_path / "v1.npz"
    np.savez(path, **variables)
    weights, lines = imae_weights.read(path, {})
    assert weights.hparams["version"] == "v1"
    assert "an IM-AE v1 of 16^3" in lines[0]
    first = torch.from_numpy(variables["simple_net/h1_lin/Matrix"].T)
    assert torch.equal(weights.state_dict["network.generator.linear_1.weight"], first)
    kernel = torch.from_numpy(variables["encoder/conv_1/w"].transpose(4, 3, 0, 1, 2).copy())
    assert torch.equal(weights.state_dict["network.encoder.conv_1.weight"], kernel)
