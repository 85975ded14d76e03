"""SeqCo: a training step with all weights 0 beside transformers' Seq2SeqTrainer, and drawing with a cache.

Seq2SeqTrainer needs the package accelerate; without it that part skips. Both sides train the same BART on
the same batches, without dropout, at accumulation 1, AdamW of torch, label smoothing .1, no logging. Times
are CPU seconds.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from torch import Tensor
from torch.nn import functional

from benchmarks.interleaved import interleaved, ratio
from zoo.seqco import SeqCo
from zoo.seqco.sampling import Special, sample, uniform_draws

SPECIAL = Special(pad=1, eos=2, bos=0, start=2, others=(3, 1999))
RATE = 1e-4


def sizes(quick: bool) -> dict[str, Any]:
    width, layers = (32, 1) if quick else (192, 3)
    return {
        "d_model": width,
        **{f"{side}_layers": layers for side in ("encoder", "decoder")},
        **{f"{side}_attention_heads": 4 for side in ("encoder", "decoder")},
        **{f"{side}_ffn_dim": 4 * width for side in ("encoder", "decoder")},
        "max_position_embeddings": 512,
        "dropout": 0.0,
    }


def batches(count: int, rows: int, source: int, target: int) -> list[dict[str, Tensor]]:
    g = torch.Generator().manual_seed(0)
    found = []
    for place in range(count):
        ids = torch.randint(4, 1999, (rows, source), generator=g)
        summary = torch.randint(4, 1999, (rows, target), generator=g)
        found.append(
            {
                "source": ids,
                "source_mask": torch.ones_like(ids, dtype=torch.bool),
                "target": summary,
                "target_mask": torch.ones_like(summary, dtype=torch.bool),
                "index": torch.arange(rows) + place * rows,
            }
        )
    return found


class Given(LightningDataModule):
    def __init__(self, given: list[dict[str, Tensor]]) -> None:
        super().__init__()
        self.given = given

    def train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(self.given, batch_size=None)  # type: ignore[arg-type]


class Clock(Callback):
    def __init__(self) -> None:
        self.ends: list[float] = []
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self.ends.append(time.process_time())
        self.losses.append(float(trainer.callback_metrics["train/nll"]))


def module(quick: bool, **more: Any) -> SeqCo:
    torch.manual_seed(0)
    given: dict[str, Any] = {"vocab_size": 2000, "special_ids": [3, 1999], "weight_xyhat": 0.0, "beams": 1}
    return SeqCo(
        "bart", sizes(quick), optimizer=lambda p: torch.optim.AdamW(p, lr=RATE, weight_decay=0.0),
        **given, **more,
    )  # fmt: skip


def ours(quick: bool, given: list[dict[str, Tensor]]) -> tuple[list[float], list[float]]:
    clock = Clock()
    silent = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", devices=1, callbacks=[clock], limit_val_batches=0,
        **dict.fromkeys(silent, False),
    )  # fmt: skip
    trainer.fit(module(quick), Given(given))
    return _steps(clock.ends), clock.losses


def theirs(quick: bool, given: list[dict[str, Tensor]], folder: Path) -> tuple[list[float], list[float]]:
    from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, TrainerCallback

    ends: list[float] = []

    class Watch(TrainerCallback):
        def on_step_end(self, *args: Any, **more: Any) -> None:
            ends.append(time.process_time())

    class Fixed(Seq2SeqTrainer):
        def get_train_dataloader(self) -> Any:
            return torch.utils.data.DataLoader(rows, batch_size=None)  # type: ignore[arg-type]

    rows = [
        {
            "input_ids": b["source"],
            "attention_mask": b["source_mask"].long(),
            "labels": b["target"],
            "decoder_input_ids": functional.pad(b["target"], (1, -1), value=SPECIAL.start),
        }
        for b in given
    ]
    arguments = Seq2SeqTrainingArguments(
        output_dir=str(folder), max_steps=len(given), learning_rate=RATE, lr_scheduler_type="constant",
        label_smoothing_factor=0.1, max_grad_norm=0.0, weight_decay=0.0, logging_steps=1, report_to=[],
        save_strategy="no", use_cpu=True, disable_tqdm=True, optim="adamw_torch",
    )  # fmt: skip
    trainer = Fixed(module(quick).network.backbone, arguments, train_dataset=rows, callbacks=[Watch()])  # type: ignore[arg-type]
    trainer.train()
    return _steps(ends), [float(row["loss"]) for row in trainer.state.log_history if "loss" in row]


def _steps(ends: list[float]) -> list[float]:
    return [b - a for a, b in itertools.pairwise(ends)]


def test_step(record: Callable[[str, float], None], request: pytest.FixtureRequest, tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="transformers' Seq2SeqTrainer needs accelerate")
    quick = request.config.getoption("--quick")
    rounds, count = (1, 4) if quick else (3, 8)
    given = batches(count, 8, 64 if quick else 256, 16 if quick else 48)
    times: dict[str, list[float]] = {"ours": [], "theirs": []}
    for _ in range(rounds):
        found = {"ours": ours(quick, given), "theirs": theirs(quick, given, tmp_path)}
        for name, (steps, _) in found.items():
            times[name].append(statistics.median(steps[1:]))
    tokens = 8 * (given[0]["source"].shape[1] + given[0]["target"].shape[1])
    for name, seconds in times.items():
        record(f"{name}/tokens_per_second", tokens / statistics.median(seconds))
    record("time_by_trainers", statistics.median(a / b for a, b in zip(*times.values(), strict=True)))
    # the same work: their logged loss is label-smoothed, ours too; it is rounded to four digits
    a, b = found["ours"][1], found["theirs"][1]
    assert a == pytest.approx(b, abs=2e-3)


def test_drawing(record: Callable[[str, float], None], request: pytest.FixtureRequest) -> None:
    quick = request.config.getoption("--quick")
    length = 16 if quick else 100
    model = module(quick).eval().network.backbone
    model.final_logits_bias[0, 2] = -100.0  # every summary takes its full length
    batch = batches(1, 4 if quick else 16, 64 if quick else 256, 8)[0]
    uniform = uniform_draws(0, 0, range(len(batch["source"])), length - 1)
    drawn: dict[bool, Tensor] = {}

    def draw(cache: bool) -> None:
        drawn[cache] = sample(model, batch["source"], batch["source_mask"], SPECIAL, uniform, cache=cache)

    times = interleaved({"cached": lambda: draw(True), "uncached": lambda: draw(False)}, 1 if quick else 3)
    record("drawing/cached/seconds", statistics.median(times["cached"]))
    record("drawing/speedup", ratio(times, "uncached", "cached"))
    assert torch.equal(drawn[True], drawn[False])
