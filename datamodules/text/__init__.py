"""Text: documents with summaries, dialogues, sentence pairs, sentences with named entities."""

CLASSES: dict[str, str] = {
    "NER": "ner",
}
"""Public data modules -> the module of this package that defines them."""
