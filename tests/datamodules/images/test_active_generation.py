"""Data that grow: the split, uniform batches over the union, what returns, official layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes.active_generation import fake_cifar_with_names, fake_imagenet
from fakes.pictures import fake_pictures
from PIL import Image

import datamodules
from datamodules.images.growing import GrowingSampler, random_part


def ready(**given: Any) -> Any:
    data = datamodules.ActiveGeneration(**given)
    data.setup("fit")
    return data


def test_the_digits_are_split_once_and_no_two_parts_share_an_image() -> None:
    data, of_generator = ready(), ready(part="generator")
    sizes = (len(data.train_set), len(data.held_out_set), len(data.test_set), len(of_generator.train_set))
    assert sizes == (240, 60, 597, 900)
    assert not set(data.train_set.members.tolist()) & set(data.held_out_members.tolist())
    batch = data.test_set.__getitems__([0, 5])
    assert batch["image"].shape == (2, 1, 8, 8)
    assert 0 <= float(batch["image"].min()) <= float(batch["image"].max()) <= 1
    from sklearn.datasets import load_digits

    order = torch.randperm(1797, generator=torch.Generator().manual_seed(0))
    wanted = torch.from_numpy(load_digits().images)[order[1200:]] / 16
    found = data.test_set.__getitems__(range(597))["image"][:, 0].double()
    assert torch.allclose(found, wanted, rtol=0, atol=1 / 510 + 1e-7)


def test_the_split_is_of_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    held = []
    for seed in ("0", "0", "1"):
        monkeypatch.setenv("PL_GLOBAL_SEED", seed)
        held.append(ready().held_out_members.tolist())
    assert held[0] == held[1] != held[2]


def test_a_training_goes_on_with_its_own_split_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another seed holds out as many others."""
    state = ready().state_dict()
    ready().load_state_dict(state)
    ready().load_state_dict({k: v for k, v in state.items() if k != "split"})  # of before
    monkeypatch.setenv("PL_GLOBAL_SEED", "1")
    with pytest.raises(ValueError, match="other images, or on another split"):
        ready().load_state_dict(state)


def test_the_set_grows_and_its_images_have_places(tmp_path: Path) -> None:
    data = ready()
    path = tmp_path / "made.png"
    Image.fromarray(np.full((8, 8), 51, dtype=np.uint8)).save(path)
    data.append([path, path], [3, 9])
    assert len(data.train_set) == 242
    batch = data.train_set.__getitems__([(0, 0), (0, 240), (0, 241)])
    assert batch["generated"].tolist() == [False, True, True]
    assert batch["label"].tolist()[1:] == [3, 9]
    assert torch.allclose(batch["image"][1], torch.full((1, 8, 8), 0.2))
    near = data.near_pixels(3, torch.zeros(1, 8, 8), 0.02)  # of images in memory all are looked at
    assert len(near) == 1 + sum(data.images.labels == 3)
    data.give_back()
    assert len(data.train_set) == 302
    returned = data.train_set.__getitems__([(0, i) for i in range(242, 302)])
    assert torch.equal(returned["image"], data.guides(range(60))[0])
    with pytest.raises(ValueError, match="in the training set already"):
        data.give_back()
    with pytest.raises(ValueError, match="has label 10, but there are 10 classes"):
        data.append([path], [10])
    Image.fromarray(np.zeros((9, 8), dtype=np.uint8)).save(path)
    with pytest.raises(ValueError, match=r"made\.png has 8 x 9 pixels, the training images 8 x 8"):
        data.append([path], [1])


def test_batches_are_uniform_over_all_and_shared_by_processes() -> None:
    whole = [i for batch in GrowingSampler(70, 8, 3) for _, i in batch]
    assert len(set(whole)) == len(whole) == 64
    parts = [list(GrowingSampler(70, 8, 3, rank=r, world_size=2)) for r in (0, 1)]
    assert [sorted(a + b) == sorted(c) for a, b, c in zip(*parts, GrowingSampler(70, 8, 3), strict=True)] == [
        True
    ] * 8
    later = list(GrowingSampler(70, 8, 3, position=lambda: 8 + 5))
    assert later == list(GrowingSampler(70, 8, 4))[5:]
    assert list(GrowingSampler(70, 8, 3)) != list(GrowingSampler(70, 8, 3, seed=1))


def test_a_module_that_never_grows_trains_epoch_after_epoch(tmp_path: Path) -> None:
    from commands import run

    flags = ("--trainer.max_steps=30", "--trainer.val_check_interval=30", "--previews.count=0")
    folder = run("fit", "actgen_generator_digits", tmp_path, *flags, "--model.init_args.sampling_steps=2")
    assert (folder / "checkpoints" / "step=00000030.ckpt").is_file()  # 14 batches an epoch


def test_the_official_layouts(tmp_path: Path) -> None:
    fake_cifar_with_names(tmp_path / "ten")
    fake_cifar_with_names(tmp_path / "hundred", fine=True)
    fake_imagenet(tmp_path / "imagenet")
    for part in ("train", "val"):
        fake_pictures(tmp_path / "folder" / part, 3, 4)
    ten = ready(source="cifar10", root=str(tmp_path / "ten"), held_out=6, batch_size=4)
    assert (len(ten.train_set), ten.num_classes, ten.class_names[1]) == (54, 10, "automobile")
    hundred = ready(source="cifar100", root=str(tmp_path / "hundred"), held_out=2, batch_size=4)
    assert (hundred.num_classes, hundred.class_names[1]) == (100, "aquarium fish")
    listed = ready(source="imagenet", root=str(tmp_path / "imagenet"), held_out=4, size=24, batch_size=4)
    assert (listed.num_classes, listed.class_names[0], listed.generated_size) == (3, "great white shark", 27)
    batch = listed.train_set.__getitems__([(0, 1), (1, 1)])
    assert batch["image"].shape == (2, 3, 24, 24)
    assert not torch.equal(batch["image"][0], batch["image"][1])  # another crop in another epoch
    assert torch.equal(listed.train_set.__getitems__([(1, 1)])["image"][0], batch["image"][1])
    own = ready(source="folder", root=str(tmp_path / "folder"), size=16, held_out=2, batch_size=2)
    assert (own.num_classes, len(own.train_set), len(own.test_set)) == (3, 10, 12)


def test_small_pictures_are_shown_whole_to_a_generator(tmp_path: Path) -> None:
    for part in ("train", "val"):
        fake_pictures(tmp_path / part, 2, 4)
    data = ready(source="folder", root=str(tmp_path), size=16, held_out=2, batch_size=2, random_crops=False)
    members = data.train_set.members
    shown = data.train_set.__getitems__([(3, i) for i in range(len(members))])
    assert torch.equal(shown["image"], data.images.evaluated(members))
    made = tmp_path / "made.png"
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(made)
    data.append([made], [1])
    last = data.train_set.__getitems__([(3, len(members))])["image"][0]
    assert torch.equal((last * 255).round().to(torch.uint8), torch.from_numpy(pixels).permute(2, 0, 1))


def test_real_images_of_each_class(tmp_path: Path) -> None:
    data = ready(per_class=10)
    assert (len(data.train_set), len(data.held_out_set)) == (80, 20)
    labels = [*data.training_labels(), *data.guides(range(20))[1]]
    assert np.bincount(labels).tolist() == [10] * 10
    with pytest.raises(ValueError, match="per_class is 1,000, but class 0 has"):
        ready(per_class=1000)
    with pytest.raises(ValueError, match="held_out is 300, but there are 300 training images"):
        ready(held_out=300)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("a/b.JPEG\n", r"train\.txt, line 1: .* is not .relative/path label"),
        ("a/b.JPEG 1\n../c.JPEG 2\n", "line 2: .* is no path below the folder"),
        ("a/b.JPEG 3\n", "line 1: the label 3 is not 0 to 2"),
        ("a/b.JPEG 0\na/b.JPEG 1\n", "line 2: .* is in line 1 already"),
        ("", "names no pictures"),
    ],
)
def test_a_list_that_does_not_do_is_one_line(lines: str, said: str, tmp_path: Path) -> None:
    fake_imagenet(tmp_path)
    (tmp_path / "meta" / "train.txt").write_text(lines)
    with pytest.raises(ValueError, match=said) as caught:
        ready(source="imagenet", root=str(tmp_path), size=16)
    assert "\n" not in str(caught.value)


def test_names_that_say_two_classes_are_refused(tmp_path: Path) -> None:
    fake_imagenet(tmp_path)
    (tmp_path / "meta" / "classes.txt").write_text("crane\ncrane\nhen\n")
    with (
        pytest.warns(UserWarning, match="several classes"),
        pytest.raises(ValueError, match="'crane' names two classes"),
    ):
        ready(source="imagenet", root=str(tmp_path), size=16)
    (tmp_path / "meta" / "classes.txt").write_text("crane\nhen\n")
    with pytest.raises(ValueError, match=r"train\.txt, line 17: the label 2 is not 0 to 1"):
        ready(source="imagenet", root=str(tmp_path), size=16)
    synsets = "".join(f"n0000000{i} {name}\n" for i, name in enumerate(("crane, bird", "crane, lift", "hen")))
    (tmp_path / "meta" / "classes.txt").write_text(synsets.replace("crane, lift", "lift, crane"))
    assert ready(source="imagenet", root=str(tmp_path), size=16, held_out=2).class_names == [
        "crane",
        "lift",
        "hen",
    ]
    (tmp_path / "meta" / "classes.txt").unlink()
    assert not ready(source="imagenet", root=str(tmp_path), size=16, held_out=2).names_told


def test_a_random_part_lies_in_the_picture() -> None:
    rng = np.random.default_rng(0)
    for size in ((40, 48), (500, 20), (7, 300)):
        for _ in range(50):
            left, top, width, height = random_part(size, rng)
            assert 0 <= left <= left + width <= size[0]
            assert 0 <= top <= top + height <= size[1]
            assert min(width, height) >= 1
