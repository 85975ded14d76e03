"""Text: documents with summaries, dialogues, histories, sentence pairs, sentences with names, streams."""

CLASSES: dict[str, str] = {
    "DialogueHistories": "histories",
    "Dialogues": "dialogues",
    "DullReplies": "dull",
    "NER": "ner",
    "ParallelText": "parallel",
    "Summaries": "summaries",
    "TextStream": "stream",
}
