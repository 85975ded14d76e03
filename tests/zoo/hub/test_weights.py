"""Loading and saving weights: round trips, what a file may ask for, where files come from."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

import cli
import zoo
from zoo.hub import weights as hub
from zoo.hub.foreign import Weights

SIZES: dict[str, Any] = {
    "input_size": 8, "in_channels": 1, "num_classes": 10, "width": 16, "depth": 1, "heads": 2,
    "sampling_steps": 2,
}  # fmt: skip


@pytest.fixture
def module() -> zoo.DTR:
    """A network whose output is not zero, unlike that of a fresh one."""
    torch.manual_seed(0)
    made = zoo.DTR(**SIZES, alpha=3.0)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return made


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a three-step run with ``ema: {decay: 0.5}``, so that raw and averaged weights differ."""
    root = tmp_path_factory.mktemp("hub")
    sizes = [f"--model.init_args.{k}={v}" for k, v in SIZES.items()]
    flags = ["--trainer.max_steps=3", "--trainer.enable_progress_bar=false", "--trainer.limit_val_batches=0"]
    flags += ["--ema.decay=0.5", "--data.init_args.batch_size=8", f"--trainer.default_root_dir={root}"]
    assert cli.main(["fit", "--config=dtr_dit_digits", *sizes, *flags]) == 0
    return root / "dtr_dit_digits/version_0/checkpoints/step=00000003.ckpt"


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_safetensors_round_trip_is_exact(module: zoo.DTR, tmp_path: Path) -> None:
    path = zoo.save(module, tmp_path / "made" / "x.safetensors", config="dtr_dit_digits", licence="CC-BY-4.0")
    loaded = zoo.load(path)

    assert isinstance(loaded, zoo.DTR)
    assert not loaded.training
    assert same(loaded.state_dict(), module.state_dict())
    assert dict(loaded.hparams) == dict(module.hparams)
    labels = torch.tensor([0, 1])
    assert torch.equal(loaded.sample(labels, seed=1), module.eval().sample(labels, seed=1))
    assert [p.name for p in path.parent.iterdir()] == ["x.safetensors"]
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["class_path"] == "zoo.DTR"
    assert (metadata["config"], metadata["licence"]) == ("dtr_dit_digits", "CC-BY-4.0")
    assert json.loads(metadata["hparams"])["alpha"] == 3.0


def test_a_checkpoint_gives_averaged_weights_by_default_and_raw_ones_on_request(checkpoint: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    raw, shadow = content["state_dict"], content["callbacks"]["EMA"]["shadow"]
    assert any(not torch.equal(raw[k], shadow[k]) for k in shadow)

    assert same(zoo.load(checkpoint).state_dict(), {**raw, **shadow})
    assert same(zoo.load(checkpoint, averaged=False).state_dict(), raw)
    assert hub.read(checkpoint).averaged
    assert not hub.read(checkpoint, averaged=False).averaged


def test_what_load_gives_can_be_saved_and_loaded_again(checkpoint: Path, tmp_path: Path) -> None:
    first = zoo.load(checkpoint)
    second = zoo.load(zoo.save(first, tmp_path / "x.safetensors"))
    assert same(first.state_dict(), second.state_dict())
    assert dict(first.hparams) == dict(second.hparams)


def test_overrides_replace_stored_arguments(module: zoo.DTR, tmp_path: Path) -> None:
    path = zoo.save(module, tmp_path / "x.safetensors")
    loaded = zoo.load(path, guidance=4.0, sampler="ddim")
    assert (loaded.hparams["guidance"], loaded.hparams["sampler"], loaded.hparams["alpha"]) == (
        4.0,
        "ddim",
        3.0,
    )
    with pytest.raises(ValueError, match=r"does not fit DTR.*model.init_args"):
        zoo.load(path, depth=2)
    with pytest.raises(ValueError, match=r"do not fit zoo.DTR.*heads must divide width"):
        zoo.load(path, heads=3)
    with pytest.raises(ValueError, match=r"do not fit zoo.DTR.*guidence"):
        zoo.load(path, guidence=4.0)


def test_a_module_of_the_parser_can_be_saved(module: zoo.DTR, tmp_path: Path) -> None:
    """LightningCLI adds two entries to the hyperparameters; they must neither be stored nor refused."""
    module.hparams.update(_class_path="zoo.DTR", _instantiator="lightning.pytorch.cli.instantiate_module")
    assert "_class_path" not in hub.read(zoo.save(module, tmp_path / "x.safetensors")).hparams


def test_only_modules_of_the_zoo_can_be_saved(tmp_path: Path) -> None:
    from lightning.pytorch.demos.boring_classes import BoringModel

    with pytest.raises(ValueError, match=r"BoringModel.*not one of the zoo's methods"):
        zoo.save(BoringModel(), tmp_path / "x.safetensors")
    assert not (tmp_path / "x.safetensors").exists()


def test_a_checkpoint_without_class_needs_one_of_the_zoo(checkpoint: Path, tmp_path: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    del content["zoo"]
    torch.save(content, tmp_path / "x.ckpt")

    with pytest.raises(ValueError, match=r"class_path='zoo\.DTR'"):
        zoo.load(tmp_path / "x.ckpt")
    assert isinstance(zoo.load(tmp_path / "x.ckpt", class_path="zoo.DTR"), zoo.DTR)
    with pytest.raises(ValueError, match="refused"):
        zoo.load(tmp_path / "x.ckpt", class_path="lightning.LightningModule")


@pytest.mark.parametrize("spelling", ["zoo.DTR", "zoo.dtr.DTR", "zoo.dtr.module.DTR"])
def test_public_names(spelling: str) -> None:
    assert hub.public_name(spelling, Path("x")) == "zoo.DTR"


@pytest.mark.parametrize(
    "spelling",
    [
        "DTR",
        "zoo.load",
        "zoo.hub.weights.load",
        "zoo.dtr.module.DiT",
        "zoo",
        "",
        None,
        3,
        ["zoo.DTR"],
        "os.system",
    ],
)
def test_other_names_are_refused(spelling: Any) -> None:
    with pytest.raises(ValueError, match="refused"):
        hub.public_name(spelling, Path("x"))


@pytest.fixture
def attacker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An importable module that leaves a file; the path of that file."""
    marker = tmp_path / "executed"
    (tmp_path / "attacker.py").write_text(
        f"open({str(marker)!r}, 'w').close()\ndef make(*a, **k): ...\nDTR = make\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return marker


HOSTILE: list[dict[str, Any]] = [
    {"class_path": "attacker.DTR"},
    {"class_path": "zoo.DTR.attacker"},
    {"hparams": {"optimizer": "attacker.make"}},
    {"hparams": {"lr_scheduler": "attacker.make"}},
    {"hparams": {"optimizer": {"class_path": "attacker.make"}}},
    {"hparams": {"size": {"class_path": "attacker.make", "init_args": {}}}},
    {"hparams": {"width": [{"init_args": {"class_path": "attacker.make"}}]}},
    {"hparams": {"_instantiator": "attacker.make"}},
    {"hparams": {"_target_": "attacker.make"}},
    {"hparams": {"self": 1}},
    {"hparams": {"no_such_argument": 1}},
]


@pytest.mark.parametrize("hostile", HOSTILE, ids=str)
@pytest.mark.parametrize("kind", ["safetensors", "ckpt"])
def test_hostile_files_are_refused_before_anything_is_imported(
    kind: str, hostile: dict[str, Any], attacker: Path, checkpoint: Path, module: zoo.DTR, tmp_path: Path
) -> None:
    path = tmp_path / f"x.{kind}"
    if kind == "safetensors":
        metadata = {"format": "pt", "zoo": "1", "class_path": hostile.get("class_path", "zoo.DTR")}
        metadata["hparams"] = json.dumps({**SIZES, **hostile.get("hparams", {})})
        save_file({k: v.contiguous() for k, v in module.state_dict().items()}, path, metadata)
    else:
        content = torch.load(checkpoint, weights_only=True)
        content["zoo"]["class_path"] = hostile.get("class_path", "zoo.DTR")
        content["hyper_parameters"] |= hostile.get("hparams", {})
        torch.save(content, path)

    with pytest.raises(ValueError, match=r"refused|does not take") as error:
        zoo.load(path)

    assert str(path) in str(error.value)
    assert "attacker" not in sys.modules
    assert not attacker.exists()


def test_lightnings_own_entries_in_a_checkpoint_are_dropped(checkpoint: Path, tmp_path: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    content["hyper_parameters"] |= {
        "_class_path": "zoo.dtr.module.DTR",
        "_instantiator": "lightning.pytorch.cli.instantiate_module",
    }
    torch.save(content, tmp_path / "x.ckpt")
    assert isinstance(zoo.load(tmp_path / "x.ckpt"), zoo.DTR)


def test_a_state_dict_of_other_things_than_tensors_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    content["state_dict"]["network.pos_embed"] = "text"
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match=r"network\.pos_embed.*no tensor"):
        zoo.load(tmp_path / "x.ckpt")


def test_tensors_that_do_not_fit_are_named(module: zoo.DTR) -> None:
    state = module.state_dict()
    name = "network.x_embedder.proj.weight"

    def problem(changed: dict[str, torch.Tensor]) -> str:
        with pytest.raises(ValueError) as error:
            hub.check_state(module, Weights(Path("x"), "zoo.DTR", {}, changed))
        return str(error.value)

    assert f"1 missing, for example {name}" in problem({k: v for k, v in state.items() if k != name})
    assert "1 unknown, for example network.other" in problem({**state, "network.other": torch.zeros(1)})
    assert f"{name} is [3, 3], the model wants [16, 1, 2, 2]" in problem({**state, name: torch.zeros(3, 3)})


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_downloads_are_checked(module: zoo.DTR, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, asked = zoo.save(module, tmp_path / "x.safetensors"), []

    def download(repo_id: str, filename: str) -> str:
        asked.append((repo_id, filename))
        return str(path)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    address = "hf://owner/repo/folder/x.safetensors?sha256="

    loaded = zoo.load(address + sha256(path))
    assert asked == [("owner/repo", "folder/x.safetensors")]
    assert same(loaded.state_dict(), module.state_dict())
    zoo.load(address + sha256(path).upper())
    with pytest.raises(ValueError, match=f"sha256 {sha256(path)[:16]}.*expected {'0' * 16}"):
        zoo.load(address + "0" * 64)


@pytest.mark.parametrize(
    "address",
    [
        "hf://owner/repo/x.safetensors",
        "hf://owner/repo/x.safetensors?sha256=",
        "hf://owner/repo/x.safetensors?sha256=" + "0" * 63,
        "hf://owner/repo/x.safetensors?sha256=" + "g" * 64,
        "hf://owner/repo/x.safetensors?md5=" + "0" * 64,
        "hf://owner/repo?sha256=" + "0" * 64,
        "hf://",
    ],
)
def test_addresses_without_a_checksum_are_never_downloaded(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(**kwargs: Any) -> str:
        raise AssertionError("downloaded")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    with pytest.raises(ValueError, match="must read hf://owner/repo/file"):
        zoo.load(address)


def test_no_network_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(**kwargs: Any) -> str:
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    with pytest.raises(
        FileNotFoundError, match=r"could not download hf://o/r/x.safetensors .*check the address"
    ):
        zoo.load("hf://o/r/x.safetensors?sha256=" + "0" * 64)


def test_registered_names(module: zoo.DTR, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zoo.save(module, tmp_path / "files" / "tiny.safetensors")
    entry = {"file": "tiny.safetensors", "sha256": sha256(path), "config": "dtr_dit_digits"}
    monkeypatch.setattr(hub, "registry", lambda: {"tiny_digits": entry})
    monkeypatch.setattr(hub, "__file__", str(tmp_path / "weights.py"))

    assert same(zoo.load("tiny_digits").state_dict(), module.state_dict())
    with pytest.raises(FileNotFoundError, match="did you mean tiny_digits"):
        zoo.load("tiny_digit")

    zoo.save(zoo.DTR(**SIZES), path)
    with pytest.raises(ValueError, match="sha256"):
        zoo.load("tiny_digits")
    path.unlink()
    with pytest.raises(FileNotFoundError, match="reinstall lightning-zoo"):
        zoo.load("tiny_digits")


def test_bundled_weights_match_their_entries() -> None:
    """File, checksum, size and class of everything in registry.yaml; configs that exist."""
    from zoo.hub.catalog import config_names, registry

    total = 0
    for name, entry in registry().items():
        path = hub.resolve(name)
        weights = hub.read(path)
        assert entry["config"] is None or entry["config"] in config_names()
        assert entry["bytes"] == path.stat().st_size <= 3e6
        assert weights.class_path is not None
        total += entry["bytes"]
    assert total <= 20e6


def test_a_sharded_checkpoint_gives_hyperparameters_and_misses_its_shards(
    checkpoint: Path, tmp_path: Path
) -> None:
    content = torch.load(checkpoint, weights_only=True)
    content.pop("state_dict")
    folder = tmp_path / "step=00000003.ckpt"
    folder.mkdir()
    torch.save(content, folder / "meta.pt")

    assert hub.read(folder, tensors=False).hparams["width"] == 16
    with pytest.raises(ValueError, match="has lost its shards"):
        zoo.load(folder)


def test_a_full_disk_names_the_file_and_leaves_nothing(
    module: zoo.DTR, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zoo.hub.foreign import written_whole

    path = tmp_path / "x.safetensors"

    def full(state: Any, file: Path, metadata: Any) -> None:
        file.write_bytes(b"half")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match=r"cannot write .*/x.safetensors \(No space left on device"):
        zoo.save(module, path)
    with (
        pytest.raises(OSError, match=r"cannot write .*/x.pt \(File too large\)"),
        written_whole(tmp_path / "x.pt"),
    ):
        raise OSError(27, "File too large", "another")
    assert list(tmp_path.iterdir()) == []


def test_save_replaces_weights_of_the_zoo_alone(module: zoo.DTR, tmp_path: Path) -> None:
    path = zoo.save(module, tmp_path / "x.safetensors")
    zoo.save(module, path)
    save_file({"mine": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match=r"x.safetensors exists and holds no weights of the zoo"):
        zoo.save(module, path)
    with safe_open(path, framework="pt") as file:
        assert list(file.keys()) == ["mine"]
    zoo.save(module, path, force=True)
    assert same(zoo.load(path).state_dict(), module.state_dict())


def test_a_part_of_the_weights_starts_a_fine_tuning(module: zoo.DTR, tmp_path: Path) -> None:
    weights = hub.read(zoo.save(module, tmp_path / "x.safetensors"))
    other = zoo.DTR(**(SIZES | {"num_classes": 3}), alpha=3.0)
    fresh = {k: v.clone() for k, v in other.state_dict().items()}
    table = "network.y_embedder.embedding_table.weight"

    assert hub.load_fitting(other, weights) == ([table], [])

    found = other.state_dict()
    assert torch.equal(found[table], fresh[table])
    assert all(torch.equal(v, module.state_dict()[k]) for k, v in found.items() if k != table)
    with pytest.raises(ValueError, match="none of its tensors fits DigitClassifier"):
        hub.load_fitting(zoo.DigitClassifier(), weights)


def test_a_part_is_taken_in_fit_alone_and_said(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--config=dtr_dit_digits", f"--weights={checkpoint}", "--weights_fit=partial"]
    flags += ["--model.init_args.uw_intervals=4", f"--trainer.default_root_dir={tmp_path}"]
    quick = ["--trainer.max_steps=1", "--trainer.limit_val_batches=0", "--data.init_args.batch_size=8"]
    assert cli.main(["fit", *flags, *quick, "--trainer.enable_progress_bar=false"]) == 0
    assert "tensors that start anew: uncertainty.log_variances\n" in capsys.readouterr().out
    assert cli.main(["predict", *flags]) == 1
    assert "it goes with `zoo fit` and --weights" in capsys.readouterr().err
