"""Text: named entities with a pool to ask."""

CLASSES = {
    "NER": "ner",
}
"""Public data modules -> the module of this package that defines them."""
