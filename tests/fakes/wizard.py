"""Tiny twins of Wizard of Wikipedia's files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

WORDS = ("red", "green", "blue", "old", "new", "small", "large", "warm")
TURNS = 6
NAMES = (
    "train",
    *(f"{split}_{topics}_split" for split in ("valid", "test") for topics in ("random", "topic")),
)


def dialogue(number: int, wizard_first: bool) -> dict[str, Any]:
    """Six turns; the wizard has the even or the odd ones."""
    word, turns = WORDS[number % len(WORDS)], []
    for turn in range(TURNS):
        speaker = "0_Wizard" if (turn % 2 == 0) == wizard_first else "1_Apprentice"
        text = f"what about a {word} house , number {turn} of {number} ?"
        turns.append({"speaker": speaker, "text": text, "checked_sentence": {}, "retrieved_passages": []})
    return {"chosen_topic": word, "persona": f"i like {word} .", "wizard_eval": 5, "dialog": turns}


def fake_wizard(root: Path, dialogues: int = 8) -> Path:
    """All five files under ``root``; the wizard begins every second dialogue."""
    root.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        content = [dialogue(i, i % 2 == 0) for i in range(dialogues)]
        (root / f"{name}.json").write_text(json.dumps(content))
    return root


def _twin(root: Path, config: dict[str, Any]) -> dict[str, Any]:
    fake_wizard(root)
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 512}
    return {
        "model.init_args.sizes": json.dumps(sizes),
        "model.init_args.pretrained": None,
        "model.init_args.hidden": 16,
        "model.init_args.negative_length": 4,
        "data.init_args.tokenizer": None,
        "data.init_args.vocab_size": 300,
        "data.init_args.batch_size": 4,
        "data.init_args.eval_batch_size": 4,
        "data.init_args.num_workers": 0,
        "trainer.precision": "32-true",
    }


TWINS = {"datamodules.DialogueHistories": _twin}
WITHOUT_FILES = {"datamodules.DialogueHistories": lambda given: given.get("layout", "facts") == "facts"}
