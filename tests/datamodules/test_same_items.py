"""A training goes on with the molecules and triples that it was begun with; a test may have others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from quiet import quiet_trainer
from torch import Tensor

from datamodules import KnowledgeGraph, MoleculeTable


class Still(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.weight.sum()

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test/weight", self.weight.sum(), batch_size=1)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def molecules(folder: Path, changed: bool) -> Any:
    """The same molecules; one target of the training set differs."""
    pytest.importorskip("rdkit")
    rows = [("C" * (1 + i), str(i + (0.5 if changed and i == 1 else 0))) for i in range(12)]
    path = folder / f"{changed}.csv"
    path.write_text("smiles,y\n" + "".join(f"{s},{y}\n" for s, y in rows))
    return MoleculeTable(str(path), targets=["y"], split="random", batch_size=2)


def triples(folder: Path, changed: bool) -> Any:
    """As many triples over the same names; the ends of two are swapped."""
    rows = [(f"e{i}", f"r{i % 2}", f"e{(i + 3) % 20}") for i in range(20)]
    if changed:
        rows = [(h, r, f"e{(int(t[1:]) + 1) % 20}") for h, r, t in rows]
    path = folder / f"{changed}.tsv"
    path.write_text("".join("\t".join(row) + "\n" for row in rows))
    return KnowledgeGraph("triples", triples=str(path), held_out=0.2, batch_size=4)


@pytest.mark.parametrize(("made", "what"), [(molecules, "molecules"), (triples, "triples")])
def test_a_training_goes_on_with_its_own_items_alone(
    made: Callable[[Path, bool], Any], what: str, tmp_path: Path
) -> None:
    trainer = quiet_trainer(max_steps=1, limit_val_batches=0)
    trainer.fit(Still(), made(tmp_path, False))
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    goes_on = quiet_trainer(max_steps=2, limit_val_batches=0)
    goes_on.fit(Still(), made(tmp_path, False), ckpt_path=tmp_path / "one.ckpt")
    assert goes_on.global_step == 2
    other = made(tmp_path, True)
    with pytest.raises(ValueError, match=f"trained on other {what} than the data have"):
        quiet_trainer(max_steps=2, limit_val_batches=0).fit(Still(), other, ckpt_path=tmp_path / "one.ckpt")
    quiet_trainer().test(Still(), other, ckpt_path=tmp_path / "one.ckpt", verbose=False)
