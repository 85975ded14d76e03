"""``zoo convert`` itself: files of the zoo, settings, where it writes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import cli
import zoo
from zoo.hub import weights as hub
from zoo.hub.convert import parse_settings


def small(**arguments: object) -> zoo.DTR:
    torch.manual_seed(0)
    sizes = {"input_size": 8, "in_channels": 1, "num_classes": 10, "width": 16, "depth": 2, "heads": 2}
    return zoo.DTR(**(sizes | arguments))  # type: ignore[arg-type]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return hub.save(small(), tmp_path / "source.safetensors", config="dtr_dit_digits")


def one_line(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert cli.main(["convert", *map(str, arguments)]) == 1
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    return text


def test_checkpoint_of_a_run_becomes_safetensors_with_its_averaged_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--trainer.max_steps=2", "--trainer.val_check_interval=null", "--trainer.limit_val_batches=0"]
    sizes = [f"--model.init_args.{k}" for k in ("width=16", "depth=1", "heads=2")]
    batch = ["--data.init_args.batch_size=16", "--ema.decay=0.5", "--trainer.enable_progress_bar=false"]
    root = f"--trainer.default_root_dir={tmp_path}"
    assert cli.main(["fit", "--config", "dtr_dit_digits", root, *flags, *sizes, *batch]) == 0
    checkpoint = next(tmp_path.rglob("step=*.ckpt"))
    out = tmp_path / "out.safetensors"
    assert cli.main(["convert", str(checkpoint), "--out", str(out)]) == 0
    assert "averaged weights of zoo.DTR" in capsys.readouterr().out
    content = torch.load(checkpoint, weights_only=True)
    shadow = content["callbacks"]["EMA"]["shadow"]
    state = hub.load(out).state_dict()
    assert all(torch.equal(state[k], v) for k, v in shadow.items())
    raw = content["state_dict"]
    assert any(not torch.equal(state[k], raw[k]) for k in shadow)
    assert torch.equal(state["uncertainty.log_variances"], raw["uncertainty.log_variances"])


def test_settings_replace_what_a_zoo_file_stores(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    arguments = ["--set", "guidance=4", "--set", "cfg_channels=1", "--set", "sampler=ddim"]
    assert cli.main(["convert", str(source), "--out", str(out), *arguments]) == 0
    a, b = hub.load(source), hub.load(out)
    assert (b.hparams["guidance"], b.hparams["cfg_channels"], b.hparams["sampler"]) == (4, 1, "ddim")
    assert all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())
    assert hub.read(out).config == "dtr_dit_digits"


def test_settings_take_the_types_of_the_constructor() -> None:
    given = [
        "heads=4", "beta=1", "cfg_channels=null", "learn_sigma=False", "loss_weight=uw", "vae=stabilityai/x",
    ]  # fmt: skip
    assert parse_settings(zoo.DTR, given) == {
        "heads": 4,
        "beta": 1,
        "cfg_channels": None,
        "learn_sigma": False,
        "loss_weight": "uw",
        "vae": "stabilityai/x",
    }


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ("haeds=4", "did you mean heads"),
        ("heads", "KEY=VALUE, for example --set heads=4"),
        ("heads=four", "heads takes int or null, got 'four'"),
        ("heads=4.0", "heads takes int or null"),
        ("learn_sigma=1", "learn_sigma takes bool"),
        ("routing=rtr", "routing takes dtr or random or none"),
        ("optimizer=torch.optim.SGD", "takes an object"),
        ("self=1", "has no argument 'self'"),
    ],
)
def test_bad_settings_fail_in_one_line(
    source: Path, capsys: pytest.CaptureFixture[str], setting: str, text: str
) -> None:
    assert text in one_line(capsys, source, "--out", source.with_name("x.safetensors"), "--set", setting)


def test_existing_output_is_kept_without_force(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = source.with_name("out.safetensors")
    out.write_text("precious")
    assert "--force" in one_line(capsys, source, "--out", out)
    assert out.read_text() == "precious"
    assert cli.main(["convert", str(source), "--out", str(out), "--force"]) == 0
    assert hub.load(out).hparams["width"] == 16
    assert sorted(p.name for p in source.parent.iterdir()) == ["out.safetensors", "source.safetensors"]


def test_wrong_destinations_and_methods_fail_in_one_line(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = source.parent
    torch.save({"a": torch.zeros(1)}, folder / "other.pt")
    cases = [
        ([source, "--out", folder / "x.pt"], "ends in .safetensors"),
        ([source, "--out", folder / "x.safetensors", "--to", "official"], "ends in .pt or .pth"),
        ([source, "--out", folder / "x.pt", "--to", "diffusers"], "are a folder"),
        ([source, "--out", folder / "x", "--to", "onnx"], "can be written as zoo, official, diffusers"),
        ([source, "--out", folder / "x.safetensors", "--method", "mbt"], "not weights of method 'mbt'"),
        ([folder / "other.pt", "--out", folder / "x.safetensors"],
         "say whose weights it holds: --method ami or causal_lm or"),
        ([folder / "other.pt", "--out", folder / "x.safetensors", "--method", "nonesuch"],
         "no method 'nonesuch'"),
    ]  # fmt: skip
    for arguments, text in cases:
        line = one_line(capsys, *arguments)
        assert text in line, line


def test_a_failed_conversion_leaves_nothing_behind(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = source.read_bytes()
    source.write_bytes(content[: len(content) // 2])
    one_line(capsys, source, "--out", source.with_name("x.safetensors"))
    assert [p.name for p in source.parent.iterdir()] == ["source.safetensors"]


def test_a_list_is_given_as_in_yaml() -> None:
    given = ["targets=[logS, 'a b']", "hidden=30"]
    assert parse_settings(zoo.MoleculeGraph2D, given) == {"targets": ["logS", "a b"], "hidden": 30}
    for wrong in ("[1, 2]", "[logS"):
        with pytest.raises(ValueError, match="--set"):
            parse_settings(zoo.MoleculeGraph2D, [f"targets={wrong}"])
