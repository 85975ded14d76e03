from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

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
