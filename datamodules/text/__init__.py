"""Text: documents with summaries, dialogues, sentence pairs, sentences with named entities."""

CLASSES: dict[str, str] = {
    "Dialogues": "dialogues",
    "DullReplies": "dull",
    "NER": "ner",
    "ParallelText": "parallel",
    "Summaries": "summaries",
}
