"""Joules, carbon and FLOPs of a run: by stage and epoch, over all ranks, over kills."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from zoo.engine.accumulation import window
from zoo.engine.energy.carbon import carbon
from zoo.engine.energy.counters import KWH, Counters, CpuTime, NoCounter, counted
from zoo.engine.energy.emissions import append_emissions
from zoo.engine.energy.meter import SourceName, find_counters, kinds
from zoo.engine.metrics_csv import MetricsCSV
from zoo.nn.flops import FlopCounter
from zoo.reports import replace_file, say

FIT, VALIDATE_IN_FIT = "fit", "fit_validate"
FILE = "energy.csv"
_COLUMNS = ("epoch", "step", "fit_J", "fit_validate_J", "kWh", "gCO2e", "kind")
_ROW_SECONDS, _FLUSH_SECONDS = 1.0, 5.0  # epochs of a few milliseconds share a row

Stages = dict[str, dict[str, float]]
"""stage -> component -> joules."""


def _add(stages: Stages, stage: str, joules: Mapping[str, float]) -> None:
    held = stages.setdefault(stage, {})
    for component, value in joules.items():
        held[component] = held.get(component, 0.0) + value


def _sum_of(*parts: Stages) -> Stages:
    total: Stages = {}
    for part in parts:
        for stage, joules in part.items():
            _add(total, stage, joules)
    return total


class Energy(Callback):
    """Counts what a run spends, from the first step on: neither the start nor the making of data.

    Validations inside a training are a stage of their own. With several processes each counts its GPU, one of
    each machine the machine's counters, and where CPU time stands in for them each its own; sums are of all.
    A checkpoint holds the sums, so that those of a resumed run go on.

    Args:
        source: auto takes the best that is there; nvml, rapl and codecarbon must be there. cpu_time is a
            model that repeats itself on a machine that others use too.
        watts_per_core: of a busy core, for cpu_time; null takes what the processor says, else 4.
        idle_watts: that pass in any case, for cpu_time.
        pue: joules that the computing centre takes for each that the computer takes (1.58 is a usual mean).
        intensity: of the grid, in grams of CO2 equivalents per kWh; null takes that of ``country``.
        country: ISO code of three letters; null takes the mean of the world, 475 g/kWh.
        budget_joules: a training that has spent them stops behind the step, with its checkpoint.
        emissions_csv: also write emissions.csv with codecarbon's columns.
        flops: count those of the first batch, which that batch alone pays for.

    Raises:
        ValueError: for a country that is not known, or a source that is not there.
    """

    def __init__(
        self,
        source: SourceName = "auto",
        watts_per_core: float | None = None,
        idle_watts: float = 0.0,
        pue: float = 1.0,
        intensity: float | None = None,
        country: str | None = None,
        budget_joules: float | None = None,
        emissions_csv: bool = False,
        flops: bool = True,
    ) -> None:
        super().__init__()
        self.carbon = carbon(pue, intensity, country)
        self.source, self.watts_per_core, self.idle_watts = source, watts_per_core, idle_watts
        self.country, self.budget_joules = country, budget_joules
        self.emissions_csv, self.flops = emissions_csv, flops
        self.counted_flops: dict[str, Any] = {}
        self._before: Stages = {}  # of the checkpoint, over all ranks
        self._here: Stages = {}  # of this process since
        self._seconds: dict[str, float] = {}
        self._trainer: Trainer | None = None
        self._counters: Counters | None = None
        self._stage: str | None = None
        self._read: dict[str, float] = {}
        self._since = 0.0
        self._sum: Stages | None = None
        self._counter: FlopCounter | None = None
        self._rows: list[list[str]] = []
        self._rows_written = self._row_at = 0.0
        self._row_due = False
        self._file_begun = False
        self._epoch_before: Stages = {}
        self._step = -1
        self.stopped = False
        self._alone = False  # sums are of this process, not of all

    # --- stages

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._trainer = trainer
        if self._counters is None or self._counters.closed:
            settings = (self.source, self.watts_per_core, self.idle_watts, trainer.strategy.root_device)
            first = trainer.local_rank == 0
            try:
                self._counters = find_counters(*settings, country=self.country, cpu=first)
            except NoCounter as error:
                raise ValueError(f"energy.source {self.source}: {error}") from None
            for source in self._counters.sources:
                if isinstance(source, CpuTime):
                    source.others = lambda: _launched(trainer)
            for component, why in self._counters.why.items():
                if "root alone" in why or component == "gpu":  # a machine without counters says it at the end
                    say(f"energy: {component}: {why}")

    def _switch(self, stage: str | None) -> None:
        """What was spent since the last switch belongs to the stage until now."""
        if self._counters is None or (self._stage is None and stage is None):
            return
        now, at = self._counters.read(), time.monotonic()
        if self._stage is not None:
            _add(self._here, self._stage, {c: j - self._read.get(c, 0.0) for c, j in now.items()})
            self._seconds[self._stage] = self._seconds.get(self._stage, 0.0) + at - self._since
        self._read, self._since, self._stage, self._sum = now, at, stage, None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._switch(FIT)
        self._epoch_before = self._all(trainer)
        self._step, self._row_at = trainer.global_step, time.monotonic()
        self._check_budget(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop_counting(trainer)
        if self._row_due:
            self._row(trainer)
        self._switch(None)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop_counting(trainer)
        if not trainer.sanity_checking:
            self._switch(VALIDATE_IN_FIT if trainer.state.fn == TrainerFn.FITTING else "validate")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._switch(FIT if trainer.state.fn == TrainerFn.FITTING else None)
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._finish(trainer, "validate")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._switch("test")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._switch(None)
        self._finish(trainer, "test")

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._switch("predict")

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._switch(None)
        # a process without anything to predict is not asked: a sum over all would wait for it
        self._alone = trainer.world_size > 1
        self._finish(trainer, "predict")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write_rows(trainer)
        self._finish(trainer, "fit")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._leave_counter()
        self._switch(None)
        self._close()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._leave_counter()
        self._close()

    def _close(self) -> None:
        if self._counters is not None:
            self._counters.close()

    def _finish(self, trainer: Trainer, verb: str) -> None:
        """Collective: the sum over all ranks, which the summary takes."""
        self._sum = self._all(trainer)
        if self.emissions_csv and trainer.is_global_zero and self._counters is not None:
            append_emissions(
                Path(trainer.default_root_dir) / "emissions.csv",
                self.summary(verb),
                self.carbon,
                self.country,
            )

    def _all(self, trainer: Trainer) -> Stages:
        """Joules of all ranks, with those of the checkpoint. Collective."""
        parts = [self._here]
        if trainer.world_size > 1 and not self._alone:
            parts = [{} for _ in range(trainer.world_size)]
            torch.distributed.all_gather_object(parts, self._here)
        return _sum_of(self._before, *parts)

    @property
    def counters(self) -> Counters | None:
        """What is read; None before a run begins."""
        return self._counters

    # --- steps

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if not self.flops or self.counted_flops or self._counter is not None:
            return
        if any(m._compiled_call_impl is not None for m in pl_module.modules()):
            self.counted_flops = {"step": None, "source": "unknown: the network is compiled"}
        elif trainer.is_global_zero:
            self._counter = FlopCounter()
            self._counter.__enter__()
        else:
            self.counted_flops = {"step": None, "source": "unknown: the first process counts"}

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if self._counter is not None:
            self._stop_counting(trainer)
        if self.budget_joules is not None and trainer.global_step != self._step:
            self._step = trainer.global_step
            self._switch(self._stage)
            self._check_budget(trainer)

    def _leave_counter(self) -> FlopCounter | None:
        counter, self._counter = self._counter, None
        if counter is not None:
            counter.__exit__(None, None, None)
        return counter

    def _stop_counting(self, trainer: Trainer) -> None:
        counter = self._leave_counter()
        if counter is None:
            return
        batches = window(trainer) * trainer.world_size
        step = counter.dense * batches
        what = "the first batch" + (f" x {batches}" if batches > 1 else "")
        if counter.uncounted or not step:
            why = counter.why or "nothing that counts was computed"
            self.counted_flops = {"step": None, "at_least": step, "source": f"unknown: {why}"}
        else:
            self.counted_flops = {"step": step, "source": f"counted in {what}, by torch's operations"}

    def _check_budget(self, trainer: Trainer) -> None:
        if self.budget_joules is None or self._counters is None:
            return
        components = self._counters.components()
        spent = sum(counted(j, _known(j, components)) for j in self._all(trainer).values())
        if trainer.world_size > 1:  # all see the same sum, but for components of other machines
            spent = trainer.strategy.broadcast(spent)
        if spent >= self.budget_joules and not self.stopped:
            self.stopped = trainer.should_stop = True
            say(
                f"energy.budget_joules {self.budget_joules:g} is spent at step {trainer.global_step}: "
                f"{spent:.4g} J, {kinds(components)}"
            )

    # --- epochs

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size > 1 or time.monotonic() - self._row_at > _ROW_SECONDS:
            self._row(trainer)
        else:
            self._row_due = True

    def _row(self, trainer: Trainer) -> None:
        """Joules since the last row. Collective."""
        self._row_at, self._row_due = time.monotonic(), False
        self._switch(self._stage)
        now = self._all(trainer)
        if not trainer.is_global_zero or self._counters is None:
            self._epoch_before = now
            return
        components = self._counters.components()
        spent = [
            counted(now.get(s, {}), _known(now.get(s, {}), components))
            - counted(self._epoch_before.get(s, {}), _known(self._epoch_before.get(s, {}), components))
            for s in (FIT, VALIDATE_IN_FIT)
        ]
        self._epoch_before = now
        kwh, grams = sum(spent) / KWH, self.carbon.grams(sum(spent))
        kind = "+".join(sorted({facts["kind"] for facts in components.values()}))
        step = trainer.global_step
        self._rows.append(
            [str(trainer.current_epoch), str(step), *(f"{v:.6g}" for v in (*spent, kwh, grams)), kind]
        )
        others = [logger for logger in trainer.loggers if not isinstance(logger, MetricsCSV)]
        if others:
            total = sum(counted(j, _known(j, components)) for j in now.values())
            values = {"energy/train_J": total, "energy/kWh": total / KWH}
            values["energy/gCO2e"] = self.carbon.grams(total)
            for logger in others:
                logger.log_metrics(values, step=step)
        if time.monotonic() - self._rows_written > _FLUSH_SECONDS:
            self._write_rows(trainer)

    def _write_rows(self, trainer: Trainer) -> None:
        """metrics.csv holds what repeats to the bit; joules, which do not, are in a file of their own."""
        if not trainer.is_global_zero or not self._rows:
            return
        path = Path(trainer.default_root_dir) / FILE
        lines = "".join(",".join(row) + "\n" for row in self._rows)
        if not self._file_begun:  # rows behind the step that a run goes on from are made again
            kept = _rows_before(path, int(self._rows[0][1]))
            replace_file(path, ",".join(_COLUMNS) + "\n" + kept + lines)
        else:
            with path.open("a") as file:
                file.write(lines)
        self._rows, self._file_begun, self._rows_written = [], True, time.monotonic()

    # --- results

    def summary(self, verb: str) -> dict[str, Any]:
        """What summary.json says of the verb's stages, or of the training's.

        Args:
            verb: fit, validate, test or predict.
        """
        components = {} if self._counters is None else self._counters.components()
        wanted = (FIT, VALIDATE_IN_FIT) if verb == "fit" else (verb,)
        held = _sum_of(self._before, self._here) if self._sum is None else self._sum
        stages = {stage: held[stage] for stage in wanted if stage in held}
        by_component: dict[str, float] = {}
        for joules in stages.values():
            for component, value in joules.items():
                by_component[component] = by_component.get(component, 0.0) + value
        known = _known(by_component, components)
        total = counted(by_component, known)
        return {
            "joules": total,
            "kwh": total / KWH,
            "gco2e": self.carbon.grams(total),
            "kind": kinds({c: facts for c, facts in known.items() if c in by_component}),
            "stages": {s: {**j, "joules": counted(j, _known(j, components))} for s, j in stages.items()},
            "components": {c: {"joules": by_component[c], **known[c]} for c in by_component},
            "not_counted": {} if self._counters is None else self._counters.missing(),
            "seconds": sum(self._seconds.get(stage, 0.0) for stage in wanted),
            "factors": {
                "pue": self.carbon.pue,
                "intensity_g_per_kwh": self.carbon.intensity,
                "country": self.carbon.country,
                "intensity_source": self.carbon.source,
            },
            "budget_joules": self.budget_joules,
            "stopped_by_budget": self.stopped,
        }

    def line(self, verb: str) -> str:
        """The joules in a line, with kind, source and factors."""
        found = self.summary(verb)
        numbers = f"{found['joules']:.4g} J = {found['kwh']:.3g} kWh {found['kind']}"
        numbers += "".join(f", {component} not counted" for component in found["not_counted"])
        numbers += ", of the first process alone" * self._alone
        return f"energy      {numbers}, {found['gco2e']:.3g} gCO2e ({self.carbon.text})"

    def state_dict(self) -> dict[str, Any]:
        """Collective: every rank must call it."""
        self._switch(self._stage)
        stages = self._before if self._trainer is None else self._all(self._trainer)
        return {"stages": stages, "seconds": dict(self._seconds), "flops": self.counted_flops}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._before = {s: dict(joules) for s, joules in state_dict["stages"].items()}
        self._seconds = {stage: float(value) for stage, value in state_dict["seconds"].items()}
        self.counted_flops = dict(state_dict["flops"])


def _known(
    joules: Mapping[str, float], components: Mapping[str, dict[str, str]]
) -> dict[str, dict[str, str]]:
    """Sources of components; one that another machine, or the run before a resume, had is said to be that."""
    other = {
        "source": "another machine",
        "kind": "measured",
        "text": "of another machine or an earlier start",
    }
    return {component: components.get(component, other) for component in joules}


def _launched(trainer: Trainer) -> list[int]:
    """Processes of other ranks that this one has started."""
    return [p.pid for p in getattr(trainer.strategy.launcher, "procs", None) or []]


def _rows_before(path: Path, step: int) -> str:
    """Rows of an energy.csv that a run which goes on keeps."""
    try:
        lines = path.read_text().splitlines(keepends=True)[1:]
    except (OSError, ValueError):
        return ""
    cells = [line.split(",") for line in lines]
    whole = [
        (c, li) for c, li in zip(cells, lines, strict=True) if len(c) == len(_COLUMNS) and c[1].isdecimal()
    ]
    return "".join(line for row, line in whole if int(row[1]) < step and line.endswith("\n"))
