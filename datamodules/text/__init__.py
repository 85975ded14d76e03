"""Text: documents with summaries, dialogues, their histories, sentence pairs, sentences with names."""

CLASSES: dict[str, str] = {
    "DialogueHistories": "histories",
    "Dialogues": "dialogues",
    "DullReplies": "dull",
    "NER": "ner",
    "ParallelText": "parallel",
    "Summaries": "summaries",
}
