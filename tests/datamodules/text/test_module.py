import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from quiet import quiet_trainer

from datamodules import Dialogues, Summaries
from datamodules.text.module import TextModule
from datamodules.text.tokenizers import document, train_tokenizer
from zoo.nn.kept_text import KeptText

TEXTS = ["a tale of two cities"] * 3


class Tales(TextModule):
    reads = 0

    def training_texts(self) -> Iterator[str]:
        self.reads += 1
        yield from TEXTS


def tales(kept: str | None = None, **arguments: Any) -> Tales:
    data = Tales(**{"tokenizer": None, "vocab_size": 270, "batch_size": 1, "eval_batch_size": 1, **arguments})
    if kept is not None:
        module = SimpleNamespace(vocabulary=KeptText(kept))
        data.trainer = SimpleNamespace(lightning_module=module)  # type: ignore[assignment]
    return data


def test_the_tokenizer_is_trained_once_where_neither_weights_nor_a_file_have_one(tmp_path: Any) -> None:
    data = tales(kept="")
    assert data.vocab_size == 270
    assert data.vocabulary == document(train_tokenizer(TEXTS, 270))
    assert data.reads == 1


def test_that_of_the_weights_is_taken_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    theirs = document(train_tokenizer(["another text, another text"] * 3, 280))
    data = tales(kept=theirs)
    assert data.vocabulary == theirs
    assert data.reads == 0
    assert "zoo: the tokenizer is that of the weights" in capsys.readouterr().out


def test_a_file_that_is_given_must_be_that_of_the_weights(tmp_path: Any) -> None:
    made = train_tokenizer(TEXTS, 265)
    made.save_pretrained(tmp_path)
    assert tales(kept="", tokenizer=str(tmp_path)).vocabulary == document(made)
    assert tales(kept=document(made), tokenizer=str(tmp_path)).vocab_size == len(made)
    other = document(train_tokenizer(["x y x y"] * 3, 280))
    with pytest.raises(ValueError, match=r"another tokenizer than data\.init_args\.tokenizer"):
        _ = tales(kept=other, tokenizer=str(tmp_path)).tokenizer


def test_weights_that_are_restored_after_the_set_up_bring_theirs() -> None:
    """A Trainer restores a checkpoint behind ``setup``, in which a module has asked for the size already."""
    data = tales(kept="")
    own = data.vocabulary
    data.trainer.lightning_module.vocabulary.text = own  # type: ignore[union-attr]
    assert data.vocabulary == own
    theirs = document(train_tokenizer(["another text, another text"] * 3, 280))
    data.trainer.lightning_module.vocabulary.text = theirs  # type: ignore[union-attr]
    assert data.vocabulary == theirs
    assert document(data.tokenizer) == theirs


class Still(LightningModule):
    """A module of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        return self.weight * 1.0

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Reads."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def own_set(folder: Path, texts: list[str], kind: str) -> Any:
    """Items of which one side, or what stands before, are these texts."""
    folder.mkdir(exist_ok=True)
    rows = [{"source": "hello", "target": "fine", "history": ["hi"], "document": "a text", "summary": "a"}
            | {kind: [text] if kind == "history" else text} for text in texts]  # fmt: skip
    for split in ("train", "val", "test"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if kind in ("document", "summary", "yhat"):
        given: dict[str, Any] = {"yhat_field": "yhat"} if kind == "yhat" else {}
        return Summaries("jsonl", root=str(folder), vocab_size=300, batch_size=2, **given)
    return Dialogues("jsonl", str(folder), vocab_size=300, batch_size=2)


@pytest.mark.parametrize("kind", ["source", "target", "history", "document", "summary", "yhat"])
def test_a_training_goes_on_with_its_own_texts_alone(kind: str, tmp_path: Path) -> None:
    """As many others are other data all the same; a test may have others."""
    texts = ["one two", "three", "four", "five"]
    trainer = quiet_trainer(max_steps=1, limit_val_batches=0)
    trainer.fit(Still(), own_set(tmp_path / "own", texts, kind))
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    goes_on = quiet_trainer(max_steps=2, limit_val_batches=0)
    goes_on.fit(Still(), own_set(tmp_path / "own", texts, kind), ckpt_path=tmp_path / "one.ckpt")
    assert goes_on.global_step == 2
    for others in ([*texts[:3], "six"], texts[::-1]):
        data = own_set(tmp_path / "other", others, kind)
        with pytest.raises(ValueError, match="trained on other texts than the data have"):
            quiet_trainer(max_steps=2, limit_val_batches=0).fit(
                Still(), data, ckpt_path=tmp_path / "one.ckpt"
            )
        quiet_trainer().test(Still(), data, ckpt_path=tmp_path / "one.ckpt", verbose=False)
