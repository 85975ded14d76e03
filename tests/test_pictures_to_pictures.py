"""The whole way on tiny files: pictures -> latents -> training -> samples -> pictures."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes.latents import fake_latents
from fakes.pictures import fake_pictures, tiny_vae
from PIL import Image

import cli
import zoo
from datamodules.latents import LAYOUTS, open_latents
from zoo.diffusion.autoencoder import decode_latents, encode_moments, load_vae
from zoo.dtr.module import _SAMPLE_NOISE
from zoo.randomness import derived_seed
from zoo.reports import image_grid

MODEL = {"width": 32, "depth": 1, "heads": 2, "compile": "false", "sampling_steps": 4, "guidance": 1.5}


def flags(**groups: dict[str, Any]) -> list[str]:
    names = {"model": "model.init_args", "data": "data.init_args", "trainer": "trainer"}
    return [f"--{names[group]}.{k}={v}" for group, values in groups.items() for k, v in values.items()]


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_pictures_become_latents_become_a_model_become_pictures(tmp_path: Path) -> None:
    pictures, vae = fake_pictures(tmp_path / "pictures"), tiny_vae(tmp_path / "vae")
    quiet = {"accelerator": "cpu", "enable_progress_bar": "false", "default_root_dir": tmp_path}
    source = {"root": pictures, "size": 32, "num_classes": 3, "num_workers": 0}
    batches = {"predict_batch_size": 4, "shard_size": 8}
    out = {"vae": vae, "out": tmp_path / "latents"}
    arguments = flags(model=out, data=source | batches, trainer=quiet)
    assert cli.main(["predict", "--config", "latents_imagenet256", *arguments]) == 0

    data = {"root": tmp_path / "latents", "num_classes": 3, "num_workers": 0}
    model = MODEL | {"vae": vae, "input_size": 4, "num_classes": 3}
    steps = quiet | {"max_steps": 3, "log_every_n_steps": 1}
    arguments = flags(model=model, data=data | {"batch_size": 8}, trainer=steps)
    assert cli.main(["fit", "--config", "dtr_dit_l", *arguments]) == 0
    run = tmp_path / "dtr_dit_l" / "version_0"
    mse = [float(r["train/mse"]) for r in rows(run)]
    assert len(mse) == 3
    assert all(abs(m - 1) < 0.25 for m in mse)  # a fresh network predicts 0: the mean of eps^2

    weights = next((run / "checkpoints").glob("step=*.ckpt"))
    arguments = flags(model=model, data=data | {"predict_samples": 9, "eval_batch_size": 4}, trainer=quiet)
    assert cli.main(["predict", "--config", "dtr_dit_l", "--weights", str(weights), *arguments]) == 0
    predictions = tmp_path / "dtr_dit_l" / "version_1" / "predictions"
    with np.load(predictions / "samples.npz") as file:
        images, labels = file["arr_0"], file["arr_1"]
    assert (images.dtype, images.shape) == (np.uint8, (9, 32, 32, 3))
    assert images.std() > 5

    # what the command wrote is the decoder on z / 0.18215 in uint8, written out with the library alone
    module = zoo.load(weights)
    noise_free = module.hparams | {"vae": None}
    plain = zoo.DTR(**noise_free).eval()
    plain.load_state_dict(module.state_dict())
    with torch.autocast("cpu", torch.bfloat16):  # as bf16-mixed runs the denoiser
        latents = plain.sample(
            torch.from_numpy(labels), seed=[derived_seed(_SAMPLE_NOISE, 0, i) for i in range(9)]
        )
    with torch.no_grad():
        decoded = load_vae(str(vae)).decode(latents / 0.18215).sample
    expected = (127.5 * decoded + 128).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    distance = np.abs(expected.astype(int) - images.astype(int))
    print(f"decoded by hand: {distance.max()} grey levels away in {np.mean(distance > 0):.1e} of the values")
    assert distance.max() <= 1
    assert np.mean(distance > 0) < 1e-2
    sheet = np.asarray(Image.open(predictions / "samples.png"))
    assert np.array_equal(sheet, image_grid(images))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.filterwarnings("ignore:.*fast-DiT's extractor.*")
def test_each_layout_trains_as_its_packed_conversion_does(layout: str, tmp_path: Path) -> None:
    """The same losses to the last digit of the log: views, noise and scale come along."""
    source = fake_latents(tmp_path / "source", layout, 24, 8)
    convert = ["convert", str(source), "--method", "latents", "--out", str(tmp_path / "packed")]
    assert cli.main([*convert, "--set", "dtype=float32"]) == 0
    logs = []
    for name, root in ((layout, source), ("packed", tmp_path / "packed")):
        data = {"root": root, "layout": name, "batch_size": 8, "num_workers": 0}
        trainer = {
            "accelerator": "cpu",
            "max_steps": 4,
            "log_every_n_steps": 1,
            "enable_progress_bar": "false",
        }
        trainer["default_root_dir"] = tmp_path / f"runs_{name}_{root.name}"
        arguments = flags(model=MODEL | {"input_size": 8}, data=data, trainer=trainer)
        assert (
            cli.main(["fit", "--config", "dtr_dit_l", *arguments, "--trainer.enable_checkpointing=false"])
            == 0
        )
        logs.append(rows(trainer["default_root_dir"] / "dtr_dit_l" / "version_0"))
    assert len(logs[0]) == 4
    assert all(math.isfinite(float(r["train/loss"])) for r in logs[0])
    assert logs[0] == logs[1]


def test_layouts_are_all_open_to_the_data_module(tmp_path: Path) -> None:
    for layout in LAYOUTS:
        root = fake_latents(tmp_path / layout, layout, 12, 4)
        assert open_latents(root, layout).shape == (4, 4, 4)  # type: ignore[arg-type]


def test_the_decoder_undoes_the_scale_once_whatever_the_autocast(tmp_path: Path) -> None:
    from diffusers import AutoencoderKL

    folder = tiny_vae(tmp_path / "vae")
    vae = AutoencoderKL.from_pretrained(folder, low_cpu_mem_usage=False).eval()
    ours = load_vae(str(folder))
    latents = torch.randn(11, 4, 4, 4)  # more than are decoded together
    with torch.no_grad():
        expected = vae.decode(latents / 0.18215).sample
    with torch.autocast("cpu", torch.bfloat16):
        found = decode_latents(ours, latents, 0.18215)
        moments = encode_moments(ours, expected)
    assert found.dtype == torch.float32
    assert torch.allclose(found, expected, atol=1e-5)
    with torch.no_grad():
        posterior = vae.encode(expected).latent_dist
    assert torch.allclose(moments[0], posterior.mean, atol=1e-5)
    assert torch.allclose(moments[1], posterior.std, atol=1e-5)
    module = zoo.DTR(depth=1, width=16, heads=1, input_size=4, vae=str(folder), latent_scale=0.5)
    with pytest.raises(ValueError, match=r"latent_scale is 0\.5, but the VAE has factor 0\.18215"):
        module.decode(latents)
    assert not [k for k in module.state_dict() if "decoder" in k]
