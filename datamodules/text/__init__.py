"""Text: documents with summaries, dialogues, histories, sentence pairs, sentences with names, streams."""

CLASSES: dict[str, str] = {
    "Chats": "chats",
    "DialogueHistories": "histories",
    "Dialogues": "dialogues",
    "DullReplies": "dull",
    "MultipleChoice": "choices",
    "NER": "ner",
    "ParallelText": "parallel",
    "Summaries": "summaries",
    "TextStream": "stream",
}
