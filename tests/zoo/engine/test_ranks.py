"""What launchers leave in the environment: who speaks, who takes a folder, and tasks that nobody wanted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import cli
from zoo.engine.arguments import Arguments
from zoo.engine.ranks import check_nodes, rank

FIT = ["fit", "--config=gnn_node_karate", "--trainer.max_steps=1", "--trainer.enable_progress_bar=false"]


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith(
            ("SLURM_", "ZOO_R", "RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_", "NODE_RANK", "GROUP_RANK")
        ):
            monkeypatch.delenv(name)


@pytest.mark.parametrize(("name", "value"), [("LOCAL_RANK", "1"), ("LOCAL_RANK", "abc"), ("RANK", "2")])
def test_a_rank_that_is_left_over_silences_nobody(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)
    assert cli.main(["fit", "--config=gnn_node_karat"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"zoo: {name}={value} is left over in the environment, and ignored"
    assert lines[1].startswith("zoo: error: no config 'gnn_node_karat'")


@pytest.mark.parametrize(
    ("variables", "number"),
    [
        ({"LOCAL_RANK": "1", "WORLD_SIZE": "2", "ZOO_RUN_FOLDER": "runs"}, 1),  # Lightning's own child
        ({"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8"}, 5),  # torchrun
        ({"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0"}, 3),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "7"}, 0),  # the batch script itself
        ({"SLURM_PROCID": "3", "SLURM_NTASKS": "1"}, 0),
        ({"RANK": "3"}, 0),
        ({"RANK": "3", "WORLD_SIZE": "abc"}, 0),
        ({"LOCAL_RANK": "1", "ZOO_RUN_FOLDER": "runs"}, 0),
    ],
)
def test_ranks(variables: dict[str, str], number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert rank() == number


def test_who_takes_a_folder_number_reserves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_PROCID", "1")  # and no other task: this process is a run of its own
    first, second = (Arguments("fit", FIT[1:]).make_folder() for _ in range(2))
    assert (first.name, second.name) == ("version_0", "version_1")


@pytest.mark.parametrize("number", [0, 1])
def test_tasks_of_slurm_that_train_apart_are_one_line(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("SLURM_PROCID", str(number))
    monkeypatch.setenv("SLURM_LOCALID", str(number))
    assert cli.main([*FIT, "--trainer.devices=1"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert not list(Path().rglob("version_*"))
    if number:
        assert lines == []
    else:
        assert len(lines) == 1
        assert "SLURM started 4 tasks, but trainer.devices times trainer.num_nodes is 1" in lines[0]


MACHINES = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500", "NODE_RANK": "1"}


@pytest.mark.parametrize("missing", [[*MACHINES], ["NODE_RANK"], []])
def test_machines_that_nobody_starts_are_one_line(
    missing: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else this one waits for the others for ever."""
    for name in MACHINES.keys() - missing:
        monkeypatch.setenv(name, MACHINES[name])
    if not missing:
        check_nodes(1000)
        return
    assert cli.main([*FIT, "--trainer.num_nodes=1000", "--trainer.accelerator=cpu"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("zoo: error: trainer.num_nodes is 1000, but no launcher started this process")
    assert line.endswith(f"(missing: {', '.join(missing)})")
    assert not list(Path().rglob("version_*"))


def test_a_script_of_slurm_that_leaves_out_srun_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("JOB_ID", "NTASKS", "NTASKS_PER_NODE"):
        monkeypatch.setenv(f"SLURM_{name}", "2")
    for name in ("PROCID", "LOCALID", "NODEID"):
        monkeypatch.setenv(f"SLURM_{name}", "0")
    assert cli.main([*FIT, "--trainer.devices=2", "--trainer.accelerator=cpu"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "the trainer is set to 2 processes" in line
    assert "start the command with srun --ntasks=2" in line
