"""Which items are trained on goes with the weights: another split tests on what was trained on."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import run, summary

import cli
from zoo.engine.arguments import Arguments
from zoo.engine.weights_data import take_from_weights

NESTED = "source.init_args.seed"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    seeds = ["--data.init_args.seed=5", f"--data.init_args.{NESTED}=6"]
    run("fit", "gnn_link_karate", root, "--trainer.max_steps=3", "--checkpoint.every_n_train_steps=3", *seeds)
    return root


def asked(root: Path, verb: str, *flags: str) -> list[str]:
    common = ["--config", "gnn_link_karate", f"--trainer.default_root_dir={root}", "--ckpt_path", "last"]
    arguments = Arguments(verb, [*common, *flags])
    try:
        before = len(arguments.flags)
        take_from_weights(arguments)
        return [flag.removeprefix("--data.init_args.") for flag in arguments.flags[before:]]
    finally:
        arguments.release_folder()


def test_a_run_is_tested_and_goes_on_with_its_own_split(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for verb in ("test", "validate", "predict", "fit"):
        assert asked(trained, verb) == ["source.init_args.seed=6", "seed=5"]
        said = capsys.readouterr().out
        assert f"zoo: data.init_args.{NESTED}: 6, seed: 5, as " in said
    flags = ["--data.init_args.seed=5", f"--data.init_args.{NESTED}=6"]
    common = ["gnn_link_karate", trained, "--ckpt_path=last"]
    assert summary("test", *common)["final"] == summary("test", *common, *flags)["final"]


def test_a_flag_comes_first_and_is_told_where_it_is_another_split(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert asked(trained, "test", "--data.init_args.seed=7") == ["source.init_args.seed=6"]
    summary("test", "gnn_link_karate", trained, "--ckpt_path=last", "--data.init_args.seed=7")
    assert "was trained on other data: data.init_args.seed 5, here 7" in capsys.readouterr().out


def test_a_run_does_not_go_on_with_another_split(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--config", "gnn_link_karate", f"--trainer.default_root_dir={trained}", "--ckpt_path=last"]
    for flag, value in (("seed", 7), (NESTED, 8)):
        assert cli.main(["fit", *common, f"--data.init_args.{flag}={value}"]) == 1
        assert (
            f", not data.init_args.{flag}: {value}: leave the flags out to go on" in capsys.readouterr().err
        )


def test_a_config_is_asked_before_weights_and_behind_a_checkpoint(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("data: {class_path: datamodules.LinkSplit, init_args: {seed: 9}}")
    mine = ["--config", str(tmp_path / "mine.yaml")]
    assert "seed=5" in asked(trained, "test", *mine)
    assert "seed=5" not in asked(trained, "predict", *mine)
    file = trained / "gnn_link_karate/version_0/checkpoints/step=00000003.ckpt"
    arguments = Arguments("test", ["--config", "gnn_link_karate", *mine, "--weights", str(file)])
    take_from_weights(arguments)
    assert "--data.init_args.seed=5" not in arguments.flags


def test_bundled_weights_know_the_split_of_their_config(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = Arguments(
        "test", ["--config", "lds_wine", "--weights", "lds_wine", "--data.init_args.seed=5"]
    )
    take_from_weights(arguments)
    assert arguments.trained_data is not None
    assert arguments.trained_data["init_args"]["seed"] == 0
