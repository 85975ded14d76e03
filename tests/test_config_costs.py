"""The costs in the headers of the full-size configs are those that a counter finds."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import yaml
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import zoo
from zoo.hub.catalog import config_folder

H200_BF16 = 989e12  # dense, operations per second
SAMPLES, STEPS = 50_000, 250
CONFIGS = sorted(p.stem for p in config_folder().glob("*.yaml") if "per image forward" in p.read_text())
COST = re.compile(
    r"Cost: (?P<gmac>[\d.]+) GMAC \((?P<forward>[\d.]+) GFLOP\) per image forward, "
    r"(?P<train>[\d.]+) GFLOP to train on it; 50,000 samples of 250 (?P<kind>un)?guided steps are "
    r"(?P<sampling>[\d.]+) h\. "
    r".*Estimate, not measured: (?P<hours>\d+) h"
)


def read(name: str) -> tuple[re.Match[str], dict[str, Any]]:
    """The numbers of a header, and the config."""
    text = (config_folder() / f"{name}.yaml").read_text()
    header = " ".join(x.removeprefix("#").strip() for x in text.splitlines() if x.startswith("#"))
    found = COST.search(header)
    assert found, f"{name} has no cost line"
    return found, yaml.safe_load(text)


def forward_operations(arguments: dict[str, Any]) -> int:
    """Operations (2 per multiply-add) of one image's forward pass, counted on the meta device."""
    with torch.device("meta"):
        model = zoo.DTR(**arguments)
        x, t = torch.empty(1, *model.shape), torch.zeros(1, dtype=torch.long)
    # The counter sees no fused attention on some devices, hence the plain one.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model.network.to("meta")(x, t, t)
    return int(counter.get_total_flops())


def test_every_full_size_config_states_its_cost() -> None:
    large = {p.stem for p in config_folder().glob("*.yaml") if "max_steps: 400000" in p.read_text()}
    assert large <= set(CONFIGS)
    assert {"dtr_dit_l_uw", "dit_xl", "dtr_unet_imagenet64", "dtr_unet_ffhq64"} <= set(CONFIGS)


@pytest.mark.parametrize("name", CONFIGS)
def test_header_states_the_counted_cost(name: str) -> None:
    stated, config = read(name)
    operations = forward_operations(config["model"]["init_args"])
    assert float(stated["gmac"]) == pytest.approx(operations / 2e9, abs=0.0051)
    assert float(stated["forward"]) == pytest.approx(operations / 1e9, abs=0.051)
    assert float(stated["train"]) == pytest.approx(
        3 * operations / 1e9, abs=0.051
    )  # backward is two forwards
    half_peak = H200_BF16 / 2
    steps, batch = config["trainer"]["max_steps"], 256
    assert float(stated["hours"]) == round(steps * batch * 3 * operations / half_peak / 3600)
    passes = 1 if stated["kind"] else 2
    hours = SAMPLES * STEPS * passes * operations / half_peak / 3600
    assert float(stated["sampling"]) == pytest.approx(hours, abs=0.051)
    unguided = config["model"]["init_args"].get("guidance", 1.5) == 1
    assert unguided == bool(stated["kind"])
