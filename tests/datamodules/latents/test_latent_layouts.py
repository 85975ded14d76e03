"""The layouts of REPA and LightningDiT, and the way from each layout to each other."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes.latents import SCALE, fake_latents
from safetensors.numpy import load_file, save_file

import cli
from datamodules.latents import (
    LAYOUTS,
    ImageNetLatents,
    LightningDiTLatents,
    PackedLatents,
    RepaLatents,
    convert_latents,
    detect_layout,
    open_latents,
)
from datamodules.latents.lightningdit import map_safetensors, write_shards

COUNT, SIZE = 48, 8
KEYS = [(epoch, i) for epoch in (0, 3) for i in (5, 40, 0, 47, 23, 24)]


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("layouts")
    return {layout: fake_latents(folder / layout, layout, COUNT, SIZE) for layout in LAYOUTS}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*fast-DiT's extractor.*")
        yield


def opened(root: Path) -> Any:
    return open_latents(root, detect_layout(root))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_recognised_and_gives_the_same_kind_of_batch(
    roots: dict[str, Path], layout: str
) -> None:
    assert detect_layout(roots[layout]) == layout
    data = opened(roots[layout])
    batch = data.__getitems__(KEYS)
    assert (batch["latent"].dtype, batch["latent"].shape) == (torch.float32, (len(KEYS), 4, SIZE, SIZE))
    assert (batch["label"].dtype, batch["index"].dtype) == (torch.int64, torch.int64)
    assert (batch["index"].tolist(), len(data)) == ([i for _, i in KEYS], COUNT)
    assert abs(float(data.__getitems__(list(range(COUNT)))["latent"].std()) - 1) < 0.05
    assert torch.equal(data[KEYS[1]]["latent"], batch["latent"][1])


def test_repa_is_mean_plus_deviation_times_noise_scaled_once(roots: dict[str, Path]) -> None:
    root = roots["repa"]
    data = RepaLatents(root)
    listed = dict(json.loads((root / "vae-sd" / "dataset.json").read_text())["labels"])
    names = sorted(listed)
    assert names != list(listed)  # the file is not in the order of the names
    latents = torch.stack([data.__getitems__([(e, 7)])["latent"][0] for e in range(400)])
    moments = torch.from_numpy(np.load(root / "vae-sd" / names[7]))
    noise = (latents / SCALE - moments[:4]) / moments[4:]
    assert abs(float(noise.mean())) < 0.01
    assert abs(float(noise.std()) - 1) < 0.01
    assert data.__getitems__([7, 30])["label"].tolist() == [listed[names[7]], listed[names[30]]]


def test_lightningdit_is_normalised_with_its_statistics(roots: dict[str, Path]) -> None:
    root = roots["lightningdit"]
    shards = [load_file(p) for p in sorted(root.glob("*.safetensors"))]
    assert [len(s["labels"]) for s in shards] == [24, 16, 8]
    stored = {k: np.concatenate([s[k] for s in shards]) for k in ("latents", "latents_flip", "labels")}
    statistics = torch.load(root / "latents_stats.pt", weights_only=True)
    data = LightningDiTLatents(root, multiplier=0.5)
    flipped = []
    for epoch in range(20):
        batch = data.__getitems__([(epoch, i) for i in range(COUNT)])
        assert batch["label"].tolist() == stored["labels"].tolist()
        plain, mirror = (
            (torch.from_numpy(stored[k]) - statistics["mean"]) / statistics["std"] * 0.5
            for k in ("latents", "latents_flip")
        )
        used = torch.tensor([torch.equal(a, b) for a, b in zip(batch["latent"], mirror, strict=True)])
        assert torch.equal(batch["latent"][~used], plain[~used])
        flipped.append(used)
    assert abs(float(torch.stack(flipped).float().mean()) - 0.5) < 0.05  # 960 draws
    raw = LightningDiTLatents(root, norm=False, multiplier=SCALE).__getitems__([3])["latent"][0]
    assert any(torch.equal(raw, torch.from_numpy(stored[k][3]) * SCALE) for k in ("latents", "latents_flip"))


def test_lightningdit_without_norm_needs_no_statistics(roots: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(roots["lightningdit"], tmp_path / "x")
    (tmp_path / "x" / "latents_stats.pt").unlink()
    data = ImageNetLatents(
        root=str(tmp_path / "x"), layout="lightningdit", latent_norm=False, latent_multiplier=SCALE
    )
    data.setup("fit")
    assert abs(float(data.train_set.__getitems__(list(range(COUNT)))["latent"].std()) - 1) < 0.05
    with pytest.raises(FileNotFoundError, match=r"latents_stats\.pt: layout 'lightningdit' needs"):
        ImageNetLatents(root=str(tmp_path / "x"), layout="lightningdit").setup("fit")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_lightningdit_shards_of_half_precision(roots: dict[str, Path], tmp_path: Path, dtype: Any) -> None:
    from safetensors.torch import load_file as load_torch
    from safetensors.torch import save_file as save_torch

    shutil.copytree(roots["lightningdit"], tmp_path / "x")
    for path in (tmp_path / "x").glob("*.safetensors"):
        tensors = {k: v if k == "labels" else v.to(dtype) for k, v in load_torch(path).items()}
        save_torch(tensors, path)
    half = LightningDiTLatents(tmp_path / "x", norm=False).__getitems__(KEYS)["latent"]
    whole = LightningDiTLatents(roots["lightningdit"], norm=False).__getitems__(KEYS)["latent"]
    assert torch.equal(half, whole.to(dtype).float())


def _read(data: Any) -> dict[str, torch.Tensor]:
    batch: dict[str, torch.Tensor] = data.__getitems__(KEYS)
    return batch


@pytest.mark.slow
def test_a_spawned_process_is_sent_no_arrays_and_reads_the_same(roots: dict[str, Path]) -> None:
    data = [opened(roots[layout]) for layout in ("repa", "lightningdit")]
    here = [_read(d) for d in data]
    assert max(len(pickle.dumps(d)) for d in data) < 20_000
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        for a, b in zip(here, pool.map(_read, data), strict=True):
            assert all(torch.equal(a[k], b[k]) for k in a)


def converted(source: Path, out: Path, to: str, *given: str) -> list[str]:
    lines: list[str] = []
    convert_latents(source, out, to, given, say=lines.append)
    return lines


@pytest.mark.parametrize("layout", LAYOUTS)
def test_packed_gives_the_latents_of_every_layout(
    roots: dict[str, Path], layout: str, tmp_path: Path
) -> None:
    """View, noise and scale included: to the bit in float32, to its rounding in float16."""
    source = opened(roots[layout]).__getitems__(KEYS)
    converted(roots[layout], tmp_path / "exact", "packed", "dtype=float32")
    exact = PackedLatents(tmp_path / "exact").__getitems__(KEYS)
    for key in source:
        assert torch.equal(exact[key], source[key]), key
    converted(roots[layout], tmp_path / "half", "packed")
    data = PackedLatents(tmp_path / "half")
    assert data.latents.dtype == np.float16
    assert torch.allclose(data.__getitems__(KEYS)["latent"], source["latent"], rtol=2e-3, atol=2e-3)
    assert sorted(p.name for p in (tmp_path / "half").iterdir()) == ["labels.npy", "latents.npy", "meta.json"]
    assert data.meta["converted_from"] == layout


@pytest.mark.parametrize("to", ["fast-dit", "repa", "lightningdit"])
def test_packed_goes_to_every_layout_and_back(roots: dict[str, Path], to: str, tmp_path: Path) -> None:
    packed = PackedLatents(roots["packed"])
    converted(roots["packed"], tmp_path / to, to)
    assert detect_layout(tmp_path / to) == to
    data = opened(tmp_path / to)
    every = [(0, i) for i in range(COUNT)]
    batch = data.__getitems__(every)
    assert torch.equal(batch["label"], packed.labels)
    stored = torch.from_numpy(np.array(packed.latents)).float()  # (N, 2, 8, S, S)
    if to == "fast-dit":
        assert torch.equal(batch["latent"], packed.__getitems__(every)["latent"])
    elif to == "repa":
        moments = torch.from_numpy(data.stored(np.arange(COUNT))[0])
        assert torch.equal(moments[:, 0], stored[:, 0])
    else:
        raw = LightningDiTLatents(tmp_path / to, norm=False)
        for view in range(2):
            values = raw._rows(np.arange(COUNT), np.full(COUNT, view))
            noise = (values - stored[:, view, :4]) / stored[:, view, 4:]
            assert abs(float(noise.mean())) < 0.03
            assert abs(float(noise.std()) - 1) < 0.02
        plain = raw._rows(np.arange(COUNT), np.zeros(COUNT, dtype=int))
        assert torch.allclose(data.mean, plain.mean(dim=(0, 2, 3), keepdim=True), atol=1e-4)
        assert torch.allclose(data.std, plain.std(dim=(0, 2, 3), keepdim=True), rtol=1e-4)
    converted(tmp_path / to, tmp_path / "back", "packed", "dtype=float32")
    back = PackedLatents(tmp_path / "back").__getitems__(KEYS)
    assert torch.equal(back["latent"], data.__getitems__(KEYS)["latent"])


def test_statistics_travel_with_normalised_latents(roots: dict[str, Path], tmp_path: Path) -> None:
    """Into packed and back out of it; where a layout has no place for them it is refused."""
    source = LightningDiTLatents(roots["lightningdit"], multiplier=0.5)
    converted(roots["lightningdit"], tmp_path / "x", "packed", "dtype=float32", "latent_multiplier=0.5")
    packed = PackedLatents(tmp_path / "x")
    assert packed.statistics == source.statistics
    converted(tmp_path / "x", tmp_path / "back", "lightningdit")
    every = np.arange(COUNT), np.zeros(COUNT, dtype=int)
    raw, again = (
        LightningDiTLatents(p, norm=False)._rows(*every) for p in (roots["lightningdit"], tmp_path / "back")
    )
    torch.testing.assert_close(again, raw, rtol=1e-4, atol=1e-4)
    for to in ("fast-dit", "repa"):
        with pytest.raises(ValueError, match="cannot hold the statistics"):
            converted(roots["lightningdit"], tmp_path / to, to)


def test_draws_become_moments_without_deviation(roots: dict[str, Path], tmp_path: Path) -> None:
    lines = converted(roots["fast-dit"], tmp_path / "x", "repa")
    assert any("standard deviations are 0" in line for line in lines)
    a, b = (d.__getitems__(KEYS)["latent"] for d in (opened(roots["fast-dit"]), RepaLatents(tmp_path / "x")))
    assert torch.allclose(a, b, rtol=1e-6)


def test_shards_are_cut_at_their_length(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(2, 25, 3, 2, 2)).astype(np.float32)
    write_shards(tmp_path, 25, lambda i: (values[0, i], values[1, i], i), rows=10, chunk=4)
    paths = sorted(tmp_path.glob("*.safetensors"))
    assert [len(load_file(p)["labels"]) for p in paths] == [10, 10, 5]
    data = LightningDiTLatents(tmp_path, norm=False)
    assert data.labels.tolist() == list(range(25))
    rows = data._rows(np.arange(25), np.ones(25, dtype=int))
    assert np.array_equal(rows.numpy(), values[1])


def test_the_command_converts_and_says_where(
    roots: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["convert", str(roots["repa"]), "--method", "latents", "--out", str(out)]
    assert cli.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"zoo: {roots['repa']}: layout repa, 48 items, 1 x moments (4, 8, 8)"
    assert lines[-1].endswith(f"--data.init_args.root {out} --data.init_args.layout packed")
    assert len(PackedLatents(out)) == COUNT
    assert cli.main(arguments) == 1
    assert "--force" in capsys.readouterr().err
    assert cli.main([*arguments, "--force"]) == 0
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    for part in out.iterdir():
        part.rename(tmp_path / part.name)
    (out / "precious.txt").touch()
    for folder, text in (
        (out, "holds no latents and is not replaced"),
        (roots["repa"].parent, "or holds it"),
    ):
        with pytest.raises(ValueError, match=text):
            convert_latents(roots["repa"], folder, "packed", force=True)
    assert (out / "precious.txt").is_file()


@pytest.mark.parametrize(
    ("extra", "text"),
    [
        (["--to", "webdataset"], "latents can be written as packed, fast-dit, repa, lightningdit"),
        (["--to", "lightningdit"], "needs the mirror images' latents"),
        (["--set", "dtyp=float32"], "did you mean dtype?"),
        (["--set", "dtype=int8"], "dtype takes float16 or float32, got 'int8'"),
        (["--set", "layout=wds"], "layout takes one of packed, fast-dit"),
        (["--set", "num_classes=40"], "labels run from 0 to 47, but data.init_args.num_classes is 40"),
    ],
)
def test_impossible_conversions_are_one_line_and_leave_nothing(
    roots: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], extra: list[str], text: str
) -> None:
    arguments = ["convert", str(roots["repa"]), "--method", "latents", "--out", str(tmp_path / "out"), *extra]
    assert cli.main(arguments) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert text in error
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_no_layout_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no latents at .*; the layouts are packed: latents\.npy"):
        detect_layout(tmp_path)
    with pytest.raises(FileNotFoundError, match="is no folder of latents"):
        convert_latents(tmp_path / "nowhere", tmp_path / "x", "packed")


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _pickled(path: Path) -> None:
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)


def _without(key: str) -> Callable[[Path], None]:
    return lambda p: save_file({k: v for k, v in load_file(p).items() if k != key}, p)


def _replaced(key: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    return lambda p: save_file({k: change(v) if k == key else v for k, v in load_file(p).items()}, p)


REPA, STATISTICS = "vae-sd/00000/img-mean-std-00000005.npy", "latents_stats.pt"
SHARD = "latents_rank00_shard001.safetensors"
DAMAGES: list[tuple[str, str, Any, str]] = [
    ("repa", REPA, _cut, r"expected 2,176 bytes, found 2,076"),
    ("repa", REPA, _pickled, "pickled objects, which are never loaded"),
    ("repa", REPA, lambda p: np.save(p, np.zeros((4, 8, 8), np.float32)), r"others are float32 \(8, 8, 8\)"),
    ("repa", "vae-sd/dataset.json", lambda p: p.write_text("{"), "JSONDecodeError"),
    ("repa", "vae-sd/dataset.json", lambda p: p.write_text('{"labels": null}'), "TypeError"),
    ("repa", "vae-sd/dataset.json", lambda p: p.write_text('{"labels": []}'), "no names of .npy files"),
    ("repa", "vae-sd/dataset.json", lambda p: p.write_text('{"labels": [["../a.npy", 1]]}'), "lies outside"),
    ("repa", "vae-sd/dataset.json", lambda p: p.write_text('{"labels": [["a.npy", [1, 0]]]}'),
     "whole-number"),
    ("lightningdit", SHARD, _cut, r"expected 33,\d+ bytes, found 33,\d+|expected 32,\d+ bytes, found 32,\d+"),
    ("lightningdit", SHARD, lambda p: p.write_bytes(b"1234"), "too short for its header"),
    ("lightningdit", SHARD, lambda p: p.write_bytes(b"\xff" * 99), "too short for its header"),
    ("lightningdit", SHARD, _without("latents_flip"), "no tensor latents_flip"),
    ("lightningdit", SHARD, _replaced("labels", lambda v: v[:-1]), r"labels \(15,\) for 16 latents"),
    ("lightningdit", SHARD, _replaced("labels", lambda v: v.astype(np.float32)), "labels of type float32"),
    ("lightningdit", SHARD, _replaced("latents", lambda v: v[:-1].copy()), r"latents_flip \(16, 4, 8, 8\)"),
    ("lightningdit", SHARD, _replaced("latents", lambda v: v.astype(np.int64)), "latents of type int64"),
    ("lightningdit", STATISTICS, lambda p: p.write_bytes(b"no zip"), "no file of plain tensors"),
    ("lightningdit", STATISTICS, lambda p: torch.save({"mean": torch.zeros(1)}, p), "KeyError: 'std'"),
    ("lightningdit", STATISTICS,
     lambda p: torch.save({"mean": torch.zeros(1, 4, 1, 1), "std": torch.zeros(1, 4, 1, 1)}, p),
     "not finite and positive"),
    ("lightningdit", STATISTICS,
     lambda p: torch.save({k: torch.ones(1, 32, 1, 1) for k in ("mean", "std")}, p),
     r"mean \(1, 32, 1, 1\) for 4 channels"),
]  # fmt: skip


@pytest.mark.parametrize(("layout", "name", "damage", "text"), DAMAGES)
def test_damaged_files_are_one_line_with_path_and_layout(
    roots: dict[str, Path], tmp_path: Path, layout: str, name: str, damage: Any, text: str
) -> None:
    shutil.copytree(roots[layout], tmp_path / "x")
    damage(tmp_path / "x" / name)
    with pytest.raises(ValueError, match=text) as error:
        opened(tmp_path / "x").__getitems__(list(range(COUNT)))
    line = str(error.value)
    assert "\n" not in line
    assert line.startswith(f"{tmp_path / 'x' / name} is damaged (")
    assert f"layout '{layout}' needs" in line


class Unwelcome:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return print, ("code of a pickle has run",)


def test_statistics_never_run_code(
    roots: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(roots["lightningdit"], tmp_path / "x")
    torch.save({"mean": Unwelcome(), "std": 1}, tmp_path / "x" / STATISTICS)
    with pytest.raises(ValueError, match="no file of plain tensors"):
        LightningDiTLatents(tmp_path / "x")
    assert "has run" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("layout", "name"), [("repa", "vae-sd/dataset.json"), ("repa", REPA), ("lightningdit", STATISTICS)]
)
def test_missing_files_are_one_line(roots: dict[str, Path], tmp_path: Path, layout: Any, name: str) -> None:
    shutil.copytree(roots[layout], tmp_path / "x")
    (tmp_path / "x" / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"no latents at .*: layout '{layout}' needs") as error:
        open_latents(tmp_path / "x", layout).__getitems__(list(range(COUNT)))
    assert str(tmp_path / "x" / name) in str(error.value)


def test_a_truncated_packed_file_tells_both_sizes(roots: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(roots["packed"], tmp_path / "x")
    whole = (tmp_path / "x" / "latents.npy").stat().st_size
    _cut(tmp_path / "x" / "latents.npy")
    with pytest.raises(ValueError, match=f"expected {whole:,} bytes, found {whole - 100:,}"):
        PackedLatents(tmp_path / "x")


def test_maps_are_views_of_the_file(roots: dict[str, Path]) -> None:
    maps = map_safetensors(roots["lightningdit"] / SHARD, ("latents", "labels"))
    for name, value in load_file(roots["lightningdit"] / SHARD).items():
        if name in maps:
            assert np.array_equal(maps[name], value)
            assert maps[name].base is not None
