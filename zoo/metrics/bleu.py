"""BLEU by sacrebleu itself, as a torchmetrics Metric.

torchmetrics' own ``SacreBLEUScore`` gives 0 on short texts without a common 4-gram, where sacrebleu smooths.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

ORDERS = (1, 2, 3, 4)


def sacrebleu_scorer(
    lowercase: bool = False, tokenize: str = "13a", smoothing: str = "exp", effective_order: bool = False
) -> Any:
    """sacrebleu's BLEU.

    Raises:
        ImportError: naming the extra.
    """
    try:
        from sacrebleu.metrics import BLEU
    except ImportError:
        raise ImportError(
            "sacrebleu is not installed; install the extra: pip install 'lightning-zoo[text]'"
        ) from None
    return BLEU(
        lowercase=lowercase,
        tokenize=tokenize,
        smooth_method=smoothing,
        effective_order=effective_order,
    )


class CorpusBLEU(Metric):
    """Corpus BLEU of generated texts with one reference each, and BLEU-1 to BLEU-3 from the same counts.

    What sentences add is summed over batches and processes, so that the score is the corpus command's to the
    last digit.

    Args:
        lowercase: texts are lower-cased first.
        tokenize: sacrebleu's tokenizer.
        smoothing: sacrebleu's method.
    """

    full_state_update = False
    correct: Tensor
    total: Tensor
    lengths: Tensor

    def __init__(self, lowercase: bool = False, tokenize: str = "13a", smoothing: str = "exp") -> None:
        super().__init__()
        self.scorer = sacrebleu_scorer(lowercase, tokenize, smoothing)
        # counts alone are taken from it: smoothing belongs to the corpus
        self._counter = sacrebleu_scorer(lowercase, tokenize, "none", effective_order=True)
        for name, size in (("correct", 4), ("total", 4), ("lengths", 2)):
            self.add_state(name, torch.zeros(size, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, generated: Sequence[str], references: Sequence[str]) -> None:
        """Texts of equal number."""
        for text, reference in zip(generated, references, strict=True):
            score = self._counter.sentence_score(text, [reference])
            self.correct += torch.tensor(score.counts, device=self.device)
            self.total += torch.tensor(score.totals, device=self.device)
            self.lengths += torch.tensor([score.sys_len, score.ref_len], device=self.device)

    def of_order(self, order: int) -> Tensor:
        """BLEU of n-grams up to ``order``, in 0..100."""
        correct, total = self.correct[:order].tolist(), self.total[:order].tolist()
        system, reference = self.lengths.tolist()
        score = self.scorer.compute_bleu(
            correct, total, system, reference,
            smooth_method=self.scorer.smooth_method, smooth_value=self.scorer.smooth_value,
            effective_order=False, max_ngram_order=order,
        )  # fmt: skip
        return torch.tensor(score.score, dtype=torch.float64)

    def compute(self) -> Tensor:
        return self.of_order(4)

    @property
    def signature(self) -> str:
        """sacrebleu's, which says how a score was made."""
        self.scorer.corpus_score(["a"], [["a"]])  # the number of references is known after a score
        return str(self.scorer.get_signature())
