"""CLIP and SigLIP: losses, ranks, transformers' numbers, the command line, one process and two."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from commands import run, summary
from fakes.captions import fake_captions
from fakes.pictures import fake_pictures
from interruption import Killed, newest_checkpoint, run_differences
from processes import CLI, environment, largest_difference
from torch import Tensor

import datamodules
import zoo
from zoo.hub.convert import convert
from zoo.nn.optim import WarmupCosine
from zoo.vision.clip_network import SHAPES, ClipNetwork
from zoo.vision.pair_losses import diagonal, same_pairs, sigmoid_loss, softmax_loss, unit
from zoo.vision.retrieval import Gallery, loss_of_all, nearest_name, ranks, retrieval

SMALL: dict[str, Any] = dict(zoo._DECLARED["ContrastiveVL"][1].small[0])
SIZES = {k: SMALL[k] for k in SHAPES["clip-b/32"]}
FREE = [f"--model.init_args.{k}={v}" for k, v in SIZES.items()]
FLAGS = (
    *FREE, "--data.init_args.size=16", "--data.init_args.context=8", "--data.init_args.batch_size=32",
    "--trainer.max_steps=6", "--trainer.val_check_interval=3", "--checkpoint.every_n_train_steps=3",
    "--previews.count=0",
)  # fmt: skip


def features(rows: int, width: int = 4, seed: int = 0) -> Tensor:
    return unit(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)))


# --- losses -----------------------------------------------------------------------------------------------


def test_the_loss_of_clip_is_the_mean_of_both_cross_entropies() -> None:
    model, image, text = zoo.ContrastiveVL(**SMALL), features(6), features(6, seed=1)
    logits = image @ text.T / 0.07
    rows = torch.nn.functional.cross_entropy(logits, torch.arange(6))
    columns = torch.nn.functional.cross_entropy(logits.T, torch.arange(6))
    found = model.pair_loss(image, text, diagonal(6, 6))
    torch.testing.assert_close(found, (rows + columns) / 2, atol=1e-5, rtol=0)
    assert abs(float(rows - columns)) > 0.01
    # features of chance have the loss of chance, the scale of 14.3 adds to it
    wide = model.pair_loss(features(512, 256), features(512, 256, 1), diagonal(512, 512))
    assert math.log(512) < float(wide) < math.log(512) + 1


def test_the_loss_of_siglip_is_a_sum_over_columns() -> None:
    model, image, text = zoo.ContrastiveVL(**SMALL, loss="siglip"), features(5), features(5, seed=1)
    assert float(model.network.scale()) == pytest.approx(10)
    assert float(model.network.bias) == -10
    wanted = 0.0
    for i in range(5):
        for j in range(5):
            z = 1 if i == j else -1
            logit = 10 * float(image[i] @ text[j]) - 10
            wanted += math.log1p(math.exp(-z * logit)) / 5
    assert float(model.pair_loss(image, text, diagonal(5, 5))) == pytest.approx(wanted, rel=1e-5)


def test_pairs_of_one_picture_or_one_caption_are_no_negatives() -> None:
    image, caption = torch.tensor([0, 1, 2, 0]), torch.tensor([5, 6, 5, 7])
    same = same_pairs(image, caption, image, caption)
    assert same.int().tolist() == [[1, 0, 1, 1], [0, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 1]]
    # two equal pairs: the best that the diagonal leaves is ln 2
    logits = torch.tensor([[50.0, 50.0], [50.0, 50.0]])
    assert float(softmax_loss(logits, diagonal(2, 2))) == pytest.approx(math.log(2))
    assert float(softmax_loss(logits + torch.tensor([0.0, -99.0]), torch.eye(2) > 0)) > 40
    every = torch.ones(2, 2, dtype=torch.bool)
    assert float(softmax_loss(torch.cat([logits, -logits], dim=1), torch.cat([every, ~every], dim=1))) == (
        pytest.approx(math.log(2))  # uniform over both, which is its entropy
    )
    assert float(sigmoid_loss(logits, every)) < 1e-9


def test_the_scale_stays_at_most_100() -> None:
    model = zoo.ContrastiveVL(**SMALL)
    assert float(model.network.clip.logit_scale) == pytest.approx(math.log(1 / 0.07))
    with torch.no_grad():
        model.network.clip.logit_scale.fill_(9.0)
    assert float(model.network.scale()) == pytest.approx(100, rel=1e-5)
    model.network.bound_scale()
    assert float(model.network.clip.logit_scale) == pytest.approx(math.log(100))


def test_a_process_has_its_rows_of_the_global_batch() -> None:
    own = diagonal(3, 6, rank=1, world=2)
    assert own.nonzero().tolist() == [[0, 1], [1, 3], [2, 5]]


# --- ranks ------------------------------------------------------------------------------------------------


def test_ranks_are_among_the_wrong_answers_and_ties_count_half() -> None:
    similarity = torch.tensor([[0.9, 0.5, 0.5, 0.1]])
    assert ranks(similarity, torch.tensor([[False, True, False, False]])).tolist() == [2.5]
    assert ranks(similarity, torch.tensor([[True, True, False, False]])).tolist() == [1]
    collapsed = torch.zeros(4, 4)
    assert ranks(collapsed, torch.eye(4) > 0).tolist() == [2.5] * 4
    with pytest.raises(ValueError, match="diverged"):
        ranks(torch.full((1, 2), math.nan), torch.tensor([[True, False]]))


def test_a_picture_of_several_names_is_found_by_each() -> None:
    axes = torch.eye(3)
    # the first picture twice, under two names; the third pair has the text of the second
    image, text = axes[[0, 1, 2, 0]], axes[[0, 1, 1, 2]]
    gallery = Gallery.of(image, text, torch.tensor([8, 9, 7, 8]), torch.tensor([1, 0, 0, 2]))
    assert gallery.image.shape == gallery.text.shape == (3, 3)
    assert gallery.first_image.tolist() == [0, 1, 2]
    assert gallery.pairs.tolist() == [[0, 0], [0, 2], [1, 1], [2, 1]]
    found = retrieval(gallery)
    assert found["image_to_text_r1"] == pytest.approx(2 / 3)
    assert found["text_to_image_r1"] == pytest.approx(2 / 3)
    assert found["image_to_text_chance_r1"] == pytest.approx((2 / 3 + 1 / 3 + 1 / 3) / 3)
    assert found["text_to_image_r5"] == 1


def test_the_loss_of_a_set_is_that_of_one_batch() -> None:
    image, text, ids = features(7), features(7, seed=1), torch.arange(7)
    gallery = Gallery.of(image, text, ids, ids)
    model = zoo.ContrastiveVL(**SMALL)
    wanted = float(model.pair_loss(image, text, diagonal(7, 7)))
    assert loss_of_all(gallery, 1 / 0.07, None) == pytest.approx(wanted, rel=1e-5)
    sigmoid = zoo.ContrastiveVL(**SMALL, loss="siglip")
    wanted = float(sigmoid.pair_loss(image, text, diagonal(7, 7)))
    assert loss_of_all(gallery, 10.0, -10.0) == pytest.approx(wanted, rel=1e-5)


def test_the_baseline_lends_the_words_of_the_nearest_picture() -> None:
    train = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    found = nearest_name(
        torch.tensor([[0.1, 0.0], [0.9, 1.0]]), [[1, 2], [3, 4, 5]], train, [[1, 2, 3], [4, 5]]
    )
    torch.testing.assert_close(found, torch.tensor([[2 / 3, 1 / 5], [0, 2 / 3]]))


# --- transformers -----------------------------------------------------------------------------------------


def test_the_published_shape_has_the_published_size() -> None:
    with torch.device("meta"):
        network = ClipNetwork(SHAPES["clip-b/32"], 224, 3, 49_408, 77)
    assert sum(p.numel() for p in network.parameters()) == 151_277_313


def glyphs() -> datamodules.ImageCaptions:
    data = datamodules.ImageCaptions(size=16, context=8, batch_size=4)
    data.setup("fit")
    return data


def test_a_folder_of_transformers_goes_both_ways(tmp_path: Path) -> None:
    """Features, texts of any length and the tokenizer; texts are pooled at their end, whatever its id."""
    from transformers import AutoTokenizer, CLIPModel

    data = glyphs()
    torch.manual_seed(0)
    model = zoo.ContrastiveVL(**SMALL).eval()
    for p in model.network.parameters():
        p.data = p.data + 0.1 * torch.randn_like(p)
    model.vocabulary.fill(data.vocabulary)
    zoo.save(model, tmp_path / "ours.safetensors")
    for step in (("ours.safetensors", "theirs", "transformers"), ("theirs", "again.safetensors", "zoo")):
        list(convert(tmp_path / step[0], tmp_path / step[1], "clip", step[2], [], False))
    theirs: Any = CLIPModel.from_pretrained(tmp_path / "theirs").eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path / "theirs")
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 3)
    batch = next(iter(data.val_dataloader()))
    image, ids, length = batch["image"][::60], batch["ids"][::60], batch["length"][::60]
    assert len(set(length.tolist())) > 1
    with torch.no_grad():
        ours = model(image, ids, length)
        texts = data.parts["val"].captions[:256:60]
        out = theirs(input_ids=ids, pixel_values=(image - 0.5) / 0.5)
        torch.testing.assert_close(ours, out.logits_per_image, atol=1e-5, rtol=0)
        torch.testing.assert_close(model.text_features(texts), out.text_embeds, atol=1e-5, rtol=0)
    again = zoo.load(tmp_path / "again.safetensors")
    assert (
        largest_difference(dict(again.network.named_parameters()), dict(model.network.named_parameters()))
        == 0
    )
    assert again.vocabulary.ids(texts) == model.vocabulary.ids(texts)
    assert again.hparams["mean"] == [0.5]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "siglip"}, "model_type 'siglip', and clip is read"),
        ({"vision_config": {"intermediate_size": 5}}, "vision_config has intermediate_size 5"),
    ],
)
def test_folders_of_other_models_are_refused(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    zoo.ContrastiveVL(**SMALL).network.clip.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    content = json.loads(path.read_text())
    for key, value in change.items():
        content[key] = {**content[key], **value} if isinstance(value, dict) else value
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=said):
        list(convert(tmp_path, tmp_path / "x.safetensors", "clip", "zoo", [], False))


def test_padding_changes_no_text(tmp_path: Path) -> None:
    model = zoo.ContrastiveVL(**SMALL).eval()
    ids = torch.tensor([[1, 9, 8, 3]])
    padded = torch.cat([ids, torch.tensor([[7, 1796, 0]])], dim=1)  # whatever stands there
    with torch.no_grad():
        short, long = (model.network.text_features(x, torch.tensor([4])) for x in (ids, padded))
    torch.testing.assert_close(short, long, atol=1e-6, rtol=0)


def test_the_cosine_may_begin_behind_the_warm_up() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    plan = WarmupCosine(optimizer, total_steps=110, warmup_steps=10, after_warmup=True)
    found = [plan.factor(k) for k in (0, 5, 10, 60, 110, 200)]
    assert found == pytest.approx([0, 0.5, 1, 0.5, 0, 0])


# --- the command line -------------------------------------------------------------------------------------


def test_own_pictures_are_found_by_own_captions(tmp_path: Path) -> None:
    """From a folder with a table to recall, a sheet, an answer in Python, classes by their names."""
    fake_captions(tmp_path / "mine")
    own = ("--data.init_args.layout=folder", f"--data.init_args.root={tmp_path / 'mine'}",
           "--data.init_args.size=16", "--data.init_args.held_out=0.2")  # fmt: skip
    more = (*FREE, "--model.init_args.patch_size=4", "--data.init_args.batch_size=16",
            "--trainer.max_steps=60", "--trainer.val_check_interval=30",
            "--checkpoint.every_n_train_steps=30",
            "--model.init_args.optimizer={class_path: torch.optim.AdamW, init_args: {lr: 0.005}}",
            "--model.init_args.lr_scheduler=null")  # fmt: skip
    fitted = run("fit", "contrastive_vl_glyphs", tmp_path, *own, *more)
    best = fitted / "checkpoints" / "best.ckpt"
    found = summary("test", "contrastive_vl_glyphs", tmp_path, *own, f"--weights={best}")["final"]
    assert found["test/text_to_image_r5"] > 0.8  # chance at 1 is a tenth
    folder = run("predict", "contrastive_vl_glyphs", tmp_path, *own, f"--weights={best}") / "predictions"
    with (folder / "retrieval.csv").open() as file:
        rows = list(csv.DictReader(file))
    first = sum(float(r["rank"]) <= 1 for r in rows) / len(rows)
    assert first == pytest.approx(found["test/text_to_image_r1"])
    assert all((folder / name).stat().st_size > 5000 for name in ("top5.png", "similarity.png"))
    model: Any = zoo.load(str(best))
    data = datamodules.ImageCaptions("folder", str(tmp_path / "mine"), 16, context=16)
    data.setup("test")
    items = data.test_set.__getitems__([0, 1])
    cosine = model.similarity(items["image"], data.parts["test"].captions[:2])
    assert cosine.shape == (2, 2)
    assert float(cosine.abs().max()) <= 1 + 1e-5
    chance = model.classify(items["image"], ["red", "green", "blue"], ("a {} square",))
    torch.testing.assert_close(chance.sum(dim=1), torch.ones(2))
    with pytest.raises(ValueError, match=r"pictures are \(2, 1, 16, 16\), but must be \(N, 3, 16, 16\)"):
        model.classify(items["image"][:, :1], ["red"])
    fake_pictures(tmp_path / "classes" / "train", 2, 2)
    fake_pictures(tmp_path / "classes" / "val", 2, 2)
    labelled = ("--data.class_path=datamodules.LabelledImages", "--data.init_args.source=folder",
                f"--data.init_args.root={tmp_path / 'classes'}", "--data.init_args.size=16",
                f"--weights={best}")  # fmt: skip
    done = run("test", "contrastive_vl_glyphs", tmp_path, *labelled)
    assert "test/zero_shot_accuracy" in (done / "summary_test.json").read_text()


def test_the_baseline_needs_no_weights(tmp_path: Path) -> None:
    flags = ("--model.init_args.rank_by=nearest_name", *FLAGS[:10])
    found = summary("test", "contrastive_vl_glyphs", tmp_path, *flags)["final"]
    assert found["test/image_to_text_r1"] > 20 * found["test/image_to_text_chance_r1"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"shape": "clip-b/32", "layers": 3}, "layers is 3, which shape: clip-b/32 does not use"),
        ({**SMALL, "heads": 3}, "heads is 3, which does not divide width: 16"),
        ({**SMALL, "image_size": 4}, "less than a patch of 8"),
        ({**SMALL, "mean": [0.5, 0.5]}, "mean has 2 numbers, but channels is 1"),
        ({**SMALL, "templates": ["no place"]}, "texts with one {} each"),
        ({**SMALL, "context": 2}, "two marks and a token"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], said: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=said):
        zoo.ContrastiveVL(**settings)


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    more = ("--model.init_args.crop=0.6",)
    whole = run("fit", "contrastive_vl_glyphs", tmp_path / "whole", *FLAGS, *more)
    original = zoo.ContrastiveVL.training_step

    def killed(self: zoo.ContrastiveVL, batch: Any, batch_idx: int) -> Tensor:
        if self.trainer.global_step == 4:
            raise Killed
        return original(self, batch, batch_idx)

    with mock.patch.object(zoo.ContrastiveVL, "training_step", killed), pytest.raises(Killed):
        run("fit", "contrastive_vl_glyphs", tmp_path / "killed", *FLAGS, *more)
    resumed = run("fit", "contrastive_vl_glyphs", tmp_path / "killed", *FLAGS, *more, "--ckpt_path=last")
    assert run_differences(whole, resumed) == []


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["clip", "siglip"])
@pytest.mark.parametrize("positives", ["diagonal", "same"])
def test_two_processes_train_what_one_does(loss: str, positives: str, tmp_path: Path) -> None:
    """Features are gathered with their gradient; the whole set is ranked, whoever read it."""
    more = (f"--model.init_args.loss={loss}", f"--model.init_args.positives={positives}",
            "--model.init_args.crop=0.6", "--model.init_args.lr_scheduler=null",
            "--model.init_args.optimizer={class_path: torch.optim.SGD, init_args: {lr: 0.01}}")  # fmt: skip
    one = run("fit", "contrastive_vl_glyphs", tmp_path / "one", *FLAGS, *more)
    two = [f"--trainer.default_root_dir={tmp_path / 'two'}", "--config=trainer/ddp", "--trainer.devices=2",
           "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(CLI), "fit", "--config=contrastive_vl_glyphs", *FLAGS, *more, *two],
        env=environment(), cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    (other,) = (tmp_path / "two" / "contrastive_vl_glyphs").glob("version_*")
    a, b = (torch.load(newest_checkpoint(f), weights_only=True)["state_dict"] for f in (one, other))
    assert largest_difference(a, b) <= 2e-6
    finals = [json.loads((f / "summary.json").read_text())["final"] for f in (one, other)]
    for key in finals[0]:
        if key.startswith("val/"):
            assert finals[0][key] == pytest.approx(finals[1][key], abs=2e-3)
