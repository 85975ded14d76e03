"""Joules of a block of code."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from zoo.engine.energy.carbon import carbon
from zoo.engine.energy.counters import (
    KWH,
    POWERCAP,
    CodeCarbon,
    Counters,
    CpuTime,
    NoCounter,
    Nvml,
    Rapl,
    Source,
    counted,
    watts_per_core,
)

SourceName = Literal["auto", "nvml", "rapl", "cpu_time", "codecarbon"]


def find_counters(
    source: SourceName = "auto",
    per_core: float | None = None,
    idle: float = 0.0,
    device: torch.device | None = None,
    country: str | None = None,
    powercap: Path = POWERCAP,
    cpu: bool = True,
) -> Counters:
    """The best source of each component.

    Args:
        source: the one that must be there, ``nvml`` for the GPU, the others for the CPU; ``auto`` takes what
            is there.
        per_core: watts of a busy core, of the model; null asks the processor.
        idle: watts that pass in any case, of the model.
        device: a GPU that is measured besides.
        country: of codecarbon.
        powercap: folder of the counters of the CPU.
        cpu: whether this process measures its machine; if not, its counters are another's business.

    Raises:
        NoCounter: when ``source`` is not there.
    """
    if source == "codecarbon":
        return Counters([CodeCarbon(country)])
    sources: list[Source] = []
    why: dict[str, str] = {}
    if source != "cpu_time":
        try:
            rapl = Rapl(powercap)
            sources += [rapl] if cpu else []
        except NoCounter as error:
            if source == "rapl":
                raise
            why["cpu"] = str(error)
    if source == "cpu_time" or "cpu" in why:
        known = (per_core, "") if per_core is not None else watts_per_core(powercap)
        sources.append(CpuTime(known[0], idle if cpu else 0.0, known[1]))
    if device is not None and device.type == "cuda":
        try:
            sources.append(Nvml(str(torch.cuda.get_device_properties(device).uuid)))
        except NoCounter as error:
            if source == "nvml":
                raise
            why["gpu"] = f"not counted: {error}"
    elif source == "nvml":
        raise NoCounter("energy.source is nvml, but the run is on no NVIDIA GPU; take auto")
    return Counters(sources, why)


class EnergyMeter:
    """Joules of a ``with`` block, measured or modelled.

    .. code-block:: python

        with EnergyMeter() as meter:
            train()
        print(meter.text)  # 12.3 J (3.42e-06 kWh, 0.00162 gCO2e: world mean 475 g/kWh, PUE 1), modelled: ...

    A meter inside another counts in both; ``own`` of all meters add up to what was spent.

    Args:
        source: see :func:`find_counters`.
        watts_per_core: of the model.
        idle_watts: of the model.
        pue: of the computing centre.
        intensity: grams per kWh; null takes the country's.
        country: ISO code; null takes the mean of the world.
        device: a GPU to measure too; by default torch's current one.
        powercap: folder of the CPU's counters.

    Attributes:
        joules: of each component.
        own: the same without what meters inside counted.

    Raises:
        NoCounter: when a source is asked for that is not there.
    """

    def __init__(
        self,
        source: SourceName = "auto",
        watts_per_core: float | None = None,
        idle_watts: float = 0.0,
        pue: float = 1.0,
        intensity: float | None = None,
        country: str | None = None,
        device: torch.device | None = None,
        powercap: Path = POWERCAP,
    ) -> None:
        self.carbon = carbon(pue, intensity, country)
        self._settings: dict[str, Any] = {
            "source": source,
            "per_core": watts_per_core,
            "idle": idle_watts,
            "country": country,
            "powercap": powercap,
        }
        self._device = device
        self.joules: dict[str, float] = {}
        self.own: dict[str, float] = {}
        self.components: dict[str, dict[str, str]] = {}
        self._counters: Counters | None = None
        self._inner: dict[str, float] = {}
        self._inner_from: dict[str, float] = {}

    def __enter__(self) -> EnergyMeter:
        device = self._device
        if device is None and torch.cuda.is_available() and torch.cuda.is_initialized():
            device = torch.device("cuda", torch.cuda.current_device())
        for outer in _open():
            outer._pause()
        self._counters = find_counters(device=device, **self._settings)
        self._inner, self._from = {}, self._counters.read()
        _open().append(self)
        return self

    def __exit__(self, *exception: Any) -> None:
        assert self._counters is not None
        now = self._counters.read()
        _open().remove(self)
        self._counters.close()
        self.joules = {c: j - self._from.get(c, 0.0) for c, j in now.items()}
        self.own = {c: j - self._inner.get(c, 0.0) for c, j in self.joules.items()}
        self.components = self._counters.components()
        for outer in _open():
            outer._go_on()

    def _pause(self) -> None:
        assert self._counters is not None
        if not self._inner_from:
            self._inner_from = self._counters.read()

    def _go_on(self) -> None:
        """After a meter inside: what passed is that one's, unless one is still open in between."""
        assert self._counters is not None
        if _open()[-1] is self:
            for component, joules in self._counters.read().items():
                spent = joules - self._inner_from.get(component, 0.0)
                self._inner[component] = self._inner.get(component, 0.0) + spent
            self._inner_from = {}

    @property
    def total(self) -> float:
        """Joules of all components but memory of a constant wattage."""
        return counted(self.joules, self.components)

    @property
    def text(self) -> str:
        """The number with its unit, its factors and its source."""
        grams = f"{self.carbon.grams(self.total):.3g} gCO2e: {self.carbon.text}"
        return f"{self.total:.3g} J ({self.total / KWH:.3g} kWh, {grams}), {kinds(self.components)}"


_LOCAL = threading.local()


def _open() -> list[EnergyMeter]:
    """Meters of this thread that run, the innermost last."""
    if not hasattr(_LOCAL, "meters"):
        _LOCAL.meters = []
    found: list[EnergyMeter] = _LOCAL.meters
    return found


def kinds(components: Mapping[str, Mapping[str, str]]) -> str:
    """``measured (gpu nvml), modelled (cpu cpu_time)``."""
    parts = []
    for kind in ("measured", "modelled"):
        names = [f"{c} {facts['source']}" for c, facts in components.items() if facts["kind"] == kind]
        parts += [f"{kind} ({', '.join(names)})"] if names else []
    return ", ".join(parts) or "no source"
