"""Joules: counters against sums by hand, the model against CPU seconds, totals over stages and kills."""

from __future__ import annotations

import csv
import json
import math
import sys
import time
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from interruption import TINY, fit, killed_fit, newest
from lightning.pytorch import Trainer

import cli
from zoo.engine.energy import EnergyMeter
from zoo.engine.energy import costs as costs_room
from zoo.engine.energy.callback import Energy
from zoo.engine.energy.carbon import COUNTRIES, carbon
from zoo.engine.energy.counters import (
    CpuTime,
    NoCounter,
    Nvml,
    Rapl,
    Trapezoid,
    counted,
    watts_per_core,
)
from zoo.engine.energy.emissions import COLUMNS
from zoo.engine.energy.meter import find_counters

RANGE = 262_143_328_850


# --- trees of counters

Zones = dict[str, tuple[str, int]]


def tree(root: Path, zones: Mapping[str, tuple[str, int]]) -> Path:
    """A powercap folder: zone -> name and microjoules."""
    for zone, (name, energy) in zones.items():
        folder = root / zone
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "name").write_text(name + "\n")
        (folder / "max_energy_range_uj").write_text(f"{RANGE}\n")
        (folder / "energy_uj").write_text(f"{energy}\n")
    return root


def spent(root: Path, before: Mapping[str, tuple[str, int]], after: Mapping[str, int]) -> dict[str, float]:
    """Joules between two states of a tree."""
    rapl = Rapl(tree(root, before))
    for zone, energy in after.items():
        (root / zone / "energy_uj").write_text(f"{energy}\n")
    return rapl.read()


ONE: Zones = {
    "intel-rapl:0": ("package-0", 1_000_000),
    "intel-rapl:0:0": ("core", 500_000),
    "intel-rapl:0:1": ("uncore", 100_000),
    "intel-rapl:0:2": ("dram", 2_000_000),
}


def test_packages_and_memory_are_added_and_what_is_inside_them_is_not(tmp_path: Path) -> None:
    two = ONE | {"intel-rapl:1": ("package-1", 7_000_000)}
    after = {"intel-rapl:0": 4_500_000, "intel-rapl:0:0": 3_900_000, "intel-rapl:0:1": 200_000}
    after |= {"intel-rapl:0:2": 2_250_000, "intel-rapl:1": 8_000_000}
    assert spent(tmp_path, two, after) == {"cpu": 4.5, "ram": 0.25}


def test_a_platform_domain_holds_the_packages(tmp_path: Path) -> None:
    zones = ONE | {"intel-rapl:1": ("psys", 10_000_000)}
    after = {"intel-rapl:0": 4_000_000, "intel-rapl:1": 19_000_000, "intel-rapl:0:2": 3_000_000}
    assert spent(tmp_path, zones, after) == {"cpu": 9.0}


def test_two_dies_that_say_the_same_are_one(tmp_path: Path) -> None:
    zones = {"intel-rapl:0": ("package-0-die-0", 5_000_000), "intel-rapl:1": ("package-0-die-1", 5_000_000)}
    same = {"intel-rapl:0": 7_000_000, "intel-rapl:1": 7_000_000}
    assert spent(tmp_path / "same", zones, same) == {"cpu": 2.0}
    other = {"intel-rapl:0": 7_000_000, "intel-rapl:1": 6_000_000}
    assert spent(tmp_path / "other", zones, other) == {"cpu": 3.0}


def test_a_twin_behind_memory_mapped_registers_is_not_counted(tmp_path: Path) -> None:
    zones = ONE | {"intel-rapl-mmio:0": ("package-0", 1_000_000)}
    assert spent(tmp_path, zones, {"intel-rapl:0": 2_000_000, "intel-rapl-mmio:0": 2_000_000})["cpu"] == 1.0
    alone = {"intel-rapl-mmio:0": ("package-0", 0)}  # the only way there is
    assert spent(tmp_path / "alone", alone, {"intel-rapl-mmio:0": 3_000_000}) == {"cpu": 3.0}


def test_a_counter_that_begins_again(tmp_path: Path) -> None:
    zones = {"intel-rapl:0": ("package-0", 262_143_000_000)}
    assert spent(tmp_path, zones, {"intel-rapl:0": 1_000_000}) == {"cpu": 1.328850}
    rapl = Rapl(tmp_path)
    for value in (262_143_000_000, 500_000, 700_000):  # each reading goes on from the last
        (tmp_path / "intel-rapl:0" / "energy_uj").write_text(str(value))
        joules = rapl.read()
    assert joules == {"cpu": (262_143_000_000 - 1_000_000 + RANGE - 262_143_000_000 + 700_000) / 1e6}


def test_nested_folders_are_zones_once(tmp_path: Path) -> None:
    """Links of /sys/class beside the folders that they lead to."""
    tree(tmp_path / "intel-rapl", {"intel-rapl:0": ("package-0", 0)})
    tree(tmp_path / "intel-rapl" / "intel-rapl:0", {"intel-rapl:0:0": ("dram", 0)})
    (tmp_path / "intel-rapl:0").symlink_to(tmp_path / "intel-rapl" / "intel-rapl:0")
    (tmp_path / "intel-rapl:0:0").symlink_to(tmp_path / "intel-rapl" / "intel-rapl:0" / "intel-rapl:0:0")
    rapl = Rapl(tmp_path)
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("2000000")
    (tmp_path / "intel-rapl:0:0" / "energy_uj").write_text("1000000")
    assert rapl.read() == {"cpu": 2.0, "ram": 1.0}


def refuse(monkeypatch: pytest.MonkeyPatch, *zones: str) -> None:
    """Files of mode 0400 to one who is not root; the tests may run as root."""
    read_text = Path.read_text

    def reading(self: Path, *args: Any, **kwargs: Any) -> str:
        if self.name == "energy_uj" and self.parent.name in zones:
            raise PermissionError(13, "Permission denied", str(self))
        return read_text(self, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", reading)


def test_a_counter_of_root_alone_falls_back_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree(tmp_path, ONE)
    refuse(monkeypatch, "intel-rapl:0")
    found = find_counters(powercap=tmp_path)
    assert found.components()["cpu"]["source"] == "cpu_time"
    assert found.components()["cpu"]["kind"] == "modelled"
    assert found.why["cpu"] == f"{tmp_path}/intel-rapl:0/energy_uj may be read by root alone"
    with pytest.raises(NoCounter, match="root alone"):
        find_counters("rapl", powercap=tmp_path)


def test_memory_that_cannot_be_read_leaves_the_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree(tmp_path, ONE)
    refuse(monkeypatch, "intel-rapl:0:2")
    rapl = Rapl(tmp_path)
    assert rapl.read() == {"cpu": 0.0}
    assert "memory not counted" in rapl.text


def test_a_counter_that_goes_away_keeps_what_it_said(tmp_path: Path) -> None:
    found = find_counters(powercap=tree(tmp_path, ONE))
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("4000000")
    assert found.read()["cpu"] == 3.0
    (tmp_path / "intel-rapl:0" / "energy_uj").unlink()
    assert found.read()["cpu"] == 3.0
    assert "a lower bound" in found.components()["cpu"]["why"]


@pytest.mark.parametrize(
    ("content", "said"), [("", "no powercap domain"), ("x", "holds no number"), ("-5", "holds no number")]
)
def test_damaged_trees_are_no_counters(content: str, said: str, tmp_path: Path) -> None:
    if content:
        tree(tmp_path, ONE)
        (tmp_path / "intel-rapl:0" / "energy_uj").write_text(content)
    with pytest.raises(NoCounter, match=said):
        Rapl(tmp_path)


def test_the_power_limit_tells_the_watts_of_a_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 20)
    assert watts_per_core(tree(tmp_path, ONE)) == (4.0, "the default of a busy core")
    (tmp_path / "intel-rapl:0" / "constraint_0_power_limit_uw").write_text("65000000")
    assert watts_per_core(tmp_path) == (3.25, "the processor's power limit over its cores")


# --- GPU


def fake_nvml(monkeypatch: pytest.MonkeyPatch, joules: list[int] | None, watts: list[int]) -> None:
    """``pynvml`` of a GPU that counts millijoules, or has only milliwatts."""

    class NVMLError(Exception):
        pass

    def total(handle: str) -> int:
        if joules is None:
            raise NVMLError("Not Supported")
        return joules.pop(0)

    module = types.ModuleType("pynvml")
    found = {
        "NVMLError": NVMLError,
        "nvmlInit": lambda: None,
        "nvmlDeviceGetHandleByUUID": lambda uuid: uuid,
        "nvmlDeviceGetTotalEnergyConsumption": total,
        "nvmlDeviceGetPowerUsage": lambda handle: watts.pop(0),
    }
    for name, value in found.items():
        setattr(module, name, value)
    monkeypatch.setitem(sys.modules, "pynvml", module)


def test_a_gpu_counts_itself_or_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvml(monkeypatch, [5_000, 12_500], [])
    assert Nvml("abc").read() == {"gpu": 7.5}
    fake_nvml(monkeypatch, None, [100_000, 300_000])
    polled = Nvml("abc")
    assert polled.interval == 0.1
    assert polled.read()["gpu"] == pytest.approx(0.0, abs=1.0)
    ticks, watts = iter([0.0, 2.0, 3.0]), iter([100.0, 300.0, 0.0])
    trapezoid = Trapezoid(lambda: next(watts), lambda: next(ticks))
    assert (trapezoid.look(), trapezoid.look()) == (400.0, 550.0)


def test_a_gpu_is_not_made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(NoCounter, match="nvidia-ml-py is not installed"):
        Nvml("abc")
    with pytest.raises(NoCounter, match="on no NVIDIA GPU"):
        find_counters("nvml")
    properties = types.SimpleNamespace(uuid="abc")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    found = find_counters("cpu_time", device=torch.device("cuda", 0))
    assert "not counted" in found.missing()["gpu"]


# --- CPU seconds


def busy(seconds: float) -> None:
    until = time.process_time() + seconds
    while time.process_time() < until:
        sum(range(200))


def test_twice_the_cpu_seconds_are_twice_the_joules_and_sleep_is_free() -> None:
    joules = []
    for seconds in (0.2, 0.4):
        with EnergyMeter("cpu_time", watts_per_core=5.0) as meter:
            busy(seconds)
        joules.append(meter.total)
    assert joules[0] == pytest.approx(1.0, rel=0.1)
    assert joules[1] == pytest.approx(2 * joules[0], rel=0.1)
    with EnergyMeter("cpu_time", watts_per_core=5.0) as meter:
        time.sleep(0.3)
    assert meter.total < 0.05
    with EnergyMeter("cpu_time", watts_per_core=5.0, idle_watts=10.0) as meter:
        time.sleep(0.2)
    assert meter.total == pytest.approx(2.0, rel=0.25)
    assert "modelled (cpu cpu_time)" in meter.text
    assert "world mean 475 g/kWh, PUE 1" in meter.text


def _child(seconds: float) -> None:
    busy(seconds)
    time.sleep(60)


def test_children_count_while_they_live_and_after() -> None:
    import multiprocessing

    source = CpuTime(1.0)
    child = multiprocessing.get_context("fork").Process(target=_child, args=(0.3,))
    child.start()
    deadline = time.monotonic() + 20
    while source.read()["cpu"] < 0.25 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert source.read()["cpu"] >= 0.25
    source.others = lambda: [child.pid or 0]  # of another rank, which counts itself
    assert source.read()["cpu"] < 0.2
    source.others = tuple
    child.kill()
    child.join()
    assert 0.25 <= source.read()["cpu"] < 1.0


def test_meters_inside_meters_count_once(tmp_path: Path) -> None:
    tree(tmp_path, {"intel-rapl:0": ("package-0", 0)})
    counter = tmp_path / "intel-rapl:0" / "energy_uj"
    with EnergyMeter(powercap=tmp_path) as outer:
        counter.write_text("1000000")
        with EnergyMeter(powercap=tmp_path) as middle:
            counter.write_text("3000000")
            with EnergyMeter(powercap=tmp_path) as inner:
                counter.write_text("7000000")
            counter.write_text("15000000")
        counter.write_text("31000000")
    assert [m.joules["cpu"] for m in (outer, middle, inner)] == [31.0, 14.0, 4.0]
    assert [m.own["cpu"] for m in (outer, middle, inner)] == [17.0, 10.0, 4.0]
    assert "measured (cpu rapl)" in outer.text


def test_codecarbon_counts_and_its_memory_is_no_reading() -> None:
    pytest.importorskip("codecarbon")
    with EnergyMeter("codecarbon", country="FRA") as meter:
        busy(0.5)
    assert meter.joules["cpu"] > 0
    assert meter.joules["ram"] > meter.joules["cpu"]  # a constant wattage
    assert meter.total == meter.joules["cpu"]
    assert meter.components["cpu"] | {"text": ""} == {"source": "codecarbon", "kind": "modelled", "text": ""}


def test_a_constant_wattage_of_memory_is_not_added() -> None:
    kinds = {"cpu": {"kind": "modelled"}, "ram": {"kind": "modelled"}}
    assert counted({"cpu": 2.0, "ram": 50.0}, kinds) == 2.0
    assert counted({"cpu": 2.0, "ram": 50.0}, kinds | {"ram": {"kind": "measured"}}) == 52.0


# --- carbon


def test_grams_are_kilowatt_hours_by_the_factors() -> None:
    assert carbon().grams(3.6e6) == 475.0
    assert carbon(pue=1.58, country="fra").grams(3.6e6) == pytest.approx(1.58 * COUNTRIES["FRA"][1])
    assert carbon(intensity=100.0, country="XXX").grams(7.2e6) == 200.0
    with pytest.raises(ValueError, match="did you mean DEU; or give"):
        carbon(country="Germany")
    with pytest.raises(ValueError, match="it has ARG, AUS"):
        carbon(country="12")


# --- runs


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def summary_of(folder: Path, name: str = "summary.json") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / name).read_text())
    return found


STEPS = ("--trainer.max_steps=6", "--trainer.val_check_interval=3", "--trainer.check_val_every_n_epoch=null")


def test_a_run_says_what_it_spent_by_stage_and_epoch(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = fit(here, *STEPS, "--energy.country=FRA", "--energy.emissions_csv=true", "--energy.pue=1.5")
    energy = summary_of(folder)["energy"]
    stages = energy["stages"]
    assert set(stages) == {"fit", "fit_validate"}
    assert all(stage["joules"] > 0 for stage in stages.values())
    assert sum(stage["joules"] for stage in stages.values()) == pytest.approx(energy["joules"])
    assert energy["kwh"] == energy["joules"] / 3.6e6
    assert energy["gco2e"] == pytest.approx(energy["kwh"] * 1.5 * 56.0)
    assert energy["factors"]["country"] == "France"
    assert "codecarbon" in energy["factors"]["intensity_source"]
    said = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("zoo: energy      "))
    for part in (" J = ", " kWh ", energy["kind"], "gCO2e (France 56 g/kWh, PUE 1.5)", "FLOPs a step"):
        assert part in said
    (row,) = csv.DictReader((folder / "energy.csv").open())
    assert (row["step"], row["kind"]) == ("6", "modelled" if "modelled" in energy["kind"] else "measured")
    assert float(row["fit_J"]) == pytest.approx(stages["fit"]["joules"], rel=0.2)
    (emitted,) = csv.DictReader((folder / "emissions.csv").open())
    assert tuple(emitted) == COLUMNS
    assert float(emitted["energy_consumed"]) == pytest.approx(energy["kwh"])
    assert float(emitted["emissions"]) == pytest.approx(energy["gco2e"] / 1000)
    assert (emitted["country_iso_code"], emitted["pue"]) == ("FRA", "1.5")


def test_ranks_are_summed_and_the_checkpoints_sums_added_once(monkeypatch: pytest.MonkeyPatch) -> None:
    energy = Energy()
    energy.load_state_dict({"stages": {"fit": {"cpu": 100.0}}, "seconds": {"fit": 7.0}, "flops": {}})
    energy._here = {"fit": {"cpu": 2.0, "gpu": 5.0}}

    def gather(parts: list[Any], mine: Any) -> None:
        parts[:] = [mine, {"fit": {"gpu": 30.0}, "fit_validate": {"gpu": 1.0}}]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    two: Any = types.SimpleNamespace(world_size=2)
    assert energy._all(two) == {"fit": {"cpu": 102.0, "gpu": 35.0}, "fit_validate": {"gpu": 1.0}}


def test_the_columns_are_codecarbons() -> None:
    data = pytest.importorskip("codecarbon.output_methods.emissions_data")
    assert list(data.EmissionsData.__dataclass_fields__) == list(COLUMNS)


def test_a_killed_run_adds_up_and_counts_its_flops_once(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = [*STEPS, "--checkpoint.every_n_train_steps=2", "--energy.source=cpu_time"]
    killed_fit(here, "saved", 4, *flags)
    kept = torch.load(next((here).rglob("step=00000004.ckpt")), weights_only=True)["callbacks"]["Energy"]
    before = kept["stages"]["fit"]["cpu"]
    assert before > 0
    assert kept["flops"]["step"] > 0
    counting: list[int] = []
    monkeypatch.setattr("zoo.engine.energy.callback.FlopCounter", lambda: counting.append(1))
    summary = summary_of(fit(here, *flags, "--ckpt_path=last"))
    assert summary["resumed_from_step"] == 4
    after = summary["energy"]["stages"]["fit"]["cpu"]
    assert before < after < before + 4.0 * 30
    assert summary["flops"] == kept["flops"]
    assert not counting


def test_a_budget_stops_behind_the_step_with_its_checkpoint(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = fit(here, "--trainer.max_steps=500", "--energy.budget_joules=0.001", "--energy.source=cpu_time")
    out = capsys.readouterr().out
    assert "energy.budget_joules 0.001 is spent at step 1" in out
    assert "modelled (cpu cpu_time)" in out
    summary = summary_of(folder)
    assert summary["steps"] == 1
    assert summary["energy"]["stopped_by_budget"]
    assert (folder / "checkpoints" / "step=00000001.ckpt").exists()
    again = ["--trainer.max_steps=500", "--energy.budget_joules=0.001", "--ckpt_path=last"]
    assert cli.main(["fit", *TINY, f"--trainer.default_root_dir={here}", *again]) == 0
    assert summary_of(newest(here))["steps"] == 1  # spent is spent


def test_counting_changes_no_weight(here: Path) -> None:
    states = []
    for flops in ("true", "false"):
        folder = fit(here / flops, "--trainer.max_steps=2", f"--energy.flops={flops}")
        states.append(torch.load(folder / "checkpoints" / "step=00000002.ckpt", weights_only=True))
        assert (summary_of(folder)["flops"]["step"] is not None) == (flops == "true")
    first, second = (s["state_dict"] for s in states)
    assert all(torch.equal(first[name], second[name]) for name in first)
    ours, theirs = (s["callbacks"]["ResumableRandomness"]["ranks"][0]["torch"] for s in states)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--energy.country=Atlantis", "energy.country 'Atlantis' is not in the table"),
        ("--energy.source=nvml", "energy.source nvml: energy.source is nvml"),
        ("--energy.pue=0.5", "energy.pue must be"),
        ("--energy.intensity=-1", "energy.intensity must be"),
        ("--energy.budget_joules=0", "energy.budget_joules must be"),
        ("--energy.watts_per_core=-1", "energy.watts_per_core must be"),
        ("--cost.runs=3", "cost.runs must be"),
    ],
)
def test_mistakes_are_one_line(flag: str, said: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["fit", *TINY, f"--trainer.default_root_dir={here}", "--trainer.max_steps=1", flag]) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("zoo: error")]
    assert len(errors) == 1
    assert said in errors[0]


def test_a_test_measures_the_network_on_its_own(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(costs_room, "_peak_memory", lambda *args: 5 * 2**20)
    fit(here, "--trainer.max_steps=1")
    flags = ["--ckpt_path=last", "--cost.measure=true", "--cost.warmup=1", "--cost.batch_sizes=[1, 8]"]
    flags += ["--trainer.limit_test_batches=1"]
    assert cli.main(["test", *TINY, f"--trainer.default_root_dir={here}", *flags]) == 0
    costs = summary_of(newest(here), "summary_test.json")["costs"]
    assert costs["test_joules"] > 0
    assert costs["flops_per_sample_batch1"] == costs["flops_per_sample_batch8"] > 0
    assert costs["effective_flops_per_sample_batch1"] <= costs["flops_per_sample_batch1"]
    for batch in ("batch1", "batch8"):
        assert 0 < costs[f"latency_ms_p50_{batch}"] <= costs[f"latency_ms_p95_{batch}"]
        assert costs[f"peak_memory_bytes_{batch}"] == 5 * 2**20
        assert math.isfinite(costs[f"joules_per_1000_{batch}"])
    assert costs["bytes"] > 4 * costs["nonzero_parameters"] > 0
    assert "zoo: cost        batch8: " in (out := capsys.readouterr().out)
    assert "peak memory 5 MiB" in out


@pytest.mark.slow
def test_peak_memory_is_that_of_a_fresh_process() -> None:
    """64 MiB of weights, and 32 MiB of answers twice: the product and what a ReLU makes of it."""
    net = torch.nn.Sequential(torch.nn.Linear(4096, 4096, bias=False), torch.nn.ReLU())
    found = costs_room._peak_memory(net, torch.ones(2048, 4096), torch.device("cpu"))
    assert isinstance(found, int)
    assert 120 * 2**20 < found < 170 * 2**20
    net.hook = lambda: None
    assert "Can't pickle local object" in str(costs_room._peak_memory(net, (), torch.device("cpu")))


def test_a_network_that_does_not_answer_alone_fails_no_test(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: Any) -> None:
        raise RuntimeError("five channels")

    fit(here, "--trainer.max_steps=1")
    monkeypatch.setattr(costs_room.Cost, "_measure", fails)
    flags = ["--ckpt_path=last", "--cost.measure=true", "--trainer.limit_test_batches=1"]
    assert cli.main(["test", *TINY, f"--trainer.default_root_dir={here}", *flags]) == 0
    assert summary_of(newest(here), "summary_test.json")["costs"]["unknown"] == "RuntimeError: five channels"
    assert "not all was measured" in capsys.readouterr().out


def test_rows_of_a_batch_are_cut_and_repeated_but_a_graph_is_not() -> None:
    rows = torch.arange(6).reshape(3, 2)
    (x,), more = costs_room.batch_of(((rows,), {"t": rows[:, 0], "scale": torch.tensor(2.0), "n": 3}), 5)
    assert x.tolist() == [[0, 1], [2, 3], [4, 5], [0, 1], [2, 3]]
    assert more["t"].tolist() == [0, 2, 4, 0, 2]
    assert (float(more["scale"]), more["n"]) == (2.0, 3)
    with pytest.raises(ValueError, match="no rows of one batch"):
        costs_room.batch_of((torch.ones(34, 5), torch.ones(2, 80)), 1)  # nodes and edges
    with pytest.raises(ValueError, match="holds a object"):
        costs_room.batch_of((object(),), 1)


def test_the_size_is_that_of_the_file(tmp_path: Path) -> None:
    net = torch.nn.Linear(100, 10)
    torch.save(net.state_dict(), tmp_path / "x.pt")
    assert abs(costs_room.saved_bytes(net) - (tmp_path / "x.pt").stat().st_size) < 200


def test_a_trainer_without_the_command_line_counts_too(tmp_path: Path) -> None:
    energy = Energy("cpu_time", watts_per_core=2.0)
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    from lightning.pytorch.demos.boring_classes import BoringModel

    trainer = Trainer(
        max_epochs=1,
        limit_train_batches=2,
        limit_val_batches=1,
        default_root_dir=tmp_path,
        enable_model_summary=False,
        accelerator="cpu",
        callbacks=[energy],
        **quiet,
    )
    trainer.fit(BoringModel())
    assert energy.summary("fit")["joules"] > 0
    assert energy.counted_flops["step"] == 2 * 2 * 32 * 1 * 2  # a Linear of 32 to 2, forward and backward
