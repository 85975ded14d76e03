"""State dicts with chemprop 2's keys come in and go out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import zoo
from zoo.molecules.graph.weights import read, write


def chemprop_state(hidden: int = 8, outputs: int = 2) -> dict[str, torch.Tensor]:
    """As ``MPNN.state_dict()`` of chemprop 2 with its 72 + 14 features names and shapes them."""
    g = torch.Generator().manual_seed(0)
    shapes = {
        "message_passing.W_i.weight": (hidden, 86),
        "message_passing.W_h.weight": (hidden, hidden),
        "message_passing.W_o.weight": (hidden, 72 + hidden),
        "message_passing.W_o.bias": (hidden,),
        "predictor.ffn.0.0.weight": (5, hidden),
        "predictor.ffn.0.0.bias": (5,),
        "predictor.ffn.1.2.weight": (outputs, 5),
        "predictor.ffn.1.2.bias": (outputs,),
        "predictor.output_transform.mean": (1, outputs),
        "predictor.output_transform.scale": (1, outputs),
    }
    return {name: torch.randn(*shape, generator=g) for name, shape in shapes.items()}


def test_a_state_dict_comes_in_and_goes_out(tmp_path: Path) -> None:
    state = chemprop_state()
    torch.save(state, tmp_path / "model.pt")
    weights, lines = read(tmp_path / "model.pt", {"readout": "norm", "targets": ["a", "b"]})
    assert "D-MPNN of 8 units, features v2, 2 targets" in lines[0]
    module = zoo.MoleculeGraph2D(**weights.hparams).eval()
    module.load_state_dict(weights.state_dict)
    # the FFN's first layer on the readout of one atom, by hand
    x = torch.zeros(1, 72)
    x[0, 5] = 1
    h = (state["message_passing.W_o.weight"][:, :72] @ x[0] + state["message_passing.W_o.bias"]).relu()
    inner = (state["predictor.ffn.0.0.weight"] @ (h / 100) + state["predictor.ffn.0.0.bias"]).relu()
    y = state["predictor.ffn.1.2.weight"] @ inner + state["predictor.ffn.1.2.bias"]
    graph, descriptors = module.featurised(["C"])
    assert graph is not None
    graph.x.copy_(x)
    outputs = module.network(graph, descriptors)
    assert torch.allclose(outputs[0, 0], y, atol=1e-6)
    expected = y * state["predictor.output_transform.scale"][0] + state["predictor.output_transform.mean"][0]
    assert torch.allclose(module.predicted(outputs)[0][0].float(), expected, atol=1e-5)
    write(module, tmp_path / "back.pt", "chemprop")
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    assert {k: v.tolist() for k, v in back.items()} == {k: v.tolist() for k, v in state.items()}


@pytest.mark.parametrize(
    ("change", "given", "message"),
    [
        ({"bn.weight": torch.ones(8)}, {"readout": "mean"}, "bn.weight is of no D-MPNN that is read here"),
        ({"message_passing.W_i.weight": torch.ones(8, 90)}, {"readout": "mean"}, "W_i takes 90 features"),
        ({}, {}, "give --set readout=norm"),
        ({}, {"readout": "mean", "hidden": 9}, "its hidden is 8, which contradicts"),
        ({}, {"readout": "mean", "targets": ["a"]}, "predicts 2 targets, but --set targets names 1"),
    ],
)
def test_other_files_are_one_line(tmp_path: Path, change: dict, given: dict, message: str) -> None:  # type: ignore[type-arg]
    torch.save(chemprop_state() | change, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "model.pt", given)


def test_what_chemprop_has_not_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="this is another"):
        write(zoo.MoleculeGraph2D(backbone="gin", hidden=4), tmp_path / "x.pt", "chemprop")
