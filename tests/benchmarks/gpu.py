"""Speed on one GPU: training DiT + DTR and diffusers' DiT through the same Trainer, and sampling.

python tests/benchmarks/gpu.py             DiT-L/2, batch 256, bf16, compiled; made for ten minutes on an H200
python tests/benchmarks/gpu.py --tiny      the same code with tiny sizes, on a CPU too; not a measurement
python tests/benchmarks/gpu.py --manifest docs/results/gpu.json     figures for docs/pages/gpu.md

All arms share data (packed random latents on disk), loss, noise draws, EMA and precision; diffusers' DiT
takes the place of the network alone. Model FLOP use = images/s x 3 x operations of a forward pass / peak of
the card: a multiply-add is two operations, the backward pass counts as two forward passes, and what a
compiler recomputes or an optimiser does counts nothing. The operations are those of the paper's network.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [p for p in (str(ROOT), str(ROOT / "tests")) if p not in sys.path]

from fakes.latents import fake_latents  # noqa: E402, needs the path above

import datamodules  # noqa: E402
import zoo  # noqa: E402
from zoo.dtr.network import SIZES  # noqa: E402
from zoo.engine.ema import EMA  # noqa: E402
from zoo.engine.run import versions  # noqa: E402
from zoo.evidence import manifest  # noqa: E402
from zoo.hub.catalog import find_config  # noqa: E402

PEAKS = {"B200": 2250e12, "H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12}
"""Dense bf16 operations per second by a part of the card's name."""
SAMPLING_STEPS = 250


@dataclass
class Arm:
    """One training run to be timed.

    Attributes:
        about: the row's name in the table.
        arguments: of :class:`zoo.DTR` besides its size.
        overlay: trainer overlay of the zoo.
        fused: AdamW's fused kernel instead of the default.
        diffusers: diffusers' DiT as the network.
    """

    about: str
    arguments: dict[str, Any]
    overlay: str | None = None
    fused: bool = False
    diffusers: bool = False


ARMS = {
    "ours": Arm("DTR", {}),
    "fused": Arm("DTR, fused AdamW", {}, fused=True),
    "plain": Arm("without routing", {"routing": "none"}),
    "ddp": Arm("DTR, trainer/ddp on one device", {}, overlay="ddp"),
    "fsdp": Arm("DTR, trainer/fsdp on one device", {}, overlay="fsdp"),
    "diffusers": Arm("diffusers' DiT", {"routing": "none"}, diffusers=True),
    "diffusers_fused": Arm("diffusers' DiT, fused AdamW", {"routing": "none"}, fused=True, diffusers=True),
    "eager": Arm("DTR, not compiled", {"compile": False}),
}


@dataclass
class Setting:
    """Sizes of a measurement."""

    size: str = "L"
    shape: tuple[int, int] = (32, 2)  # side of the latent, patch
    overrides: dict[str, int] | None = None  # width, depth, heads of the tiny network
    batch: int = 256
    warmup: int = 8
    steps: int = 20
    sample_batch: int = 64
    sample_steps: int = 20
    compile: bool = True
    device: str = "cuda"

    def model(self, **arguments: Any) -> zoo.DTR:
        """The model of an arm, with its arguments."""
        side, patch = self.shape
        own = {"compile": self.compile and arguments.get("compile", True)}
        sizes = {"size": self.size, "input_size": side, "patch_size": patch, **(self.overrides or {})}
        return zoo.DTR(**sizes | arguments | own)


TINY = Setting(
    shape=(8, 2), overrides={"width": 32, "depth": 2, "heads": 2}, batch=8, warmup=1, steps=2,
    sample_batch=2, sample_steps=2, compile=False, device="cpu",
)  # fmt: skip


class DiffusersDiT(nn.Module):
    """diffusers' DiT of the same sizes, called as ours is. It has its own label dropout of 0.1."""

    def __init__(self, model: zoo.DTR) -> None:
        super().__init__()
        from diffusers import DiTTransformer2DModel

        h = model.hparams
        sizes = {k: h[k] or SIZES[h["size"]][k] for k in ("width", "depth", "heads")}
        self.model = DiTTransformer2DModel(
            num_attention_heads=sizes["heads"],
            attention_head_dim=sizes["width"] // sizes["heads"],
            in_channels=h["in_channels"],
            out_channels=2 * h["in_channels"],
            num_layers=sizes["depth"],
            sample_size=h["input_size"],
            patch_size=h["patch_size"],
            num_embeds_ada_norm=h["num_classes"],
        )
        self.null_label = h["num_classes"]

    @property
    def blocks(self) -> nn.ModuleList:
        return self.model.transformer_blocks

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return self.model(x, timestep=t, class_labels=y).sample


class Stopwatch(Callback):
    """Seconds and peak memory of the steps after the warm-up."""

    def __init__(self, warmup: int) -> None:
        self.warmup, self.started, self.seconds, self.memory = warmup, 0.0, 0.0, 0

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        step, device = trainer.global_step, pl_module.device
        if step not in (self.warmup, trainer.max_steps):
            return
        synchronise(device)
        if step == self.warmup:
            self.started = time.perf_counter()
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
        else:
            self.seconds = time.perf_counter() - self.started
            self.memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def forward_operations(model: zoo.DTR) -> int:
    """Operations of one image's forward pass, two per multiply-add."""
    h = model.hparams
    with torch.device("meta"):
        twin = zoo.DTR(**{**h, "routing": "none", "compile": False}).network.to("meta")
        x, t = torch.empty(1, *model.shape), torch.zeros(1, dtype=torch.long)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        # math attention: the counter does not see into fused kernels
        twin(x, t, t)
    return int(counter.get_total_flops())


def model_flop_use(images_per_second: float, operations: float, peak: float) -> float:
    """Share of the card's peak (operations per second) that a training at this rate uses."""
    return images_per_second * 3 * operations / peak


def train(arm: Arm, setting: Setting, latents: Path) -> dict[str, float]:
    """Images per second, seconds per step and peak memory (GiB) of training."""
    model = setting.model(**arm.arguments)
    operations = forward_operations(model)
    if arm.diffusers:
        model.network = DiffusersDiT(model)  # type: ignore[assignment]
    if arm.fused:
        model.optimizer = lambda p: torch.optim.AdamW(p, lr=1e-4, weight_decay=0.0, fused=True)
    overlay = (
        yaml.safe_load(find_config(f"trainer/{arm.overlay}").read_text())["trainer"] if arm.overlay else {}
    )
    watch = Stopwatch(setting.warmup)
    trainer = Trainer(
        accelerator="gpu" if setting.device == "cuda" else "cpu",
        devices=1,
        strategy=strategy(overlay.get("strategy", "auto")),
        precision="bf16-mixed",
        max_steps=setting.warmup + setting.steps,
        callbacks=[EMA(0.9999), watch],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        use_distributed_sampler=False,
    )
    workers = 8 if setting.device == "cuda" else 0
    data = datamodules.ImageNetLatents(root=str(latents), batch_size=setting.batch, num_workers=workers)
    trainer.fit(model, data)
    rate = setting.batch * setting.steps / watch.seconds
    return {
        "images_per_second": rate,
        "seconds_per_step": watch.seconds / setting.steps,
        "memory_gib": watch.memory / 2**30,
        "operations": operations,
    }


def strategy(given: Any) -> Any:
    """A strategy as an overlay writes it: a name, or class_path and init_args."""
    if isinstance(given, str):
        return given
    module, _, name = given["class_path"].rpartition(".")
    return getattr(__import__(module, fromlist=[name]), name)(**given.get("init_args", {}))


@torch.no_grad()
def sample(setting: Setting) -> dict[str, float]:
    """Images per second of 250 DDPM steps with guidance, without the VAE, from the time of a few steps."""
    model = setting.model().to(setting.device).eval()
    if setting.compile:
        for block in model.network.blocks:
            block.compile()
    labels = torch.arange(setting.sample_batch, device=setting.device) % 1000

    def run(steps: int) -> float:
        synchronise(model.device)
        start = time.perf_counter()
        with torch.autocast(setting.device, torch.bfloat16):
            model.sample(labels, steps=steps, guidance=1.5)
        synchronise(model.device)
        return time.perf_counter() - start

    run(2)  # compiles
    short, long = run(2), run(2 + setting.sample_steps)
    per_step = max(long - short, 1e-9) / setting.sample_steps
    rate = setting.sample_batch / (per_step * SAMPLING_STEPS)
    memory = torch.cuda.max_memory_allocated() / 2**30 if setting.device == "cuda" else 0.0
    return {"images_per_second": rate, "seconds_per_step": per_step, "memory_gib": memory}


def measure(
    setting: Setting, names: list[str], peak: float | None, minutes: float, say: Callable[[str], None]
) -> dict[str, Any]:
    """All arms; one that fails says why and does not stop the others, none begins after ``minutes``."""
    found: dict[str, Any] = {}
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        latents = fake_latents(Path(folder), "packed", max(8 * setting.batch, 32), setting.shape[0])
        for name in names:
            spent = time.perf_counter() - began
            if spent > 60 * minutes:
                found[name] = {"error": f"not begun: {spent:.0f} s were spent"}
                continue
            try:
                found[name] = sample(setting) if name == "sampling" else train(ARMS[name], setting, latents)
            except Exception as error:
                found[name] = {"error": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}
            if "operations" in found[name] and peak is not None:
                rate, operations = found[name]["images_per_second"], found[name]["operations"]
                found[name]["model_flop_use"] = model_flop_use(rate, operations, peak)
            say(f"{name}: {json.dumps(found[name])}")
            release()
    return found


def release() -> None:
    """Nothing of an arm is left for the next."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    torch._dynamo.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def table(found: dict[str, Any]) -> str:
    """Markdown rows of the figures."""
    lines = ["| | images/s | s per step | memory (GiB) | model FLOP use |", "|---|---|---|---|---|"]
    for name, result in found.items():
        about = ARMS[name].about if name in ARMS else f"sampling, {SAMPLING_STEPS} guided steps"
        if "error" in result:
            lines.append(f"| {about} | {result['error'].replace('|', '/')} | | | |")
            continue
        use = f"{100 * result['model_flop_use']:.1f} %" if "model_flop_use" in result else ""
        rate = f"{result['images_per_second']:.{0 if result['images_per_second'] > 100 else 2}f}"
        lines.append(
            f"| {about} | {rate} | {result['seconds_per_step']:.3f} | {result['memory_gib']:.1f} | {use} |"
        )
    return "\n".join(lines)


def card_peak(device: str, given: float | None) -> tuple[str, float | None]:
    """Name and bf16 peak of the device; a CPU has none."""
    if device != "cuda":
        return "CPU", given
    name = torch.cuda.get_device_name()
    return name, given or next((peak for part, peak in PEAKS.items() if part in name), None)


def entries(found: dict[str, Any], card: str, command: str) -> list[dict[str, Any]]:
    """Manifest entries, and the table as one of them."""
    shared = {
        "seeds": [0], "command": command, "versions": {**versions(), "device": card},
        "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip
    numbers = {f"{arm}/{k}": v for arm, r in found.items() for k, v in r.items() if k != "error"}
    return [{"metric": k, "value": v, **shared} for k, v in {**numbers, "table": table(found)}.items()]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="tiny sizes; on a CPU where there is no GPU")
    parser.add_argument("--size", choices=sorted(SIZES), default="L")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=20, help="timed steps of each arm")
    parser.add_argument("--arms", nargs="*", default=[*ARMS, "sampling"], choices=[*ARMS, "sampling"])
    parser.add_argument("--peak", type=float, help="bf16 operations per second of a card not known here")
    parser.add_argument("--minutes", type=float, default=8, help="no arm begins after so many")
    parser.add_argument("--manifest", type=Path, help="results file, docs/results/gpu.json")
    options = parser.parse_args(argv)
    available = torch.cuda.is_available()
    if not available and not options.tiny:
        print("no GPU here: --tiny runs the code on the CPU", file=sys.stderr)
        return 1
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    torch.set_float32_matmul_precision("high" if available else "highest")
    setting = Setting(size=options.size, batch=options.batch, steps=options.steps)
    if options.tiny:
        setting = Setting(**{**asdict(TINY), "device": "cuda" if available else "cpu"})
    card, peak = card_peak(setting.device, options.peak)
    began = time.perf_counter()
    found = measure(setting, options.arms, peak, options.minutes, lambda line: print(line, flush=True))
    print(f"\n{card}, torch {torch.__version__}, {time.perf_counter() - began:.0f} s\n\n{table(found)}")
    if options.manifest:
        words = [w for w in (argv if argv is not None else sys.argv[1:]) if not w.startswith("--manifest")]
        words = [w for w in words if w != str(options.manifest)]
        command = shlex.join(["python", "tests/benchmarks/gpu.py", *words])
        manifest.update(options.manifest, entries(found, card, command))
    return int(any("error" in r for r in found.values()))


if __name__ == "__main__":
    sys.exit(main())
