"""Latents in both layouts: what a batch is, what it depends on, and what bad files lead to."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes.latents import SCALE, fake_latents

from datamodules.latents import FastDiTLatents, ImageNetLatents, PackedLatents, write_packed
from datamodules.loading.sampling import item_seeds

COUNT, SIZE = 48, 8


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("latents")
    return {
        "packed": fake_latents(folder / "packed", "packed", COUNT, SIZE),
        "one_view": fake_latents(folder / "one_view", "packed", COUNT, SIZE, views=1, moments=False),
        "fast-dit": fake_latents(folder / "fast-dit", "fast-dit", COUNT, SIZE),
    }


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*fast-DiT's extractor.*")
        yield


def opened(roots: dict[str, Path], layout: str) -> PackedLatents | FastDiTLatents:
    return FastDiTLatents(roots[layout]) if layout == "fast-dit" else PackedLatents(roots[layout])


@pytest.mark.parametrize("layout", ["packed", "one_view", "fast-dit"])
def test_a_batch_has_the_promised_keys_types_and_items(roots: dict[str, Path], layout: str) -> None:
    batch = opened(roots, layout).__getitems__([(2, 5), (2, 40), (2, 0)])
    assert (batch["latent"].dtype, batch["latent"].shape) == (torch.float32, (3, 4, SIZE, SIZE))
    assert (batch["label"].dtype, batch["index"].dtype) == (torch.int64, torch.int64)
    assert batch["index"].tolist() == [5, 40, 0]
    assert batch["latent"].is_contiguous()


def test_plain_latents_are_the_stored_ones_times_the_scale(roots: dict[str, Path]) -> None:
    stored = np.load(roots["one_view"] / "latents.npy")
    labels = np.load(roots["one_view"] / "labels.npy")
    batch = PackedLatents(roots["one_view"]).__getitems__([(0, 7), (0, 3)])
    expected = torch.from_numpy(stored[[7, 3], 0].astype(np.float32)) * 0.18215
    assert torch.equal(batch["latent"], expected)
    assert batch["label"].tolist() == labels[[7, 3]].tolist()


def test_latents_have_about_unit_variance_after_scaling(roots: dict[str, Path]) -> None:
    for layout in roots:
        latent = opened(roots, layout).__getitems__(list(range(COUNT)))["latent"]
        assert abs(float(latent.std()) - 1) < 0.05


def test_moments_give_mean_plus_deviation_times_normal_noise(tmp_path: Path) -> None:
    count = 400
    mean = np.full((count, 1, 4, SIZE, SIZE), 2.0)
    std = np.full_like(mean, 0.5)
    labels = np.zeros(count, dtype=np.int64)
    write_packed(tmp_path, [(np.concatenate([mean, std], axis=2), labels)], count, moments=True, scale=3.0)
    latent = PackedLatents(tmp_path).__getitems__([(1, i) for i in range(count)])["latent"]
    noise = (latent / 3.0 - 2.0) / 0.5
    assert abs(float(noise.mean())) < 0.01
    assert abs(float(noise.std()) - 1) < 0.01
    assert abs(float((noise**4).mean()) - 3) < 0.1
    # Noise of different items is unrelated.
    correlations = torch.corrcoef(noise.flatten(1)) - torch.eye(count)
    assert float(correlations.abs().max()) < 0.4
    assert len(torch.unique(noise[:, 0, 0, 0])) == count


def test_each_view_is_used_half_of_the_time_and_never_flipped_here(tmp_path: Path) -> None:
    count = 1000
    latents = np.zeros((count, 2, 4, 2, 2))
    latents[:, 1] = 1
    latents[:, :, :, :, 1] += 10  # the right half
    write_packed(tmp_path, [(latents, np.zeros(count))], count, moments=False, scale=1.0)
    data = PackedLatents(tmp_path)
    picked = []
    for epoch in range(4):
        latent = data.__getitems__([(epoch, i) for i in range(count)])["latent"]
        assert torch.equal(latent[..., 1] - latent[..., 0], torch.full((count, 4, 2), 10.0))
        picked.append(latent[:, 0, 0, 0])
    views = torch.stack(picked)
    assert abs(float(views.mean()) - 0.5) < 0.03
    assert abs(float(torch.corrcoef(views).fill_diagonal_(0).abs().max())) < 0.1


def test_fast_dit_files_are_paired_by_name_and_used_as_they_are(roots: dict[str, Path]) -> None:
    batch = FastDiTLatents(roots["fast-dit"]).__getitems__([(0, 10), (0, 9)])
    for row, name in enumerate(("10.npy", "9.npy")):
        latent = np.load(roots["fast-dit"] / "imagenet256_features" / name)
        label = np.load(roots["fast-dit"] / "imagenet256_labels" / name)
        assert torch.equal(batch["latent"][row], torch.from_numpy(latent[0]))
        assert batch["label"][row] == label[0]


def test_a_gap_in_the_numbers_does_not_shift_the_pairs(roots: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(roots["fast-dit"], tmp_path / "gap")
    for folder in ("imagenet256_features", "imagenet256_labels"):
        (tmp_path / "gap" / folder / "4.npy").unlink()
    whole, gap = FastDiTLatents(roots["fast-dit"]), FastDiTLatents(tmp_path / "gap")
    a, b = whole.__getitems__([20]), gap.__getitems__([19])
    assert torch.equal(a["latent"], b["latent"])
    assert torch.equal(a["label"], b["label"])


def test_draws_are_a_function_of_seed_epoch_and_index_alone(
    roots: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = PackedLatents(roots["packed"])
    first = data.__getitems__([(0, 3), (0, 4), (1, 3)])["latent"]
    torch.manual_seed(99)
    assert torch.equal(data.__getitems__([(1, 3), (0, 3)])["latent"], first[[2, 0]])
    assert torch.equal(PackedLatents(roots["packed"]).__getitems__([3])["latent"][0], first[0])
    assert not torch.equal(first[0], first[2])
    monkeypatch.setenv("PL_GLOBAL_SEED", "1")
    assert not torch.equal(data.__getitems__([(0, 3)])["latent"][0], first[0])


def test_item_seeds_do_not_collide_and_fill_all_bits() -> None:
    index = np.arange(100_000)
    seeds = np.concatenate([item_seeds(s, np.full_like(index, e), index) for s in (0, 1) for e in (0, 1)])
    assert len(np.unique(seeds)) == 400_000
    ones = np.unpackbits(seeds.view(np.uint8)).reshape(-1, 64).mean(axis=0)
    assert np.abs(ones - 0.5).max() < 0.005
    assert item_seeds(0, np.array([1]), np.array([0])) != item_seeds(0, np.array([0]), np.array([1]))


def _read(data: PackedLatents | FastDiTLatents) -> dict[str, torch.Tensor]:
    return data.__getitems__([(1, i) for i in range(16)])


def test_a_spawned_process_reads_the_same_batches(roots: dict[str, Path]) -> None:
    data = [opened(roots, layout) for layout in ("packed", "fast-dit")]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        for here, there in zip(map(_read, data), pool.map(_read, data), strict=True):
            assert all(torch.equal(there[k], here[k]) for k in here)


def test_a_worker_is_sent_the_path_not_the_array(tmp_path: Path) -> None:
    data = PackedLatents(fake_latents(tmp_path, count=256, size=16))
    data.__getitems__([0])
    assert len(pickle.dumps(data)) < 10_000
    assert (tmp_path / "latents.npy").stat().st_size > 1_000_000


def test_both_layouts_read_faster_than_a_gpu_trains(roots: dict[str, Path]) -> None:
    """DiT-L/2 at 50 % of an H200 takes 1,020 samples/s; here without workers, on one core, at S = 8."""
    import time

    for layout in ("packed", "fast-dit"):
        data, keys = opened(roots, layout), [(0, i % COUNT) for i in range(256)]
        data.__getitems__(keys)
        start = time.process_time()
        for _ in range(4):
            data.__getitems__(keys)
        assert 4 * 256 / (time.process_time() - start) > 2_000


def test_written_batches_come_back_in_order(tmp_path: Path) -> None:
    values = np.arange(10 * 4 * 2 * 2).reshape(10, 1, 4, 2, 2).astype(np.float32)
    batches = [(values[:6], np.arange(6)), (values[6:], np.arange(6, 10))]
    write_packed(tmp_path, batches, 10, moments=False, scale=1.0, vae="x")
    assert json.loads((tmp_path / "meta.json").read_text()) == {"scale": 1.0, "moments": False, "vae": "x"}
    batch = PackedLatents(tmp_path).__getitems__(list(range(10)))
    assert torch.equal(batch["latent"], torch.from_numpy(values[:, 0]))
    assert batch["label"].tolist() == list(range(10))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["labels.npy", "latents.npy", "meta.json"]


def test_a_write_that_was_cut_short_is_not_taken_for_data(tmp_path: Path) -> None:
    fake_latents(tmp_path, count=8, size=2)
    values = np.zeros((4, 1, 4, 2, 2))
    with pytest.raises(ValueError, match="4 items came, 8 were announced"):
        write_packed(tmp_path, [(values, np.zeros(4))], 8, moments=False)
    with pytest.raises(FileNotFoundError, match=r"meta\.json"):
        PackedLatents(tmp_path)
    with pytest.raises(ValueError, match="float16 cannot"):
        write_packed(tmp_path, [(values + 1e6, np.zeros(4))], 4, moments=False)
    with pytest.raises(ValueError, match="4 latents, 3 labels after 0 of 4"):
        write_packed(tmp_path, [(values, np.zeros(3))], 4, moments=False)


def assert_one_line(error: pytest.ExceptionInfo[Any], path: Path, layout: str) -> None:
    """Each message names the file, the layout and where the data come from."""
    text = str(error.value)
    assert "\n" not in text
    for part in (str(path), f"layout '{layout}' needs", "image-net.org", "sd-vae-ft-ema"):
        assert part in text


@pytest.mark.parametrize("name", ["meta.json", "latents.npy", "labels.npy"])
def test_missing_packed_files(roots: dict[str, Path], tmp_path: Path, name: str) -> None:
    shutil.copytree(roots["packed"], tmp_path / "x")
    (tmp_path / "x" / name).unlink()
    with pytest.raises(FileNotFoundError) as error:
        PackedLatents(tmp_path / "x")
    assert_one_line(error, tmp_path / "x" / name, "packed")


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def _pickled(path: Path) -> None:
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("latents.npy", _truncate),
        ("latents.npy", lambda p: p.write_bytes(b"")),
        ("latents.npy", lambda p: p.write_text("PK\x03\x04 no zip")),
        ("latents.npy", _pickled),
        ("latents.npy", lambda p: np.save(p, np.zeros((COUNT, 4, SIZE, SIZE), np.float16))),
        ("latents.npy", lambda p: np.save(p, np.zeros((COUNT, 2, 7, SIZE, SIZE), np.float16))),
        ("latents.npy", lambda p: np.save(p, np.zeros((COUNT, 2, 8, SIZE, SIZE), np.uint8))),
        ("labels.npy", _truncate),
        ("labels.npy", lambda p: np.save(p, np.zeros(COUNT - 1, np.int64))),
        ("labels.npy", lambda p: np.save(p, np.zeros(COUNT))),
        ("meta.json", lambda p: p.write_text("{")),
        ("meta.json", lambda p: p.write_text("[]")),
        ("meta.json", lambda p: p.write_text('{"scale": 0.18215}')),
        ("meta.json", lambda p: p.write_text('{"scale": 0, "moments": true}')),
        ("meta.json", lambda p: p.write_text('{"scale": 0.18215, "moments": "false"}')),
    ],
)
def test_damaged_packed_files(roots: dict[str, Path], tmp_path: Path, name: str, damage: Any) -> None:
    shutil.copytree(roots["packed"], tmp_path / "x")
    damage(tmp_path / "x" / name)
    with pytest.raises(ValueError, match="is damaged") as error:
        PackedLatents(tmp_path / "x")
    assert_one_line(error, tmp_path / "x" / name, "packed")


def test_missing_fast_dit_folders_and_files(roots: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as error:
        FastDiTLatents(tmp_path / "nowhere")
    assert_one_line(error, tmp_path / "nowhere" / "imagenet256_features", "fast-dit")
    shutil.copytree(roots["fast-dit"], tmp_path / "x")
    (tmp_path / "x" / "imagenet256_labels" / "7.npy").unlink()
    with pytest.raises(ValueError, match=r"1 files without partner, for example '7\.npy'"):
        FastDiTLatents(tmp_path / "x")
    (tmp_path / "empty" / "imagenet256_features").mkdir(parents=True)
    (tmp_path / "empty" / "imagenet256_labels").mkdir()
    with pytest.raises(FileNotFoundError, match="no latents at"):
        FastDiTLatents(tmp_path / "empty")


@pytest.mark.parametrize("folder", ["imagenet256_features", "imagenet256_labels"])
@pytest.mark.parametrize("damage", [_truncate, _pickled, lambda p: np.save(p, np.zeros((2, 3), np.int64))])
@pytest.mark.parametrize("name", ["0.npy", "5.npy"])
def test_damaged_fast_dit_files(
    roots: dict[str, Path], tmp_path: Path, folder: str, damage: Any, name: str
) -> None:
    shutil.copytree(roots["fast-dit"], tmp_path / "x")
    path = tmp_path / "x" / folder / name
    damage(path)
    with pytest.raises(ValueError, match="is damaged") as error:
        FastDiTLatents(tmp_path / "x").__getitems__([5])
    assert_one_line(error, path, "fast-dit")


def test_latents_that_are_not_finite_name_their_file(tmp_path: Path) -> None:
    """A half of one file is NaN: training on it would say nothing."""
    root = fake_latents(tmp_path, "fast-dit", 4, 2)
    name = root / "imagenet256_features/2.npy"
    np.save(name, np.full((1, 4, 2, 2), np.nan, np.float32))
    data = FastDiTLatents(root)
    assert bool(data.__getitems__([(1, 0), (1, 3)])["latent"].isfinite().all())
    with pytest.raises(ValueError, match=rf"{name}: latents hold NaN or infinite values"):
        data.__getitems__([(1, 0), (1, 2)])


def test_a_file_removed_while_training_is_named(roots: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(roots["fast-dit"], tmp_path / "x")
    data = FastDiTLatents(tmp_path / "x")
    (tmp_path / "x" / "imagenet256_features" / "5.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"5\.npy"):
        data.__getitems__([5])


def test_an_unexpected_number_of_fast_dit_files_is_said(roots: dict[str, Path]) -> None:
    with pytest.warns(UserWarning, match=r"holds 48 latents, ImageNet's training set 1,281,167: fast-DiT's"):
        FastDiTLatents(roots["fast-dit"])


@pytest.mark.parametrize("layout", ["packed", "fast-dit"])
def test_labels_beyond_the_classes_name_both_numbers(roots: dict[str, Path], layout: str) -> None:
    data = ImageNetLatents(root=str(roots[layout]), layout=layout, num_classes=40)  # type: ignore[arg-type]

    def read_all() -> None:
        data.setup("fit")
        data.train_set.__getitems__(list(range(COUNT)))

    with pytest.raises(ValueError, match=r"4[0-7], but data\.init_args\.num_classes is 40"):
        read_all()


@pytest.mark.parametrize("layout", ["packed", "fast-dit"])
def test_an_epoch_of_the_loader_shows_each_item_once_in_a_new_order(
    roots: dict[str, Path], layout: str
) -> None:
    data = ImageNetLatents(root=str(roots[layout]), layout=layout, batch_size=16, num_workers=0)  # type: ignore[arg-type]
    data.setup("fit")
    assert data.shape == (4, SIZE, SIZE)
    loader = data.train_dataloader()
    epochs = [torch.cat([b["index"] for b in loader]) for _ in range(2)]
    assert [sorted(e.tolist()) for e in epochs] == [list(range(COUNT))] * 2
    assert not torch.equal(epochs[0], epochs[1])


def test_prediction_needs_no_latents_and_draws_classes_evenly() -> None:
    data = ImageNetLatents(root="/nowhere", predict_samples=20_000, num_workers=0)
    data.setup("predict")
    labels = torch.cat([b["label"] for b in data.predict_dataloader()])
    counts = torch.bincount(labels, minlength=1000).float()
    assert (len(labels), len(counts)) == (20_000, 1000)
    assert abs(float(counts.std()) - 20**0.5) < 0.5


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_evaluation_without_held_out_latents_says_what_to_set(roots: dict[str, Path], stage: str) -> None:
    with pytest.raises(ValueError, match=r"data\.init_args\.val_root"):
        ImageNetLatents(root=str(roots["packed"])).setup(stage)


def test_default_root_follows_zoo_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_DATA", "/big/disk")
    assert (ImageNetLatents().root, SCALE) == (Path("/big/disk/imagenet256"), 0.18215)
