"""Language models after the survey of big models (Yuan et al., 2022): a folder per task."""

from __future__ import annotations

from zoo.declaration import Family, Method, lazy

FAMILY = Family("Language models", page="language")

_TINY = {"width": 16, "layers": 1, "heads": 2, "hidden": 32, "context": 32}

METHODS: tuple[Method, ...] = (
    Method(
        "CausalLM",
        "causal.module",
        page="language_causal",
        title="Causal language models",
        about="Causal language models, pretrained, adapted and measured, after A Roadmap for Big Model "
        "(Yuan et al., 2022): GPT-2 and Llama",
        small=(
            {"model": "tiny-llama-bytes", **_TINY, "kv_heads": 1},
            {"model": "gpt2", **_TINY, "vocab_size": 259},
        ),
        weights="causal.weights",
        converts="folders of transformers (GPT-2, Llama) and checkpoints of nanoGPT convert both ways",
        convert="causal_lm",
        data={"class_path": "datamodules.TextStream", "init_args": {"context": 32, "batch_size": 8}},
    ),
)

__getattr__ = lazy(__name__, METHODS)
