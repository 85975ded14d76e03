"""The GPU benchmark runs with tiny sizes on a CPU, and its formula is the one of docs/pages/gpu.md."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import zoo
from zoo.evidence import manifest

PATH = Path(__file__).parent / "benchmarks" / "gpu.py"


@pytest.fixture(scope="module")
def gpu() -> Any:
    spec = importlib.util.spec_from_file_location("gpu_benchmark", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_benchmark"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("on_a_cpu")
def test_every_kind_of_arm_runs_and_leaves_figures(
    gpu: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "gpu.json"
    arms = ["ours", "ddp", "fsdp", "diffusers_fused", "sampling"]
    assert gpu.main(["--tiny", "--peak", "1e12", "--manifest", str(path), "--arms", *arms]) == 0
    entries = {e["metric"]: e for e in manifest.read(path)}
    assert entries["ours/operations"]["command"] == (
        "python tests/benchmarks/gpu.py --tiny --peak 1e12 --arms ours ddp fsdp diffusers_fused sampling"
    )
    for arm in arms:
        assert entries[f"{arm}/images_per_second"]["value"] > 0
    for arm in arms[:-1]:
        rate, operations = (entries[f"{arm}/{k}"]["value"] for k in ("images_per_second", "operations"))
        assert operations == entries["ours/operations"]["value"]
        assert entries[f"{arm}/model_flop_use"]["value"] == pytest.approx(rate * 3 * operations / 1e12)
    table = entries["table"]["value"]
    assert table.count("\n") == 1 + len(arms)
    assert table in capsys.readouterr().out
    assert not torch.distributed.is_initialized()


def test_model_flop_use_is_the_published_yardstick(gpu: Any) -> None:
    """DiT-L/2 at 510 images/s is a quarter of an H200's bf16 peak, at 820 it is 40 %."""
    with torch.device("meta"):
        model = gpu.Setting().model()
    operations = gpu.forward_operations(model)
    assert operations == pytest.approx(161.4e9, rel=1e-3)
    assert gpu.model_flop_use(510, operations, gpu.PEAKS["H200"]) == pytest.approx(0.25, abs=0.003)
    assert gpu.model_flop_use(820, operations, gpu.PEAKS["H200"]) == pytest.approx(0.40, abs=0.003)


def test_diffusers_network_takes_the_place_of_ours_alone(gpu: Any) -> None:
    model = gpu.TINY.model(routing="none")
    other = gpu.DiffusersDiT(model)
    x, t, y = torch.randn(2, 4, 8, 8), torch.tensor([3, 999]), torch.tensor([1, 1000])
    assert other(x, t, y).shape == model.network(x, t, y).shape == (2, 8, 8, 8)
    assert len(other.blocks) == len(model.network.blocks)
    blocks = [sum(p.numel() for p in n.blocks[0].attn1.parameters()) for n in (other,)]
    assert blocks == [sum(p.numel() for p in model.network.blocks[0].attn.parameters())]
    assert isinstance(model, zoo.DTR)


@pytest.mark.usefixtures("on_a_cpu")
def test_an_arm_that_fails_does_not_stop_the_others(
    gpu: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*args: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory\nand more")

    monkeypatch.setattr(gpu, "train", fails)
    assert gpu.main(["--tiny", "--arms", "ours", "sampling"]) == 1
    out = capsys.readouterr().out
    assert "| DTR | OutOfMemoryError: CUDA out of memory | | | |" in out
    assert re.search(r"\| sampling, 250 guided steps \| \d", out)
    assert gpu.main(["--tiny", "--arms", "ours", "--minutes", "-1"]) == 1
    assert re.search(r"not begun: \d+ s were spent", capsys.readouterr().out)


@pytest.mark.usefixtures("on_a_cpu")
def test_without_a_gpu_only_the_tiny_sizes_run(gpu: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main([]) == 1
    assert "no GPU here: --tiny runs the code on the CPU" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "peak"), [("NVIDIA H200", 989e12), ("NVIDIA H100 PCIe", 756e12), ("X", None)]
)
def test_the_peak_follows_from_the_name(
    gpu: Any, monkeypatch: pytest.MonkeyPatch, name: str, peak: Any
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: name)
    assert gpu.card_peak("cuda", None) == (name, peak)
    assert gpu.card_peak("cuda", 5e12) == (name, 5e12)
