"""``zoo export``: files that give what the network gives, or no file."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from covering import covering
from lightning.pytorch import LightningModule
from torch import Tensor, nn

import cli
import datamodules
import zoo
from zoo.diffusion.samplers import ddim, guided
from zoo.diffusion.schedules import space_timesteps
from zoo.graphs.node.network import NODE_ARCHS
from zoo.hub import export as room
from zoo.hub import weights as hub
from zoo.lds.module import _TEST
from zoo.randomness import global_seed

PAGE = Path(zoo.__file__).parent.parent / "docs" / "pages" / "export.md"
NEEDS_ONNX = "onnxruntime"
NO_CASE = SimpleNamespace(params={})
DIT = {"width": 16, "depth": 2, "heads": 2, "patch_size": 2}
UNET = {
    "backbone": "unet", "unet_channels": 32, "unet_multipliers": [1, 2], "unet_res_blocks": 1,
    "unet_attention": [4], "unet_head_channels": 16,
}  # fmt: skip
VARIANTS = [
    pytest.param(sizes, routing, classes, id=f"{name}-{routing}-{classes}")
    for name, sizes in (("dit", DIT), ("unet", UNET))
    for routing in ("dtr", "random", "none")
    for classes in (10, 1)
]


@pytest.fixture(autouse=True)
def onnx_where_asked(request: pytest.FixtureRequest) -> None:
    """Cases with the suffix of ONNX need what runs its files."""
    if "onnx" in getattr(request.node, "callspec", NO_CASE).params.get("suffix", ""):
        pytest.importorskip(NEEDS_ONNX)


def with_suffixes(cases: Sequence[Any]) -> list[Any]:
    """Each case with each kind of file."""
    return [pytest.param(*c.values, s, id=f"{c.id}{s}") for c in cases for s in room.SUFFIXES]


def module_of(sizes: dict[str, Any], routing: str = "dtr", classes: int = 10) -> zoo.DTR:
    """A module whose network is not 0 everywhere, as a fresh one is."""
    torch.manual_seed(0)
    module = zoo.DTR(input_size=8, in_channels=1, num_classes=classes, routing=routing, **sizes)  # type: ignore[arg-type]
    awake(module)
    return module


def awake(module: LightningModule) -> None:
    for parameter in module.parameters():
        if not parameter.detach().any():
            nn.init.normal_(parameter, std=0.1)


def largest(module: Any, out: Path, batch: int, *, seed: int = 7) -> float:
    """Largest difference relative to scale, on inputs that the export itself never saw."""
    torch.manual_seed(seed)
    inputs = module.example_inputs(batch)
    with torch.no_grad():
        expected = module.network(**inputs)
        (found,) = room.load(out)(inputs)
    assert found.shape == expected.shape
    assert expected.abs().max() > 0.01
    return float((found - expected).abs().max() / expected.abs().max())


def one_line(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert cli.main(["export", *map(str, arguments)]) == 1
    text = capsys.readouterr().err
    assert text.startswith("zoo: error: ")
    assert text.count("\n") == 1, text
    return text


@pytest.mark.parametrize(("sizes", "routing", "classes"), covering(VARIANTS, ["dit-random-1"]))
def test_program_gives_what_the_network_gives(
    sizes: dict[str, Any], routing: str, classes: int, tmp_path: Path
) -> None:
    module = module_of(sizes, routing, classes)
    out = tmp_path / "x.pt2"
    list(room.write(module, out))
    assert [largest(module, out, b) <= 1e-5 for b in (1, 2, 5, 11)] == [True] * 4


@pytest.mark.parametrize(("sizes", "routing", "classes"), covering(VARIANTS, ["dit-dtr-10"]))
def test_onnx_gives_what_the_network_gives(
    sizes: dict[str, Any], routing: str, classes: int, tmp_path: Path
) -> None:
    pytest.importorskip(NEEDS_ONNX)
    module = module_of(sizes, routing, classes)
    out = tmp_path / "x.onnx"
    list(room.write(module, out))
    assert [largest(module, out, b) <= 1e-5 for b in (1, 2, 5, 11)] == [True] * 4


@pytest.mark.parametrize(
    ("name", "suffix"), [("digit_classifier_digits", ".pt2"), ("digit_classifier_mnist", ".onnx")]
)
def test_classifier_gives_the_same_scores(name: str, suffix: str, tmp_path: Path) -> None:
    out = tmp_path / f"x{suffix}"
    assert cli.main(["export", name, "--out", str(out)]) == 0
    assert [largest(zoo.load(name), out, b) <= 1e-5 for b in (1, 2, 5)] == [True] * 3


def test_example_inputs_reach_the_null_class_and_all_timesteps() -> None:
    inputs = module_of(DIT).example_inputs(20_000)
    assert (list(inputs), int(inputs["t"].min()), int(inputs["t"].max())) == (["x", "t", "y"], 0, 999)
    assert (int(inputs["y"].min()), int(inputs["y"].max())) == (0, 10)
    assert set(module_of(DIT, classes=1).example_inputs(50)["y"].tolist()) == {0}
    assert module_of(DIT).bfloat16().example_inputs(2)["x"].dtype == torch.bfloat16


def test_command_says_what_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "digits.pt2"
    assert cli.main(["export", "dtr_dit_digits", "--out", str(out)]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = captured.out.splitlines()
    assert len(lines) == 5
    assert all(line.startswith("zoo: ") for line in lines)
    assert "dtr_dit_digits holds a zoo.DTR; exporting the weights of the file" in lines[0]
    assert f"{out.stat().st_size / 1e6:.1f} MB" in lines[1]
    assert "inputs x float32 (batch, 1, 8, 8), t int64 (batch), y int64 (batch); outputs output" in lines[2]
    number = re.search(r"batches 1, 2, 5: (\S+), (\S+) of the largest output", lines[3])
    assert number is not None
    assert float(number[2]) <= 1e-5
    assert lines[4] == f'zoo: next: torch.export.load("{out}").module()(x, t, y)'
    assert [p.name for p in tmp_path.iterdir()] == ["digits.pt2"]

    extra = {room.METADATA: ""}
    torch.export.load(out, extra_files=extra)
    found = json.loads(extra[room.METADATA])
    hparams = json.loads(found.pop("hparams"))
    assert hparams == dict(zoo.load("dtr_dit_digits").hparams)
    assert found == {
        "method": "zoo.DTR",
        "config": "dtr_dit_digits",
        "weights": "as stored",
        "source": "dtr_dit_digits.safetensors",
        "zoo_version": zoo.__version__,
        "torch_version": torch.__version__,
        "inputs": "x t y",
        "outputs": "output",
    }


def test_onnx_names_metadata_and_opset(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip(NEEDS_ONNX)
    out = tmp_path / "digits.onnx"
    assert cli.main(["export", "dtr_dit_digits", "--out", str(out)]) == 0
    captured = capfd.readouterr()  # of the file descriptors: what C++ and loggers write counts too
    assert (captured.err, [line[:5] for line in captured.out.splitlines()]) == ("", ["zoo: "] * 5)
    assert "opset 20" in captured.out
    content = onnx.load(out)
    onnx.checker.check_model(content)
    assert [(o.domain, o.version) for o in content.opset_import] == [("", 20)]
    found = {p.key: p.value for p in content.metadata_props}
    assert (found["method"], found["config"], found["weights"]) == ("zoo.DTR", "dtr_dit_digits", "as stored")
    assert json.loads(found["hparams"])["width"] == 64
    assert (found["opset"], found["inputs"], found["outputs"]) == ("20", "x t y", "output")
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    assert [(i.name, i.shape) for i in session.get_inputs()] == [
        ("x", ["batch", 1, 8, 8]),
        ("t", ["batch"]),
        ("y", ["batch"]),
    ]
    assert [(o.name, o.shape) for o in session.get_outputs()] == [("output", ["batch", 2, 8, 8])]


def test_averaged_weights_of_a_checkpoint_are_exported_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--trainer.max_steps=3", "--trainer.val_check_interval=null", "--trainer.limit_val_batches=0"]
    sizes = [f"--model.init_args.{k}" for k in ("width=16", "depth=1", "heads=2")]
    batch = ["--data.init_args.batch_size=16", "--trainer.enable_progress_bar=false"]
    checkpoints = {}
    for name, ema in (("averaged", "0.5"), ("raw", "null")):
        root = f"--trainer.default_root_dir={tmp_path / name}"
        argv = ["fit", "--config", "dtr_dit_digits", root, *flags, *sizes, *batch, f"--ema.decay={ema}"]
        assert cli.main(argv) == 0
        checkpoints[name] = next((tmp_path / name).rglob("step=*.ckpt"))
    for name, checkpoint in checkpoints.items():
        capsys.readouterr()
        out = tmp_path / f"{name}.pt2"
        assert cli.main(["export", str(checkpoint), "--out", str(out)]) == 0
        assert f"exporting {name}" in capsys.readouterr().out
        extra = {room.METADATA: ""}
        state = torch.export.load(out, extra_files=extra).state_dict
        assert json.loads(extra[room.METADATA])["weights"] == name
        expected = zoo.load(checkpoint).network.state_dict()
        assert all(torch.equal(state[k], v) for k, v in expected.items())
    raw = zoo.load(checkpoints["averaged"], averaged=False).network.state_dict()
    state = torch.export.load(tmp_path / "averaged.pt2").state_dict
    assert not all(torch.equal(state[k], v) for k, v in raw.items())


class Toy(LightningModule):
    """A module with a network of any kind."""

    def __init__(self, network: nn.Module, inputs: Callable[[int], dict[str, Tensor]] | None = None) -> None:
        super().__init__()
        self.network = network
        self.inputs = inputs or (lambda b: {"x": torch.randn(b, 4)})

    def example_inputs(self, batch: int) -> dict[str, Tensor]:
        return self.inputs(batch)


class TwoFaced(nn.Module):
    """Its exported form is off by a relative ``error``."""

    def __init__(self, error: float) -> None:
        super().__init__()
        self.error = error

    def forward(self, x: Tensor) -> Tensor:
        return x * (1 + self.error) if torch.compiler.is_exporting() else x.clone()


class Fixed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(3, 2, 2)


class Sum(nn.Module):
    """Its scale is small, so that a bound on the absolute difference would say nothing."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"small": 1e-6 * x * (1.001 if torch.compiler.is_exporting() else 1), "large": 100 * x}


def test_a_file_that_differs_is_not_kept(tmp_path: Path) -> None:
    out = tmp_path / "x.pt2"
    with pytest.raises(ValueError, match=r"was not kept: it differs from the network by .* more than 1e-05"):
        list(room.write(Toy(TwoFaced(1e-4)), out))
    assert list(tmp_path.iterdir()) == []
    list(room.write(Toy(TwoFaced(1e-7)), out))
    assert out.is_file()


def test_each_output_is_judged_by_its_own_scale(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="was not kept"):
        list(room.write(Toy(Sum()), tmp_path / "x.pt2"))


def test_nan_is_a_difference(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="was not kept"):
        list(room.write(Toy(TwoFaced(float("nan"))), tmp_path / "x.pt2"))


def test_a_worse_export_leaves_the_old_file(tmp_path: Path) -> None:
    out = tmp_path / "x.pt2"
    list(room.write(Toy(TwoFaced(0.0)), out))
    before = out.read_bytes()
    with pytest.raises(ValueError, match="was not kept"):
        list(room.write(Toy(TwoFaced(1e-3)), out))
    assert (out.read_bytes(), [p.name for p in tmp_path.iterdir()]) == (before, ["x.pt2"])


def test_swapped_inputs_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(NEEDS_ONNX)
    original = torch.onnx.export

    def swapped(*arguments: Any, input_names: list[str], **settings: Any) -> Any:
        return original(*arguments, input_names=["x", "y", "t"], **settings)

    monkeypatch.setattr(torch.onnx, "export", swapped)
    with pytest.raises(ValueError, match="was not kept"):
        list(room.write(module_of(DIT), tmp_path / "x.onnx"))
    assert list(tmp_path.iterdir()) == []


def test_other_weights_are_found(tmp_path: Path) -> None:
    module, other = module_of(DIT), module_of(DIT)
    with torch.no_grad():
        other.network.blocks[1].mlp.fc2.weight[0, 0] += 0.05
    out = tmp_path / "x.pt2"
    list(room.write(other, out))
    assert room.compare(other, out).relative == 0
    assert room.compare(module, out).relative > 1e-5


def test_zeros_are_no_comparison(tmp_path: Path) -> None:
    fresh = zoo.DTR(input_size=8, in_channels=1, num_classes=10, **DIT)  # type: ignore[arg-type]
    lines = list(room.write(fresh, tmp_path / "x.pt2"))
    assert any("only zeros" in line for line in lines)


def test_a_fixed_batch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Toy's network cannot be exported with a free batch") as caught:
        list(room.write(Toy(Fixed()), tmp_path / "x.pt2"))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ({"z": (3, 4)}, "Toy.example_inputs gives z, but the network's forward takes input, in this order"),
        ({"input": (1, 4)}, "its first dimension must be the batch, 3"),
    ],
)
def test_wrong_example_inputs_are_refused(inputs: dict[str, Any], text: str, tmp_path: Path) -> None:
    module = Toy(nn.Sequential(nn.Linear(4, 2)), lambda b: {k: torch.randn(v) for k, v in inputs.items()})
    with pytest.raises(ValueError, match=re.escape(text)):
        list(room.write(module, tmp_path / "x.pt2"))


def test_a_module_without_example_inputs_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delattr(zoo.DTR, "example_inputs")
    text = one_line(capsys, "dtr_dit_digits", "--out", tmp_path / "x.pt2")
    assert "DTR cannot be exported: it has no example_inputs(batch)" in text


def test_page_gives_inputs_of_a_module_of_ones_own_that_are_exported(tmp_path: Path) -> None:
    text = PAGE.read_text()
    (code,) = re.findall(r"```python\n(def example_inputs.*?)```", text, flags=re.S)
    names: dict[str, Any] = {"torch": torch, "Tensor": Tensor}
    exec(code, names)
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, 64)
    )  # the autoencoder of add_method.md
    module = type("Autoencoder", (Toy,), {"example_inputs": names["example_inputs"]})(network)
    assert "inputs input float32 (batch, 1, 8, 8)" in list(room.write(module, tmp_path / "x.pt2"))[1]


def test_several_outputs_keep_their_names(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip(NEEDS_ONNX)

    class Two(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"double": 2 * x, "mean": x.mean(dim=1)}

    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return 2 * x, x.mean(dim=1)

    names = {}
    for network in (Two(), Pair()):
        out = tmp_path / "x.onnx"
        list(room.write(Toy(network), out))
        names[type(network)] = [o.name for o in onnxruntime.InferenceSession(out).get_outputs()]
    assert names == {Two: ["double", "mean"], Pair: ["output_0", "output_1"]}


def test_bad_destinations_fail_in_one_line_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "read", lambda *_: pytest.fail("weights were read"))
    (tmp_path / "old.pt2").write_text("precious")
    (tmp_path / "folder.pt2").mkdir()
    for out, text in (
        ("x.pt", "the file ends in .pt2 or .onnx"),
        ("none/x.pt2", "there is no folder"),
        ("old.pt2", "exists; choose another --out or add --force"),
        ("folder.pt2", "is a folder"),
    ):
        assert text in one_line(capsys, "dtr_dit_digits", "--out", tmp_path / out)
    assert (tmp_path / "old.pt2").read_text() == "precious"


def test_unknown_weights_fail_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean" in one_line(capsys, "dtr_dit_digit", "--out", tmp_path / "x.pt2")
    (tmp_path / "x.ckpt").write_bytes(b"no checkpoint")
    assert "damaged or no checkpoint" in one_line(capsys, tmp_path / "x.ckpt", "--out", tmp_path / "x.pt2")


def test_missing_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = room.importlib.util.find_spec
    monkeypatch.setattr(
        room.importlib.util, "find_spec", lambda name: None if "onnx" in name else original(name)
    )
    text = one_line(capsys, "dtr_dit_digits", "--out", tmp_path / "x.onnx")
    assert 'pip install "lightning-zoo[onnx]"' in text
    assert cli.main(["export", "digit_classifier_digits", "--out", str(tmp_path / "x.pt2")]) == 0


def test_force_overwrites(tmp_path: Path) -> None:
    out = tmp_path / "x.pt2"
    out.write_text("old")
    assert cli.main(["export", "digit_classifier_digits", "--out", str(out), "--force"]) == 0
    assert largest(zoo.load("digit_classifier_digits"), out, 2) <= 1e-5


def graph_module(method: str, backbone: str = "") -> Any:
    torch.manual_seed(0)
    if method == "LDS":
        module: Any = zoo.LDS(num_nodes=9, num_features=6, num_classes=3, hidden=(8, 8))
        nn.init.normal_(module.network.weights)
    elif method == "NodeClassifier":
        heads = {"heads": 2} if backbone in ("gat", "gatv2") else {}
        module = zoo.NodeClassifier(features=6, num_classes=3, arch=backbone, hidden=16, **heads)
        if backbone == "pna":
            module.network.set_degrees(torch.tensor([0, 3, 4, 2]))
    else:
        module = getattr(zoo, method)(features=6, num_classes=3, hidden=16, heads=2, backbone=backbone)
    awake(module)
    return module.eval()


GRAPHS = [
    pytest.param("LDS", "", id="lds"),
    *(
        pytest.param(m, b, id=f"{m}-{b}")
        for m in ("GAugM", "GAugO")
        for b in ("gcn", "gsage", "gat", "jknet")
    ),
    *(pytest.param("NodeClassifier", a, id=f"node-{a}") for a in NODE_ARCHS),
]
GRAPHS_BY_DEFAULT = ["lds.onnx", "GAugM-gat.pt2", "GAugO-gcn.onnx", "node-cheb.pt2", "node-gat.onnx"]


@pytest.mark.parametrize(("method", "backbone", "suffix"), covering(with_suffixes(GRAPHS), GRAPHS_BY_DEFAULT))
def test_graph_network_takes_graphs_of_any_size(
    method: str, backbone: str, suffix: str, tmp_path: Path
) -> None:
    module, out = graph_module(method, backbone), tmp_path / f"x{suffix}"
    lines = list(room.write(module, out))
    assert "inputs x float32 (nodes, 6), edge_index int64 (2, edges)" in lines[1]
    assert re.search(r"network at nodes 1, 2, 5; edges 0, 2, (6|8|10|12): ", lines[2])
    assert [largest(module, out, nodes) <= 1e-5 for nodes in (1, 4, 7, 60)] == [True] * 4


@pytest.mark.parametrize(
    ("model", "suffix"),
    covering([(m, s) for m in ("vgae", "arga") for s in room.SUFFIXES], [("vgae", ".onnx")]),
)
def test_link_network_takes_any_pairs(model: Any, suffix: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, out = zoo.LinkPredictor(features=6, model=model).eval(), tmp_path / f"x{suffix}"
    lines = list(room.write(module, out))
    assert "inputs x float32 (nodes, 6), graph int64 (2, edges), pairs int64 (2, pairs)" in lines[1]
    assert [largest(module, out, nodes) <= 1e-5 for nodes in (1, 4, 60)] == [True] * 3


CLASSIFIERS = [
    ("gin", {"readout": "sum", "layers": "sum"}),
    ("ecc", {"readout": "mean", "num_edge_features": 3}),
    ("sage", {"readout": "max", "head": 8}),
    *((a, {"readout": "sum"}) for a in ("gcn", "gat", "cheb", "pna", "mpnn", "mlp", "none")),
]


@pytest.mark.parametrize(
    ("arch", "options", "suffix"),
    covering(with_suffixes([pytest.param(*c, id=c[0]) for c in CLASSIFIERS]), ["gin.pt2", "ecc.onnx"]),
)
def test_graph_classifier_takes_any_number_of_graphs(
    arch: Any, options: dict[str, Any], suffix: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    module = zoo.GraphClassifier(5, 3, arch, hidden=8, num_layers=2, **options)
    for encoder in module.network.encoders():
        if arch == "pna":
            encoder.nodes.set_degrees(torch.tensor([0, 3, 4, 2]))
    awake(module)
    out = tmp_path / f"x{suffix}"
    lines = list(room.write(module.eval(), out))
    assert "batch int64 (nodes), graphs int64 (graphs)" in lines[1]
    assert [largest(module, out, graphs) <= 1e-5 for graphs in (1, 3, 9)] == [True] * 3


@pytest.mark.parametrize(
    ("arch", "suffix"),
    covering(
        [(a, s) for a in ("graphvae", "graphrnn_s") for s in room.SUFFIXES],
        [("graphvae", ".onnx"), ("graphrnn_s", ".pt2")],
    ),
)
def test_generators_take_any_batch(arch: Any, suffix: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, out = zoo.GraphGenerator(arch, max_nodes=9, bandwidth=4), tmp_path / f"x{suffix}"
    for parameter in module.network.parameters():
        nn.init.normal_(parameter, std=0.3)
    list(room.write(module, out))
    assert [largest(module, out, batch) <= 1e-5 for batch in (1, 4, 7)] == [True] * 3


def test_methods_without_a_network_say_so(tmp_path: Path) -> None:
    for module, message in (
        (zoo.NodeClassifier(features=6, num_classes=3, arch="dgi", layers=1), "dgi has no network"),
        (zoo.LinkPredictor(features=6, model="jaccard"), "jaccard ranks pairs without a network"),
        (zoo.GraphClassifier(5, 3, "dgcnn", "sort", pool_nodes=10), "readout sort makes shapes from values"),
        (zoo.GraphGenerator("graphrnn", 9, 4), "arch graphrnn has no network of fixed shapes"),
    ):
        with pytest.raises(ValueError, match=message):
            list(room.write(module, tmp_path / "x.pt2"))


@pytest.mark.parametrize("suffix", covering(room.SUFFIXES, [".onnx"]))
def test_exported_lds_gives_the_scores_of_the_zoo(suffix: str, tmp_path: Path) -> None:
    """Logits of the file on the drawn graphs, averaged, are what zoo test scores."""
    out = tmp_path / f"x{suffix}"
    assert cli.main(["export", "lds_wine", "--out", str(out)]) == 0
    module: Any = zoo.load("lds_wine")
    graph = datamodules.KNNGraph(name="wine", k=10, metric="cosine")
    graph.setup("test")
    batch, run, logits = graph.graph, room.load(out), []
    problem = module._problem(batch)
    for i in range(module.hparams["samples"]):
        adjacency = module._graph(problem, module.kept_theta, _TEST, global_seed(), i)
        edge_index = adjacency.matrix.to_dense().nonzero().T.contiguous()
        (found,) = run(
            {"x": batch.x, "edge_index": edge_index, "edge_weight": torch.ones(edge_index.shape[1])}
        )
        logits.append(found)
    torch.testing.assert_close(torch.stack(logits).mean(dim=0), module.scores(batch), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("suffix", covering(room.SUFFIXES, [".pt2"]))
def test_exported_gaug_gives_the_scores_of_the_zoo(suffix: str, tmp_path: Path) -> None:
    out = tmp_path / f"x{suffix}"
    assert cli.main(["export", "gaug_m_digits", "--out", str(out)]) == 0
    module: Any = zoo.load("gaug_m_digits")
    data = datamodules.DigitsGraph()
    data.setup("predict")
    module.trainer = mock.Mock()
    module._changed = data.graph.edge_index[:, data.graph.edge_index[0] < data.graph.edge_index[1]]
    expected = module(data.graph).detach()
    (found,) = room.load(out)({"x": data.graph.x, "edge_index": data.graph.edge_index})
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)


class FixedGraph(nn.Module):
    """A graph network whose graph is a part of it."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.ones(4, 4).triu() @ x.reshape(4, 3)


def test_no_free_dimension_is_a_choice_too(tmp_path: Path) -> None:
    module = Toy(FixedGraph(), lambda size: {"x": torch.randn(4, 3)})
    module.dynamic_dims = {}
    lines = list(room.write(module, tmp_path / "x.pt2"))
    assert "inputs x float32 (4, 3); outputs output" in lines[1]
    assert "network at the one size" in lines[2]


def test_a_size_that_is_fixed_after_all_is_refused(tmp_path: Path) -> None:
    module = Toy(FixedGraph(), lambda size: {"x": torch.randn(4, size)})
    module.dynamic_dims = {"x": {1: "features"}}
    with pytest.raises(ValueError, match="Toy's network cannot be exported with a free features"):
        list(room.write(module, tmp_path / "x.pt2"))


@pytest.mark.parametrize(
    ("dims", "text"),
    [
        ({"z": {0: "nodes"}}, "Toy.dynamic_dims has 'z': {0: 'nodes'}, but its example_inputs are x [3, 4]"),
        ({"x": {2: "nodes"}}, "Toy.dynamic_dims has 'x': {2: 'nodes'}"),
        ({"x": {0: "n", 1: "n"}}, "Toy.example_inputs: n is 3 before and 4 in dimension 1 of x"),
    ],
)
def test_wrong_dynamic_dims_are_refused(dims: Any, text: str, tmp_path: Path) -> None:
    module = Toy(nn.Identity(), lambda size: {"input": torch.randn(size, 4)})
    module.inputs = lambda size: {"x": torch.randn(size, 4)}
    module.network = TwoFaced(0.0)
    module.dynamic_dims = dims
    with pytest.raises(ValueError, match=re.escape(text)):
        list(room.write(module, tmp_path / "x.pt2"))


class Killed(BaseException):
    """Nothing in the zoo catches it."""


def half_written(program: Any, path: Path, **settings: Any) -> None:
    path.write_bytes(b"PK" * 1000)
    raise Killed


def test_a_stopped_export_leaves_the_old_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "x.pt2"
    out.write_text("old")
    with monkeypatch.context() as patch:
        patch.setattr(torch.export, "save", half_written)
        with pytest.raises(Killed):
            list(room.write(Toy(TwoFaced(0.0)), out))
    assert ([p.name for p in tmp_path.iterdir()], out.read_text()) == (["x.pt2"], "old")


def test_only_what_an_export_left_is_taken_away(tmp_path: Path) -> None:
    out, folder = tmp_path / "x.pt2", tmp_path / ".x.pt2.tmp"
    folder.mkdir()
    (folder / "x.pt2").write_text("half")
    (folder / "mine").write_text("precious")
    with pytest.raises(ValueError, match=r"\.x\.pt2\.tmp is in the way and holds other files"):
        list(room.write(Toy(TwoFaced(0.0)), out))
    assert sorted(p.name for p in folder.iterdir()) == ["mine", "x.pt2"]


def test_a_full_disk_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(program: Any, path: Path, **settings: Any) -> None:
        path.write_bytes(b"half")
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    monkeypatch.setattr(torch.export, "save", full)
    with pytest.raises(OSError, match=r"cannot write .*/x\.pt2 \(PytorchStreamWriter.*is the disk full"):
        list(room.write(Toy(TwoFaced(0.0)), tmp_path / "x.pt2"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_killed_process_leaves_no_half_file(tmp_path: Path) -> None:
    code = """
import os, signal, sys, torch, cli
def save(program, path, **settings):
    path.write_bytes(b"PK" * 1000)
    os.kill(os.getpid(), signal.SIGKILL)
torch.export.save = save
cli.main(["export", "digit_classifier_digits", "--out", sys.argv[1]])
"""
    out = tmp_path / "x.pt2"
    done = subprocess.run(
        [sys.executable, "-c", code, str(out)], cwd=PAGE.parents[2], timeout=120, check=False
    )
    assert (done.returncode, [p.name for p in tmp_path.iterdir()]) == (-signal.SIGKILL, [".x.pt2.tmp"])
    assert cli.main(["export", "digit_classifier_digits", "--out", str(out)]) == 0
    assert [p.name for p in tmp_path.iterdir()] == ["x.pt2"]


def dense() -> Toy:
    return Toy(nn.Linear(90, 90), lambda batch: {"input": torch.randn(batch, 90)})


def test_large_tensors_lie_beside_the_onnx_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(NEEDS_ONNX)
    monkeypatch.setattr(room, "EXTERNAL_BYTES", 1000)
    out, first = tmp_path / "x.onnx", dense()
    lines = list(room.write(first, out))
    (data,) = tmp_path.glob("*.data")
    assert re.fullmatch(r"x\.onnx\.[0-9a-f]{12}\.data", data.name)
    assert f"tensors in {data.name} beside it" in lines[0]
    assert out.stat().st_size < data.stat().st_size + 200_000
    assert largest(first, out, 4) <= 1e-5

    # other weights get another file, so no .onnx ever reads tensors that are not its own
    second = dense()
    list(room.write(second, out))
    (later,) = tmp_path.glob("*.data")
    assert later.name != data.name
    assert largest(second, out, 4) <= 1e-5
    monkeypatch.undo()
    list(room.write(second, out))
    assert [p.name for p in tmp_path.iterdir()] == ["x.onnx"]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", room.SUFFIXES)
def test_full_size_dit_s_is_exported(suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = zoo.DTR(size="S")  # configs/dtr_dit_s.yaml
    awake(module)
    assert sum(p.numel() for p in module.network.parameters()) == 32_865_056
    source = hub.save(module, tmp_path / "s.safetensors", config="dtr_dit_s")
    out = tmp_path / f"s{suffix}"
    assert cli.main(["export", str(source), "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "x float32 (batch, 4, 32, 32)" in text
    assert 130e6 < out.stat().st_size < 140e6
    assert largest(module.eval(), out, 2) <= 1e-5


def run_page(suffix: str, folder: Path) -> np.ndarray:
    """The page's code for a kind of file, run where neither the zoo nor Lightning can be imported."""
    (code,) = re.findall(rf'```python title="sample_{suffix}\.py"\n(.*?)```', PAGE.read_text(), flags=re.S)
    (folder / f"sample_{suffix}.py").write_text(code)
    blocked = (
        "import sys, runpy\nfor m in ('zoo', 'lightning', 'cli', 'datamodules'): sys.modules[m] = None\n"
    )
    if suffix == "onnx":
        blocked += "sys.modules['torch'] = None\n"
    blocked += f"runpy.run_path('sample_{suffix}.py')"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", blocked],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "(20, 1, 8, 8)" in done.stdout
    return np.load(folder / "digits.npy")


@pytest.mark.parametrize("suffix", covering(["pt2", "onnx"], ["onnx"]))
def test_page_samples_digits_without_the_zoo(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (command,) = re.findall(
        rf"^zoo (export dtr_dit_digits --out \S+\.{suffix})$", PAGE.read_text(), flags=re.M
    )
    monkeypatch.chdir(tmp_path)
    assert cli.main(command.split()) == 0
    images = torch.from_numpy(run_page(suffix, tmp_path))
    assert (images.shape, images.dtype) == ((20, 1, 8, 8), torch.float32)

    # the same noise through the zoo's own sampler
    model: Any = zoo.load("dtr_dit_digits")
    labels = torch.arange(10).repeat(2)
    schedule = model.schedule.respaced(space_timesteps(1000, 50))
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal((20, 1, 8, 8), dtype=np.float32))
    denoiser = guided(model.network, labels, 10, 1.5, 1)
    with torch.no_grad():
        expected = ddim(denoiser, schedule, lambda: noise, clip_denoised=True)  # type: ignore[arg-type]
        judge: Any = zoo.load("digit_classifier_digits")
        found = judge.network(images.clamp(-1, 1)).argmax(dim=1)
    torch.testing.assert_close(images, expected, atol=1e-3, rtol=0)
    assert int((found == labels).sum()) >= 18
