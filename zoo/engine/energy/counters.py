"""Where joules come from: counters of the hardware, or a model where there are none.

A source gives the joules of one or more components (``cpu``, ``ram``, ``gpu``) since it was made.
"""

from __future__ import annotations

import os
import re
import resource
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

POWERCAP = Path("/sys/class/powercap")
WATTS_PER_CORE = 4.0
"""Of a busy core where the processor does not say: what 100 W of 24 to 28 cores come to."""
KWH = 3.6e6
"""Joules of a kilowatt hour."""
Kind = Literal["measured", "modelled"]
_ZONE = re.compile(r"intel-rapl(-mmio)?:\d+(:\d+)?")
_RAPL_SECONDS = 10.0  # a counter wraps after about a minute of full load
_POLL_SECONDS = 0.1


class NoCounter(RuntimeError):
    """A counter that is not there or cannot be read; the message says why."""


class Source(Protocol):
    """Joules since it was made.

    Attributes:
        name: of the source.
        kind: whether a counter measures, or a model stands in for one.
        text: what it is, in words.
        interval: seconds after which it must be read again; None where it need not.
    """

    name: str
    kind: Kind
    text: str
    interval: float | None

    def read(self) -> dict[str, float]:
        """Joules of each component so far."""
        ...


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except PermissionError:
        raise NoCounter(f"{path} may be read by root alone") from None
    except OSError as error:
        raise NoCounter(f"{path} cannot be read ({error.strerror})") from None


def _number(path: Path) -> int:
    text = _text(path)
    if not text.isdecimal():
        raise NoCounter(f"{path} holds no number: {text[:40]!r}")
    return int(text)


class _Zone:
    """A domain of powercap: a counter in microjoules that begins again at its range."""

    def __init__(self, folder: Path) -> None:
        self.counter = folder / "energy_uj"
        self.range = _number(folder / "max_energy_range_uj")
        self.last = _number(self.counter)
        self.spent = 0

    def read(self) -> None:
        now = _number(self.counter)
        self.spent += now - self.last if now >= self.last else self.range - self.last + now
        self.last = now


class Rapl:
    """Package domains and memory of Linux's powercap: the whole machine's, other users' share included.

    ``core`` and ``uncore`` are inside the package. A platform domain (``psys``) holds the packages, and is
    taken alone. Zones of ``intel-rapl-mmio`` are a second way to the same counters. Two dies whose counters
    always say the same share one counter, which counts once.

    Args:
        root: of powercap.

    Raises:
        NoCounter: when there is none, or one that may not be read.
    """

    name = "rapl"
    kind: Kind = "measured"
    interval: float | None = _RAPL_SECONDS

    def __init__(self, root: Path = POWERCAP) -> None:
        packages, memory = _domains(root)
        self._cpu = [_Zone(folder) for folder in packages]
        self._ram = []
        self.text = f"RAPL {', '.join(_text(f / 'name') for f in packages)} of the whole machine"
        for folder in memory:
            try:
                self._ram.append(_Zone(folder))
            except NoCounter as error:
                self.text += f", memory not counted: {error}"
        self._mirrored = {(a, b) for b in range(len(self._cpu)) for a in range(b)}
        self._look_for_mirrors()

    def _look_for_mirrors(self) -> None:
        """Pairs of packages that say the same: a's counter before, b's, a's after. Once apart is for ever."""
        for a, b in sorted(self._mirrored):
            before = _number(self._cpu[a].counter)
            between = _number(self._cpu[b].counter)
            after = _number(self._cpu[a].counter)
            same = before <= between <= after if before <= after else between >= before or between <= after
            if not same:
                self._mirrored.discard((a, b))

    def read(self) -> dict[str, float]:
        if self._mirrored:
            self._look_for_mirrors()
        for zone in (*self._cpu, *self._ram):
            zone.read()
        twins = {b for _, b in self._mirrored}
        joules = {"cpu": sum(z.spent for i, z in enumerate(self._cpu) if i not in twins) / 1e6}
        if self._ram:
            joules["ram"] = sum(zone.spent for zone in self._ram) / 1e6
        return joules


def _domains(root: Path) -> tuple[list[Path], list[Path]]:
    """Folders of the packages, or of the platform that holds them, and of the memory."""
    found = {p.name: p for p in sorted([*root.glob("*/intel-rapl*:*"), *root.glob("intel-rapl*:*")])}
    zones = {name: folder for name, folder in sorted(found.items()) if _ZONE.fullmatch(name)}
    if not zones:
        raise NoCounter(f"no powercap domain in {root}")
    names = {zone: _text(folder / "name") for zone, folder in zones.items()}
    twins = any(not zone.startswith("intel-rapl-mmio") for zone in zones)
    own = [zone for zone in zones if not (twins and zone.startswith("intel-rapl-mmio"))]
    top = [zone for zone in own if zone.count(":") == 1]
    if platform := [zones[zone] for zone in top if names[zone] == "psys"]:
        return platform[:1], []
    packages = [zones[zone] for zone in top if names[zone].startswith("package")]
    if not packages:
        raise NoCounter(f"no domain of a package in {root}")
    return packages, [zones[zone] for zone in own if zone.count(":") == 2 and names[zone] == "dram"]


def watts_per_core(root: Path = POWERCAP) -> tuple[float, str]:
    """Of a busy core, and where that is from: the packages' long-term limit over the cores, else 4 W."""
    try:
        packages, _ = _domains(root)
        limits = [_number(f / "constraint_0_power_limit_uw") for f in packages if _is_package(f)]
        if limits and all(limits):
            return sum(limits) / 1e6 / (os.cpu_count() or 1), "the processor's power limit over its cores"
    except NoCounter:
        pass
    return WATTS_PER_CORE, "the default of a busy core"


def _is_package(folder: Path) -> bool:
    return _text(folder / "name").startswith("package")


class CpuTime:
    """E = watts per core x CPU seconds + idle watts x wall seconds: of this process and its children.

    It costs nothing to sleep, nothing that others do counts, and two runs of one thing agree.

    Args:
        per_core: watts of a busy core.
        idle: watts that pass in any case.
        why: how ``per_core`` is known.
    """

    name = "cpu_time"
    kind: Kind = "modelled"
    interval: float | None = None

    def __init__(self, per_core: float = WATTS_PER_CORE, idle: float = 0.0, why: str = "") -> None:
        self.per_core, self.idle = per_core, idle
        self.others: Callable[[], Sequence[int]] = tuple  # children that count themselves
        self.text = f"{per_core:g} W x CPU seconds" + (f" + {idle:g} W x seconds" if idle else "")
        self.text += f" ({why})" if why else ""
        self._started = time.monotonic()
        self._before = self._now()

    def _now(self) -> float:
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(u.ru_utime + u.ru_stime for u in used) + _living_children(self.others())

    def read(self) -> dict[str, float]:
        busy, wall = self._now() - self._before, time.monotonic() - self._started
        return {"cpu": self.per_core * busy + self.idle * wall}


def _living_children(others: Sequence[int]) -> float:
    """CPU seconds of the processes that this one's main thread started and that run, with their own."""
    try:
        listed = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    except OSError:  # not Linux: they count when they end
        return 0.0
    seconds = 0.0
    for pid in listed:
        if int(pid) in others:
            continue
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:  # ended since
            continue
        seconds += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return seconds


class Trapezoid:
    """Joules from watts that are looked at now and then.

    Args:
        watts: looks.
        clock: seconds.
    """

    def __init__(self, watts: Callable[[], float], clock: Callable[[], float] = time.monotonic) -> None:
        self._watts, self._clock = watts, clock
        self._at, self._last, self.joules = clock(), watts(), 0.0

    def look(self) -> float:
        """Joules so far."""
        now, watts = self._clock(), self._watts()
        self.joules += 0.5 * (watts + self._last) * (now - self._at)
        self._at, self._last = now, watts
        return self.joules


class Nvml:
    """NVIDIA's counter of a GPU's joules (Volta and newer), else its watts ten times a second.

    Args:
        uuid: of the GPU that this process uses, as torch gives it.

    Raises:
        NoCounter: without driver, library or such a GPU.
    """

    name = "nvml"
    kind: Kind = "measured"
    interval: float | None

    def __init__(self, uuid: str) -> None:
        try:
            import pynvml
        except ImportError:
            raise NoCounter("nvidia-ml-py is not installed (pip install nvidia-ml-py)") from None
        self._nvml: Any = pynvml
        try:
            pynvml.nvmlInit()
            self._gpu = pynvml.nvmlDeviceGetHandleByUUID(uuid if uuid[:4] == "GPU-" else f"GPU-{uuid}")
        except pynvml.NVMLError as error:
            raise NoCounter(f"NVML: {error}") from None
        self._polled: Trapezoid | None = None
        self._first = 0
        try:
            self._first = pynvml.nvmlDeviceGetTotalEnergyConsumption(self._gpu)
            self.text, self.interval = "NVML's counter of joules", None
        except pynvml.NVMLError:
            try:
                self._polled = Trapezoid(lambda: float(pynvml.nvmlDeviceGetPowerUsage(self._gpu)) / 1e3)
            except pynvml.NVMLError as error:
                raise NoCounter(f"NVML: {error}") from None
            self.text, self.interval = "NVML's watts, ten times a second", _POLL_SECONDS

    def read(self) -> dict[str, float]:
        if self._polled is not None:
            return {"gpu": self._polled.look()}
        return {"gpu": (self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._gpu) - self._first) / 1e3}


class CodeCarbon:
    """codecarbon's tracker of a process, offline. Its memory is a constant number of watts.

    Args:
        country: ISO code, three letters.
    """

    name = "codecarbon"
    kind: Kind = "modelled"
    interval: float | None = 15.0

    def __init__(self, country: str | None = None) -> None:
        try:
            from codecarbon import OfflineEmissionsTracker
        except ImportError:
            raise NoCounter(
                'codecarbon is not installed (pip install "lightning-zoo[green]"); or take energy.source auto'
            ) from None
        self._tracker = OfflineEmissionsTracker(
            country_iso_code=(country or "USA").upper(),  # of its grams, which are not used
            save_to_file=False,
            log_level="critical",
            tracking_mode="process",
            allow_multiple_runs=True,
        )
        self.text = "codecarbon's tracker of a process, whose memory is a constant wattage"
        self._tasks = 0
        self._joules = {"cpu": 0.0, "ram": 0.0, "gpu": 0.0}
        self._tracker.start_task("0")

    def read(self) -> dict[str, float]:
        found = self._tracker.stop_task(str(self._tasks))
        for component in self._joules:
            self._joules[component] += KWH * float(getattr(found, f"{component}_energy"))
        self._tasks += 1
        self._tracker.start_task(str(self._tasks))
        return {k: v for k, v in self._joules.items() if v or k != "gpu"}


class Counters:
    """Several sources as one; read in between where one of them asks for it.

    A source that fails while a run goes on keeps what it had, and says so.

    Args:
        sources: of different components.
        why: component -> why it has no better source.
    """

    def __init__(self, sources: Sequence[Source], why: Mapping[str, str] | None = None) -> None:
        self.sources, self.why = list(sources), dict(why or {})
        self.owners: dict[str, Source] = {}
        self._last: dict[str, float] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self.read()
        seconds = [s.interval for s in self.sources if s.interval is not None]
        if seconds:
            threading.Thread(target=self._poll, args=(min(seconds),), daemon=True).start()

    def _poll(self, seconds: float) -> None:
        while not self._stop.wait(seconds):
            self.read()

    def read(self) -> dict[str, float]:
        """Joules of each component since the start."""
        with self._lock:
            for source in self.sources:
                try:
                    found = source.read()
                except Exception as error:  # of drivers and files that were there at the start
                    for component in [c for c, owner in self.owners.items() if owner is source]:
                        self.why[component] = f"{source.name} stopped answering ({error}): a lower bound"
                    continue
                for component, joules in found.items():
                    self.owners[component] = source
                    self._last[component] = joules
            return dict(self._last)

    def components(self) -> dict[str, dict[str, str]]:
        """Of each component its source, whether that measures, and why there is no better one."""
        facts = {}
        for component, source in self.owners.items():
            facts[component] = {"source": source.name, "kind": source.kind, "text": source.text}
            if component in self.why:
                facts[component]["why"] = self.why[component]
        return facts

    def missing(self) -> dict[str, str]:
        """Components that nothing counts, and why."""
        return {component: why for component, why in self.why.items() if component not in self.owners}

    @property
    def closed(self) -> bool:
        """Whether nobody reads in between any more."""
        return self._stop.is_set()

    def close(self) -> None:
        """Read no more in between."""
        self._stop.set()


def counted(joules: Mapping[str, float], components: Mapping[str, Mapping[str, str]]) -> float:
    """Sum of the components; memory of a constant wattage is no reading of anything, and stays out."""
    return sum(j for c, j in joules.items() if c != "ram" or components[c]["kind"] == "measured")
