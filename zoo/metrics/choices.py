"""Multiple choice by likelihood: which answer a language model finds likeliest."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class ChoiceAccuracy(Metric):
    """Accuracy over questions, of the choice with the largest sum of log-likelihoods (``acc``) and of the
    one with the largest sum divided by the characters of the choice (``acc_norm``), as lm-evaluation-harness
    defines them, each with its standard error, sd / sqrt(n) with n - 1 in sd. Of equal choices the first
    counts. A (question, choice) that comes twice, as where processes share rows unevenly, counts once.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    rows: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("rows", default=[], dist_reduce_fx="cat")

    def update(
        self, log_likelihood: Tensor, question: Tensor, choice: Tensor, gold: Tensor, characters: Tensor
    ) -> None:
        """Add choices (B,): sums of log-likelihoods, numbers of question and choice, whether it is the right
        one, and the length of its text."""
        columns = (question, choice, log_likelihood.detach(), gold, characters)
        self.rows.append(torch.stack([c.double() for c in columns], dim=1))

    def compute(self) -> dict[str, Tensor]:
        """``acc``, ``acc_stderr``, ``acc_norm``, ``acc_norm_stderr``, NaN without a question.

        Raises:
            ValueError: for a question without one right choice.
        """
        rows = torch.cat(list(self.rows)) if isinstance(self.rows, list) else self.rows
        asked: dict[int, dict[int, list[float]]] = {}
        for question, choice, *rest in rows.tolist():
            asked.setdefault(int(question), {})[int(choice)] = rest
        plain, normed = [], []
        for question, choices in sorted(asked.items()):
            ordered = [choices[k] for k in sorted(choices)]
            right = [gold for _, gold, _ in ordered]
            if sum(right) != 1:
                raise ValueError(f"question {question} has {int(sum(right))} right choices, not one")
            plain.append(right[_largest([ll for ll, _, _ in ordered])])
            normed.append(right[_largest([ll / max(n, 1.0) for ll, _, n in ordered])])
        found = {}
        for name, values in (("acc", plain), ("acc_norm", normed)):
            found[name], found[f"{name}_stderr"] = map(torch.tensor, _mean(values))
        return found


def _largest(values: list[float]) -> int:
    return max(range(len(values)), key=lambda i: (values[i], -i))


def _mean(values: list[float]) -> tuple[float, float]:
    n = len(values)
    if not n:
        return math.nan, math.nan
    mean = sum(values) / n
    if n == 1:
        return mean, math.nan
    deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1))
    return mean, deviation / math.sqrt(n)
