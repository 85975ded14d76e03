"""What representations are worth: linear probes and k nearest neighbours, on a given number of labels."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.reports import writing

Probe = Literal["logistic", "sgd"]
_BLOCK, _BATCH = 1024, 256
_DROPS, _FACTOR = (1 / 2, 2 / 3, 5 / 6), 0.2  # epochs 30, 40, 50 of 60
_RAW = 32
_FLAT = 1e-6  # share of the largest value below which a deviation is rounding


def raw_pixels(images: Tensor) -> Tensor:
    """Images (B, C, S, S) as features, larger ones averaged to 32 x 32: (B, C min(S, 32)^2)."""
    if images.shape[-1] > _RAW:
        images = functional.adaptive_avg_pool2d(images, _RAW)
    return images.flatten(1)


def sgd_probe(
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    rate: float,
    epochs: int,
    g: torch.Generator,
) -> float:
    """Top-1 of a linear layer by SGD as MoCo has it: momentum .9, no decay, rate x .2 after 1/2, 2/3 and 5/6.

    Batches of 256; features are not augmented and not scaled. Weights begin as N(0, .01^2), biases at 0.

    Args:
        train: features (N, F).
        train_labels: (N,).
        test: features (M, F).
        test_labels: (M,).
        rate: of the first epochs.
        epochs: in all.
        g: of weights and order, on the CPU.
    """
    classes = int(max(train_labels.max(), test_labels.max())) + 1
    layer = nn.Linear(train.shape[1], classes)
    with torch.no_grad():
        layer.weight.normal_(0, 0.01, generator=g)
        layer.bias.zero_()
    optimizer = torch.optim.SGD(layer.parameters(), lr=rate, momentum=0.9)
    drops = [int(share * epochs) for share in _DROPS]
    with torch.enable_grad():
        for epoch in range(epochs):
            optimizer.param_groups[0]["lr"] = rate * _FACTOR ** sum(epoch >= d for d in drops)
            for rows in torch.randperm(len(train), generator=g).split(_BATCH):
                optimizer.zero_grad()
                functional.cross_entropy(layer(train[rows]), train_labels[rows]).backward()
                optimizer.step()
    with torch.no_grad():
        return float((layer(test).argmax(dim=1) == test_labels).float().mean())


def write_probes(folder: Path, rows: Sequence[tuple[str, str, int, float]]) -> Path:
    """``probes.csv``: whose features, which probe with its settings, on how many labels, top-1."""
    path = folder / "probes.csv"
    folder.mkdir(parents=True, exist_ok=True)
    with writing(path), path.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["features", "probe", "labels", "top1"])
        table.writerows((*row[:3], f"{row[3]:.4f}") for row in rows)
    return path


def linear_probe(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor) -> float:
    """Top-1 of scikit-learn's logistic regression (C 1, L-BFGS) on features standardised by the train ones.

    Args:
        train: features (N, F).
        train_labels: (N,).
        test: features (M, F).
        test_labels: (M,).
    """
    from sklearn.linear_model import LogisticRegression

    mean, deviation = train.mean(dim=0), train.std(dim=0)
    # what is one value here but for roundings would be blown up wherever a test row has another one
    deviation = torch.where(deviation > _FLAT * train.abs().amax(dim=0), deviation, 1.0)
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
