"""Saliency data: the released layouts, pairing, what is wrong with files, and the composites."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes.saliency import LAYOUTS, disc, fake_saliency, picture_of
from PIL import Image

from datamodules import Saliency, SaliencyComposites
from datamodules.images.composites import BUNDLED, composite, photographs, region
from datamodules.images.masks import MaskValues, read_mask
from datamodules.images.saliency import SETS, MemoryItems, ToBatch, open_items

HKU = ("hku_is_train", "hku_is_val", "hku_is_test")


@pytest.fixture(autouse=True)
def _few_pictures_are_told_of() -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*was published with.*")
        yield


@pytest.mark.parametrize("name", LAYOUTS)
def test_released_folders_and_those_of_the_official_code_are_read(name: str, tmp_path: Path) -> None:
    for official in (False, True):
        root = fake_saliency(tmp_path / str(official), name, official=official)
        items = open_items(name, root)
        assert sorted(items.names) == ["11", "2", "5", "8"]
        for i, stem in enumerate(items.names):
            image, mask, found = items.read(i)
            assert found == stem
            assert mask is not None
            picture, expected = picture_of(stem)
            assert image.size == picture.size
            assert np.array_equal(np.asarray(mask), np.asarray(expected))  # the mask of this picture


def test_every_set_has_a_twin_here() -> None:
    assert set(SETS) == {*LAYOUTS, *HKU}


def test_hku_is_is_split_by_its_matlab_lists(tmp_path: Path) -> None:
    root = fake_saliency(tmp_path, "hku_is")
    assert [open_items(n, root).names for n in HKU] == [["2", "5"], ["8"], ["11"]]
    (root / "HKU-IS" / "valImgSet.mat").write_bytes(b"no matlab")
    with pytest.raises(ValueError, match=r"valImgSet\.mat is no Matlab file"):
        open_items("hku_is_val", root)
    (root / "HKU-IS" / "valImgSet.mat").unlink()
    with pytest.raises(FileNotFoundError, match="name hku_is for all of it"):
        open_items("hku_is_val", root)


def test_a_set_that_is_not_there_names_the_layouts_that_were_looked_for(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        open_items("ecssd", tmp_path)
    text = str(caught.value)
    assert "ECSSD/images and ECSSD/ground_truth_mask, or ECSSD/imgs and ECSSD/gts" in text
    assert "data.init_args.root" in text
    assert "\n" not in text
    with pytest.raises(FileNotFoundError, match=r"nor one of the sets duts_tr.*set data.init_args.root"):
        open_items("nowhere", tmp_path)


def test_another_number_of_pictures_than_published_is_told(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="4 pictures with masks, sod was published with 300"):
        open_items("sod", fake_saliency(tmp_path, "sod"))


def test_list_files_give_pairs_relative_to_them_or_to_the_root(tmp_path: Path) -> None:
    root = fake_saliency(tmp_path, "msra_b")
    assert open_items("MSRA-B/train.lst", root).names == ["2", "5", "8"]
    (tmp_path / "mine.txt").write_text("# mine\n/MSRA-B/11.jpg /MSRA-B/11.png\n\n")
    assert open_items("mine.txt", root).names == ["MSRA-B/11"]
    for line, message in (
        ("a b c", "line 1: expected `image mask`, got 'a b c'"),
        ("MSRA-B/2.jpg", "line 1: expected `image mask`"),
        ("MSRA-B/2.jpg MSRA-B/3.png", r"line 1: no MSRA-B/3\.png"),
        ("# nothing", "lists no pictures"),
    ):
        (tmp_path / "mine.txt").write_text(line)
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            open_items("mine.txt", root)


def test_pictures_alone_can_be_predicted_but_not_measured(tmp_path: Path) -> None:
    folder = tmp_path / "holiday" / "beach"
    folder.mkdir(parents=True)
    disc(40, 50, 0)[0].save(folder / "one.JPG", format="JPEG")
    data = Saliency(root=str(tmp_path), predict="holiday", size=32, num_workers=0)
    data.setup("predict")
    (batch,) = data.predict_dataloader()
    assert (batch["name"], batch["size"]) == (["beach/one"], [(40, 50)])
    assert "mask" not in batch
    (tmp_path / "all.txt").write_text("holiday/beach/one.JPG\n")
    assert open_items("all.txt", tmp_path, masks=False).masks is None


def test_what_is_written_about_pictures_stays_in_one_folder_under_names_of_their_own(tmp_path: Path) -> None:
    """Two inputs with one output name would be one mask, and steps upwards leave the run's folder."""
    place = tmp_path / "a" / "b"
    place.mkdir(parents=True)
    files = ["x.jpg", "x.png", "X.bmp", "y.jpg", "a/z.jpg", "a/b/z.jpg"]
    for name in files:
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    assert open_items(str(tmp_path), tmp_path, masks=False).names == [
        "X_bmp",
        "a/b/z",
        "a/z",
        "x_jpg",
        "x_png",
        "y",
    ]
    lines = ["../../x.jpg", "../../x.png", "../z.jpg", "z.jpg", "../../y.jpg", "./../../y.jpg"]
    (place / "list.lst").write_text("\n".join(lines))
    names = open_items(str(place / "list.lst"), place, masks=False).names
    assert names == ["x_jpg", "x_png", "z_jpg", "z_jpg_2", "y_jpg", "y_jpg_2"]


def test_a_missing_partner_is_an_error_or_skipped_with_a_count(tmp_path: Path) -> None:
    root = fake_saliency(tmp_path, "ecssd")
    (root / "ECSSD/ground_truth_mask/5.png").unlink()
    (root / "ECSSD/images/8.jpg").unlink()
    with pytest.raises(ValueError, match=r"1 pictures without a mask \(5\), 1 masks without a picture \(8\)"):
        open_items("ecssd", root)
    with pytest.warns(UserWarning, match=r"1 pictures without a mask \(5\).* skipped, 2 are left"):
        items = open_items("ecssd", root, skip_unpaired=True)
    assert items.names == ["11", "2"]


def test_two_files_of_one_stem_are_refused(tmp_path: Path) -> None:
    root = fake_saliency(tmp_path, "sed2")
    disc(9, 9, 0)[0].save(root / "SED2/src_color/2.bmp")
    with pytest.raises(ValueError, match="have the same stem"):
        open_items("sed2", root)


def test_a_damaged_picture_is_one_line_with_its_path(tmp_path: Path) -> None:
    root = fake_saliency(tmp_path, "sod")
    path = root / "SOD/Imgs/5.jpg"
    path.write_bytes(path.read_bytes()[:200])
    items = open_items("sod", root)
    with pytest.raises(ValueError, match=r"5\.jpg cannot be read as a picture") as caught:
        items.read(items.names.index("5"))
    assert "\n" not in str(caught.value)


def test_masks_of_another_size_are_resized_for_training_alone_and_told_once(tmp_path: Path) -> None:
    root = fake_saliency(tmp_path, "sod")
    for stem in ("2", "5"):
        path = root / f"SOD/GT/{stem}.png"
        Image.open(path).resize((20, 20), Image.Resampling.NEAREST).save(path)
    data = ToBatch(open_items("sod", root))
    with pytest.warns(UserWarning, match="is 20 x 20, its picture") as told:
        batches = [data[(0, i)] for i in range(4)]
    for batch in batches:
        assert batch["mask"].shape[2:] == batch["image"].shape[2:]
        assert set(batch["mask"].unique().tolist()) <= {0.0, 1.0}  # nearest
    assert len([w for w in told if "is 20 x 20" in str(w.message)]) == 1
    measured = Saliency(root=str(root), test="sod", size=32, eval_batch_size=4, num_workers=0)
    measured.setup("test")
    ((batch,),) = measured.test_dataloader()
    assert [tuple(m.shape) for m in batch["mask"]] == [(64, 67), (20, 20), (20, 20), (70, 72)]
    own = Image.open(root / "SOD/GT/2.png")
    assert np.array_equal(batch["mask"][1].numpy(), np.asarray(own))
    assert batch["size"][1] == (64, 72)  # what zoo predict writes


OBJECT = np.zeros((12, 20), dtype=bool)
OBJECT[3:8, 4:15] = True


def grey(background: int, object_: int, kind: Any = np.uint8, **extra: int) -> Image.Image:
    """A mask of two values, and of others in its corners."""
    pixels = np.where(OBJECT, object_, background).astype(kind)
    for name, value in extra.items():
        pixels[-1, int(name[1:])] = value
    return Image.fromarray(pixels)


def voc(colours: bool = False) -> Image.Image:
    """A mask of VOC: class 1 is (128, 0, 0), class 15 (192, 128, 128), void (224, 224, 192)."""
    image = grey(0, 15, a3=1, a5=255)
    palette = [0] * 768
    palette[3:6], palette[45:48], palette[765:768] = (128, 0, 0), (192, 128, 128), (224, 224, 192)
    image.putpalette(palette)
    return image.convert("RGB") if colours else image


def cut_out() -> Image.Image:
    """White of which the background is transparent."""
    image = Image.new("RGBA", (20, 12), (255, 255, 255, 0))
    image.putalpha(grey(0, 255))
    return image


def grey_palette() -> Image.Image:
    """Index 0 is white and the background's is 1."""
    image = grey(1, 0)
    image.putpalette([255, 255, 255, 0, 0, 0])
    return image


CORNER = OBJECT.copy()
CORNER[-1, 3] = True
STORED = {
    "0 and 1": (grey(0, 1), OBJECT), "0 and 255": (grey(0, 255), OBJECT), "a class": (grey(0, 5), OBJECT),
    "classes": (grey(0, 5, a3=2), CORNER), "palette": (voc(), CORNER), "colours": (voc(True), CORNER),
    "1 bit": (grey(0, 255).convert("1"), OBJECT), "16 bits": (grey(0, 65535, np.uint16), OBJECT),
    "classes of 16 bits": (grey(0, 24, np.uint16, a3=7), CORNER), "grey palette": (grey_palette(), OBJECT),
    "alpha": (cut_out(), OBJECT), "opaque": (grey(0, 255).convert("RGBA"), OBJECT),
    "grey and alpha": (grey(0, 255).convert("LA"), OBJECT), "in colours": (grey(0, 1).convert("RGB"), OBJECT),
    "soft": (grey(0, 255, a1=60, a2=100, a3=200, a4=128), CORNER), "empty": (grey(0, 0), OBJECT & False),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:masks of")
@pytest.mark.parametrize("name", STORED)
def test_masks_are_read_however_sets_store_them(name: str, tmp_path: Path) -> None:
    image, expected = STORED[name]
    image.save(tmp_path / "a.png")
    found = read_mask(tmp_path / "a.png")
    assert (found.mode, found.size) == ("L", (20, 12))
    assert np.array_equal(np.asarray(found) > 128, expected)


@pytest.mark.parametrize(
    ("image", "text"),
    [
        (grey(0, 5, a1=255), "has the values 0, 5, 255: class numbers or grey"),
        (grey(1, 2, a1=3), "has values from 1 to 3, none above 128"),  # no background
        (grey(0, 30_000, np.uint16, a1=7), "has 3 values up to 30,000"),
        (Image.fromarray(np.arange(720, dtype=np.uint8).reshape(12, 20, 3)), "has 240 colours"),
        (Image.merge("LA", [grey(0, 255), grey(90, 20)]), "has colours and a transparency"),
    ],
)  # fmt: skip
def test_doubtful_masks_are_refused(image: Image.Image, text: str, tmp_path: Path) -> None:
    image.save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=f"the mask .*a.png {text}") as caught:
        read_mask(tmp_path / "a.png")
    assert "\n" not in str(caught.value)


def test_what_values_mean_can_be_said(tmp_path: Path) -> None:
    root = fake_saliency(tmp_path, "sod")
    for path in (root / "SOD/GT").iterdir():  # the object is class 5, its border void
        pixels = np.where(np.asarray(Image.open(path)) > 0, 5, 0).astype(np.uint8)
        pixels[0, 0] = 255
        Image.fromarray(pixels).save(path)
    shares: dict[MaskValues, float] = {"classes": 0, "grey": 0}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="masks of class numbers")
        for values in shares:
            mask = open_items("SOD", root, mask_values=values).read(0)[1]
            shares[values] = float((np.asarray(mask) > 128).mean())
    assert shares["classes"] > 0.02 > shares["grey"] > 0
    with pytest.raises(ValueError, match="mask_values must be one of auto, grey, classes"):
        Saliency(mask_values="x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"the mask .* has the values 0, 5, 255"):  # when the run begins
        Saliency(root=str(root), train="SOD", num_workers=0).setup("fit")


@pytest.mark.filterwarnings("ignore:masks of turned pictures")
@pytest.mark.parametrize("as_stored", [False, True])
def test_a_turned_photograph_meets_its_mask(as_stored: bool, tmp_path: Path) -> None:
    """EXIF orientation 6; the mask is of the upright picture, or of the pixels as they are stored."""
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.fromarray(np.repeat(OBJECT[..., None] * np.uint8(255), 3, axis=2))
    stored.save(tmp_path / "a.jpg", exif=exif, quality=95)
    mask = grey(0, 255)
    (mask if as_stored else mask.transpose(Image.Transpose.ROTATE_270)).save(tmp_path / "a.png")
    picture, found, _ = open_items(str(tmp_path), tmp_path).read(0)
    assert found is not None
    assert picture.size == found.size == (12, 20)
    assert ((np.asarray(picture)[..., 0] > 128) == (np.asarray(found) > 128)).mean() > 0.98


def test_png_beside_jpg_are_masks_if_they_look_like_it(tmp_path: Path) -> None:
    picture, mask = picture_of("2")
    picture.save(tmp_path / "a.jpg")
    half = mask.resize((mask.width // 2, mask.height // 2))
    for image, masks in ((mask, True), (picture, False), (picture.convert("L"), False), (half, False)):
        image.save(tmp_path / "a.png")
        with pytest.warns(
            UserWarning, match=f"the png files are taken for {'masks' if masks else 'pictures'}"
        ):
            items = open_items(str(tmp_path), tmp_path, masks=False)
        assert (len(items), items.masks is not None) == ((1, True) if masks else (2, False))


def test_a_damaged_picture_is_skipped_in_prediction_and_counted(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        disc(40, 50, 0)[0].save(tmp_path / f"{name}.jpg")
    (tmp_path / "b.jpg").write_bytes(b"broken")
    data = Saliency(root=str(tmp_path), predict=str(tmp_path), size=32, num_workers=0)
    data.setup("predict")
    batches = [data.on_before_batch_transfer(batch, 0) for batch in data.predict_dataloader()]
    assert [b["name"] for b in batches] == [["a"], [], ["c"]]
    assert all("skipped" not in b for b in batches)
    with pytest.warns(
        UserWarning, match=r"1 of 3 items cannot be read and are skipped: .*b\.jpg cannot be read"
    ):
        data.teardown("predict")
    for name in ("a", "c"):
        (tmp_path / f"{name}.jpg").write_bytes(b"broken")
    for batch in data.predict_dataloader():
        data.on_before_batch_transfer(batch, 0)
    with pytest.raises(ValueError, match="none of the 3 items can be read"):
        data.teardown("predict")


def test_pictures_of_several_sizes_make_no_batch_without_resizing(tmp_path: Path) -> None:
    data = Saliency(
        root=str(fake_saliency(tmp_path, "sod")), train="sod", size=None, batch_size=4, num_workers=0
    )
    data.setup("fit")
    with pytest.raises(ValueError, match=r"cannot be one batch: set data\.init_args\.size"):
        next(iter(data.train_dataloader()))


def items(count: int = 3) -> MemoryItems:
    pairs = [disc(48, 64, i) for i in range(count)]
    pictures = np.stack([np.asarray(p) for p, _ in pairs])
    return MemoryItems(
        pictures, np.stack([np.asarray(m) > 0 for _, m in pairs]), [str(i) for i in range(count)]
    )


def test_training_items_are_a_function_of_seed_epoch_and_index() -> None:
    data = ToBatch(items(), size=32, flip=True, rotate=10, crop=0.125)
    a, b = data[(3, 1)], data[(3, 1)]
    assert torch.equal(a["image"], b["image"])
    together = data.__getitems__([(3, 0), (3, 1)])
    assert torch.equal(together["image"][1], a["image"][0])
    assert not torch.equal(data[(4, 1)]["image"], a["image"])
    assert (a["image"].shape, a["mask"].shape) == ((1, 3, 32, 32), (1, 1, 32, 32))
    assert 0 <= a["image"].min() <= a["image"].max() <= 1


def test_half_of_the_pictures_are_mirrored_together_with_their_masks() -> None:
    source = items()
    plain = ToBatch(source).__getitems__([0])
    picture, mask = plain["image"][0], plain["mask"][0] / 255
    mirrored = 0
    for epoch in range(60):
        batch = ToBatch(source, flip=True)[(epoch, 0)]
        flipped = torch.equal(batch["image"][0], picture.flip(-1))
        assert flipped or torch.equal(batch["image"][0], picture)
        assert torch.equal(batch["mask"][0, 0], mask.flip(-1) if flipped else mask)
        mirrored += flipped
    assert 18 <= mirrored <= 42


def test_crops_leave_out_at_most_an_eighth_and_masks_stay_binary_when_rotated() -> None:
    sizes = set()
    for epoch in range(40):
        batch = ToBatch(items(), crop=0.125)[(epoch, 0)]
        sizes.add(tuple(batch["image"].shape[2:]))
    assert all(48 - 6 < h <= 48 and 64 - 8 < w <= 64 for h, w in sizes)
    assert len(sizes) > 5
    rotated = ToBatch(items(), rotate=10)[(0, 0)]
    assert set(rotated["mask"].unique().tolist()) <= {0.0, 1.0}


def test_evaluation_keeps_masks_at_their_own_size(tmp_path: Path) -> None:
    root = fake_saliency(tmp_path, "ecssd")
    data = Saliency(root=str(root), test=["ecssd", "ECSSD"], size=32, eval_batch_size=4, num_workers=0)
    data.setup("test")
    assert data.test_sets == ["ecssd", "ECSSD"]
    batch = next(iter(data.test_dataloader()[0]))
    assert batch["image"].shape == (4, 3, 32, 32)
    assert {tuple(m.shape) for m in batch["mask"]} == {(64, 72), (67, 67), (70, 72), (64, 67)}
    assert [tuple(m.shape) for m in batch["mask"]] == batch["size"]
    original = Saliency(root=str(root), test="ecssd", size=None, eval_batch_size=4, num_workers=0)
    original.setup("test")
    batch = next(iter(original.test_dataloader()[0]))
    assert [tuple(i.shape[1:]) for i in batch["image"]] == batch["size"]


def test_test_sources_are_logged_under_names_of_their_own() -> None:
    names = lambda *test: Saliency(test=list(test)).test_sets  # noqa: E731
    assert names("ecssd", "mine.txt", "some/folder") == ["ecssd", "mine", "folder"]
    assert (names("test.lst"), names("ecssd", "MSRA-B/test.lst")) == (["test"], ["ecssd", "MSRA-B"])
    assert names("MSRA-B/val.lst", "MSRA-B/test.lst", "SOD/test.lst") == ["MSRA-B_val", "MSRA-B_test", "SOD"]
    assert names("a/night", "b/night") == ["a_night", "b_night"]
    with pytest.raises(ValueError, match="names one source twice: ecssd, ecssd"):
        names("ecssd", "ecssd")


@pytest.mark.parametrize("arguments", [{"size": 8}, {"crop": 1.0}, {"rotate": 200}, {"test": []}])
def test_impossible_settings_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="|".join(arguments)):
        Saliency(**arguments)


def test_composites_are_functions_of_seed_split_and_index() -> None:
    picture, mask = composite(0, "train", 5)
    assert (picture.shape, picture.dtype, mask.shape, mask.dtype) == ((96, 96, 3), np.uint8, (96, 96), bool)
    again = composite(0, "train", 5)
    assert np.array_equal(picture, again[0])
    assert np.array_equal(mask, again[1])
    others = [composite(1, "train", 5), composite(0, "val", 5), composite(0, "train", 6)]
    assert not any(np.array_equal(picture, other) for other, _ in others)


def test_objects_take_five_to_fifty_per_cent() -> None:
    shares = [composite(0, "test", i)[1].mean() for i in range(40)]
    assert 0.05 <= min(shares) <= max(shares) <= 0.5
    assert np.std(shares) > 0.03


def test_training_sees_the_left_of_photographs_and_no_test_digit() -> None:
    from datamodules.images import composites

    for photo in photographs():
        left, right = region(photo, "train"), region(photo, "test")
        assert (left.shape[1] + right.shape[1], region(photo, "val").shape) == (photo.shape[1], left.shape)
        assert left.shape[1] == round(0.6 * photo.shape[1])
    train, test = composites._digits()
    assert (len(train), len(test)) == (4000, 1000)


def test_photographs_come_from_installed_packages_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    photographs.cache_clear()
    assert 2 <= len(photographs()) <= 2 + len(BUNDLED)


def test_the_composites_module_deals_out_its_splits() -> None:
    data = SaliencyComposites(
        batch_size=4, train_items=8, val_items=3, test_items=5, predict_items=2, side=48
    )
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert (batch["image"].shape, batch["mask"].shape) == ((4, 3, 48, 48), (4, 1, 48, 48))
    (val,) = data.val_dataloader()
    assert len(val["mask"]) == 3
    data.setup("test")
    assert sum(len(b["mask"]) for b in data.test_dataloader()) == 5
    data.setup("predict")
    assert [n for b in data.predict_dataloader() for n in b["name"]] == ["test_0000", "test_0001"]
