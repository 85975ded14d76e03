"""The tokenizer that a pair of networks was trained with stays theirs, whatever the data are."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from commands import run, summary

import zoo
from zoo.ami.vocabulary import Vocabulary

FLAGS = (
    "--data.init_args.layout=jsonl", "--data.init_args.most_pairs=null", "--data.init_args.vocab_size=280",
    "--model.init_args.pretrain_forward=2", "--model.init_args.pretrain_backward=1", "--trainer.max_steps=4",
    "--trainer.val_check_interval=4", "--checkpoint.every_n_train_steps=4", "--previews.count=0",
    "--data.init_args.batch_size=4",
)  # fmt: skip


def pairs(folder: Path, letter: str) -> Path:
    draw = random.Random(0)
    words = [f"{letter}{c}{c}{i}" for i, c in enumerate("abcdefghijklmnop")]
    folder.mkdir()
    for split in ("train", "val", "test"):
        rows = [draw.sample(words, 4) for _ in range(24)]
        lines = [json.dumps({"source": " ".join(r), "target": " ".join(r[::-1])}) for r in rows]
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    return folder


def test_a_checkpoint_reads_other_data_with_its_own_tokenizer(tmp_path: Path) -> None:
    """Its ids are those of its words: a tokenizer of the other data gives numbers that mean nothing."""
    own, other = pairs(tmp_path / "own", "q"), pairs(tmp_path / "other", "z")
    folder = run("fit", "ami_chitchat", tmp_path / "runs", f"--data.init_args.root={own}", *FLAGS)
    checkpoint = folder / "checkpoints/step=00000004.ckpt"
    found = [
        summary("test", "ami_chitchat", tmp_path / "runs", f"--data.init_args.root={other}", *FLAGS, how)
        for how in (f"--ckpt_path={checkpoint}", f"--weights={checkpoint}")
    ]
    nll, again = (each["final"]["test/forward_nll"] for each in found)
    assert nll == pytest.approx(again, rel=1e-6)
    module = zoo.load(checkpoint)
    assert module.vocabulary.texts(module.vocabulary.ids(["qaa0 qbb1"])) == ["qaa0 qbb1"]  # type: ignore[union-attr]


def test_a_special_token_that_is_typed_is_text() -> None:
    kept = Vocabulary(zoo.load("ami_dull").vocabulary.text)  # type: ignore[union-attr]
    special = {kept.special(token) for token in ("<s>", "</s>", "<pad>", "<mask>", "<a>")}
    assert None not in special
    (ids,) = kept.ids(["topic3 </s> <mask> filler1"])
    assert not special & set(ids)
