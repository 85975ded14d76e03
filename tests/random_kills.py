"""SIGKILL at random moments of random configs: what goes on with ``--ckpt_path last`` is what nobody stopped.

    python tests/random_kills.py [--kills 60] [--seed 0] [CONFIG ...]

Every shipped config that needs no files takes its turn, with zero or two data workers where it reads with
workers, and some with two processes. Each run is a fork of this process, which has made the imports. Compared
to the bit are the last checkpoint (weights, optimisers, averages, random states, loops), best.ckpt,
metrics.csv and what summary.json says of the result.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from commands import run, words
from interruption import checkpoint_content, differences, run_differences
from test_configs import CONFIGS, EMBEDDED, GOLDEN, GOLDEN_RUN, named, verb_of

from zoo.engine.run import Run

NOT_COMPARED = {"command", "date", "seconds", "samples_per_second", "peak_memory_bytes", "resumed_from_step"}
NOT_COMPARED |= {"energy", "costs"}  # joules follow the clock; the FLOPs of a step do not
NOT_COMPARED |= {"git", "checkpoint"}  # of the latter, the name is
PATIENCE = 900.0
TRAINED = [name for name in EMBEDDED if verb_of(name) == "fit"]
TWO_PROCESSES = ("dtr_dit_digits", "dtr_unet_digits", "digit_classifier_digits", "imae_letters")


@dataclass
class Setting:
    """One config with the flags of a short run."""

    config: str
    processes: int
    flags: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, config: str, luck: random.Random) -> Setting:
        golden = json.loads((GOLDEN / f"{config}.json").read_text())["flags"]
        flags = {**GOLDEN_RUN, "trainer.log_every_n_steps": luck.choice([1, 2, 3]), **golden}
        flags["checkpoint.every_n_train_steps"] = luck.choice([1, 2, 3, 5])
        if "val_check_interval" not in str(golden):
            flags |= {"trainer.val_check_interval": luck.choice([3, 4, 12])}
            flags |= {"trainer.check_val_every_n_epoch": None}
        data = CONFIGS[config].get("data", {}).get("class_path")
        if data and "num_workers" in inspect.signature(named(data)).parameters:
            flags["data.init_args.num_workers"] = luck.choice([0, 0, 2])
        two = config in TWO_PROCESSES and luck.random() < 0.5
        more = ["--config=trainer/ddp", "--trainer.devices=2"] if two else []
        return cls(config, 2 if two else 1, [*more, *words(flags)])

    def __str__(self) -> str:
        workers = "2 workers" if "--data.init_args.num_workers=2" in self.flags else "no workers"
        return f"{self.config} ({self.processes} processes, {workers})"


def in_forks(setting: Setting, root: Path, log: Path, fuse: Fuse | None, *flags: str) -> list[int]:
    """Wait status of each process of a run; -1 for one that had to be ended because it did not."""
    port = 20_000 + random.SystemRandom().randrange(12_000)
    pids = [_fork(setting, root, log, fuse, rank, port, flags) for rank in range(setting.processes)]
    statuses: dict[int, int] = {}
    deadline = time.monotonic() + PATIENCE
    while len(statuses) < len(pids):
        for pid in pids:
            if pid not in statuses and (ended := os.waitpid(pid, os.WNOHANG))[0]:
                statuses[pid] = ended[1]
        if time.monotonic() > deadline:
            for pid in set(pids) - set(statuses):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                statuses[pid] = -1
        time.sleep(0.02)
    return [statuses[pid] for pid in pids]


def _fork(
    setting: Setting, root: Path, log: Path, fuse: Fuse | None, rank: int, port: int, flags: Sequence[str]
) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        if setting.processes > 1:  # as torchrun starts them
            world = str(setting.processes)
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": world}
            os.environ |= {"LOCAL_WORLD_SIZE": world, "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "kills"}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        if fuse is not None and rank in fuse.ranks:
            fuse.light()
        run("fit", setting.config, root, *setting.flags, *flags)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(3)


@dataclass
class Fuse:
    """Kills a process some time after its training has begun, or after its start."""

    seconds: float
    from_training: bool
    ranks: tuple[int, ...]

    def light(self) -> None:
        if not self.from_training:
            self._start()
            return
        begin = Run.on_train_start

        def on_train_start(callback: Run, *args: Any) -> None:
            begin(callback, *args)
            self._start()

        mock.patch.object(Run, "on_train_start", on_train_start).start()

    def _start(self) -> None:
        timer = threading.Timer(self.seconds, os.kill, (os.getpid(), signal.SIGKILL))
        timer.daemon = True
        timer.start()


def folder_of(setting: Setting, root: Path) -> Path:
    folders = (root / setting.config).glob("version_*")
    return max(folders, key=lambda p: int(p.name.removeprefix("version_")))


def compared(a: Path, b: Path) -> list[str]:
    """Where two run folders differ."""
    found = run_differences(a, b)
    best = [f / "checkpoints" / "best.ckpt" for f in (a, b)]
    if best[0].exists() != best[1].exists():
        found.append("best.ckpt: one side only")
    elif best[0].exists():
        found += differences(checkpoint_content(best[0]), checkpoint_content(best[1]), "best.ckpt")
    summaries = [json.loads((f / "summary.json").read_text()) for f in (a, b)]
    names = [Path(s["checkpoint"]).name if s["checkpoint"] else None for s in summaries]
    kept = [{k: v for k, v in s.items() if k not in NOT_COMPARED} for s in summaries]
    found += differences(*kept, "summary.json") + differences(*names, "summary.json.checkpoint")
    found += [f"left over: {p.name}" for p in b.rglob("*") if p.suffix in (".tmp", ".broken", ".old")]
    return found


def one_round(setting: Setting, luck: random.Random, root: Path) -> tuple[int, list[str]]:
    """How often the run was killed, and where it then differs from one that nobody stopped."""
    log = root / "log"
    started = time.monotonic()
    if any(in_forks(setting, root / "calm", log, None)):
        return 0, [f"the run fails when nobody stops it: {log.read_text()[-1500:]}"]
    whole = time.monotonic() - started
    calm = folder_of(setting, root / "calm")
    training = json.loads((calm / "summary.json").read_text())["seconds"]
    kills = 0
    for _ in range(luck.choice([1, 1, 1, 2])):
        from_training = luck.random() < 0.85
        seconds = luck.uniform(0, 1.1 * training if from_training else whole)
        ranks = luck.choice([(0,), (1,), (0, 1)]) if setting.processes > 1 else (0,)
        statuses = in_forks(
            setting, root / "killed", log, Fuse(seconds, from_training, ranks), "--ckpt_path=last"
        )
        if -1 in statuses:
            return kills, [f"a process did not end when {ranks} were killed: {log.read_text()[-1500:]}"]
        kills += any(os.WIFSIGNALED(s) and os.WTERMSIG(s) == signal.SIGKILL for s in statuses)
    if any(in_forks(setting, root / "killed", log, None, "--ckpt_path=last")):
        return kills, [f"the killed run does not go on: {log.read_text()[-1500:]}"]
    return kills, compared(calm, folder_of(setting, root / "killed"))


def random_kills(
    kills: int, seed: int, configs: Sequence[str] = (), say: Callable[[str], None] = print
) -> list[str]:
    """Kill until ``kills`` were met; returns what differs."""
    luck = random.Random(seed)
    torch.set_num_threads(1)
    done, different, queue = 0, [], []
    while done < kills:
        queue = queue or luck.sample(list(configs or TRAINED), len(configs or TRAINED))
        setting = Setting.of(queue.pop(), luck)
        root = Path(tempfile.mkdtemp(prefix="kills"))
        try:
            met, found = one_round(setting, luck, root)
        finally:
            shutil.rmtree(root, ignore_errors=True)
        done += met
        say(f"{done:3} {setting}: {met} kills, {len(found)} differences")
        different += [f"{setting} {' '.join(setting.flags)}: {place}" for place in found[:4]]
        for place in found[:4]:
            say(f"    {place}")
    say(f"{done} kills, {len(different)} differences")
    return different


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("configs", nargs="*", help="those alone")
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    found = random_kills(options.kills, options.seed, options.configs, lambda x: print(x, flush=True))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
