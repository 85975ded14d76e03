"""Which methods answer without weights: those whose answers rest on nothing that is learned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch

import zoo
from zoo.engine.arguments import Arguments, answers_untrained

VARIANTS = [(name, small) for name, (_, method) in sorted(zoo._DECLARED.items()) for small in method.small]
NOT_DRAWN = (
    "CAA", "CompositionBaseline", "CoulombRidge", "DescriptorBaseline", "FeatureBaseline", "GraphGenerator",
    "KGEmbedding", "LDS",
)  # fmt: skip
"""Have variants that draw nothing when they are made, but fit or search on the training set in ``fit``."""


def label(variant: tuple[str, Mapping[str, Any]]) -> str:
    name, small = variant
    return f"{name} {next((small[k] for k in ('arch', 'model', 'method') if k in small), '')}".strip()


def test_the_declared_ones() -> None:
    answering = [label(v) for v in VARIANTS if answers_untrained(getattr(zoo, v[0]), v[1])]
    heuristic = ["LinkPredictor adamic_adar"]
    forecasters = ["SpatioTemporalForecaster ha", "SpatioTemporalForecaster last"]
    assert answering == [*heuristic, "ReactionTransformer copy", *forecasters]
    assert answers_untrained(zoo.ADMEvaluation, {})
    assert answers_untrained(zoo.LatentExtractor, {})


@pytest.mark.parametrize("variant", VARIANTS, ids=label)
def test_who_answers_untrained_draws_no_weights(variant: tuple[str, Mapping[str, Any]]) -> None:
    cls, small = getattr(zoo, variant[0]), variant[1]
    states = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        states.append(cls(**small).state_dict())
    drawn = any(not torch.equal(states[1][k], v) for k, v in states[0].items() if torch.is_tensor(v))
    if answers_untrained(cls, small):
        assert not drawn
    elif variant[0] not in NOT_DRAWN:
        assert drawn


def test_insisting_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = Arguments("predict", ["--config=gnn_node_sbm", "--weights=none"])
    arguments.check_weights(zoo.NodeClassifier, {"arch": "gcn"})
    assert capsys.readouterr().out == "zoo: predict with an untrained network, as --weights none asks\n"
