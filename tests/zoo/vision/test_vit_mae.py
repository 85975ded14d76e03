"""ViT and MAE: patches, masks, the numbers of transformers, calibration, the command line, two processes."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from commands import run, summary
from interruption import Killed, newest_checkpoint, run_differences
from PIL import Image
from processes import CLI, environment, largest_difference
from torch import Tensor

import zoo
from zoo.hub.convert import convert
from zoo.nn.vision_transformer import VisionTransformer
from zoo.vision.class_report import calibration
from zoo.vision.encoder import SHAPES, Classifier, wave_positions
from zoo.vision.masking import masked_error, masks, normalised, patchify, seen, unpatchify

VIT: dict[str, Any] = dict(zoo._DECLARED["ViTClassifier"][1].small[0])
AUTO: dict[str, Any] = dict(zoo._DECLARED["MAE"][1].small[0])
SHORT = ("--trainer.max_steps=6", "--trainer.val_check_interval=3", "--checkpoint.every_n_train_steps=3",
         "--previews.count=0", "--data.init_args.batch_size=32")  # fmt: skip
ENCODER = [f"--model.init_args.{k}={VIT[k]}" for k in ("patch_size", "width", "depth", "heads")]
DECODER = [f"--model.init_args.{k}={AUTO[k]}" for k in ("decoder_width", "decoder_depth", "decoder_heads")]
DIGITS = ("--data.init_args.source=digits",)


# --- patches and masks ------------------------------------------------------------------------------------


def test_a_patch_is_rows_columns_channels() -> None:
    image = torch.arange(2 * 3 * 4 * 4.0).view(2, 3, 4, 4)
    patches = patchify(image, 2)
    assert patches.shape == (2, 4, 12)
    # the second patch is to the right of the first: its first pixel is (0, 2), three channels of it
    assert patches[0, 1, :6].tolist() == [2, 18, 34, 3, 19, 35]
    assert patches[0, 2, 0] == 8
    assert torch.equal(unpatchify(patches, 2, 3), image)


def test_targets_have_the_unbiased_deviation() -> None:
    found = normalised(torch.tensor([[0.0, 0.0, 2.0, 2.0]]))
    torch.testing.assert_close(found, torch.tensor([[-1.0, -1, 1, 1]]) / math.sqrt(4 / 3 + 1e-6))
    assert float(normalised(torch.full((1, 4), 0.7)).abs().max()) == 0  # a level patch


def test_masks_are_of_seed_epoch_and_item_alone() -> None:
    index = torch.tensor([5, 9, 5])
    order = masks(index, 49, 0.75, 1, 0, 3)
    assert torch.equal(order[0], order[2])
    assert not torch.equal(order[0], order[1])
    assert torch.equal(masks(index[1:], 49, 0.75, 1, 0, 3), order[1:])
    assert not torch.equal(masks(index, 49, 0.75, 1, 0, 4), order)
    assert not torch.equal(masks(index, 49, 0.75, 1, 1, 3), order)
    assert order.sort(dim=1).values.tolist() == [list(range(49))] * 3
    assert seen(49, 0.75) == 12
    assert seen(196, 0.75) == 49
    hidden = torch.zeros(49)
    for row in masks(torch.arange(2000), 49, 0.75, 2):
        hidden[row[12:]] += 1
    assert float((hidden / 2000 - 37 / 49).abs().max()) < 0.04  # all patches alike
    with pytest.raises(ValueError, match="leaves 0 of 4 patches"):
        seen(4, 0.9)


def test_the_error_is_of_hidden_patches_alone() -> None:
    order = torch.tensor([[2, 0, 1, 3]])
    target = torch.zeros(1, 4, 2)
    predicted = torch.tensor([[[9.0, 9], [1, 3], [8, 8], [0, 2]]])
    assert masked_error(predicted, target, order, 2).tolist() == [(5 + 2) / 2]


def test_the_encoder_sees_nothing_of_what_is_hidden() -> None:
    model = zoo.MAE(**AUTO).eval()
    image, order = torch.rand(2, 1, 8, 8), masks(torch.arange(2), 16, 0.75, 3)
    changed = patchify(image, 2)
    changed[0, order[0, 4:]] += 1.0
    with torch.no_grad():
        a, b = (model.network(x, order, 4) for x in (image, unpatchify(changed, 2, 1)))
        whole, kept = model.network.tokens(image), model.network.tokens(image, order[:, :4])
    torch.testing.assert_close(a, b, atol=1e-6, rtol=0)
    assert kept.shape == (2, 5, 16)
    assert float((whole[:, 0] - kept[:, 0]).abs().max()) > 1e-4


# --- transformers' numbers --------------------------------------------------------------------------------


def test_published_shapes_have_the_published_sizes() -> None:
    with torch.device("meta"):
        vit = zoo.ViTClassifier()
        mae = zoo.MAE()
        timm = VisionTransformer("vit_base_patch16_224")
    assert sum(p.numel() for p in vit.parameters()) == 86_567_656
    assert {k: v.shape for k, v in vit.network.state_dict().items()} == {
        k: v.shape for k, v in timm.state_dict().items()
    }
    assert sum(p.numel() for p in mae.parameters()) == 111_907_840
    assert SHAPES["vit-b/16"] == {"patch_size": 16, "width": 768, "depth": 12, "heads": 12}


def shaken(module: Any) -> Any:
    torch.manual_seed(1)
    for p in module.network.parameters():
        p.data = p.data + 0.1 * torch.randn_like(p)
    return module.eval()


def test_folders_of_transformers_vit_go_both_ways(tmp_path: Path) -> None:
    from transformers import ViTForImageClassification

    model = shaken(zoo.ViTClassifier(**VIT, norm_eps=1e-12, mean=[0.2], std=[0.3]))
    zoo.save(model, tmp_path / "ours.safetensors")
    list(convert(tmp_path / "ours.safetensors", tmp_path / "theirs", "vit", "transformers", [], False))
    list(convert(tmp_path / "theirs", tmp_path / "again.safetensors", "vit", "zoo", [], False))
    theirs: Any = ViTForImageClassification.from_pretrained(tmp_path / "theirs").eval()
    image = torch.rand(3, 1, 8, 8)
    with torch.no_grad():
        logits = theirs((image - 0.2) / 0.3).logits
        torch.testing.assert_close(model(image), logits, atol=1e-5, rtol=1e-5)
        again: Any = zoo.load(tmp_path / "again.safetensors")
        assert torch.equal(again(image), model(image))
        # eager attention is there to be read: the rollout of ours is the product of theirs
        theirs.set_attn_implementation("eager")
        attentions = theirs((image - 0.2) / 0.3, output_attentions=True).attentions
    flow = torch.eye(17).expand(3, -1, -1)
    for a in attentions:
        flow = (a.mean(dim=1) + torch.eye(17)) / 2 @ flow
    looked = model.network.rollout((image - 0.2) / 0.3).flatten(1)
    torch.testing.assert_close(looked, flow[:, 0, 1:], atol=1e-5, rtol=0)


def test_folders_of_transformers_mae_go_both_ways(tmp_path: Path) -> None:
    from transformers import ViTMAEForPreTraining
    from transformers.models.vit_mae.modeling_vit_mae import build_2d_sinusoidal_position_embedding

    model = shaken(zoo.MAE(**AUTO))
    zoo.save(model, tmp_path / "ours.safetensors")
    steps = (
        ("ours.safetensors", "theirs", "transformers"),
        ("theirs", "again.safetensors", "zoo"),
        ("ours.safetensors", "theirs.pth", "official"),
        ("theirs.pth", "more.safetensors", "zoo"),
    )
    for step in steps:
        given = ["decoder_heads=2", "heads=2"] if step[0] == "theirs.pth" else []
        list(convert(tmp_path / step[0], tmp_path / step[1], "mae", step[2], given, False))
    theirs: Any = ViTMAEForPreTraining.from_pretrained(tmp_path / "theirs").eval()
    image, noise = torch.rand(3, 1, 8, 8), torch.rand(3, 16)
    order = noise.argsort(dim=1)
    x = (image - 0.5) / 0.5
    with torch.no_grad():
        out = theirs(x, noise=noise)
        predicted = model.network(x, order, 4)
        torch.testing.assert_close(predicted, out.logits, atol=1e-5, rtol=1e-5)
        loss = masked_error(predicted, model.network.target(x, True), order, 4).mean()
        torch.testing.assert_close(loss, out.loss, atol=1e-5, rtol=1e-5)
    for name in ("again", "more"):
        other: Any = zoo.load(tmp_path / f"{name}.safetensors")
        assert largest_difference(other.network.state_dict(), model.network.state_dict()) == 0
    halves = build_2d_sinusoidal_position_embedding(4, 4, 16, cls_token=True).chunk(2, dim=1)
    torch.testing.assert_close(torch.cat(halves[::-1], dim=1)[None], wave_positions(16, 4), atol=1e-6, rtol=0)
    # the published file for fine-tuning has no decoder
    state = {k: v for k, v in model.network.state_dict().items() if not k.startswith(("decoder", "mask"))}
    torch.save({"model": state}, tmp_path / "encoder.pth")
    lines = convert(
        tmp_path / "encoder.pth", tmp_path / "encoder.safetensors", "mae", "zoo",
        ["heads=2", *(f"{k}={AUTO[k]}" for k in ("decoder_width", "decoder_depth", "decoder_heads"))], False,
    )  # fmt: skip
    assert any("no decoder" in line for line in lines)


# --- the classifier ---------------------------------------------------------------------------------------


def test_calibration_has_fifteen_bins_of_equal_width() -> None:
    from torchmetrics.classification import MulticlassCalibrationError

    probability = torch.tensor([[0.9, 0.1], [0.95, 0.05], [0.58, 0.42], [0.3, 0.7]])
    label = torch.tensor([0, 1, 1, 1])
    share, confidence, accuracy, error = calibration(probability, label)
    assert share.nonzero()[:, 0].tolist() == [8, 10, 13, 14]
    assert accuracy[14] == 0
    assert float(confidence[14]) == pytest.approx(0.95)
    assert error == pytest.approx((0.1 + 0.95 + 0.58 + 0.3) / 4, abs=1e-6)
    torch.manual_seed(0)
    many, labels = torch.randn(500, 4).softmax(dim=1), torch.randint(4, (500,))
    metric = MulticlassCalibrationError(4, 15, norm="l1")
    assert calibration(many, labels)[3] == pytest.approx(float(metric(many, labels)), abs=1e-6)


def test_a_linear_probe_leaves_the_encoder_as_it_is(tmp_path: Path) -> None:
    source = shaken(zoo.MAE(**AUTO))
    zoo.save(source, tmp_path / "mae.safetensors")
    flags = (*ENCODER, *SHORT, f"--model.init_args.pretrained={tmp_path / 'mae.safetensors'}",
             "--model.init_args.linear_probe=true")  # fmt: skip
    folder = run("fit", "vit_digits", tmp_path, *flags)
    state = torch.load(newest_checkpoint(folder), weights_only=True)["state_dict"]
    own = {k.removeprefix("network."): v for k, v in state.items() if k.startswith("network.")}
    theirs = source.network.state_dict()
    shared = [k for k in own if k in theirs]
    assert len(shared) == len(own) - 5  # head and the statistics of batch norm
    assert all(torch.equal(own[k], theirs[k]) for k in shared)
    assert float(own["head.weight"].abs().max()) > 0
    with pytest.raises(ValueError, match=r"has cls_token of \(1, 1, 16\), the network of \(1, 1, 8\)"):
        zoo.ViTClassifier(**{**VIT, "width": 8}).start_from(str(tmp_path / "mae.safetensors"))


def test_class_folders_become_scores_attention_and_reliability(tmp_path: Path) -> None:
    """A new user's pictures: two colours, from folders to an answer."""
    for part, count in (("train", 24), ("val", 6)):
        for name, colour in (("dark", 40), ("light", 200)):
            folder = tmp_path / "mine" / part / name
            folder.mkdir(parents=True)
            draw = np.random.default_rng(0)
            for i in range(count):
                pixels = np.clip(draw.normal(colour, 20, (20, 20, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    own = ("--data.init_args.source=folder", f"--data.init_args.root={tmp_path / 'mine'}",
           "--data.init_args.size=16")  # fmt: skip
    more = (*ENCODER, "--model.init_args.patch_size=8", "--data.init_args.batch_size=16",
            "--trainer.max_steps=30", "--trainer.val_check_interval=15",
            "--checkpoint.every_n_train_steps=15")  # fmt: skip
    best = run("fit", "vit_digits", tmp_path, *own, *more) / "checkpoints" / "best.ckpt"
    found = summary("test", "vit_digits", tmp_path, *own, f"--weights={best}")["final"]
    assert found["test/accuracy"] == 1
    folder = run("predict", "vit_digits", tmp_path, *own, f"--weights={best}") / "predictions"
    with (folder / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [r["prediction"] for r in rows] == ["dark"] * 6 + ["light"] * 6
    assert all((folder / f"{n}.png").stat().st_size > 5000 for n in ("attention", "reliability"))


def test_a_picture_has_what_was_seen_and_what_was_drawn(tmp_path: Path) -> None:
    flags = (*DIGITS, *ENCODER, *DECODER, *SHORT)
    folder = run("fit", "mae_mnist", tmp_path, *flags)
    rows = json.loads((folder / "summary.json").read_text())["final"]
    assert rows["val/loss_of_mean"] == pytest.approx(
        0.75, abs=0.3
    )  # (n - 1) / n, less where patches are level
    done = run("predict", "mae_mnist", tmp_path, *flags[:1], f"--weights={newest_checkpoint(folder)}")
    assert Image.open(done / "predictions" / "reconstructions.png").size[0] > 400
    model: Any = zoo.load(str(newest_checkpoint(folder)))
    image = torch.rand(2, 1, 8, 8)
    masked, drawn = model.reconstruct(image)
    hidden = masked == 0.5
    assert int(hidden.sum()) == 2 * 12 * 4
    torch.testing.assert_close(drawn[~hidden], image[~hidden], atol=1e-6, rtol=0)  # what is seen stays


@pytest.mark.parametrize(
    ("cls", "settings", "said"),
    [
        (
            "ViTClassifier",
            {"shape": "vit-b/16", "depth": 3},
            "depth is 3, which shape: vit-b/16 does not use",
        ),
        ("ViTClassifier", {**VIT, "heads": 3}, "heads is 3, which does not divide width: 16"),
        ("ViTClassifier", {**VIT, "patch_size": 3}, "image_size is 8, no whole number of patches of 3"),
        ("ViTClassifier", {**VIT, "num_classes": 1}, "num_classes is 1"),
        ("ViTClassifier", {**VIT, "std": [1.0, 2.0]}, "std has 2 numbers, but channels is 1"),
        ("MAE", {**AUTO, "mask_ratio": 0.01}, "leaves 15 of 16|leaves"),
        ("MAE", {**AUTO, "decoder_heads": 3}, "decoder_heads: 3"),
        ("MAE", {**AUTO, "patch_size": 1}, "one pixel has no deviation"),
    ],
)
def test_impossible_settings_are_refused(cls: str, settings: dict[str, Any], said: str) -> None:
    if "mask_ratio" in settings:
        settings = {**settings, "mask_ratio": 0.99}
    with torch.device("meta"), pytest.raises(ValueError, match=said):
        getattr(zoo, cls)(**settings)


def test_pools_differ_and_ignore_unknown_labels() -> None:
    torch.manual_seed(0)
    sizes = {k: VIT[k] for k in ("image_size", "channels", "patch_size", "width", "depth", "heads")}
    mean = Classifier(3, "mean", False, **sizes)
    tokens = mean.tokens(torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    pooled = mean.pooled(torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(pooled, tokens[:, 1:].mean(dim=1))


CASES = {
    "vit_digits": ("ViTClassifier", (*ENCODER,)),
    "mae_mnist": ("MAE", (*DIGITS, *ENCODER, *DECODER)),
}


@pytest.mark.slow
@pytest.mark.parametrize("config", CASES)
def test_a_killed_run_goes_on_to_the_same_bits(config: str, tmp_path: Path) -> None:
    name, flags = CASES[config]
    cls = getattr(zoo, name)
    whole = run("fit", config, tmp_path / "whole", *SHORT, *flags)
    original = cls.training_step

    def killed(self: Any, batch: Any, batch_idx: int) -> Tensor:
        if self.trainer.global_step == 4:
            raise Killed
        found: Tensor = original(self, batch, batch_idx)
        return found

    with mock.patch.object(cls, "training_step", killed), pytest.raises(Killed):
        run("fit", config, tmp_path / "killed", *SHORT, *flags)
    resumed = run("fit", config, tmp_path / "killed", *SHORT, *flags, "--ckpt_path=last")
    assert run_differences(whole, resumed) == []


@pytest.mark.slow
@pytest.mark.parametrize("config", CASES)
def test_two_processes_train_what_one_does(config: str, tmp_path: Path) -> None:
    _, flags = CASES[config]
    more = ("--model.init_args.lr_scheduler=null",
            "--model.init_args.optimizer={class_path: torch.optim.SGD, init_args: {lr: 0.05}}")  # fmt: skip
    one = run("fit", config, tmp_path / "one", *SHORT, *flags, *more)
    two = [f"--trainer.default_root_dir={tmp_path / 'two'}", "--config=trainer/ddp", "--trainer.devices=2",
           "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(CLI), "fit", f"--config={config}", *SHORT, *flags, *more, *two],
        env=environment(), cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    (other,) = (tmp_path / "two" / config).glob("version_*")
    a, b = (torch.load(newest_checkpoint(f), weights_only=True)["state_dict"] for f in (one, other))
    assert largest_difference(a, b) <= 2e-6
