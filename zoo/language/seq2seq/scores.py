"""BLEU and chrF by sacrebleu itself, on the texts of all processes."""

from __future__ import annotations

from typing import Any

from zoo.metrics.bleu import sacrebleu_scorer
from zoo.nn.processes import gathered


class TextScores:
    """Outputs and references of an evaluation, with their positions."""

    def __init__(self) -> None:
        self.texts: list[tuple[int, str, str]] = []

    def update(self, index: list[int], outputs: list[str], references: list[str]) -> None:
        """Texts of a batch."""
        self.texts += zip(index, outputs, references, strict=True)

    def compute(self, lowercase: bool = False) -> tuple[dict[str, float], list[str]]:
        """``bleu`` and ``chrf``, 0 to 100, of the whole corpus, and sacrebleu's signatures; both empty
        without a text. Collective: each process asks."""
        every = sorted({row for part in gathered(self.texts) for row in part})
        self.texts = []
        if not every:
            return {}, []
        from sacrebleu.metrics import CHRF

        outputs, references = [t[1] for t in every], [[t[2] for t in every]]
        scorers: dict[str, Any] = {"bleu": sacrebleu_scorer(lowercase), "chrf": CHRF(lowercase=lowercase)}
        found = {name: float(s.corpus_score(outputs, references).score) for name, s in scorers.items()}
        return found, [f"{name} {s.get_signature()}" for name, s in scorers.items()]
