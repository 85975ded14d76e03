"""Knowledge-graph embeddings: TransE, ComplEx, and the ranking by frequency that they must beat."""

from __future__ import annotations

from zoo.declaration import Method, lazy

METHODS = (
    Method(
        "KGEmbedding",
        page="knowledge",
        title="Knowledge graphs",
        about="Link prediction by TransE (Bordes et al., NeurIPS 2013) and ComplEx (Trouillon et al., ICML "
        "2016; N3 of Lacroix et al., ICML 2018): the knowledge topic of A Roadmap for Big Model (2022)",
        small=(
            {"dim": 8},
            {"dim": 8, "model": "transe", "loss": "margin"},
            {"model": "relation_frequency"},
        ),
        data={"class_path": "datamodules.KnowledgeGraph", "init_args": {"batch_size": 32}},
    ),
)

__getattr__ = lazy(__name__, METHODS)
