"""Sequence-to-sequence models of transformers as forward and backward networks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from zoo.hub import foreign
from zoo.nn.pretrained_seq2seq import ENDS, PretrainedSeq2Seq


def pretrained_pair(
    architecture: str | None, forward: str | None, backward: str | None, vocab_size: int, pad: int
) -> tuple[PretrainedSeq2Seq, PretrainedSeq2Seq, str]:
    """Two networks of one class, and their configuration as JSON.

    Args:
        architecture: the configuration, of weights that are read afterwards; null reads the models.
        forward: folder or hub id.
        backward: likewise.
        vocab_size: of the data.
        pad: id.

    Raises:
        ValueError: for models that cannot be had, or do not fit one another or the data; in one line.
    """
    from transformers import AutoConfig, AutoModelForSeq2SeqLM

    if architecture is None:
        if forward is None or backward is None:
            raise ValueError(
                "variant: hf needs model.init_args.pretrained_forward and pretrained_backward: folders or "
                "hub ids of "
                "sequence-to-sequence models with one vocabulary"
            )
        models = [_loaded(name) for name in (forward, backward)]
        configs = [json.loads(m.config.to_json_string(use_diff=False)) for m in models]
    else:
        try:
            configs = [json.loads(architecture)] * 2
            kind = configs[0].pop("model_type")
            config = AutoConfig.for_model(kind, **configs[0])
            configs[0]["model_type"] = kind
            models = [AutoModelForSeq2SeqLM.from_config(config) for _ in range(2)]
        except Exception as error:  # of the library anything may come
            raise ValueError(f"model.init_args.architecture is no configuration: {_line(error)}") from None
    for config in configs:
        if config.get("model_type") not in ENDS:
            raise ValueError(
                f"a model of type {config.get('model_type')!r} has no known ends of sources; known are "
                f"{', '.join(ENDS)}"
            )
        if config["vocab_size"] != vocab_size:
            raise ValueError(
                f"model.init_args.vocab_size is {vocab_size}, but the pretrained model has "
                f"{config['vocab_size']} "
                "words: set data.init_args.tokenizer to its folder"
            )
    if len({c["d_model"] for c in configs}) > 1 or configs[0]["model_type"] != configs[1]["model_type"]:
        raise ValueError(
            f"{forward} and {backward} are of different classes or widths; take a pair of one kind"
        )
    first, second = (PretrainedSeq2Seq(m, pad) for m in models)
    drop = ("_name_or_path", "transformers_version", "torch_dtype", "dtype")
    kept = {k: v for k, v in configs[0].items() if k not in drop}
    return first, second, json.dumps(kept, sort_keys=True)


def _loaded(name: str) -> Any:
    from transformers import AutoModelForSeq2SeqLM

    try:
        with foreign.checked_folder(Path(name)):
            return AutoModelForSeq2SeqLM.from_pretrained(name, trust_remote_code=False, use_safetensors=True)
    except Exception as error:  # of the library anything may come
        where = "the folder" if Path(name).is_dir() else "the hub's"
        raise ValueError(f"{where} {name} is no sequence-to-sequence model: {_line(error)}") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
