"""Pictures -> packed latents: what is stored, and that neither a kill nor a second process changes a byte."""

from __future__ import annotations

import filecmp
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from covering import covering
from fakes.pictures import fake_pictures, tiny_vae
from interruption import Killed
from processes import CLI, environment

import cli
import zoo
from datamodules import ImageFolder, ImageNetLatents
from datamodules.latents import PackedLatents
from zoo.diffusion.latents import shards
from zoo.diffusion.latents.shards import ShardStore
from zoo.engine.runner import ZooCLI
from zoo.hub.catalog import find_config

CLASSES, PICTURES, SIZE = 3, 21, 32
FILES = ["labels.npy", "latents.npy", "meta.json"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``pictures``, ``vae`` and the ``latents`` of one undisturbed run."""
    folder = tmp_path_factory.mktemp("extraction")
    fake_pictures(folder / "pictures", CLASSES, PICTURES // CLASSES)
    tiny_vae(folder / "vae")
    assert extract(folder, folder / "latents") == 0
    return folder


def command(made: Path, out: Path, *flags: str) -> list[str]:
    """6 shards of two batches of two, the last of one picture."""
    settings = {
        "data.init_args.root": made / "pictures", "data.init_args.num_classes": CLASSES,
        "data.init_args.size": SIZE, "data.init_args.num_workers": 0, "data.init_args.predict_batch_size": 2,
        "data.init_args.shard_size": 4, "model.init_args.vae": made / "vae", "model.init_args.out": out,
        "trainer.accelerator": "cpu", "trainer.enable_progress_bar": "false",
        "trainer.default_root_dir": out.parent / "runs",
    }  # fmt: skip
    return [
        "predict", "--config", "latents_imagenet256", *(f"--{k}={v}" for k, v in settings.items()), *flags,
    ]  # fmt: skip


def extract(made: Path, out: Path, *flags: str) -> int:
    return cli.main(command(made, out, *flags))


def assert_same_files(a: Path, b: Path) -> None:
    assert sorted(p.name for p in b.iterdir()) == FILES
    assert filecmp.cmpfiles(a, b, FILES, shallow=False) == (FILES, [], [])


def test_stored_are_moments_of_the_picture_and_of_its_mirror_image(made: Path) -> None:
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(made / "vae", low_cpu_mem_usage=False).eval()
    data = ImageFolder(root=str(made / "pictures"), size=SIZE, num_workers=0)
    data.setup("predict")
    stored = np.load(made / "latents" / "latents.npy")
    assert (stored.dtype, stored.shape) == (np.float16, (PICTURES, 2, 8, 4, 4))
    for i in (0, 9, 20):
        image = data.predict_set.__getitems__([i])["image"]
        for view, x in enumerate((image, torch.flip(image, [3]))):
            with torch.no_grad():
                posterior = vae.encode(x).latent_dist
            expected = torch.cat([posterior.mean, posterior.std], dim=1)[0]
            found = torch.from_numpy(stored[i, view]).float()
            assert torch.allclose(found, expected, rtol=1e-3, atol=1e-4)  # float16
    # and the mirrored latent is not the latent of the mirror image
    assert not np.allclose(stored[:, 1], stored[:, 0, :, :, ::-1], atol=1e-2)


def test_labels_and_meta_tell_where_the_latents_come_from(made: Path) -> None:
    assert np.load(made / "latents" / "labels.npy").tolist() == [i // 7 for i in range(PICTURES)]
    meta = json.loads((made / "latents" / "meta.json").read_text())
    assert (meta["scale"], meta["moments"], meta["vae"]) == (0.18215, True, "vae")
    assert (meta["crop"], meta["views"], meta["pictures"], meta["encoded_in"]) == (32, 2, 21, "float32")
    assert str(made) not in json.dumps(meta)


def test_the_reader_scales_once(made: Path) -> None:
    data = PackedLatents(made / "latents")
    assert data.shape == (4, 4, 4)
    stored = torch.from_numpy(np.load(made / "latents" / "latents.npy")).float()
    draws = torch.stack([data.__getitems__([(e, i) for i in range(PICTURES)])["latent"] for e in range(300)])
    mean = stored[:, :, :4].mean(dim=1) * 0.18215  # both views equally often
    assert float((draws.mean(dim=0) - mean).abs().mean()) < 0.02


def test_one_view_and_one_draw(made: Path, tmp_path: Path) -> None:
    flags = ["--model.init_args.flips=false", "--model.init_args.moments=false"]
    assert extract(made, tmp_path / "a", *flags) == 0
    a, moments = np.load(tmp_path / "a" / "latents.npy"), np.load(made / "latents" / "latents.npy")
    assert a.shape == (PICTURES, 1, 4, 4, 4)
    noise = (a[:, 0].astype(float) - moments[:, 0, :4]) / moments[:, 0, 4:]
    assert abs(noise.mean()) < 0.1
    assert abs(noise.std() - 1) < 0.1
    assert extract(made, tmp_path / "b", *flags, "--seed_everything=1") == 0
    assert not np.array_equal(a, np.load(tmp_path / "b" / "latents.npy"))
    assert json.loads((tmp_path / "b" / "meta.json").read_text())["seed"] == 1


def test_bfloat16_is_close_and_says_so(made: Path, tmp_path: Path) -> None:
    assert extract(made, tmp_path / "x", "--model.init_args.dtype=bfloat16") == 0
    a, b = (np.load(f / "latents.npy").astype(float) for f in (made / "latents", tmp_path / "x"))
    assert 0 < np.abs(a - b)[:, :, :4].mean() < 0.05
    assert json.loads((tmp_path / "x" / "meta.json").read_text())["encoded_in"] == "bfloat16"


def test_autocast_does_not_reach_the_vae(made: Path, tmp_path: Path) -> None:
    assert extract(made, tmp_path / "x", "--trainer.precision=bf16-mixed") == 0
    assert_same_files(made / "latents", tmp_path / "x")


@contextmanager
def dying(moment: str) -> Iterator[None]:
    """Die at a moment: half of shard 2 written, shard 2 in place, half packed, packed without meta.json."""

    def write_whole(path: Path, content: bytes) -> None:
        if path.name == ("00002.safetensors" if moment == "writing" else "meta.json"):
            path.with_name(f".{path.name}.tmp").write_bytes(content[: len(content) // 2])
            raise Killed
        original_write(path, content)

    def write(self: ShardStore, number: int, *args: Any) -> None:
        original_shard(self, number, *args)
        if number == 2:
            raise Killed

    def merge(self: ShardStore) -> None:
        def progress(done: int) -> None:
            if done == 3:
                raise Killed

        original_merge(self, progress)

    def clean(self: ShardStore) -> None:
        raise Killed

    original_write, original_shard, original_merge = shards._write_whole, ShardStore.write, ShardStore.merge
    patches = {
        "writing": mock.patch.object(shards, "_write_whole", write_whole),
        "written": mock.patch.object(ShardStore, "write", write),
        "packing": mock.patch.object(ShardStore, "merge", merge),
        "meta": mock.patch.object(shards, "_write_whole", write_whole),
        "cleaning": mock.patch.object(ShardStore, "clean", clean),
    }
    with patches[moment]:
        yield


def killed_extraction(made: Path, out: Path, moment: str) -> None:
    with pytest.raises(Killed), dying(moment):
        extract(made, out)


@pytest.mark.parametrize(
    "moment",
    covering(["writing", "written", "packing", "meta", "cleaning"], ["writing", "packing", "cleaning"]),
)
def test_a_killed_extraction_goes_on_to_the_same_bytes(
    made: Path, tmp_path: Path, moment: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x"
    killed_extraction(made, out, moment)
    done = {"writing": 2, "written": 3}.get(moment, 6)
    if moment != "cleaning":
        assert len(list((out / "shards").glob("[0-9]*.safetensors"))) == done
        assert not (out / "meta.json").exists()
        with pytest.raises(FileNotFoundError, match=r"meta\.json"):  # not taken for whole data
            PackedLatents(out)
    capsys.readouterr()
    assert extract(made, out) == 0
    assert f"{PICTURES} pictures in 6 shards, {done} of them done" in capsys.readouterr().out
    assert_same_files(made / "latents", out)


def test_finished_shards_are_not_encoded_again(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "x"
    killed_extraction(made, out, "written")
    seen: list[int] = []
    step = zoo.LatentExtractor.predict_step

    def spy(self: Any, batch: Any, batch_idx: int) -> Any:
        seen.extend(batch["index"].tolist())
        return step(self, batch, batch_idx)

    with mock.patch.object(zoo.LatentExtractor, "predict_step", spy):
        assert extract(made, out) == 0
        assert seen == list(range(12, PICTURES))
        assert extract(made, out) == 0  # complete: nothing more to do
    assert seen == list(range(12, PICTURES))


def test_a_shortened_run_says_what_is_left(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert extract(made, tmp_path / "x", "--trainer.limit_predict_batches=3") == 0
    assert "1 of 6 shards are done; the same command goes on" in capsys.readouterr().out
    assert extract(made, tmp_path / "x") == 0
    assert_same_files(made / "latents", tmp_path / "x")


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_kill_9_in_the_middle_loses_nothing(made: Path, tmp_path: Path, processes: int) -> None:
    """A real SIGKILL to all processes after the first shard, then the same command to the end."""
    many, out = tmp_path / "many", tmp_path / "x"
    shutil.copytree(made / "pictures", many / "pictures")
    for copy in range(40):  # enough to be still at work when the signal comes
        for path in (made / "pictures").rglob("*_0.JPEG"):
            shutil.copy(path, many / "pictures" / path.parent.name / f"copy{copy:03d}.jpg")
    shutil.copytree(made / "vae", many / "vae")
    assert extract(many, tmp_path / "calm") == 0
    flags = ["--config=trainer/ddp", "--trainer.devices=2"] if processes == 2 else []
    arguments = [sys.executable, str(CLI), *command(many, out, *flags)]
    process = subprocess.Popen(arguments, env=environment(), cwd=tmp_path, start_new_session=True)
    deadline = time.monotonic() + 150
    while not list(out.glob("shards/0*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = len(list(out.glob("shards/0*.safetensors")))
    assert 1 <= done < 36
    assert not (out / "meta.json").exists()
    result = subprocess.run(
        arguments, env=environment(), cwd=tmp_path, capture_output=True, text=True, timeout=500, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert f"in 36 shards, {done} of them done" in result.stdout
    assert_same_files(tmp_path / "calm", out)


@pytest.mark.slow
@pytest.mark.parametrize("left", [6, 1])
def test_two_processes_write_what_one_writes(made: Path, tmp_path: Path, left: int) -> None:
    """Also when only one of them has work: the other must neither fail nor hold it up."""
    out = tmp_path / "x"
    if left == 1:
        assert extract(made, out, "--trainer.limit_predict_batches=10") == 0
    flags = ["--config=trainer/ddp", "--trainer.devices=2"]
    result = subprocess.run(
        [sys.executable, str(CLI), *command(made, out, *flags)],
        env=environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert "2 x cpu" in result.stdout
    assert result.stdout.count("zoo: wrote") == 1
    assert "Warning" not in result.stderr
    assert_same_files(made / "latents", out)


def refused(capsys: pytest.CaptureFixture[str], made: Path, out: Path, *flags: str) -> str:
    capsys.readouterr()
    assert extract(made, out, *flags) == 1
    lines = [x for x in capsys.readouterr().err.splitlines() if x]
    assert len(lines) == 1, lines
    return lines[0]


def test_an_extraction_of_other_settings_is_not_mixed_in(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x"
    killed_extraction(made, out, "written")
    changes = {
        "--data.init_args.size=40": "crop was 32, now 40",
        "--model.init_args.flips=false": "views was 2, now 1",
        "--model.init_args.dtype=bfloat16": "encoded_in was 'float32', now 'bfloat16'",
        "--data.init_args.predict_batch_size=4": "encoded_together was 2, now 4",
    }
    for folder in (out, made / "latents"):  # unfinished and complete
        for flag, text in changes.items():
            line = refused(capsys, made, folder, flag)
            assert f"{folder} holds latents of other settings: {text}; choose another" in line
    other = tmp_path / "other"
    shutil.copytree(made / "pictures", other / "pictures")
    (other / "pictures" / "n00000001" / "n00000001_1.png").rename(other / "pictures/n00000001/new.png")
    tiny_vae(other / "vae", norm_num_groups=2)
    assert "vae_sha256" not in refused(capsys, other, out, f"--model.init_args.vae={made / 'vae'}")
    assert "pictures_sha256 was" in refused(capsys, other, out, f"--model.init_args.vae={made / 'vae'}")


def test_another_vae_of_the_same_name_is_noticed(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import load_file, save_file

    vae = tmp_path / "vae"
    shutil.copytree(made / "vae", vae)
    path = vae / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights["quant_conv.bias"] += 1e-3
    save_file(weights, path, metadata={"format": "pt"})
    assert "vae_sha256 was" in refused(capsys, made, made / "latents", f"--model.init_args.vae={vae}")


def _lose_a_weight(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    del weights["quant_conv.bias"]
    save_file(weights, path, metadata={"format": "pt"})


@pytest.mark.parametrize(("damage", "text"), [
    (shutil.rmtree, "no VAE at"),
    (lambda p: (p / "config.json").unlink(), "cannot load the VAE"),
    (lambda p: (p / "config.json").write_text("{"), "config.json: it is not JSON"),
    (lambda p: (p / "diffusion_pytorch_model.safetensors").unlink(), "cannot load the VAE"),
    (lambda p: (p / "diffusion_pytorch_model.safetensors").write_bytes(b"12345678"), "tensors is damaged"),
    (_lose_a_weight, "1 weights are missing or do not fit, for example quant_conv.bias"),
    (lambda p: tiny_vae(p, scaling_factor=0.5), "latent_scale is 0.18215, but the VAE has factor 0.5"),
    (lambda p: tiny_vae(p, shift_factor=0.1), "and shift 0.1, which is not supported"),
])  # fmt: skip
def test_a_vae_that_does_not_fit_is_one_line(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], Any], text: str
) -> None:
    vae = tmp_path / "vae"
    shutil.copytree(made / "vae", vae)
    damage(vae)
    line = refused(capsys, made, tmp_path / "x", f"--model.init_args.vae={vae}")
    assert text in line
    assert not (tmp_path / "x").exists()


def test_wrong_uses_are_one_line(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "x"
    line = refused(capsys, made, out, "--data.init_args.size=36")
    assert "size is 36, which the VAE's 8 pixels per latent do not divide" in line
    sizes = ("--data.init_args.predict_batch_size=32", "--data.init_args.shard_size=2048")  # the defaults
    labels = refused(capsys, made, out, "--data.init_args.predict_samples=5", *sizes)
    assert "datamodules.ImageFolder without predict_samples" in labels
    fit = [a for a in command(made, out) if a != "predict"]
    assert cli.main(["fit", *fit]) == 1
    assert "training_step" in capsys.readouterr().err
    corrupt = tmp_path / "corrupt"
    shutil.copytree(made / "pictures", corrupt)
    broken = corrupt / "n00000001" / "n00000001_1.png"
    broken.write_bytes(b"no picture")
    for workers in (0, 1):
        flags = [f"--data.init_args.root={corrupt}", f"--data.init_args.num_workers={workers}"]
        line = refused(capsys, made, out, *flags)
        assert f"{broken} cannot be read as a picture" in line
    # the shards before it are done, and the repaired folder goes on
    assert [p.name for p in sorted((out / "shards").glob("0*"))] == ["00000.safetensors", "00001.safetensors"]
    shutil.copy(made / "pictures" / "n00000001" / "n00000001_1.png", broken)
    assert extract(made, out, f"--data.init_args.root={corrupt}") == 0
    assert_same_files(made / "latents", out)


def test_values_beyond_float16_are_refused(tmp_path: Path) -> None:
    store = ShardStore(tmp_path, {}, 10, 4)
    store.begin()
    latents = np.zeros((4, 1, 8, 2, 2), np.float16)
    latents[2, 0, 1] = np.inf
    with pytest.raises(ValueError, match="1 pictures, the first of them number 6, have moments that float16"):
        store.write(1, latents, np.zeros(4))
    assert store.finished() == []


def test_a_shard_is_stored_in_its_order_whatever_its_strides(tmp_path: Path) -> None:
    """An encoder may return channels-last memory, which safetensors writes as it lies."""
    store = ShardStore(tmp_path, {}, 4, 4)
    store.begin()
    values = np.random.default_rng(0).normal(size=(4, 1, 2, 2, 8)).astype(np.float16)
    latents = values.transpose(0, 1, 4, 2, 3)
    assert not latents.flags.c_contiguous
    store.write(0, latents, np.arange(4)[::-1])
    store.merge()
    assert np.array_equal(np.load(tmp_path / "latents.npy"), latents)
    assert np.load(tmp_path / "labels.npy").tolist() == [3, 2, 1, 0]


def test_a_damaged_shard_says_what_to_do(made: Path, tmp_path: Path) -> None:
    store = ShardStore(tmp_path, {}, 8, 4)
    store.begin()
    for number in range(2):
        store.write(number, np.zeros((4, 1, 8, 2, 2), np.float16), np.zeros(4))
    path = tmp_path / "shards" / "00001.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-8])
    with pytest.raises(
        ValueError, match=r"00001.safetensors is damaged .*delete it and run the command again"
    ):
        store.merge()
    path.unlink()
    store.write(1, np.zeros((3, 1, 8, 2, 2), np.float16), np.zeros(3))
    with pytest.raises(ValueError, match="holds 3 pictures, expected 4"):
        store.merge()
    assert not (tmp_path / "meta.json").exists()


class Instantiated(Exception):
    """Raised with the objects once the command line has built them."""


@pytest.mark.parametrize(
    ("name", "size", "gigabytes"), [("latents_imagenet256", 256, 42), ("latents_imagenet512", 512, 168)]
)
def test_shipped_config_is_that_of_dit(
    name: str, size: int, gigabytes: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def stop(self: ZooCLI) -> None:
        raise Instantiated(self)

    monkeypatch.setattr(ZooCLI, "after_instantiate_classes", stop)
    monkeypatch.setenv("ZOO_DATA", "/big/disk")
    arguments = [f"--trainer.default_root_dir={tmp_path}", "--trainer.accelerator=cpu", "--debug"]
    with pytest.raises(Instantiated) as caught:
        cli.main(["predict", "--config", name, *arguments])
    built = caught.value.args[0]
    assert isinstance(built.model, zoo.LatentExtractor)
    assert dict(built.model.hparams) == {
        "out": None,
        "vae": "stabilityai/sd-vae-ft-ema",
        "dtype": "float32",
        "flips": True,
        "moments": True,
        "latent_scale": 0.18215,
    }
    # where ImageNetLatents looks
    assert built.model._folder(256) == ImageNetLatents().root
    data = built.datamodule
    assert isinstance(data, ImageFolder)
    assert (data.size, data.num_classes, data.root) == (size, 1000, Path("/big/disk/imagenet/train"))
    text = find_config(name).read_text()
    side = size // 8
    assert round(1_281_167 * 2 * 8 * side * side * 2 / 1e9) == gigabytes
    assert re.search(rf"{gigabytes} GB", text)
    header = " ".join(line for line in text.splitlines() if line.startswith("#"))
    for word in ("Paper:", "ImageNet", "Hardware:", f"zoo predict --config {name}"):
        assert word in header
