"""Pictures in class folders: ADM's crop to the bit, labels, flips, odd modes, bad files."""

from __future__ import annotations

import io
import os
import pickle
import re
import shutil
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes.pictures import fake_pictures
from PIL import Image

from datamodules import ImageFolder
from datamodules.images.image_folder import FolderImages, ShardBatchSampler, centre_crop, read_rgb

SIZE = 24


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_pictures(tmp_path_factory.mktemp("pictures"), classes=3, per_class=6)


def written_out_crop(image: Image.Image, size: int) -> np.ndarray[Any, Any]:
    """The algorithm step by step, with each size computed by hand."""
    width, height = image.size
    while width >= 2 * size and height >= 2 * size:
        width, height = width // 2, height // 2
        image = image.resize((width, height), Image.Resampling.BOX)
    if width <= height:
        target = (size, round(height * (size / width)))
    else:
        target = (round(width * (size / height)), size)
    image = image.resize(target, Image.Resampling.BICUBIC)
    left, top = (target[0] - size) // 2, (target[1] - size) // 2
    return np.array(image.crop((left, top, left + size, top + size)))


def test_crop_is_adms_on_random_sizes() -> None:
    rng = np.random.default_rng(0)
    halvings = set()
    for _ in range(60):
        height, width = (int(x) for x in np.exp(rng.uniform(np.log(10), np.log(400), 2)))
        size = int(rng.choice([16, 32, 64]))
        halvings.add(max(0, int(np.log2(min(height, width) / size))))
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        crop = centre_crop(image, size)
        assert crop.shape == (size, size, 3)
        assert np.array_equal(crop, written_out_crop(image, size)), (height, width, size)
    assert halvings >= {0, 1, 2}


def test_crop_halves_with_box_before_it_resizes() -> None:
    """Exact numbers: 2 x 2 blocks of 0 and 200 become 100, where BICUBIC alone gives something else."""
    pixels = np.zeros((8, 8, 3), dtype=np.uint8)
    pixels[::2, ::2] = pixels[1::2, 1::2] = 200
    assert np.array_equal(centre_crop(Image.fromarray(pixels), 4), np.full((4, 4, 3), 100))
    assert np.array_equal(centre_crop(Image.fromarray(pixels), 2), np.full((2, 2, 3), 100))
    # just short of twice the size: no halving
    smaller = Image.fromarray(pixels[:7, :7])
    assert np.array_equal(centre_crop(smaller, 4), np.array(smaller.resize((4, 4), Image.Resampling.BICUBIC)))


def test_odd_margins_are_rounded_towards_the_corner() -> None:
    pixels = np.zeros((4, 7, 3), dtype=np.uint8)
    pixels[..., 0] = np.arange(7) * 10
    assert centre_crop(Image.fromarray(pixels), 4)[0, :, 0].tolist() == [10, 20, 30, 40]
    assert centre_crop(Image.fromarray(pixels.transpose(1, 0, 2)), 4)[:, 0, 0].tolist() == [10, 20, 30, 40]


def test_labels_are_the_places_of_the_sorted_folder_names(tmp_path: Path) -> None:
    for name in ("b", "a", "C", "n10", "n9"):
        fake_pictures(tmp_path / "x", classes=1, per_class=1)
        (tmp_path / "x" / "n00000000").rename(tmp_path / "x" / name)
    (tmp_path / "x" / ".cache").mkdir()
    data = FolderImages(tmp_path / "x", SIZE)
    assert (data.classes, data.labels.tolist()) == (["C", "a", "b", "n10", "n9"], [0, 1, 2, 3, 4])
    assert [data.path(i).parent.name for i in range(5)] == data.classes


def test_pictures_are_the_cropped_files_in_minus_one_to_one(root: Path) -> None:
    data = FolderImages(root, SIZE)
    batch = data.__getitems__([7, 2])
    assert (batch["image"].dtype, batch["image"].shape) == (torch.float32, (2, 3, SIZE, SIZE))
    assert (batch["index"].tolist(), batch["label"].tolist()) == ([7, 2], [1, 0])
    assert data.path(7) == root / "n00000001" / "n00000001_1.png"
    for row, i in enumerate((7, 2)):
        crop = written_out_crop(Image.open(data.path(i)).convert("RGB"), SIZE)
        expected = torch.from_numpy(crop).permute(2, 0, 1).float() / 127.5 - 1
        assert torch.equal(batch["image"][row], expected)
    assert float(batch["image"].min()) >= -1
    assert float(batch["image"].max()) <= 1


def test_flips_are_a_function_of_seed_epoch_and_index(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = FolderImages(root, SIZE)
    count = len(data)
    plain = data.__getitems__(list(range(count)))["image"]
    flipped = []
    for epoch in range(8):
        batch = data.__getitems__([(epoch, i) for i in range(count)])["image"]
        is_plain = torch.tensor([torch.equal(a, b) for a, b in zip(batch, plain, strict=True)])
        is_mirror = torch.tensor([torch.equal(a, b.flip(-1)) for a, b in zip(batch, plain, strict=True)])
        assert torch.equal(is_plain, ~is_mirror)
        flipped.append(is_mirror)
    rate = float(torch.stack(flipped).float().mean())
    assert abs(rate - 0.5) < 0.12  # 144 draws: three standard deviations
    torch.manual_seed(5)
    again = data.__getitems__([(3, 4), (0, 4), (3, 0)])["image"]
    for row, (epoch, i) in enumerate([(3, 4), (0, 4), (3, 0)]):
        assert torch.equal(again[row], plain[i].flip(-1) if flipped[epoch][i] else plain[i])
    monkeypatch.setenv("PL_GLOBAL_SEED", "1")
    other = data.__getitems__([(0, i) for i in range(count)])["image"]
    mirrored = torch.tensor([torch.equal(a, b.flip(-1)) for a, b in zip(other, plain, strict=True)])
    assert not torch.equal(mirrored, flipped[0])
    off = FolderImages(root, SIZE, flip=False).__getitems__([(0, i) for i in range(count)])["image"]
    assert torch.equal(off, plain)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_of_the_loader_shows_each_picture_once(root: Path, workers: int) -> None:
    data = ImageFolder(root=str(root), size=SIZE, batch_size=6, val_root=str(root), num_workers=workers)
    data.setup("fit")
    assert (data.num_classes, data.shape) == (3, (3, SIZE, SIZE))
    seen = torch.cat([b["index"] for b in data.train_dataloader()])
    assert sorted(seen.tolist()) == list(range(18))
    assert torch.cat([b["index"] for b in data.val_dataloader()]).tolist() == list(range(18))


@pytest.mark.slow
def test_a_spawned_worker_reads_the_same_pictures(root: Path) -> None:
    data = FolderImages(root, SIZE)
    assert len(pickle.dumps(data)) < 5000
    loader = torch.utils.data.DataLoader(
        data,
        batch_sampler=[[(1, 4), (1, 9)]],
        num_workers=1,
        multiprocessing_context="spawn",
        collate_fn=_same,
    )
    (there,) = list(loader)
    here = data.__getitems__([(1, 4), (1, 9)])
    assert all(torch.equal(there[k], here[k]) for k in here)


def _same(batch: Any) -> Any:
    return batch


def test_one_class_takes_all_pictures(root: Path) -> None:
    data = ImageFolder(root=str(root), size=SIZE, num_classes=1)
    data.setup("predict")
    assert (len(data.predict_set), data.predict_set.labels.tolist(), data.num_classes) == (18, [0] * 18, 1)


def test_prediction_of_labels_needs_no_pictures() -> None:
    data = ImageFolder(root="/nowhere", size=SIZE, num_classes=10, predict_samples=500, num_workers=0)
    data.setup("predict")
    batches = list(data.predict_dataloader())
    assert set(batches[0]) == {"label", "index"}
    assert sorted(set(torch.cat([b["label"] for b in batches]).tolist())) == list(range(10))
    with pytest.raises(ValueError, match="num_classes must say"):
        ImageFolder(predict_samples=5)


def test_shards_are_dealt_whole_and_batches_do_not_depend_on_the_processes() -> None:
    alone = [tuple(b) for b in ShardBatchSampler(103, 4, 12)]
    assert [i for b in alone for i in b] == list(range(103))
    assert alone[:4] == [(0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11), (12, 13, 14, 15)]
    assert alone[-2:] == [(96, 97, 98, 99), (100, 101, 102)]
    for world in (2, 3, 20):
        dealt = [list(map(tuple, ShardBatchSampler(103, 4, 12, (), r, world))) for r in range(world)]
        assert sorted(b for rank in dealt for b in rank) == alone
        for rank, batches in enumerate(dealt):
            assert {b[0] // 12 % world for b in batches} <= {rank}
    left = [tuple(b) for r in range(2) for b in ShardBatchSampler(103, 4, 12, [0, 2, 5], r, 2)]
    assert sorted(left) == [b for b in alone if b[0] // 12 not in (0, 2, 5)]
    assert len(ShardBatchSampler(103, 4, 12, range(9))) == 0


def test_shards_must_hold_whole_batches() -> None:
    with pytest.raises(ValueError, match="multiple of predict_batch_size, got 10 and 4"):
        ImageFolder(shard_size=10, predict_batch_size=4)


@pytest.mark.parametrize(("mode", "colour", "expected"), [
    ("L", 100, (100, 100, 100)), ("1", 1, (255, 255, 255)), ("LA", (100, 0), (100, 100, 100)),
    ("RGBA", (10, 20, 30, 0), (10, 20, 30)), ("CMYK", (0, 255, 255, 0), (255, 0, 0)), ("P", 7, (7, 70, 200)),
])  # fmt: skip
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str, colour: Any, expected: Any) -> None:
    """Alpha is dropped, not blended, as convert("RGB") of ADM's loader does."""
    image = Image.new(mode, (6, 5), colour)
    if mode == "P":
        palette = [0] * 768
        palette[21:24] = expected
        image.putpalette(palette)
    path = tmp_path / ("x.tif" if mode == "CMYK" else "x.png")
    image.save(path, **({"transparency": 7} if mode == "P" else {}))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        pixels = np.array(read_rgb(path))
    assert bool(told) == (mode in ("LA", "RGBA", "P"))  # transparent ones are told of
    assert (pixels.shape, pixels[2, 3].tolist()) == ((5, 6, 3), list(expected))


def test_exif_orientation_is_left_and_told_or_followed(tmp_path: Path) -> None:
    """ADM leaves it; a viewer turns orientation 6 by a quarter to the right."""
    exif = Image.Exif()
    exif[0x0112] = 6
    wide = np.zeros((30, 60, 3), dtype=np.uint8)
    wide[:, :30] = 255
    (tmp_path / "a").mkdir()
    Image.fromarray(wide).save(tmp_path / "a" / "x.jpg", exif=exif, quality=95)
    with pytest.warns(UserWarning, match="read as they are stored.*data.init_args.upright: true"):
        stored = FolderImages(tmp_path, 30).pixels(0)
    assert stored[15, :15].min() > 200 > 50 > stored[15, 15:].max()
    upright = FolderImages(tmp_path, 30, upright=True).pixels(0)
    assert upright[:15, 15].min() > 200 > 50 > upright[15:, 15].max()


def _truncated(path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(
        buffer, "JPEG"
    )
    path.write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])


def _deep(path: Path) -> None:
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(path, "PNG")


def _huge(path: Path, side: int = 100_000) -> None:
    """A PNG of a few bytes that says how large it is."""
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_truncated, "truncated"),
        (lambda p: p.write_bytes(b""), "cannot identify"),
        (lambda p: p.write_text("<html>not found</html>"), "cannot identify"),
        (_deep, "mode I;16 has more than 8 bits"),
        (_huge, "decompression bomb"),
        (lambda p: _huge(p, 13_000), "it is 13,000 x 13,000, more than 67,108,864 pixels"),
        (lambda p: Image.new("L", (5, 501)).save(p, "PNG"), "it is 5 x 501, thinner than 100 to 1"),
    ],
)
def test_a_corrupt_picture_is_one_line_with_its_path(
    root: Path, tmp_path: Path, damage: Any, reason: str
) -> None:
    shutil.copytree(root, tmp_path / "x")
    data = FolderImages(tmp_path / "x", SIZE)
    damage(data.path(8))
    with pytest.raises(ValueError, match="cannot be read as a picture") as error:
        data.__getitems__([7, 8])
    text = str(error.value)
    assert "\n" not in text
    assert text.count(str(data.path(8))) == 1
    assert reason in text


def test_files_of_other_kinds_are_skipped_and_counted(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "x")
    for name in ("notes.txt", "b.npy", ".DS_Store"):
        (tmp_path / "x" / "n00000001" / name).write_text("x")
    (tmp_path / "x" / "readme.md").write_text("beside the classes")
    with pytest.warns(UserWarning, match=r"2 files that are no pictures are skipped, for example n0+1/b"):
        assert len(FolderImages(tmp_path / "x", SIZE)) == 18


def test_folders_in_folders_are_searched_in_order(tmp_path: Path) -> None:
    for name in ("a/2/x.png", "a/10/x.png", "a/z.png", "a/.hidden/x.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    data = FolderImages(tmp_path, 8)
    assert [os.fsdecode(p) for p in data.paths] == ["a/z.png", "a/10/x.png", "a/2/x.png"]


def test_missing_and_wrong_folders_are_one_line(root: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no pictures at .*nowhere: expected root/CLASS/N.*ZOO"):
        ImageFolder(root=str(tmp_path / "nowhere")).setup("fit")
    with pytest.raises(FileNotFoundError, match="no class folders"):
        ImageFolder(root=str(tmp_path)).setup("fit")
    with pytest.raises(ValueError, match=r"3 class folders, but data\.init_args\.num_classes is 1,000"):
        ImageFolder(root=str(root), num_classes=1000).setup("fit")
    shutil.copytree(root, tmp_path / "x")
    (tmp_path / "x" / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"x/empty holds no pictures .* would shift"):
        FolderImages(tmp_path / "x", SIZE)
    with pytest.raises(ValueError, match=re.escape("data.init_args.val_root")):
        ImageFolder(root=str(root)).setup("test")


def test_the_fingerprint_tells_names_and_classes_apart(root: Path, tmp_path: Path) -> None:
    first = FolderImages(root, SIZE).fingerprint()
    shutil.copytree(root, tmp_path / "x")
    assert FolderImages(tmp_path / "x", 8).fingerprint() == first
    (tmp_path / "x" / "n00000001" / "n00000001_1.png").rename(tmp_path / "x" / "n00000001" / "n.png")
    assert FolderImages(tmp_path / "x", SIZE).fingerprint() != first


def test_default_root_follows_zoo_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_DATA", "/big/disk")
    assert ImageFolder().root == Path("/big/disk/imagenet/train")
