"""Deep Graph Infomax (Velickovic et al., ICLR 2019) beside its encoder: the summary and the linear probe."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

_PROBE_STEPS, _PROBE_RATE = 100, 0.01  # the release's


def mean_of_the_graph(codes: Tensor, *_: Any) -> Tensor:
    """DGI's summary: sigmoid of the mean code, (H,)."""
    return codes.mean(dim=0).sigmoid()


def probe(codes: Tensor, y: Tensor, train: Tensor, classes: int) -> Tensor:
    """Class scores of a logistic regression fitted to the training nodes' codes, as in DGI's release.

    100 steps of Adam at .01 over all training nodes, without weight decay: a penalty would count for more
    the smaller the codes are, and DGI's have entries of about .006. From 0, where the release starts at
    random; the loss is convex.

    Shapes: codes (N, H), y int64 (N,), train bool (N,) -> (N, C); a class without training nodes has -1e4.
    """
    # Lightning evaluates in inference mode, whose tensors no gradient reaches
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(codes.device.type, enabled=False):
        inputs, labels = codes.detach().clone().float(), y.clone()
        rows, labels = inputs[train], labels[train]
        weight = torch.zeros(classes, inputs.shape[1], device=inputs.device, requires_grad=True)
        bias = torch.zeros(classes, device=inputs.device, requires_grad=True)
        optimizer = torch.optim.Adam([weight, bias], lr=_PROBE_RATE)
        for _ in range(_PROBE_STEPS):
            optimizer.zero_grad()
            functional.cross_entropy(functional.linear(rows, weight, bias), labels).backward()
            optimizer.step()
        scores = functional.linear(inputs, weight, bias).detach()
    absent = torch.bincount(labels, minlength=classes) == 0
    return scores.masked_fill(absent, -1e4)
