"""ADM's protocol through `zoo test`: against its evaluator written out in NumPy; one process and two."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from lightning.pytorch import seed_everything
from processes import CLI, environment

import cli
import datamodules
from datamodules.images.samples import NpzArray
from zoo.metrics.inception import InceptionV3

Arrays = dict[str, np.ndarray[Any, Any]]


def features(count: int, seed: int, shift: float = 0.0) -> Arrays:
    """Made-up features in the layout of Inception's, a few wide."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(9).normal(size=(12, 12))
    pool_3 = rng.normal(size=(count, 12)) @ mixing + shift
    spatial = np.abs(rng.normal(size=(count, 7)) + shift)
    return {
        "pool_3": pool_3.astype(np.float32),
        "spatial": spatial.astype(np.float32),
        "logits": rng.normal(size=(count, 10)).astype(np.float32) * 3,
    }


def statistics(f: Arrays) -> Arrays:
    """What a reference file of ADM holds."""
    out = {}
    for name, suffix in (("pool_3", ""), ("spatial", "_s")):
        x = f[name].astype(np.float64)
        out |= {f"mu{suffix}": x.mean(axis=0), f"sigma{suffix}": np.cov(x, rowvar=False)}
    return out


def adm_evaluator(sample: Arrays, reference: Arrays, stats: Arrays, part: int = 5000) -> dict[str, float]:
    """The formulas of guided-diffusion's evaluator.py, in float64."""

    def frechet(name: str, suffix: str) -> float:
        mine = statistics(sample)
        diff = mine[f"mu{suffix}"] - stats[f"mu{suffix}"]
        s1, s2 = mine[f"sigma{suffix}"], stats[f"sigma{suffix}"]
        root = scipy.linalg.sqrtm(s1 @ s2).real
        return float(diff @ diff + np.trace(s1) + np.trace(s2) - 2 * np.trace(root))

    def distances(a: Any, b: Any) -> Any:
        a, b = a.astype(np.float64), b.astype(np.float64)
        return ((a[:, None] - b[None]) ** 2).sum(-1)  # squared, as there

    def radii(x: Any) -> Any:
        return np.sort(distances(x, x), axis=1)[:, 3]

    logits = sample["logits"].astype(np.float64)
    preds = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    scores = []
    for i in range(0, len(preds), part):
        p = preds[i : i + part]
        kl = p * (np.log(p) - np.log(np.expand_dims(np.mean(p, 0), 0)))
        scores.append(np.exp(np.mean(np.sum(kl, 1))))
    ref, gen = reference["pool_3"], sample["pool_3"]
    cross = distances(ref, gen)
    return {
        "test/fid": frechet("pool_3", ""),
        "test/sfid": frechet("spatial", "_s"),
        "test/inception_score": float(np.mean(scores)),
        "test/precision": float((cross <= radii(ref)[:, None]).any(axis=0).mean()),
        "test/recall": float((cross <= radii(gen)[None]).any(axis=1).mean()),
        "test/samples": len(gen),
    }


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Features of 301 samples, of 203 reference images and the statistics of 2,000."""
    folder = tmp_path_factory.mktemp("features")
    sample, reference, everything = features(301, 1, 0.7), features(203, 2), features(2000, 3)
    np.savez(folder / "samples.npz", **sample)
    del reference["logits"]
    np.savez(folder / "reference.npz", **reference, **statistics(everything))
    np.savez_compressed(folder / "compressed.npz", **sample)
    np.savez(folder / "statistics.npz", **statistics(everything))
    np.savez(folder / "no_statistics.npz", **reference)
    return {p.stem: p for p in folder.iterdir()}


def flags(root: Path, samples: Path | str, reference: Path | str, *more: str) -> list[str]:
    return [
        "test", "--config", "adm_evaluation", "--trainer.accelerator=cpu", "--data.init_args.batch_size=64",
        f"--trainer.default_root_dir={root}", "--trainer.enable_progress_bar=false",
        f"--data.init_args.samples={samples}", f"--data.init_args.reference={reference}", *more,
    ]  # fmt: skip


def evaluate(root: Path, samples: Path, reference: Path, *more: str) -> dict[str, float]:
    """The numbers in the summary of a `zoo test` of feature files."""
    extra = more or ("--model.init_args.inception=null",)
    assert cli.main(flags(root, samples, reference, *extra)) == 0
    return read_summary(root)


def read_summary(root: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads(
        (root / "adm_evaluation" / "version_0" / "summary_test.json").read_text()
    )["final"]
    return found


def expected(files: dict[str, Path], part: int = 5000) -> dict[str, float]:
    with np.load(files["samples"]) as s, np.load(files["reference"]) as r:
        sample, reference = dict(s), dict(r)
    return adm_evaluator(sample, reference, reference, part)


@pytest.mark.parametrize("part", [5000, 100])
def test_numbers_are_those_of_adms_evaluator(files: dict[str, Path], tmp_path: Path, part: int) -> None:
    none = "--model.init_args.inception=null"
    found = evaluate(tmp_path, files["samples"], files["reference"], none, f"--model.init_args.part={part}")
    assert found == pytest.approx(expected(files, part), rel=1e-6)
    assert 0.05 < found["test/precision"] < 0.98
    assert found["test/precision"] != found["test/recall"]


def test_a_compressed_file_and_workers_give_the_same_numbers(files: dict[str, Path], tmp_path: Path) -> None:
    plain = evaluate(tmp_path / "a", files["samples"], files["reference"])
    none, workers = "--model.init_args.inception=null", "--data.init_args.num_workers=2"
    packed = evaluate(tmp_path / "b", files["compressed"], files["reference"], none, workers)
    assert packed == plain


def test_a_reference_of_statistics_alone_has_no_precision_and_recall(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = evaluate(tmp_path, files["samples"], files["statistics"])
    wanted = {k: v for k, v in expected(files).items() if k not in ("test/precision", "test/recall")}
    assert found == pytest.approx(wanted, rel=1e-6)
    out = capsys.readouterr().out
    assert "no precision and recall: the reference holds statistics alone" in out
    assert "FID of 301 samples is biased up" in out


def test_a_reference_without_statistics_gives_those_of_its_images(
    files: dict[str, Path], tmp_path: Path
) -> None:
    found = evaluate(tmp_path, files["samples"], files["no_statistics"])
    with np.load(files["samples"]) as s, np.load(files["no_statistics"]) as r:
        wanted = adm_evaluator(dict(s), dict(r), statistics(dict(r)))
    assert found == pytest.approx(wanted, rel=1e-6)


def test_a_set_has_no_distance_to_itself(files: dict[str, Path], tmp_path: Path) -> None:
    found = evaluate(tmp_path, files["samples"], files["samples"])
    assert (found["test/fid"], found["test/sfid"]) == (pytest.approx(0, abs=1e-9), pytest.approx(0, abs=1e-9))
    assert found["test/precision"] == found["test/recall"] == 1


def two_processes(root: Path, *arguments: str) -> dict[str, float]:
    command = [sys.executable, str(CLI), *arguments, "--config=trainer/ddp", "--trainer.devices=2"]
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return read_summary(root)


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one_to_the_bit(files: dict[str, Path], tmp_path: Path) -> None:
    """301 rows in batches of 64: the last one has 23 rows for one process and 22 for the other."""
    part = "--model.init_args.part=100"
    none = "--model.init_args.inception=null"
    one = evaluate(tmp_path / "one", files["samples"], files["reference"], none, part)
    root = tmp_path / "two"
    two = two_processes(root, *flags(root, files["samples"], files["reference"], none, part))
    assert two == one


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """11 and 9 random images of different sizes, and random Inception weights."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    np.savez(folder / "samples.npz", arr_0=rng.integers(0, 256, (11, 16, 16, 3), dtype=np.uint8))
    np.savez(folder / "reference.npz", arr_0=rng.integers(0, 256, (9, 24, 24, 3), dtype=np.uint8))
    seed_everything(0, verbose=False)
    torch.save(InceptionV3().state_dict(), folder / "inception.pth")
    return {p.stem: p for p in folder.iterdir()}


def image_flags(images: dict[str, Path]) -> list[str]:
    return [f"--model.init_args.inception={images['inception']}", "--data.init_args.batch_size=4"]


@pytest.mark.slow
def test_images_pass_through_inception(images: dict[str, Path], tmp_path: Path) -> None:
    """Two matrix roots of 2,048 x 2,048 take their time. Two processes see other batches: equal to 1e-4."""
    network = InceptionV3()
    network.load_state_dict(torch.load(images["inception"], weights_only=True))
    sides = []
    for name in ("samples", "reference"):
        with np.load(images[name]) as file:
            found = network(torch.from_numpy(file["arr_0"]).permute(0, 3, 1, 2))
        sides.append({k: getattr(found, k).numpy() for k in ("pool_3", "spatial", "logits")})
    np.savez(tmp_path / "sample_features.npz", **sides[0])
    np.savez(tmp_path / "reference_features.npz", **sides[1])
    one = evaluate(tmp_path / "one", images["samples"], images["reference"], *image_flags(images))
    by_features = evaluate(
        tmp_path / "features", tmp_path / "sample_features.npz", tmp_path / "reference_features.npz"
    )
    assert one == pytest.approx(by_features, rel=1e-4, abs=1e-6)
    root = tmp_path / "two"
    arguments = flags(root, images["samples"], images["reference"], *image_flags(images))
    assert two_processes(root, *arguments) == pytest.approx(one, rel=1e-4, abs=1e-6)


def test_a_stored_array_is_mapped_and_a_compressed_one_streamed(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (40, 5, 4, 3), dtype=np.uint8)
    np.savez(tmp_path / "stored.npz", arr_0=values, other=np.arange(3))
    np.savez_compressed(tmp_path / "packed.npz", arr_0=values)
    for name in ("stored", "packed"):
        array = NpzArray(tmp_path / f"{name}.npz", "arr_0")
        assert (array.rows([3, 9, 39]) == values[[3, 9, 39]]).all()
        assert (array.rows([0, 39]) == values[[0, 39]]).all()  # back to the start
    stored = NpzArray(tmp_path / "stored.npz", "arr_0")
    stored.rows([1])
    assert isinstance(stored._open, np.memmap)


def test_images_are_read_as_they_are(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (10, 6, 6, 3), dtype=np.uint8)
    (tmp_path / "predictions").mkdir()
    np.savez(tmp_path / "predictions" / "samples.npz", arr_0=values, arr_1=np.arange(10))
    np.savez(tmp_path / "reference.npz", mu=np.zeros(3))
    data = datamodules.SampleFiles(str(tmp_path), str(tmp_path / "reference.npz"), batch_size=4)
    data.setup("test")
    (loader,) = data.test_dataloader()
    batches = list(loader)
    assert [len(b["image"]) for b in batches] == [4, 4, 2]
    whole = torch.cat([b["image"] for b in batches])
    assert whole.dtype == torch.uint8
    assert (whole.permute(0, 2, 3, 1).numpy() == values).all()
    assert torch.cat([b["index"] for b in batches]).tolist() == list(range(10))


def bad_files(kind: str, folder: Path, files: dict[str, Path]) -> tuple[Path, Path, str]:
    """Samples, reference and Inception of a mistake."""
    samples, reference, inception = files["samples"], files["reference"], "null"
    bad = folder / "bad.npz"
    pixels = np.zeros((4, 8, 8, 3), dtype=np.uint8)
    made: dict[str, Arrays] = {
        "no arr_0": {"images": pixels},
        "float images": {"arr_0": pixels.astype(np.float32)},
        "channels first": {"arr_0": pixels.transpose(0, 3, 1, 2)},
        "no inception": {"arr_0": pixels},
        "no weights file": {"arr_0": pixels},
        "feature rows": {"pool_3": np.zeros((4, 5)), "spatial": np.zeros((3, 5))},
        "truncated": {"arr_0": np.zeros((50, 8, 8, 3), dtype=np.uint8)},
        "no mu": {k: v for k, v in statistics(features(30, 0)).items() if k != "mu"},
        "other width": {k: v[tuple([slice(5)] * v.ndim)] for k, v in statistics(features(9, 0)).items()},
        "not square": {**statistics(features(30, 0)), "sigma": np.zeros((12, 11))},
    }  # fmt: skip
    if kind in made:
        np.savez(bad, **made[kind])
    if kind in ("truncated",):
        bad.write_bytes(bad.read_bytes()[:4000])
    if kind == "stream cut":
        bad.write_bytes(bytearray(files["compressed"].read_bytes()))
        data = bytearray(bad.read_bytes())
        data[400:4000] = bytes(3600)
        bad.write_bytes(data)
    if kind in ("no mu", "other width", "not square"):
        return samples, bad, inception
    if kind == "absent reference":
        return samples, folder / "nothing.npz", inception
    if kind == "absent samples":
        return folder / "nothing.npz", reference, inception
    if kind == "text":
        bad.write_text("not an archive")
    if kind == "no weights file":
        inception = str(folder / "nothing.pth")
    return bad, reference, inception


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("no arr_0", "bad.npz holds images; needed is arr_0 uint8 (N, H, W, 3)"),
        ("float images", "arr_0 is float32 (4, 8, 8, 3); needed is arr_0 uint8"),
        ("channels first", "arr_0 is uint8 (4, 3, 8, 8); needed is arr_0 uint8"),
        ("no inception", "model.init_args.inception is not set"),
        ("no weights file", "no Inception weights at"),
        ("feature rows", "spatial is float64 (3, 5)"),
        ("truncated", "is no readable npz file"),
        ("stream cut", "pool_3 holds NaN or infinite values"),
        ("text", "is no readable npz file"),
        ("no mu", "holds mu_s, sigma, sigma_s, but a reference file has mu and sigma"),
        ("other width", "the reference has statistics of 5 features, the samples have 12 (pool_3)"),
        ("not square", "mu (12,) and sigma (12, 11) are not (F,) and (F, F)"),
        ("absent samples", "data.init_args.samples: no samples at"),
        ("absent reference", "data.init_args.reference: no reference at"),
    ],
)
def test_a_bad_file_is_one_line(
    kind: str, says: str, files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples, reference, inception = bad_files(kind, tmp_path, files)
    arguments = flags(tmp_path / "runs", samples, reference, f"--model.init_args.inception={inception}")
    assert cli.main(arguments) == 1
    lines = [x for x in capsys.readouterr().err.splitlines() if x.startswith("zoo: error")]
    assert len(lines) == 1
    assert says in lines[0]


def test_other_verbs_and_other_data_are_one_line(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = flags(tmp_path, files["samples"], files["reference"], "--model.init_args.inception=null")
    assert cli.main(["validate", *arguments[1:]]) == 1
    assert "No `validation_step()` method" in capsys.readouterr().err
    arguments = ["test", "--config=adm_evaluation", f"--trainer.default_root_dir={tmp_path}"]
    arguments += [
        "--model.init_args.inception=null",
        "--data=datamodules.Digits",
        "--trainer.accelerator=cpu",
    ]
    assert cli.main(arguments) == 1
    assert "set data.class_path: datamodules.SampleFiles" in capsys.readouterr().err
