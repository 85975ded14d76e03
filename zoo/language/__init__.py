"""Language models after the survey of big models (Yuan et al., 2022): a folder per task."""

from __future__ import annotations

from zoo.declaration import Family, Method, lazy

FAMILY = Family("Language models", page="language")

_TINY = {"width": 16, "layers": 1, "heads": 2, "hidden": 32, "context": 32}
_SMALL = {"width": 8, "layers": 2, "heads": 2, "hidden": 16}
_T5 = {**_SMALL, "head_width": 4, "vocab_size": 300, "pad_id": 1, "bos_id": 2, "eos_id": 3, "max_length": 40}
_PEPTIDES = {"batch_size": 16, "most_train": 64}

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
    Method(
        "MaskedLM",
        "masked.module",
        page="language_masked",
        title="Masked language models",
        about="ESM-2 and BERT over proteins, property heads, contacts (Rives et al. 2021; Lin et al. 2023)",
        weights="masked.weights",
        converts="transformers' EsmForMaskedLM folders, both ways",
        convert="masked_lm",
        small=(_SMALL, {**_SMALL, "model": "bert-base", "context": 1024}),
        data={"class_path": "datamodules.Proteins", "init_args": _PEPTIDES},
    ),
    Method(
        "CompositionBaseline",
        "masked.baseline",
        page="language_masked",
        title="Masked language models",
        about="Logistic or linear regression on residue composition and length",
        small=({"targets": ["antimicrobial"]},),
        data={"class_path": "datamodules.Proteins", "init_args": {**_PEPTIDES, "task": "classification"}},
    ),
    Method(
        "Seq2SeqLM",
        "seq2seq.module",
        page="language_seq2seq",
        title="Sequence-to-sequence models",
        about="T5 (Raffel et al. 2020) for translation, with sacrebleu's BLEU and chrF",
        weights="seq2seq.weights",
        converts="transformers' T5 folders, both ways",
        convert="seq2seq",
        small=(
            {**_T5, "decoding": "greedy"},
            {**_T5, "feed_forward": "gated-gelu", "scaled": False},
        ),
        data={
            "class_path": "datamodules.ParallelText",
            "init_args": {"vocab_size": 300, "longest": 30, "batch_size": 8, "most_pairs": 40},
        },
    ),
)

__getattr__ = lazy(__name__, METHODS)
