"""The graph classifier as a LightningModule: losses, early stopping, sizes, resume, processes."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import interruption
import pytest
import torch
from commands import run
from covering import covering
from interruption import Killed, run_differences
from lightning.pytorch import Trainer
from processes import CLI, environment
from quiet import quiet_trainer
from torch import nn

import cli
import zoo
from datamodules import SyntheticGraphs
from zoo.engine.checkpoint import step_checkpoints
from zoo.nn.batch_norm import GlobalBatchNorm1d, make_batch_norms_global

CONFIG = "gnn_graph_synthetic"
# 86 training graphs: five batches an epoch
TINY = (
    "--data.init_args.graphs=120", "--data.init_args.batch_size=16", "--model.init_args.hidden=8",
    "--model.init_args.num_layers=2", "--model.init_args.lr_scheduler.init_args.step_size=2",
    "--trainer.max_epochs=4", "--trainer.log_every_n_steps=1", "--trainer.enable_progress_bar=false",
    "--trainer.accelerator=cpu", "--checkpoint.every_n_train_steps=3", "--checkpoint.keep=-1",
)  # fmt: skip
DIFFPOOL = (
    "--model.init_args.layers=cat", "--model.init_args.readout=diffpool", "--model.init_args.arch=sage",
)  # fmt: skip
WAITING = (
    "--model.init_args.patience=2", "--model.init_args.norm=null",
    "--model.init_args.optimizer.init_args.lr=0.0",
)  # fmt: skip
SORT = ("--model.init_args.layers=cat", "--model.init_args.readout=sort", "--model.init_args.head=8")


def fit(root: Path, *flags: str) -> Path:
    run("fit", CONFIG, root, *TINY, *flags)
    return root / CONFIG / "version_0"


def trained(module: zoo.GraphClassifier, data: SyntheticGraphs, **settings: Any) -> Trainer:
    trainer = quiet_trainer(num_sanity_val_steps=0, **settings)
    trainer.fit(module, data)
    return trainer


def test_both_auxiliary_losses_of_diffpool_are_in_the_loss() -> None:
    data = SyntheticGraphs(graphs=60)
    data.setup("fit")
    batch = next(iter(data.val_dataloader()))
    sizes: dict[str, Any] = {"pool_nodes": 3, "hidden": 8, "num_layers": 2}
    weights = {"link_weight": 2.0, "entropy_weight": 0.5}
    module = zoo.GraphClassifier(arch="sage", readout="diffpool", **sizes, **weights)
    module.log = lambda *a, **k: None  # type: ignore[method-assign]
    module.eval()
    scores, _, extra = module._embed(batch)
    expected = nn.functional.cross_entropy(scores, batch.y)
    expected = expected + 2 * extra["link_loss"] + extra["entropy_loss"] / 2
    assert float(module.training_step(batch, 0).detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    assert float(extra["link_loss"]) > 1e-3
    assert 0 < float(extra["entropy_loss"]) <= 1.0987


@pytest.mark.parametrize(("on", "epochs"), [("accuracy", 4), ("loss", 4)])
def test_patience_counts_validations_without_a_better_one(on: str, epochs: int) -> None:
    """With a learning rate of 0 the first validation is the best one: three more, then the end."""
    still = partial(torch.optim.SGD, lr=0.0)
    module = zoo.GraphClassifier(hidden=4, num_layers=1, patience=3, patience_on=on, optimizer=still)
    trainer = trained(module, SyntheticGraphs(graphs=80), max_epochs=20)
    assert trainer.current_epoch == epochs


def test_no_patience_trains_to_the_end() -> None:
    module = zoo.GraphClassifier(hidden=4, num_layers=1, optimizer=lambda p: torch.optim.SGD(p, lr=0.0))
    assert trained(module, SyntheticGraphs(graphs=80), max_epochs=6).current_epoch == 6


def test_pooled_sizes_come_from_the_training_graphs_and_travel_with_the_weights(tmp_path: Path) -> None:
    data = SyntheticGraphs(graphs=80)
    sizes: dict[str, Any] = {"hidden": 4, "num_layers": 1, "head": 4, "pool_ratio": 0.9}
    module = zoo.GraphClassifier(arch="dgcnn", readout="sort", **sizes, optimizer=torch.optim.Adam)
    trained(module, data, max_steps=1)
    sizes = sorted(data.train_sizes)
    assert module.hparams["pool_nodes"] == sizes[-(-9 * len(sizes) // 10) - 1]
    again = zoo.load(zoo.save(module, tmp_path / "dgcnn.safetensors"))
    assert again.hparams["pool_nodes"] == module.hparams["pool_nodes"]
    for key, value in module.state_dict().items():
        assert torch.equal(again.state_dict()[key], value)


def test_pna_scales_by_the_degrees_of_the_training_graphs() -> None:
    data = SyntheticGraphs(graphs=80)
    module = zoo.GraphClassifier(arch="pna", hidden=4, num_layers=2)
    trained(module, data, max_steps=1)
    histogram = data.train_degrees().double()
    mean = float((torch.arange(len(histogram)) * histogram).sum() / histogram.sum())
    for conv in module.network.encoder.nodes.convs:
        assert float(conv.aggr_module.avg_deg_lin) == pytest.approx(mean, rel=1e-6)


@pytest.mark.parametrize(("settings", "words"), [
    ({"arch": "gnc"}, "arch must be one of gcn, .*got 'gnc'"),
    ({"readout": "mode"}, "readout must be one of sum"),
    ({"readout": "sort", "layers": "sum"}, "needs readout sum, mean or max and head 0, got sort and 0"),
    ({"num_edge_features": 3}, "arch gin takes no edge features; ecc, mpnn"),
    ({"readout": "sort", "pool_nodes": 4}, "pool_nodes of at least 10, got 4"),
    ({"arch": "ecc", "heads": 2}, "arch ecc has no option heads"),
    ({"arch": "gcn", "train_eps": True}, "gcn has no option train_eps"),
    ({"patience_on": "f1"}, "patience_on must be accuracy or loss, got 'f1'"),
])  # fmt: skip
def test_impossible_settings_are_one_line(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        zoo.GraphClassifier(**settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("flags", "words"), [
    (["--model.init_args.num_features=5"], "model.init_args.num_features is 5, but the data"),
    (["--model.init_args.num_classes=6"], "model.init_args.num_classes is 6, but the data"),
    ([f"--model.init_args.{s}" for s in ("arch=ecc", "norm=null", "num_edge_features=2")],
     "model.init_args.num_edge_features is 2, but the data"),
    (["--config=trainer/fsdp"], "zoo.GraphClassifier is not sharded: use trainer/ddp"),
])  # fmt: skip
def test_what_does_not_fit_is_one_line(flags: list[str], words: str, tmp_path: Path, capsys: Any) -> None:
    flags = ["--trainer.devices=1", *flags] if "fsdp" in flags[0] else flags
    common = [f"--config={CONFIG}", *TINY, f"--trainer.default_root_dir={tmp_path}"]
    assert cli.main(["fit", *common, *flags]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line]
    assert words in line


def test_edge_weights_are_refused_and_edge_features_that_are_left_out_are_told() -> None:
    data = SyntheticGraphs(graphs=60)
    data.setup("fit")
    batch = next(iter(data.val_dataloader()))
    batch.edge_weight = torch.ones(batch.edge_index.shape[1])
    with pytest.raises(ValueError, match="takes no edge_weight") as caught:
        zoo.GraphClassifier(hidden=4, num_layers=1)(batch)
    assert "\n" not in str(caught.value)
    for features, arch, told in ((3, "gin", 1), (0, "gin", 0), (3, "none", 0)):
        module = zoo.GraphClassifier(arch=arch)
        module.trainer = mock.Mock(datamodule=mock.Mock(num_features=1, num_classes=4))
        module.trainer.datamodule.num_edge_features = features
        with mock.patch("zoo.graphs.graph.module.rank_zero_warn") as warned:
            module._check_edge_features()
        assert warned.call_count == told


def dying(moment: str, step: int) -> Any:
    """The process dies when step ``step`` is done (``batch``) or its checkpoint is in place (``saved``)."""

    def on_train_batch_end(self: Any, *args: Any) -> None:
        if self.trainer.global_step == step:
            raise Killed

    if moment == "saved":
        return interruption.dying(moment, step)
    return mock.patch.object(zoo.GraphClassifier, "on_train_batch_end", on_train_batch_end)


@pytest.mark.parametrize(
    ("flags", "moment", "step"),
    covering(
        [
            pytest.param((), "batch", 8, id="amid an epoch, behind the checkpoint"),
            pytest.param((), "saved", 15, id="on an epoch's end and a step of the schedule"),
            pytest.param(WAITING, "saved", 6, id="one of two validations without a better one is behind it"),
            pytest.param(SORT, "saved", 6, id="sort"),
            pytest.param(DIFFPOOL, "batch", 11, id="diffpool amid an epoch"),
        ],
        ["one of two validations without a better one is behind it", "diffpool amid an epoch"],
    ),
)
def test_a_killed_run_goes_on_to_the_same_bits(flags: Any, moment: str, step: int, tmp_path: Path) -> None:
    calm = fit(tmp_path / "calm", *flags)
    with pytest.raises(Killed), dying(moment, step):
        fit(tmp_path / "killed", *flags)
    resumed = fit(tmp_path / "killed", *flags, "--ckpt_path=last")
    assert run_differences(calm, resumed) == []


def test_global_batch_norm_is_torchs_in_one_process() -> None:
    torch.manual_seed(0)
    ours, theirs = nn.Sequential(nn.BatchNorm1d(3)), nn.BatchNorm1d(3)
    make_batch_norms_global(ours)
    assert type(ours[0]) is GlobalBatchNorm1d
    x = torch.randn(20, 3)
    assert torch.equal(ours(x), theirs(x))
    assert torch.equal(ours[0].running_var, theirs.running_var)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    newest = step_checkpoints(folder / "checkpoints")[0]
    state: dict[str, torch.Tensor] = torch.load(newest, weights_only=True)["state_dict"]
    return state


@pytest.mark.slow
@pytest.mark.parametrize("readout", [(), DIFFPOOL])
def test_two_processes_train_what_one_trains(readout: tuple[str, ...], tmp_path: Path) -> None:
    """Batch statistics are those of the global batch; dropout draws on each process, hence none here."""
    # SGD in float64: a bias before a batch norm has the gradient 0, and Adam makes steps of its rounding
    flags = ["--model.init_args.dropout=0.0", "--trainer.max_epochs=2", "--trainer.precision=64-true"]
    flags += ["--model.init_args.optimizer=torch.optim.SGD", "--model.init_args.optimizer.init_args.lr=0.02"]
    flags += readout
    one = fit(tmp_path / "one", *flags)
    command = [sys.executable, str(CLI), "fit", f"--config={CONFIG}", *TINY, *flags, "--config=trainer/ddp"]
    command += ["--trainer.devices=2", f"--trainer.default_root_dir={tmp_path / 'two'}"]
    output: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 300, "check": False}
    done = subprocess.run(command, env=environment(), cwd=tmp_path, **output)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "effective batch 16 (8 per device), 2 x cpu" in done.stdout
    two = tmp_path / "two" / CONFIG / "version_0"
    a, b = weights(one), weights(two)
    assert a.keys() == b.keys()
    for key in a:
        distance = float((a[key].double() - b[key].double()).abs().max())
        scale = max(1.0, float(a[key].double().abs().max()))
        assert distance <= 1e-10 * scale, (key, distance)
    finals = [json.loads((folder / "summary.json").read_text())["final"] for folder in (one, two)]
    assert finals[1] == pytest.approx(finals[0], rel=1e-6)


def test_predictions_are_for_one_process() -> None:
    module = zoo.GraphClassifier(hidden=4, num_layers=1)
    module._trainer = mock.Mock(world_size=2)
    with pytest.raises(ValueError, match=r"set trainer.devices: 1 for predict"):
        module.setup("predict")
