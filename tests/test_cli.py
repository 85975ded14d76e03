"""The command line, in-process through ``cli.main``; one subprocess shows that it starts from a shell."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from processes import environment

import cli
import zoo
from zoo.hub import catalog
from zoo.hub import weights as hub

ROOT = Path(cli.__file__).resolve().parent
TINY = (
    "--model.init_args.width=16",
    "--model.init_args.depth=1",
    "--model.init_args.heads=2",
    "--model.init_args.sampling_steps=2",
    "--trainer.max_steps=2",
    "--trainer.enable_progress_bar=false",
)
SMALL_EVALUATION = (
    "--data.init_args.test_passes=1",
    "--data.init_args.predict_samples=10",
    "--previews.count=10",
)


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny run with ``alpha: 5``, away from the working folders."""
    root = tmp_path_factory.mktemp("trained")
    flags = [
        f"--trainer.default_root_dir={root}",
        "--model.init_args.alpha=5",
        "--trainer.log_every_n_steps=1",
    ]
    flags += ["--trainer.val_check_interval=2", *SMALL_EVALUATION]
    assert cli.main(["fit", "--config", "dtr_dit_digits", *TINY, *flags]) == 0
    return root / "dtr_dit_digits" / "version_0"


@pytest.fixture
def checkpoint(trained: Path) -> Path:
    return trained / "checkpoints" / "step=00000002.ckpt"


@pytest.fixture
def weights(trained: Path, checkpoint: Path) -> Path:
    """Registered-style weights of the run, which name their config."""
    path = trained.parent / "x.safetensors"
    if not path.exists():
        assert cli.main(["convert", str(checkpoint), "--out", str(path)]) == 0
    return path


def printed_config(argv: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """What ``--print_config`` prints."""
    capsys.readouterr()
    code = cli.main([*argv, "--print_config"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    lines = [x for x in captured.out.splitlines() if not x.startswith("zoo:")]
    content: dict[str, Any] = yaml.safe_load("\n".join(lines))
    return content


def alpha(argv: list[str], capsys: pytest.CaptureFixture[str]) -> float:
    value: float = printed_config(argv, capsys)["model"]["init_args"]["alpha"]
    return value


def write_config(name: str, **init_args: Any) -> str:
    content = {"model": {"class_path": "zoo.DTR", "init_args": init_args}, "data": "datamodules.Digits"}
    Path(name).write_text(yaml.safe_dump(content))
    return name


# Class default 4, first config 2, second config 3, checkpoint 5, flag 7.


def test_later_configs_win_over_earlier_ones_and_over_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = write_config("first.yaml", alpha=2.0), write_config("second.yaml", alpha=3.0)
    plain = write_config("plain.yaml")

    assert alpha(["fit", "--config", plain], capsys) == 4.0
    assert alpha(["fit", "--config", first], capsys) == 2.0
    assert alpha(["fit", "--config", first, "--config", second], capsys) == 3.0
    assert alpha(["fit", "-c", second, f"--config={first}"], capsys) == 2.0
    assert (
        alpha(["fit", f"-c{first}", "--config", plain], capsys) == 2.0
    )  # a config that is silent changes nothing


@pytest.mark.parametrize(
    "flag", [["--model.init_args.alpha=7"], ["--model.init_args.alpha", "7"], ["--model.alpha=7"]]
)
def test_flags_win_over_configs_wherever_they_stand(
    flag: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config("first.yaml", alpha=2.0)

    assert alpha(["fit", "--config", config, *flag], capsys) == 7.0
    assert alpha(["fit", *flag, "--config", config], capsys) == 7.0


@pytest.mark.parametrize(("option", "separate"), [("weights", False), ("ckpt_path", True)])
def test_checkpoint_wins_over_configs_and_loses_to_flags(
    option: str, separate: bool, checkpoint: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(weights if option == "weights" else checkpoint)
    given = [f"--{option}", file] if separate else [f"--{option}={file}"]
    config = write_config("first.yaml", alpha=2.0, width=64, optimizer="torch.optim.SGD")

    for argv in (
        ["predict", *given],
        ["predict", "--config", config, *given],
        ["predict", *given, "--config", config],
    ):
        merged = printed_config(argv, capsys)["model"]["init_args"]
        assert (merged["alpha"], merged["width"], merged["loss_weight"]) == (5.0, 16, "uw")
        assert alpha([*argv, "--model.init_args.alpha=7"], capsys) == 7.0
        assert alpha([*argv[:1], "--model.init_args.alpha", "7", *argv[1:]], capsys) == 7.0
    assert merged["optimizer"]["class_path"] == "torch.optim.SGD"  # the config's: checkpoints hold no objects


def test_weights_bring_their_config_unless_one_is_given(
    checkpoint: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in (weights, checkpoint):
        assert printed_config(["predict", f"--weights={file}"], capsys)["ema"]["decay"] == 0.998

    write_config("mine.yaml")
    assert (
        printed_config(["predict", "--config=mine.yaml", f"--weights={weights}"], capsys)["ema"]["decay"]
        is None
    )


def test_registered_weights_bring_the_config_of_their_entry(
    weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = {"tiny": {"config": "dtr_dit_digits", "method": "dtr", "bytes": 1}}
    monkeypatch.setattr("zoo.engine.arguments.registry", lambda: entry)
    monkeypatch.setattr(hub, "resolve", lambda name: weights)

    merged = printed_config(["predict", "--weights", "tiny"], capsys)

    assert merged["data"]["class_path"] == "datamodules.Digits"
    assert merged["ema"]["decay"] == 0.998


def test_metadata_names_shipped_configs_only(
    checkpoint: Path, in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A weights file must not choose a file of the working folder as its config."""
    write_config("local.yaml", alpha=2.0)
    content = torch.load(checkpoint, weights_only=True)
    content["zoo"]["config"] = str(in_empty_folder / "local.yaml")
    torch.save(content, "x.ckpt")

    assert cli.main(["predict", "--weights=x.ckpt"]) == 1
    assert "no data: give a config" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["dtr_dit_digits", "dtr_dit_digits.yaml", "configs/dtr_dit_digits", "configs/dtr_dit_digits.yaml"]
)
@pytest.mark.parametrize("form", [["-c", "{}"], ["--config", "{}"], ["--config={}"], ["-c{}"], ["-c={}"]])
def test_shipped_configs_are_found_by_name(name: str, form: list[str]) -> None:
    from zoo.engine.runner import Arguments

    arguments = Arguments("fit", [part.format(name) for part in form])

    assert arguments.configs == [catalog.config_folder() / "dtr_dit_digits.yaml"]
    assert arguments.name == "dtr_dit_digits"


def test_a_file_wins_over_a_shipped_config_of_its_name() -> None:
    from zoo.engine.runner import Arguments

    Path("dtr_dit_digits").write_text("model: zoo.DTR\n")

    assert Arguments("fit", ["-c", "dtr_dit_digits"]).configs == [Path("dtr_dit_digits")]


def test_overlays_do_not_name_the_run() -> None:
    from zoo.engine.runner import Arguments

    Path("trainer").mkdir()
    Path("trainer/short.yaml").write_text("trainer: {max_steps: 2}\n")

    arguments = Arguments("fit", ["-c", "trainer/short.yaml", "-c", "dtr_dit_digits"])

    assert arguments.name == "dtr_dit_digits"


def test_print_config_is_a_config(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["fit", "--config", "dtr_dit_digits", *TINY]
    first = printed_config(argv, capsys)
    Path("printed.yaml").write_text(yaml.safe_dump(first))

    assert printed_config(["fit", "--config", "printed.yaml"], capsys) == first
    assert cli.main(["fit", "--config", "printed.yaml", "--trainer.limit_val_batches=0"]) == 0
    assert Path("runs/printed/version_0/checkpoints/step=00000002.ckpt").exists()


def threads() -> str:
    count = torch.get_num_threads()
    return f"{count} thread{'s' if count > 1 else ''}"


SUMMARY_KEYS = {
    "energy", "flops", "costs",
    "config", "command", "seed", "world_size", "device", "precision", "versions", "git", "date", "final",
    "best", "checkpoint", "steps", "epochs", "finished", "resumed_from_step", "seconds", "samples_per_second",
    "effective_batch", "parameters", "peak_memory_bytes", "diverged",
}  # fmt: skip


def test_fit_leaves_a_run_folder_and_says_where(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--trainer.log_every_n_steps=1", "--trainer.val_check_interval=2", "--previews.count=10"]
    flags += ["--data.init_args.batch_size=32", "--trainer.accumulate_grad_batches=2", "--seed_everything=3"]
    assert cli.main(["fit", "--config", "dtr_dit_digits", *TINY, *flags]) == 0
    lines = capsys.readouterr().out.splitlines()

    folder = Path("runs/dtr_dit_digits/version_0")
    assert lines[0] == (
        "zoo: fit dtr_dit_digits: effective batch 64 (32 per device, 2 batches accumulated), "
        f"1 x cpu ({threads()}), logs in {folder}"
    )
    assert lines[1].startswith("zoo: 2 steps in ")
    assert f"zoo: checkpoint  {folder}/checkpoints/step=00000002.ckpt" in lines
    assert f"zoo: log         {folder}/metrics.csv and summary.json" in lines
    next_command = f"--config {folder}/config.yaml --weights {folder}/checkpoints/step=00000002.ckpt"
    assert lines[-1] == f"zoo: next: zoo predict {next_command}"
    assert {p.name for p in folder.iterdir()} >= {
        "config.yaml",
        "metrics.csv",
        "summary.json",
        "checkpoints",
        "samples",
    }

    summary = json.loads((folder / "summary.json").read_text())
    assert set(summary) == SUMMARY_KEYS
    assert (summary["steps"], summary["effective_batch"], summary["seed"]) == (2, 64, 3)
    assert summary["finished"] is True
    state = torch.load(summary["checkpoint"], weights_only=True)["optimizer_states"][0]["state"]
    assert summary["parameters"] == sum(moments["exp_avg"].numel() for moments in state.values())
    assert summary["command"].startswith("zoo fit --config dtr_dit_digits")
    assert math.isclose(summary["best"]["val/mse"]["min"], summary["final"]["val/mse"])

    assert (
        cli.main(
            next_command_argv := ["predict", *next_command.split(), "--data.init_args.predict_samples=10"]
        )
        == 0
    )
    assert next_command_argv  # the line that fit ends with works as it stands
    out = capsys.readouterr().out
    assert "zoo: wrote runs/dtr_dit_digits/version_1/predictions/samples.png" in out
    assert Path("runs/dtr_dit_digits/version_1/predictions/samples.npz").is_file()


@pytest.mark.parametrize("verb", ["validate", "test", "predict", "fit"])
def test_the_config_of_a_run_serves_every_verb(
    verb: str, trained: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--trainer.default_root_dir=runs", "--trainer.limit_test_batches=1"]
    capsys.readouterr()

    code = cli.main([verb, "--config", str(trained / "config.yaml"), f"--weights={checkpoint}", *flags])

    captured = capsys.readouterr()
    assert code == 0, captured.err
    folder = Path("runs/dtr_dit_digits/version_0")  # named after the run, not after config.yaml
    assert captured.out.startswith(f"zoo: {verb} dtr_dit_digits: ")
    assert captured.out.splitlines()[0].endswith(f"logs in {folder}")
    assert yaml.safe_load((folder / ("config.yaml" if verb == "fit" else f"config_{verb}.yaml")).read_text())
    if verb in ("validate", "test"):
        summary = json.loads((folder / f"summary_{verb}.json").read_text())
        stage = {"validate": "val", "test": "test"}[verb]
        assert f"zoo: {'mse':<18} {summary['final'][f'{stage}/mse']:.6g}" in captured.out
        assert captured.out.splitlines()[-1].endswith(f"written to {folder}/summary_{verb}.json")


def test_weights_and_checkpoint_give_the_same_validation_loss(trained: Path, checkpoint: Path) -> None:
    """Both restore the averaged weights: 0.0 apart, and equal to the loss of the run that wrote them."""
    for option in ("weights", "ckpt_path"):
        argv = ["validate", "--config", str(trained / "config.yaml"), f"--{option}={checkpoint}"]
        assert cli.main([*argv, "--trainer.default_root_dir=runs", "--previews.count=0"]) == 0

    losses = [
        json.loads((Path("runs/dtr_dit_digits") / v / "summary_validate.json").read_text())["final"][
            "val/loss"
        ]
        for v in ("version_0", "version_1")
    ]
    assert losses[0] == losses[1]
    assert losses[0] == json.loads((trained / "summary.json").read_text())["final"]["val/loss"]


def test_fit_goes_on_with_the_last_run(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["fit", "--config", "dtr_dit_digits", *TINY, "--trainer.limit_val_batches=0"]
    assert cli.main([*argv, "--ckpt_path=last"]) == 0
    assert "no checkpoint under runs/dtr_dit_digits, starting fresh" in capsys.readouterr().out

    assert cli.main([*argv, "--ckpt_path", "last", "--trainer.max_steps=4"]) == 0

    out = capsys.readouterr().out
    assert "zoo: resumed at step 2" in out
    assert "learning rate" not in out
    assert not Path("runs/dtr_dit_digits/version_1").exists()
    summary = json.loads(Path("runs/dtr_dit_digits/version_0/summary.json").read_text())
    assert (summary["steps"], summary["resumed_from_step"]) == (4, 2)


def test_resuming_with_another_rate_says_that_the_checkpoint_wins(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [
        "fit",
        f"--ckpt_path={checkpoint}",
        *TINY[-1:],
        "--trainer.max_steps=3",
        "--trainer.limit_val_batches=0",
    ]
    assert cli.main([*argv, "--model.init_args.optimizer.init_args.lr=0.5"]) == 0

    notes = [x for x in capsys.readouterr().out.splitlines() if "learning rate" in x]
    note = "the checkpoint restores the optimiser with its own learning rate; optimiser flags do nothing"
    assert notes == [f"zoo: note: {note}"]
    written = torch.load("runs/dtr_dit_digits/version_0/checkpoints/step=00000003.ckpt", weights_only=True)
    assert written["optimizer_states"][0]["param_groups"][0]["initial_lr"] == 0.002


def test_a_failed_start_leaves_no_folder() -> None:
    assert cli.main(["fit", "--config", "dtr_dit_digits", *TINY, "--model.init_args.num_classes=7"]) == 1
    assert cli.main(["fit", "--config", "dtr_dit_digits", *TINY, "--trainer.limit_val_batches=0"]) == 0
    assert [p.name for p in Path("runs/dtr_dit_digits").iterdir()] == ["version_0"]


def test_ctrl_c_exits_with_130_and_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = zoo.DTR.training_step

    def interrupted(self: zoo.DTR, batch: Any, batch_idx: int) -> Any:
        if self.global_step == 3:
            raise KeyboardInterrupt
        return step(self, batch, batch_idx)

    argv = [
        "fit",
        "--config",
        "dtr_dit_digits",
        *TINY,
        "--trainer.max_steps=4",
        "--trainer.limit_val_batches=0",
    ]
    argv += ["--checkpoint.every_n_train_steps=2"]
    with monkeypatch.context() as patch:
        patch.setattr(zoo.DTR, "training_step", interrupted)
        assert cli.main(argv) == 130
    captured = capsys.readouterr()
    assert "zoo: interrupted at step 3; go on with the same command and --ckpt_path last" in captured.out
    assert "Traceback" not in captured.err

    assert cli.main([*argv, "--ckpt_path", "last"]) == 0
    assert "zoo: resumed at step 2" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [[], ["-h"], ["--help"], ["help"]])
def test_help_names_every_verb(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(argv) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {verb} " in out for verb in cli.VERBS)


def test_help_of_a_verb_shows_the_groups(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["fit", "--help"]) == 0
    out = capsys.readouterr().out
    for option in (
        "--trainer.max_steps",
        "--checkpoint.every_n_train_steps",
        "--ema.decay",
        "--weights",
        "--ckpt_path",
    ):
        assert option in out


def test_version_says_where_it_runs_from(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith(f"zoo {zoo.__version__} from {ROOT / 'zoo'} (Python ")


def test_list_as_text_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list"]) == 0
    out = capsys.readouterr().out
    for word in (
        "methods:",
        "zoo.DTR ",
        "configs:",
        "dtr_dit_digits ",
        "data:",
        "datamodules.Digits ",
        "weights:",
    ):
        assert word in out
    for kind in ("methods", "configs", "data", "weights"):
        assert cli.main(["list", kind, "--json"]) == 0
        rows = json.loads(capsys.readouterr().out)
        assert list(rows) == [kind]
        assert all(set(row) >= {"name", "about"} and row["about"] for row in rows[kind])


def test_list_and_help_do_not_import_torch() -> None:
    code = (
        "import sys, cli\n"
        "for line in ('list', 'list weights --json', '--help', '--version', 'fitt'): cli.main(line.split())\n"
        "print(sorted(m for m in ('torch', 'lightning', 'numpy', 'jsonargparse') if m in sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert result.stdout.splitlines()[-1] == "[]"


def test_the_command_works_from_a_shell(in_empty_folder: Path) -> None:
    """The one process for runs: a good one leaves nothing on stderr, the bad one after it one line."""
    path, argv = str(ROOT / "cli.py"), ["fit", "--config", "dtr_dit_digits", *TINY]
    code = f"import sys, runpy, cli; assert cli.main({argv} + ['--trainer.limit_val_batches=0']) == 0; "
    code += f"sys.argv = {[path, *argv, '--max_stepz=1']}; runpy.run_path({path!r}, run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=False
    )
    assert Path("runs/dtr_dit_digits/version_0/summary.json").is_file()
    assert done.returncode == 1
    assert done.stderr.startswith("zoo: error: unknown option --max_stepz")
    assert done.stderr.count("\n") == 1


def test_convert_gives_the_averaged_weights(
    checkpoint: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shadow = torch.load(checkpoint, weights_only=True)["callbacks"]["EMA"]["shadow"]
    state = hub.read(weights).state_dict

    assert shadow
    assert all(torch.equal(state[k], v) for k, v in shadow.items())

    assert cli.main(["convert", str(checkpoint), "--out", "y.safetensors"]) == 0
    output = capsys.readouterr().out
    assert "holds averaged weights of zoo.DTR" in output
    assert "wrote y.safetensors" in output
    assert cli.main(["convert", str(checkpoint), "--out", "y.safetensors"]) == 1
    assert cli.main(["convert", str(checkpoint), "--out", "y.safetensors", "--force"]) == 0


OWN = """
import lightning, torch

class Net(lightning.LightningModule):
    def __init__(self, width=4, rate: float = 0.1):
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(2, width)
    def training_step(self, batch, index):
        return self.layer(batch[0]).pow(2).mean()
    def validation_step(self, batch, index):
        self.log("val/loss", self.layer(batch[0]).pow(2).mean())
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), self.hparams.rate)

class Data(lightning.LightningDataModule):
    def train_dataloader(self):
        data = torch.utils.data.TensorDataset(torch.ones(8, 2))
        return torch.utils.data.DataLoader(data, batch_size=4)
    val_dataloader = train_dataloader
"""


@pytest.fixture
def own_module(in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of the working folder; Python puts that on the path of ``zoo`` only if asked to."""
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    name = "own_" + "".join(c for c in in_empty_folder.name if c.isalnum())
    (in_empty_folder / f"{name}.py").write_text(OWN)
    return name


def test_own_classes_run_and_resume(own_module: str, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--trainer.enable_progress_bar=false", "--trainer.max_steps=3"]
    argv = [
        "fit",
        f"--model={own_module}.Net",
        f"--data={own_module}.Data",
        "--model.init_args.width=3",
        *flags,
    ]
    assert cli.main(argv) == 0, capsys.readouterr().err
    file = "runs/net/version_0/checkpoints/step=00000003.ckpt"

    assert (
        cli.main(
            ["fit", "--config=runs/net/version_0/config.yaml", f"--ckpt_path={file}", "--trainer.max_steps=5"]
        )
        == 0
    )
    assert "zoo: resumed at step 3" in capsys.readouterr().out
    assert cli.main(["validate", "--config=runs/net/version_0/config.yaml", f"--weights={file}"]) == 0

    # a checkpoint of plain LightningCLI names the class; it may, if the user names the same one
    content = torch.load(file, weights_only=True)
    content["hyper_parameters"]["_class_path"] = f"{own_module}.Net"
    torch.save(content, "named.ckpt")
    assert cli.main(["validate", "--config=runs/net/version_0/config.yaml", "--ckpt_path=named.ckpt"]) == 0
    assert cli.main(["validate", "--config=dtr_dit_digits", "--ckpt_path=named.ckpt"]) == 1
    assert "refused" in capsys.readouterr().err
