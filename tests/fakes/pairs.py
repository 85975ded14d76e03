"""Tiny twins of PersonaChat as ParlAI's text and of sentence-aligned files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

WORDS = ("red", "green", "blue", "old", "new", "small", "large", "warm")


def persona_chat(root: Path, dialogues: int = 6) -> None:
    """``train_self_original.txt`` and its sisters: two persona sentences and three exchanges a dialogue."""
    root.mkdir(parents=True, exist_ok=True)
    for split in ("train", "valid", "test"):
        lines = []
        for d in range(dialogues):
            word = WORDS[d % len(WORDS)]
            lines += [f"1 your persona: i have a {word} house .", f"2 your persona: i like {word} tea ."]
            for turn in range(3):
                reply = f"my house is {word} , number {turn} ."
                others = [f"candidate {i} of {split} ." for i in range(4)]
                lines.append(f"{turn + 3} what is {word} {turn} ?\t{reply}\t\t{'|'.join([*others, reply])}")
        (root / f"{split}_self_original.txt").write_text("\n".join(lines) + "\n")


def sentence_pairs(root: Path, source: str, target: str, pairs: int = 24) -> None:
    """``train``, ``val`` and ``test`` of two languages."""
    root.mkdir(parents=True, exist_ok=True)
    for split in ("train", "val", "test"):
        rows = [(WORDS[i % 8], WORDS[(i // 3) % 8], i) for i in range(pairs)]
        first = [f"ein {a} haus und {b} nummer {i}" for a, b, i in rows]
        second = [f"a {a} house and {b} number {i}" for a, b, i in rows]
        for name, lines in ((source, first), (target, second)):
            (root / f"{split}.{name}").write_text("\n".join(lines) + "\n")


def _flags(config: dict[str, Any]) -> dict[str, Any]:
    """Small networks; a batch of tokens that a tiny set fills a few times; each kind of turn in three
    steps."""
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    flags: dict[str, Any] = {
        "model.init_args.width": 16, "model.init_args.layers": 1, "model.init_args.max_length": 8,
        "data.init_args.vocab_size": 120, "data.init_args.eval_batch_size": 4,
        "model.init_args.beam": 2,
    }  # fmt: skip
    if model["variant"] != "rnn":
        flags |= {"model.init_args.heads": 2, "model.init_args.hidden": 16}
    if "pretrain_forward" in model:
        flags |= {f"model.init_args.pretrain_{n}": 1 for n in ("forward", "backward", "noise")}
    else:
        flags |= {f"model.init_args.{n}_batches": 1 for n in ("forward", "backward", "noise")}
        flags |= {"model.init_args.adversarial_every": 1, "model.init_args.samples": 2}
    flags["data.init_args.batch_tokens" if "batch_tokens" in data else "data.init_args.batch_size"] = (
        500 if "batch_tokens" in data else 4
    )
    return flags


def _dialogues(root: Path, config: dict[str, Any]) -> dict[str, Any]:
    persona_chat(root)
    return _flags(config)


def _parallel(root: Path, config: dict[str, Any]) -> dict[str, Any]:
    data = config["data"]["init_args"]
    sentence_pairs(root, data["source"], data["target"])
    if config["model"]["class_path"] == "zoo.Seq2SeqLM":
        sizes = {"width": 16, "layers": 1, "heads": 2, "head_width": 8, "hidden": 16, "generate_batches": 1}
        return {f"model.init_args.{k}": v for k, v in sizes.items()} | {
            "data.init_args.vocab_size": 120, "data.init_args.eval_batch_size": 4,
            "data.init_args.batch_tokens": 500, "trainer.precision": 32,
        }  # fmt: skip
    return _flags(config)


TWINS = {"datamodules.Dialogues": _dialogues, "datamodules.ParallelText": _parallel}
WITHOUT_FILES = {
    "datamodules.Dialogues": lambda arguments: arguments.get("layout", "chitchat") == "chitchat",
    "datamodules.ParallelText": lambda arguments: arguments.get("layout", "gettext") == "gettext",
}
