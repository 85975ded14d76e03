"""What representations are worth: a linear probe and k nearest neighbours, on a given number of labels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_BLOCK = 1024


def linear_probe(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor) -> float:
    """Top-1 of scikit-learn's logistic regression (C 1, L-BFGS) on features standardised by the train ones.

    Args:
        train: features (N, F).
        train_labels: (N,).
        test: features (M, F).
        test_labels: (M,).
    """
    from sklearn.linear_model import LogisticRegression

    mean, deviation = train.mean(dim=0), train.std(dim=0).clamp(min=1e-6)
    model = LogisticRegression(C=1.0, max_iter=2000)
    model.fit(((train - mean) / deviation).numpy(), train_labels.numpy())
    return float(model.score(((test - mean) / deviation).numpy(), test_labels.numpy()))


def nearest_neighbours(
    train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, k: int, temperature: float
) -> float:
    """Top-1 of the vote of k cosine neighbours, each with weight e^(cosine / temperature) (Wu et al. 2018).

    Args:
        train: features (N, F).
        train_labels: (N,).
        test: features (M, F).
        test_labels: (M,).
        k: neighbours; N where there are fewer.
        temperature: of the weights.
    """
    keys = functional.normalize(train, dim=1)
    classes = int(max(train_labels.max(), test_labels.max())) + 1
    right = 0
    for rows, labels in zip(test.split(_BLOCK), test_labels.split(_BLOCK), strict=True):
        cosine, place = (functional.normalize(rows, dim=1) @ keys.T).topk(min(k, len(keys)), dim=1)
        votes = torch.zeros(len(rows), classes).scatter_add_(
            1, train_labels[place], ((cosine - 1) / temperature).exp()
        )
        right += int((votes.argmax(dim=1) == labels).sum())
    return right / len(test)
