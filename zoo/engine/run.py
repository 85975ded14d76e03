"""The folder of a run (config.yaml, metrics.csv, curves.png, summary.json) and its lines on the terminal."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor

from zoo.drawing import drawing
from zoo.engine.accumulation import effective_batch, window
from zoo.engine.checkpoint import Checkpoint, step_checkpoints
from zoo.engine.checkpoint_folder import checkpoints_of
from zoo.engine.energy.callback import Energy
from zoo.engine.energy.costs import Cost, saved_bytes
from zoo.engine.errors import FAILED, advise, claim, is_worker_gone
from zoo.engine.finite import not_finite
from zoo.engine.lock import LOCK
from zoo.engine.lost_processes import Ranks
from zoo.engine.metrics_csv import MetricsCSV, final_and_best, read_metrics, read_table
from zoo.engine.predictions import PredictionWriter, Previews
from zoo.engine.stopping import Stopped
from zoo.reports import CannotWrite, replace_file, say, writing

GO_ON = "go on with the same command and --ckpt_path last"
_VERSIONS = ("lightning-zoo", "torch", "lightning", "torchmetrics", "numpy", "diffusers", "transformers")


def _peak_memory(device: torch.device) -> int:
    """Bytes: of the GPU where there is one, else of the process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    import resource

    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def parameter_count(module: LightningModule) -> int:
    """Parameters that a run trains; of sharded ones the whole, of lazy ones that were never met none."""
    trained = (p for p in module.parameters() if p.requires_grad)
    return sum(p.numel() for p in trained if not torch.nn.parameter.is_lazy(p))


def _git_hash() -> str | None:
    """Commit of the zoo's own checkout; None when installed from a wheel."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a result."""
    found = {"python": platform.python_version()}
    for name in _VERSIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


class Run(Callback):
    """Writes what a run leaves behind and tells the user where it is.

    Args:
        name: of the config, which is the folder's parent.
        folder: the run's folder.
        config: text of the parsed configuration.
        command: what was typed.
        record: called with the summary of ``zoo validate`` and ``zoo test``; returns a line for the user.
        started_here: whether another process of this run started this one.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        config: str,
        command: str,
        record: Callable[[dict[str, Any]], str] | None = None,
        started_here: bool = False,
    ) -> None:
        self.record, self._started_here = record, started_here
        self.name, self.folder, self.config, self.command = name, folder, config, command
        self.seconds = 0.0
        self._started = 0.0
        self._start_step: int | None = None  # None until the run trains
        self._batches = 0
        self._validating_since: float | None = None
        self._not_training = 0.0
        self._log: MetricsCSV | None = None
        self._logged_step = -1
        self._ranks: Ranks | None = None
        self._first_not_finite: Tensor | None = None
        self._row_seen = -1
        self._told_not_finite = False
        self._never_finite: set[str] = set()

    # --- start
    # ----------------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        verb = trainer.state.fn.value if trainer.state.fn else stage
        # ranks that a launcher started each took a number of their own
        self.folder = trainer.strategy.broadcast(self.folder)
        if trainer.is_global_zero:
            with writing(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
                (self.folder / FAILED).unlink(missing_ok=True)
            config = self.folder / ("config.yaml" if verb == "fit" else f"config_{verb}.yaml")
            if verb != "fit" or not config.exists():  # that of a run that goes on is replaced when it does
                replace_file(config, self.config)
        self._never_finite = not_finite(pl_module) if verb == "fit" else set()
        self._ranks = Ranks(trainer, self._started_here)
        self._started = time.monotonic()
        self._log = next((x for x in trainer.loggers if isinstance(x, MetricsCSV)), None)
        say(f"{verb} {self.name}: {self._batch_text(trainer)}{_device_text(trainer)}, logs in {self.folder}")

    def _batch_text(self, trainer: Trainer) -> str:
        batch = effective_batch(trainer)
        if batch is None or trainer.state.fn != TrainerFn.FITTING:
            return ""
        # devices that split a tensor share their rows
        mesh = getattr(trainer.lightning_module, "device_mesh", None)
        shares = trainer.world_size if mesh is None else mesh["data_parallel"].size()
        parts = f"{batch // window(trainer) // shares} per device"
        if trainer.accumulate_grad_batches > 1:
            parts += f", {trainer.accumulate_grad_batches} batches accumulated"
        return f"effective batch {batch} ({parts}), "

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started, self._not_training = time.monotonic(), 0.0
        self._start_step, self._batches = trainer.global_step, 0
        if self._log is not None:
            self._log.continue_from(self._logged_step)
        if trainer.is_global_zero:
            replace_file(self.folder / "config.yaml", self.config)
        if trainer.global_step:
            say(f"resumed at step {trainer.global_step}, epoch {trainer.current_epoch}")
        if self._ranks is not None:
            self._ranks.watch(self.folder, trainer.global_rank, self._advice)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any
    ) -> None:
        self._batches += 1
        self._check_folder(trainer)
        self._watch_loss(trainer, outputs)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._watch_rows()
        if self._ranks is not None:
            self._ranks.over()

    def _check_folder(self, trainer: Trainer) -> None:
        """Whoever takes the folder away ends the run; who takes config.yaml alone gets it back."""
        config = self.folder / "config.yaml"
        if not trainer.is_global_zero or trainer.state.fn != TrainerFn.FITTING or config.exists():
            return
        if not (self.folder / LOCK).exists():
            raise CannotWrite(
                f"the run's folder {self.folder} was taken away at step {trainer.global_step}, and with it "
                "all that the run kept; start it again"
            )
        replace_file(config, self.config)
        say(f"{config} was gone: written again")

    def _watch_loss(self, trainer: Trainer, outputs: Any) -> None:
        """Tell once that the loss is no finite number. A GPU is waited for only where a row is logged."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if self._told_not_finite or not trainer.is_global_zero:
            return
        self._watch_rows()
        if not isinstance(loss, Tensor):
            return
        now = torch.where(torch.isfinite(loss.detach()).all(), -1, trainer.global_step)
        before = self._first_not_finite
        self._first_not_finite = now if before is None else torch.where(before < 0, now, before)
        if now.device.type == "cpu" or trainer._logger_connector.should_update_logs:
            step = int(self._first_not_finite)
            if step >= 0:
                self._tell_not_finite("loss", step)

    def _watch_rows(self) -> None:
        """Losses of a module that steps its optimisers itself are seen where they are logged."""
        if self._log is None or self._log.last_step == self._row_seen:
            return
        self._row_seen = self._log.last_step
        for key, value in self._log.last_row.items():
            if key.startswith("train/") and value in ("nan", "inf", "-inf"):
                self._tell_not_finite(key, self._row_seen + 1)

    def _tell_not_finite(self, name: str, step: int) -> None:
        if not self._told_not_finite:
            self._told_not_finite = True
            say(
                f"the training's {name} is no finite number since step {step}; a lower learning rate or "
                "trainer.gradient_clip_val may help. The run goes on"
            )

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validating_since = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._validating_since is not None:
            self._not_training += time.monotonic() - self._validating_since
            self._validating_since = None
        self._check_folder(trainer)
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._evaluation_end(trainer, "val")

    # --- end
    # ------------------------------------------------------------------------------------------------------

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        elapsed = time.monotonic() - self._started
        self.seconds += elapsed
        batch = getattr(getattr(trainer, "datamodule", None), "batch_size", None)
        training = max(elapsed - self._not_training, 1e-9)
        rate = self._batches * int(batch) / training if batch and self._batches else None
        memory = _peak_memory(pl_module.device)
        if not trainer.is_global_zero:
            return
        self._check_folder(trainer)
        best = self._checkpoint(trainer)
        energy = _energy_of(trainer)
        summary = self._summary(trainer, rate, memory, best)
        lost = sorted(not_finite(pl_module) - self._never_finite)
        summary["diverged"] = _why_diverged(lost, summary["final"])
        if self._start_step is not None or not self._has_summary_of(trainer.global_step):
            self._save_summary("summary.json", summary)
        pictures = [p.latest for p in trainer.callbacks if isinstance(p, Previews) and p.latest]  # type: ignore[attr-defined]
        curves = plot_curves(self.folder)
        steps = 0 if self._start_step is None else trainer.global_step - self._start_step
        if steps or not trainer.global_step:
            speed = f"{rate:,.0f} samples/s, " if rate else ""
            say(f"{steps} steps in {_duration(elapsed)}, {speed}peak memory {memory / 2**30:.2f} GiB")
        else:
            say(_nothing_left(trainer))
        if energy is not None:
            say(f"{energy.line('fit')}{_flops_text(energy)}")
        if summary["diverged"]:
            say(f"the training diverged: {summary['diverged']}")
        metrics = {k: v for k, v in summary["final"].items() if k.startswith("val/")}
        score = self._score_of_best(trainer, best)
        if metrics:
            values = ", ".join(f"{k.removeprefix('val/')} {v:.4g}" for k, v in metrics.items())
            say(f"{'last ' if score else ''}validation: {values}")
        if best is not None:
            say(f"checkpoint  {best}{score}")
        for picture in pictures:
            say(f"samples     {picture}")
        if curves is not None:
            say(f"curves      {curves}")
        log, summary_file = self.folder / "metrics.csv", self.folder / "summary.json"
        say(f"log         {f'{log} and summary.json' if log.exists() else summary_file}")
        # --weights takes neither a folder of shards nor weights that are no numbers
        answers = best is not None and best.is_file() and (best.name == "best.ckpt" or not lost)
        if answers and is_overridden("predict_step", pl_module):
            words = ["predict", "--config", self.folder / "config.yaml", "--weights", best]
            say(f"next: {program()} {shlex.join(map(str, words))}")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._evaluation_end(trainer, "test")

    def _evaluation_end(self, trainer: Trainer, prefix: str) -> None:
        if not trainer.is_global_zero:
            return
        metrics = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith(prefix + "/")}
        self.seconds = time.monotonic() - self._started
        verb = "validate" if prefix == "val" else prefix
        name = f"summary_{verb}.json"
        summary = {**self._facts(trainer), "final": metrics, "seconds": self.seconds}
        energy = _energy_of(trainer)
        summary |= _spent(energy, verb) | {"costs": _costs(trainer, energy, verb)}
        self._save_summary(name, summary)
        if self.record is not None:
            say(self.record(summary))
        for key, value in metrics.items():
            say(f"{key.removeprefix(prefix + '/'):<18} {value:.6g}")
        if energy is not None:
            say(energy.line(verb))
        say(f"done in {_duration(self.seconds)}; written to {self.folder / name}")

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, PredictionWriter):
                for path in callback.outputs:
                    say(f"wrote {path}")
        if (energy := _energy_of(trainer)) is not None:
            say(energy.line("predict"))
        say(f"done in {_duration(time.monotonic() - self._started)}")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self._ranks is not None:
            self._ranks.over()
        if isinstance(exception, Stopped):
            say(f"stopped by {exception.signal} at step {trainer.global_step}, which is kept; {GO_ON}")
            return
        if isinstance(exception, SIGTERMException):
            say("stopped by SIGTERM")
            return
        if (line := _of_precision(trainer, exception)) is not None:
            advise(exception, "take 32-true, or bf16-mixed", line)
        if trainer.world_size > 1:
            claim(exception, self.folder, trainer.global_rank)
        if trainer.state.fn != TrainerFn.FITTING:
            return
        if isinstance(exception, KeyboardInterrupt):
            say(f"interrupted at step {trainer.global_step}; {self._advice()}")
            return
        gone = self._ranks.explain(exception) if self._ranks is not None else None
        machine = isinstance(exception, CannotWrite) or is_worker_gone(exception)
        if is_worker_gone(exception):
            # torch raises in this signal's handler, with a traceback for each further worker that goes
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if (gone or machine) and self.folder.exists():
            advise(exception, self._advice(), gone)

    def _advice(self) -> str:
        """What to do about a run that ends for a reason outside it."""
        kept = step_checkpoints(checkpoints_of(self.folder))
        return GO_ON if kept else "no checkpoint is written yet: start it again"

    def _checkpoint(self, trainer: Trainer) -> Path | None:
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, Checkpoint):
                return callback.best_path
        return None

    def _score_of_best(self, trainer: Trainer, best: Path | None) -> str:
        """Which score ``best.ckpt`` has, or why there is none; empty for another file."""
        for callback in trainer.checkpoint_callbacks:
            if not isinstance(callback, Checkpoint) or callback.monitor is None:
                continue
            if callback.best_score is None and callback.monitor not in trainer.callback_metrics:
                return " (the newest: no validation came)"
            if callback.best_score is None:
                return f" (the newest: no validation had finite weights and a finite {callback.monitor})"
            if best is not None and best.name == "best.ckpt":
                return f" ({callback.monitor} {callback.best_score:.4g} at step {callback.best_step})"
        return ""

    def _facts(self, trainer: Trainer) -> dict[str, Any]:
        return {
            "config": self.name,
            "command": self.command,
            "seed": int(os.environ.get("PL_GLOBAL_SEED", 0)),
            "world_size": trainer.world_size,
            "device": _device_text(trainer),
            "precision": str(trainer.precision),
            "versions": versions(),
            "git": _git_hash(),
            "date": time.strftime("%Y-%m-%d"),
        }

    def _summary(
        self, trainer: Trainer, rate: float | None, memory: int, best: Path | None
    ) -> dict[str, Any]:
        path = self.folder / "metrics.csv"
        if damage := read_table(path).damage:
            say(f"{path} is damaged and cannot be read whole, left out: {', '.join(damage[:3])}")
        final, extremes = final_and_best(read_metrics(path))
        return {
            **self._facts(trainer),
            "final": final,
            "best": extremes,
            "checkpoint": None if best is None else str(best),
            "steps": trainer.global_step,
            # begun; those completed are one less in a run that was killed behind its last step
            "epochs": trainer.fit_loop.epoch_progress.current.ready,
            "finished": not trainer.interrupted,
            "resumed_from_step": trainer.global_step if self._start_step is None else self._start_step,
            "seconds": self.seconds,
            "samples_per_second": rate,
            "effective_batch": effective_batch(trainer),
            "parameters": parameter_count(trainer.lightning_module),
            "peak_memory_bytes": memory,
            **_spent(energy := _energy_of(trainer), "fit"),
            "costs": _costs(trainer, energy, "fit"),
        }

    def _has_summary_of(self, step: int) -> bool:
        """Whether a run that has nothing left to train said before what it did."""
        try:
            return bool(json.loads((self.folder / "summary.json").read_text())["steps"] == step)
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def _save_summary(self, name: str, summary: dict[str, Any]) -> None:
        replace_file(self.folder / name, json.dumps(summary, indent=2) + "\n")

    # The time already spent comes back on a resume, so that seconds in summary.json are those of the whole
    # training. Rows of metrics.csv after the logged step belong to work that is done again.
    def state_dict(self) -> dict[str, Any]:
        if self._log is not None:
            self._log.sync()
        return {
            "seconds": self.seconds + time.monotonic() - self._started,
            "logged_step": -1 if self._log is None else self._log.last_step,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds = float(state_dict["seconds"])
        self._logged_step = int(state_dict["logged_step"])


def _energy_of(trainer: Trainer) -> Energy | None:
    return next((c for c in trainer.callbacks if isinstance(c, Energy)), None)  # type: ignore[attr-defined]


def _spent(energy: Energy | None, verb: str) -> dict[str, Any]:
    """Joules and FLOPs as a summary holds them."""
    if energy is None:
        return {}
    flops = energy.counted_flops or {"step": None, "source": "unknown: no batch was counted"}
    return {"energy": energy.summary(verb)} | ({"flops": flops} if verb == "fit" else {})


def _flops_text(energy: Energy) -> str:
    step, source = energy.counted_flops.get("step"), str(energy.counted_flops.get("source", ""))
    return f", {step:.4g} FLOPs a step" if step else f", FLOPs {source[:100]}" if source else ""


def _costs(trainer: Trainer, energy: Energy | None, verb: str) -> dict[str, Any]:
    """What may be an axis of ``zoo compare``: plain numbers, None where one is unknown."""
    found: dict[str, Any] = {}
    if energy is not None:
        spent = energy.summary(verb)
        found = {
            f"{verb}_joules": spent["joules"],
            f"{verb}_kwh": spent["kwh"],
            f"{verb}_gco2e": spent["gco2e"],
        }
    if verb == "fit":
        found |= {"flops_per_step": None if energy is None else energy.counted_flops.get("step")}
        found |= {"bytes": saved_bytes(trainer.lightning_module) if trainer.world_size == 1 else None}
    measured = next((c for c in trainer.callbacks if isinstance(c, Cost)), None)  # type: ignore[attr-defined]
    return found if measured is None or verb != "test" else found | measured.costs


def program() -> str:
    """How to type the command again: ``zoo`` where the shell finds this installation by that name."""
    typed = Path(sys.argv[0])
    if typed.name == "cli.py":
        return shlex.join([sys.executable, sys.argv[0]])
    found = shutil.which("zoo")
    if typed.name != "zoo" or not typed.exists() or (found and typed.samefile(found)):
        return "zoo"
    return shlex.quote(sys.argv[0])


def _nothing_left(trainer: Trainer) -> str:
    """Why a run does not train: it came to its end before."""
    limits = (("max_steps", trainer.global_step), ("max_epochs", trainer.current_epoch))
    reached = [f"trainer.{key}" for key, value in limits if getattr(trainer, key) == value]
    way = f"raise {' or '.join(reached)} to go on" if reached else "it had ended by itself"
    return f"nothing left to train at step {trainer.global_step}, epoch {trainer.current_epoch}; {way}"


def _why_diverged(lost: Sequence[str], final: Mapping[str, float]) -> str | None:
    """What is no number at the end of a training.

    Args:
        lost: names of the weights that are not finite.
        final: last value of each metric.
    """
    if lost:
        more = f" and {len(lost) - 1} more hold" if lost[1:] else " holds"
        return f"{lost[0]}{more} NaN or infinity"
    losses = [k for k, v in final.items() if "loss" in k and not math.isfinite(v)]
    return f"the last {losses[0]} is {final[losses[0]]}" if losses else None


def _of_precision(trainer: Trainer, error: BaseException) -> str | None:
    """What to say instead of torch's words where tensors of two types meet in a module turned to another."""
    text = str(error)
    if not str(trainer.precision).endswith("-true") or str(trainer.precision) == "32-true":
        return None
    if not isinstance(error, RuntimeError) or not re.search(r"scalar type|dtype", text):
        return None
    name = type(trainer.lightning_module).__name__
    return f"{name} does not compute in trainer.precision {trainer.precision} ({text.splitlines()[0]})"


def _device_text(trainer: Trainer) -> str:
    device = trainer.strategy.root_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    text = f"{trainer.world_size} x {name}"
    if device.type != "cpu":
        return text
    # the order of a sum, and so the last bits of a result, depends on it
    threads = torch.get_num_threads()
    return f"{text} ({threads} thread{'s' if threads > 1 else ''})"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"


def plot_curves(folder: Path) -> Path | None:
    """curves.png from metrics.csv: one panel per name of a metric; train/mse and val/mse share one."""
    rows = read_metrics(folder / "metrics.csv")
    series: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for row in rows:
        for key, value in row.items():
            if key in ("step", "epoch"):
                continue
            stage, _, metric = key.rpartition("/")
            panel = stage if stage not in ("train", "val", "test", "") else metric
            series.setdefault(panel, {}).setdefault(key, []).append((row["step"] + 1, value))
    if not series:
        return None
    columns = min(3, len(series))
    lines = -(-len(series) // columns)
    path = folder / "curves.png"
    size = (5 * columns, 3.2 * lines)
    with writing(path), drawing(path, lines, columns, figsize=size, squeeze=False, dpi=110) as (_, axes):
        for axis in axes.flat[len(series) :]:
            axis.set_visible(False)
        for axis, (panel, curves) in zip(axes.flat, sorted(series.items()), strict=False):
            for key, points in sorted(curves.items()):
                steps, values = zip(*points, strict=True)
                axis.plot(steps, values, label=key, linewidth=1.2, marker="." if len(points) < 20 else None)
            if _falls_far([[v for _, v in points] for points in curves.values()]):
                axis.set_yscale("log")
            axis.set_title(panel)
            axis.set_xlabel("optimiser step")
            axis.legend(fontsize=7)
            axis.grid(alpha=0.3)
    return path


def _falls_far(curves: Sequence[Sequence[float]]) -> bool:
    """Whether a logarithmic axis shows curves better: losses, which fall by more than a factor of ten.

    An accuracy rises, and its last percents are what one looks at.
    """
    finite = [kept for curve in curves if (kept := [v for v in curve if math.isfinite(v)])]
    values = [v for curve in finite for v in curve]
    if not values or min(values) <= 0 or max(values) <= 10 * min(values):
        return False
    return sum(math.log(curve[-1] / curve[0]) for curve in finite) < 0
