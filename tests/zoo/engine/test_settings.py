"""Ranges of the engine's own settings, and what a step over several batches is."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from jsonargparse import Namespace
from lightning import LightningDataModule, LightningModule, Trainer
from torch.utils.data import DataLoader

from zoo.engine.accumulation import EqualSteps, check_hand_stepped
from zoo.engine.runner import Parser
from zoo.engine.settings import OF_A_VERB, OPTIMIZATION, SETTINGS, check_settings

NONSENSE = (-5, -0.5, math.nan, math.inf, -math.inf, 1e300)


def config(key: str, value: Any, **more: Any) -> Namespace:
    found = Namespace()
    for name, given in {**more, key: value}.items():
        found[name] = given
    return found


@pytest.mark.parametrize("key", SETTINGS)
def test_nonsense_names_the_key_the_range_and_the_file(key: str) -> None:
    for value in NONSENSE:
        node: Any = value
        for part in reversed(key.split(".")):
            node = {part: node}
        with pytest.raises(
            ValueError, match=rf"^{key} must be .+, got {re.escape(str(value))} \(in mine.yaml\)$"
        ):
            check_settings("fit", config(key, value), [("mine.yaml", node)])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("trainer.accumulate_grad_batches", 0),
        ("trainer.gradient_clip_val", -1),
        ("trainer.log_every_n_steps", -1),
        ("trainer.check_val_every_n_epoch", -1),
        ("trainer.num_sanity_val_steps", -5),
        ("trainer.min_epochs", -3),
        ("trainer.check_val_every_n_epoch", 0),
        ("trainer.val_check_interval", 0),
        ("trainer.val_check_interval", 1.5),
        ("trainer.limit_train_batches", 0),
        ("trainer.limit_train_batches", 0.0),
        ("trainer.max_steps", 0),
        ("trainer.max_epochs", 0),
        ("trainer.devices", 0),
        ("seed_everything", 2**32),
        ("seed_everything", True),
        ("seed_everything", False),
        ("checkpoint.keep", 1),
        ("ema.decay", 1.0),
        ("previews.count", 10**9),
    ],
)
def test_out_of_range(key: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"^{key} must be "):
        check_settings("fit", config(key, value))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("trainer.max_steps", -1),
        ("trainer.devices", -1),
        ("trainer.devices", "auto"),
        ("trainer.limit_val_batches", 0),
        ("trainer.limit_train_batches", 1.0),
        ("trainer.limit_train_batches", 7),
        ("trainer.val_check_interval", 0.25),
        ("trainer.val_check_interval", 5000),
        ("trainer.num_sanity_val_steps", -1),
        ("trainer.gradient_clip_val", None),
        ("trainer.gradient_clip_val", 0.5),
        ("trainer.fast_dev_run", True),
        ("trainer.log_every_n_steps", 0),
        ("seed_everything", 2**32 - 1),
        ("ema.decay", 0.0),
    ],
)
def test_in_range(key: str, value: Any) -> None:
    check_settings("fit", config(key, value))


def test_a_verb_needs_its_own_batches() -> None:
    for verb, loader in OF_A_VERB.items():
        for other in OF_A_VERB.values():
            given = config(f"trainer.limit_{other}_batches", 0)
            if other == loader:
                with pytest.raises(ValueError, match=f"limit_{other}_batches must be above 0, got 0"):
                    check_settings(verb, given)
            else:
                check_settings(verb, given)


@pytest.mark.parametrize("argument", [*OPTIMIZATION, "power"])
def test_optimisers_and_schedules(argument: str) -> None:
    values: tuple[Any, ...] = (math.nan, math.inf, 1e300)
    values += () if argument == "power" else (-5, -0.5) if argument != "last_epoch" else (-5,)
    for value in values:
        given = (0.9, value) if argument == "betas" else value
        optimizer = Namespace(class_path="torch.optim.X", init_args=Namespace(**{argument: given}))
        place = f"model.init_args.optimizer.init_args.{argument}"
        with pytest.raises(ValueError, match=rf"^{place} must be .+, got {re.escape(str(value))}$"):
            check_settings("fit", config("model.init_args.optimizer", optimizer))
    fine = Namespace(
        class_path="torch.optim.X", init_args=Namespace(**{argument: 1 if argument != "betas" else 0.5})
    )
    if argument not in ("momentum",):
        check_settings("fit", config("model.init_args.optimizer", fine))


def test_a_thousand_processes_on_a_cpu() -> None:
    with pytest.raises(
        ValueError, match=r"trainer.devices must be at most \d+ on a CPU of \d+ cores, got 1000"
    ):
        check_settings("fit", config("trainer.devices", 1000, **{"trainer.accelerator": "cpu"}))
    for flag in ("1000", "0", "-5"):  # a text, as the parser gives it
        with pytest.raises(ValueError, match=f"trainer.devices must be .*, got {flag}"):
            check_settings("fit", config("trainer.devices", flag, **{"trainer.accelerator": "cpu"}))
    check_settings("fit", config("trainer.devices", 2, **{"trainer.accelerator": "cpu"}))


@pytest.mark.parametrize(
    ("cls", "line"),
    [
        ("zoo.DTR", r"not with ``latent_mean``. \[above 0\] \(type: float, default: 0.18215"),
        ("datamodules.Digits", r"over all devices. \[at least 1 and at most 100,000,000\] \(type: int"),
        ("datamodules.Traffic", r"--x.eval_batch_size .*\[at least 1 and at most 100,000,000\]"),
    ],
)
def test_the_help_of_a_class_says_the_ranges(cls: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = Parser(exit_on_error=False)
    parser.add_subclass_arguments(LightningModule if cls == "zoo.DTR" else LightningDataModule, "x")
    with pytest.raises(SystemExit):
        parser.parse_args(["--x.help", cls])
    assert re.search(line, " ".join(capsys.readouterr().out.split()))


class OneWeight(LightningModule):
    """The loss is the only weight: a step moves it by the rate."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.weight + 0 * batch.sum()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.seen.append(float(self.weight.detach()))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


class Batches(LightningDataModule):
    def __init__(self, count: int) -> None:
        super().__init__()
        self.count, self.batch_size = count, 1

    def train_dataloader(self) -> Any:
        return DataLoader(torch.zeros(self.count), batch_size=1)  # type: ignore[arg-type]


def trained(count: int, window: int, **settings: Any) -> OneWeight:
    module = OneWeight()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(
        accelerator="cpu", max_epochs=2, accumulate_grad_batches=window, enable_model_summary=False,
        callbacks=[EqualSteps()], **quiet, **settings,  # type: ignore[arg-type]
    )  # fmt: skip
    trainer.fit(module, Batches(count))
    return module


@pytest.mark.parametrize("settings", [{}, {"gradient_clip_val": 0.5}])
def test_steps_are_equal_at_the_end_of_an_epoch(settings: dict[str, float]) -> None:
    module = trained(8, 3, **settings)
    step = 0.1 * settings.get("gradient_clip_val", 1)
    moved = [round(-x / step, 5) for x in module.seen]
    assert moved == [0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5]
    assert float(module.weight.detach()) == pytest.approx(-6 * step)


def test_an_epoch_shorter_than_the_window_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    module = trained(2, 10**9)
    assert float(module.weight.detach()) == pytest.approx(-0.2)
    assert (
        "an epoch has 2 batches, fewer than trainer.accumulate_grad_batches 1000000000"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize(("key", "value"), [("accumulate_grad_batches", 4), ("gradient_clip_val", 1.0)])
def test_hand_stepped_methods_refuse_what_does_not_reach_them(key: str, value: float) -> None:
    module = OneWeight()
    check_hand_stepped({key: value}, module)
    module.automatic_optimization = False
    check_hand_stepped({key: None, "accumulate_grad_batches": 1, "gradient_clip_val": None}, module)
    with pytest.raises(
        ValueError, match=rf"OneWeight steps its optimisers itself, .*leave out trainer\.{key}"
    ):
        check_hand_stepped({key: value}, module)
