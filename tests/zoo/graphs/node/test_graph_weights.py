"""`zoo convert --method graphs`: weights of PyG's models, there and back, with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.nn import models as pyg
from torch_geometric.utils import to_undirected

import cli
import zoo

PNA = {
    "aggregators": ["mean", "min", "max", "std"],
    "scalers": ["identity", "amplification", "attenuation"],
    "deg": torch.tensor([1, 2, 8, 9, 10, 10]),
}
CASES: dict[str, tuple[Any, dict[str, Any], list[str]]] = {
    "gcn": (pyg.GCN, {}, []),
    "gcn_jk": (pyg.GCN, {"jk": "cat"}, []),
    "gcn_norm": (pyg.GCN, {"norm": "batch"}, []),
    "sage": (pyg.GraphSAGE, {}, []),
    "gin": (pyg.GIN, {}, []),
    "gat": (pyg.GAT, {"heads": 4, "act": "elu"}, []),
    "gat_relu": (pyg.GAT, {"heads": 4}, ["--set", "act=relu"]),
    "gatv2": (pyg.GAT, {"heads": 2, "act": "elu", "v2": True}, []),
    "pna": (pyg.PNA, PNA, []),
}


def graph() -> Data:
    g = torch.Generator().manual_seed(0)
    edges = to_undirected(torch.randint(40, (2, 90), generator=g))
    return Data(x=torch.randn(40, 12, generator=g), edge_index=edges[:, edges[0] != edges[1]])


@pytest.mark.parametrize("name", CASES)
def test_pygs_weights_give_pygs_outputs_and_go_back(name: str, tmp_path: Path) -> None:
    model, arguments, flags = CASES[name]
    torch.manual_seed(1)
    reference = model(12, 16, 3, 5, **arguments).eval()
    torch.save(reference.state_dict(), tmp_path / "pyg.pt")
    out = tmp_path / "ours.safetensors"
    command = ["convert", str(tmp_path / "pyg.pt"), "--method", "graphs", "--out", str(out), *flags]
    assert cli.main(command) == 0
    module, data = zoo.load(out), graph()
    torch.testing.assert_close(module(data), reference(data.x, data.edge_index), atol=1e-5, rtol=1e-5)
    back = tmp_path / "back.pt"
    assert cli.main(["convert", str(out), "--to", "pyg", "--out", str(back)]) == 0
    state = torch.load(back, weights_only=True)
    assert state.keys() == reference.state_dict().keys()
    assert all(torch.equal(state[k], v) for k, v in reference.state_dict().items())


@pytest.mark.parametrize(("content", "message"), [
    ({"weights": torch.zeros(2)}, "the keys are not those of a GCN, GraphSAGE"),
    ([1, 2], "is no state_dict"),
    (b"nothing", "is damaged or no PyTorch file"),
])  # fmt: skip
def test_other_files_get_one_line(content: Any, message: str, tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "x.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    out = str(tmp_path / "o.safetensors")
    assert cli.main(["convert", str(path), "--method", "graphs", "--out", out]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
