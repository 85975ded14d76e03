"""emissions.csv as codecarbon writes it, so that what reads its files reads ours."""

from __future__ import annotations

import csv
import io
import os
import platform
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from zoo.engine.energy.carbon import Carbon
from zoo.engine.energy.counters import KWH
from zoo.reports import writing

COLUMNS = (
    *("timestamp", "project_name", "run_id", "experiment_id", "duration", "emissions", "emissions_rate"),
    *("cpu_power", "gpu_power", "ram_power", "cpu_energy", "gpu_energy", "ram_energy", "energy_consumed"),
    *("water_consumed", "country_name", "country_iso_code", "region", "cloud_provider", "cloud_region", "os"),
    *("python_version", "codecarbon_version", "cpu_count", "cpu_model", "gpu_count", "gpu_model"),
    *("longitude", "latitude", "ram_total_size", "tracking_mode", "cpu_utilization_percent"),
    *("gpu_utilization_percent", "ram_utilization_percent", "ram_used_gb", "on_cloud", "pue", "wue"),
)
"""Of codecarbon 3.3. Energies are in kWh, powers in watts, emissions in kg."""


def append_emissions(path: Path, energy: Mapping[str, Any], carbon: Carbon, country: str | None) -> None:
    """Add a row; what is not known stays empty.

    Args:
        path: the file; one with other columns is written anew.
        energy: of a summary.
        carbon: its factors.
        country: ISO code.
    """
    seconds = max(float(energy["seconds"]), 1e-9)
    joules = {c: float(facts["joules"]) for c, facts in energy["components"].items()}
    sources = {facts["source"] for facts in energy["components"].values()}
    gpus = torch.cuda.device_count() if "gpu" in joules else 0
    row = {
        "timestamp": time.strftime("%Y-%m-%dT%H:%M:%S"),
        "project_name": path.parent.parent.name,
        "run_id": str(uuid.uuid4()),
        "duration": seconds,
        "emissions": energy["gco2e"] / 1e3,
        "emissions_rate": energy["gco2e"] / 1e3 / seconds,
        **{f"{c}_power": joules.get(c, 0.0) / seconds for c in ("cpu", "gpu", "ram")},
        **{f"{c}_energy": joules.get(c, 0.0) / KWH for c in ("cpu", "gpu", "ram")},
        "energy_consumed": energy["kwh"],
        "country_name": carbon.country,
        "country_iso_code": country or "",
        "os": platform.platform(),
        "python_version": platform.python_version(),
        "cpu_count": os.cpu_count(),
        "cpu_model": platform.processor(),
        "gpu_count": gpus,
        "gpu_model": torch.cuda.get_device_name() if gpus else "",
        "tracking_mode": "process" if sources <= {"cpu_time", "codecarbon", "nvml"} else "machine",
        "on_cloud": "N",
        "pue": carbon.pue,
    }
    head = ",".join(COLUMNS) + "\n"
    with writing(path):
        begun = path.exists() and path.open().readline() == head
        text = io.StringIO()
        csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n").writerow(row)
        with path.open("a" if begun else "w") as file:
            file.write(text.getvalue() if begun else head + text.getvalue())
