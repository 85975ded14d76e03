"""Which process of a run this one is, by what launchers leave in the environment. Imports nothing heavy."""

from __future__ import annotations

import os

# Handed to the processes that Lightning starts for DDP, so that all ranks use one folder and one checkpoint.
FOLDER_VARIABLE, RESUME_VARIABLE = "ZOO_RUN_FOLDER", "ZOO_RESUME_PATH"
_INTERACTIVE = ("bash", "interactive")  # names of jobs in which Lightning leaves SLURM alone


def _number(name: str) -> int:
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else 0


def is_child() -> bool:
    """Whether another process of this run started us (Lightning's DDP launcher)."""
    return _number("LOCAL_RANK") > 0 and FOLDER_VARIABLE in os.environ


def slurm_tasks() -> int:
    """Tasks that SLURM started to run this command together; 0 where it started this process alone."""
    in_batch_script = "SLURM_JOB_ID" in os.environ and "SLURM_STEP_ID" not in os.environ
    if in_batch_script or os.environ.get("SLURM_JOB_NAME") in _INTERACTIVE:
        return 0
    return _number("SLURM_NTASKS")


def rank() -> int:
    """Number of this process in its run: 0 unless a launcher has started several."""
    if _number("WORLD_SIZE") > 1:
        return _number("RANK") if "RANK" in os.environ else _number("LOCAL_RANK")
    return _number("SLURM_PROCID") if slurm_tasks() > 1 else 0


def check_tasks(processes: int) -> None:
    """Compare the tasks that SLURM started with the processes that the trainer makes of them.

    Raises:
        ValueError: where each task would train on its own, or wait for tasks that nobody starts.
    """
    tasks = slurm_tasks()
    if tasks > 1 and tasks != processes:
        raise ValueError(
            f"SLURM started {tasks} tasks, but trainer.devices times trainer.num_nodes is {processes}: set "
            "trainer.devices to the tasks of a node and trainer.num_nodes to the nodes, or start this many "
            f"tasks (srun --ntasks={processes})"
        )


def check_srun(processes: int) -> None:
    """Under SLURM, Lightning starts no process: those besides this one are tasks of ``srun``.

    Raises:
        ValueError: where this one would wait for them for ever.
    """
    if processes > 1 and slurm_tasks() <= 1:
        raise ValueError(
            f"the trainer is set to {processes} processes, which in a job of SLURM are tasks of srun, but "
            f"this one runs alone: start the command with srun --ntasks={processes}, or name the job "
            "interactive (SLURM_JOB_NAME) for the devices of one machine"
        )


def check_nodes(nodes: int) -> None:
    """Without a launcher, each machine is told by hand where the first is and which it is itself.

    Raises:
        ValueError: where this one would wait for the others for ever.
    """
    place = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK")
    missing = [name for name in place if name not in os.environ]
    if nodes > 1 and missing and not is_child():
        raise ValueError(
            f"trainer.num_nodes is {nodes}, but no launcher started this process: start the command on each "
            f"machine with torchrun --nnodes={nodes}, or with srun in a job of SLURM, or set in the "
            f"environment of each {', '.join(place)} (missing: {', '.join(missing)})"
        )


def forget_leftovers() -> list[str]:
    """Take out of the environment what no launcher of this run has put there; a line for each.

    Lightning would take this process for one of several: keep quiet, or wait for the others.
    """
    if "WORLD_SIZE" in os.environ or FOLDER_VARIABLE in os.environ:
        return []
    lines = []
    for name in ("LOCAL_RANK", "RANK"):
        value = os.environ.pop(name, "0")
        if value != "0":
            lines.append(f"{name}={value[:40]} is left over in the environment, and ignored")
    return lines
