"""A killed GAug run goes on to the same bits, in every phase and at every border between phases."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import interruption
import pytest
import torch
from commands import run
from covering import covering
from interruption import Killed, run_differences

import zoo

FLAGS = {
    "gaug_o_digits": ["--model.init_args.pretrain_ep=4", "--model.init_args.pretrain_nc=3"],
    "gaug_m_digits": ["--model.init_args.predictor_epochs=7"],
}
SETTINGS = (
    "--data.init_args.nodes=300", "--data.init_args.steps_per_epoch=5", "--model.init_args.hidden=16",
    "--model.init_args.epochs=9", "--trainer.max_steps=16", "--trainer.log_every_n_steps=1",
    "--checkpoint.every_n_train_steps=3", "--checkpoint.keep=-1",
)  # fmt: skip
GAUG_O, GAUG_M = FLAGS
SPARSE = ("--model.init_args.sparse=true",)
VGAE = ("--model.init_args.predictor=vgae",)
WARM = ("--model.init_args.warmup=5",)
ADA = ("--model.init_args.augmentation=adaedge", "--model.init_args.ada_confidence=0.2")
# (config, flags, step after whose checkpoint the run dies): in each phase and at each border (4, 7)
CASES: list[tuple[str, tuple[str, ...], str, int]] = [
    (GAUG_O, (), "saved", 3),
    (GAUG_O, WARM, "batch", 5),
    (GAUG_O, (), "saved", 6),
    (GAUG_O, WARM, "saved", 7),
    (GAUG_O, SPARSE, "batch", 11),
    (GAUG_O, VGAE, "saved", 12),
    (GAUG_M, (), "saved", 6),
    (GAUG_M, (), "saved", 7),
    (GAUG_M, VGAE, "batch", 11),
    (GAUG_M, ADA, "saved", 9),
    (GAUG_M, ADA, "batch", 14),
]
COVERING = [CASES[i] for i in (1, 3, 4, 5, 7, 10)]  # every phase and border of both methods, every option


def fit(config: str, root: Path, *flags: str) -> Path:
    """A short run; returns its folder. Checkpoints at 3, 6, 7 (border), 9, 12, 15, 16."""
    run("fit", config, root, *SETTINGS, *FLAGS[config], *flags)
    return root / config / "version_0"


def dying(config: str, moment: str, step: int) -> Any:
    """The process dies when step ``step`` is done (``batch``) or its checkpoint is in place (``saved``)."""
    module = zoo.GAugO if config == GAUG_O else zoo.GAugM

    def on_train_batch_end(self: Any, *args: Any) -> None:
        if self.trainer.global_step == step:
            raise Killed

    if moment == "saved":
        return interruption.dying(moment, step)
    return mock.patch.object(module, "on_train_batch_end", on_train_batch_end)


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Path]:
    return {}


@pytest.mark.parametrize(("config", "flags", "moment", "step"), covering(CASES, COVERING))
def test_a_killed_run_goes_on_to_the_same_bits(config, flags, moment, step, tmp_path, references):
    # a checkpoint at every step that a case names
    every = ("--checkpoint.every_n_train_steps=1",) if step == 7 else ()
    key = (config, flags, every)
    if key not in references:
        references[key] = fit(config, tmp_path / "whole", *flags, *every)
    with pytest.raises(Killed), dying(config, moment, step):
        fit(config, tmp_path, *flags, *every)
    folder = fit(config, tmp_path, *flags, *every, "--ckpt_path=last")
    assert run_differences(references[key], folder) == []


def test_a_checkpoint_holds_the_changed_graph(references: dict[Any, Path], tmp_path: Path) -> None:
    folder = references.get((GAUG_M, (), ())) or fit(GAUG_M, tmp_path)
    content = torch.load(folder / "checkpoints" / "step=00000016.ckpt", weights_only=True)["gaug"]
    assert content["changed"].shape[0] == 2
    assert content["best_predictor"] is None  # already in the network
    early = torch.load(folder / "checkpoints" / "step=00000006.ckpt", weights_only=True)["gaug"]
    assert early["changed"] is None
    assert set(early["best_predictor"]) == {"w0", "w1"}
