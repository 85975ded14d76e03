"""T5 folders of transformers (``config.json``, ``model.safetensors``) <-> ours."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.hub.foreign import Weights, building
from zoo.language.seq2seq.network import settings_of_folder, start_from

if TYPE_CHECKING:
    from zoo.language.seq2seq.module import Seq2SeqLM

FORMATS: dict[str, tuple[str, ...]] = {"transformers": ()}
"""What :func:`write` writes: a folder."""


def read(path: Path, given: dict[str, Any]) -> tuple[Weights, list[str]]:
    """A folder of T5 as weights of :class:`zoo.Seq2SeqLM`, and lines on what was found.

    Args:
        path: folder.
        given: constructor arguments.

    Raises:
        FileNotFoundError, OSError, ValueError: one line on a folder that holds no such model.
    """
    from zoo.language.seq2seq.module import Seq2SeqLM

    hparams = {**settings_of_folder(path), **given}
    with building(path):
        module = Seq2SeqLM(**hparams)
    start_from(module.network, path)
    lines = [f"T5 of {module.sizes['layers']} + {module.sizes['layers']} layers of {module.sizes['width']}"]
    return Weights(path, "zoo.Seq2SeqLM", hparams, dict(module.state_dict())), lines


def write(module: Seq2SeqLM, out: Path, to: str) -> list[str]:
    """Write a folder that ``T5ForConditionalGeneration.from_pretrained`` reads, with the tokenizer where the
    weights have one."""
    out.mkdir(parents=True, exist_ok=True)
    module.network.model.save_pretrained(out)
    lines = [f"wrote {out}; T5ForConditionalGeneration.from_pretrained reads it"]
    if module.vocabulary.text:
        module.vocabulary.tokenizer.save_pretrained(out)
    return lines
