"""Language models by task, after the survey of Yuan et al. (2022): a folder per task."""

from __future__ import annotations

from zoo.declaration import Family, Method, lazy

FAMILY = Family("Language", page="language")

_PEPTIDES = {"class_path": "datamodules.Proteins", "init_args": {"batch_size": 16, "most_train": 64}}
_SMALL = {"hidden": 8, "layers": 2, "heads": 2, "ffn": 16}

METHODS: tuple[Method, ...] = (
    Method(
        "MaskedLM",
        module="masked.module",
        page="language_masked",
        title="Masked language models",
        about="ESM-2 and BERT over proteins, property heads, contacts (Rives et al. 2021; Lin et al. 2023)",
        weights="masked.weights",
        converts="bundled; transformers' EsmForMaskedLM folders, both ways",
        convert="masked_lm",
        small=(_SMALL, {**_SMALL, "shape": "bert_base", "dropout": 0.1}),
        data=_PEPTIDES,
    ),
    Method(
        "CompositionBaseline",
        module="masked.baseline",
        page="language_masked",
        title="Masked language models",
        about="Logistic or linear regression on residue composition and length",
        small=({"targets": ["antimicrobial"]},),
        data={
            "class_path": "datamodules.Proteins",
            "init_args": {"batch_size": 16, "most_train": 64, "task": "classification"},
        },
    ),
)

__getattr__ = lazy(__name__, METHODS)
