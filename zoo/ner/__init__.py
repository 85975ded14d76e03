"""Active-NER: deep active learning for named entity recognition (Shen et al., ICLR 2018)."""

from __future__ import annotations

from zoo.declaration import Method, lazy

_TINY = {
    "char_dim": 8,
    "char_filters": 8,
    "word_dim": 8,
    "word_filters": 8,
    "decoder_hidden": 8,
    "tags": ["O", *(f"{mark}-{kind}" for kind in ("LOC", "ORG", "PER") for mark in "BIES")],
    "num_words": 645,
    "num_characters": 47,
}

METHODS = (
    Method(
        "ActiveNER",
        page="active_ner",
        title="Active-NER",
        about="Deep active learning for named entity recognition (Shen et al., ICLR 2018): a light tagger "
        "that says which sentences are worth labelling",
        small=(
            _TINY,
            {
                **{
                    k: v
                    for k, v in _TINY.items()
                    if k not in ("char_filters", "word_filters", "decoder_hidden")
                },
                "char_encoder": "lstm",
                "char_hidden": 4,
                "word_encoder": "lstm",
                "word_hidden": 4,
                "tag_decoder": "crf",
            },
        ),
        data={
            "class_path": "datamodules.NER",
            "init_args": {"batch_size": 4, "seed_updates": 2, "round_updates": 2},
        },
    ),
)

__getattr__ = lazy(__name__, METHODS)
