"""The module of graph generation: steps, sampling, metrics, refusals, resume, processes, predictions."""

from __future__ import annotations

import csv
import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from commands import run
from covering import covering
from interruption import Killed, dying, run_differences
from lightning.pytorch import Trainer
from processes import CLI, environment
from quiet import quiet_trainer

import cli
import zoo
from datamodules import Digits, GraphSet
from datamodules.graphs.graph_sets import grid
from zoo import GraphGenerator
from zoo.engine.metrics_csv import read_metrics
from zoo.graphs.generation.graphrnn import masked_bce, sequences
from zoo.graphs.generation.report import layout

SMALL: dict[str, Any] = {
    "max_nodes": 20, "bandwidth": 18, "hidden": 12, "embedding": 8, "num_layers": 2, "edge_hidden": 6,
    "edge_embedding": 4, "latent": 6, "val_samples": 6, "test_samples": 10,
}  # fmt: skip
CONFIG = "gnn_gen_community_small"
FLAGS = (
    "--data.init_args.items_per_epoch=192",
    "--trainer.max_steps=13", "--trainer.val_check_interval=5",
    "--trainer.log_every_n_steps=1", "--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu",
    "--checkpoint.every_n_train_steps=4", "--checkpoint.keep=-1",
)  # fmt: skip
ARCHS = ("graphrnn_s", "graphrnn", "graphvae", "er", "ba")
LEARNED = ARCHS[:3]


def small(arch: str) -> dict[str, Any]:
    """The sizes that the architecture has."""
    recurrent, edges = ("hidden", "embedding", "num_layers"), ("edge_hidden", "edge_embedding")
    unused = {"graphrnn_s": (*edges, "latent"), "graphrnn": ("latent",), "graphvae": (*recurrent, *edges)}
    return {k: v for k, v in SMALL.items() if k not in unused.get(arch, ())}


def order_of(arch: str) -> dict[str, Any]:
    """The order of the nodes, and few draws where it is random."""
    return {"order": "canonical"} if arch == "graphvae" else {"order": "bfs", "bfs_draws": 0}


def flags_of(arch: str) -> list[str]:
    """Defaults for what the architecture does not have and the config sets."""
    defaults = {k: inspect.signature(GraphGenerator).parameters[k].default for k in SMALL}
    model = [f"--model.init_args.{k}={v}" for k, v in {"arch": arch, **defaults, **small(arch)}.items()]
    return model + [f"--data.init_args.{k}={v}" for k, v in order_of(arch).items()]


def fit(root: Path, arch: str, *flags: str) -> Path:
    return run("fit", CONFIG, root, *FLAGS, *flags_of(arch), *flags)


def trained(arch: str, steps: int = 5, **arguments: Any) -> tuple[GraphGenerator, GraphSet, Trainer]:
    data = GraphSet(items_per_epoch=192, **order_of(arch))
    module = GraphGenerator(arch=arch, **{**small(arch), **arguments})  # type: ignore[arg-type]
    trainer = quiet_trainer(max_steps=steps, limit_val_batches=0, use_distributed_sampler=False)
    trainer.fit(module, data)
    return module, data, trainer


@pytest.mark.parametrize("arch", LEARNED)
def test_training_lowers_the_loss(arch: str) -> None:
    found = []
    for steps in (1, 40):
        module, data, trainer = trained(arch, steps, **({"kl_weight": 0.01} if arch == "graphvae" else {}))
        trainer.limit_val_batches = 1.0
        found += trainer.validate(module, data, verbose=False)
    assert found[1]["val/bce"] < found[0]["val/bce"] - 0.05


def test_the_loss_is_the_mean_over_all_valid_entries_of_the_batch() -> None:
    module, data, _ = trained("graphrnn_s")
    batch = data.sets["train"].__getitems__([(0, i) for i in range(8)])
    with mock.patch.object(module, "log"):
        loss = module.training_step(batch, 0)
    total, count = torch.tensor(0.0), 0
    for adjacency, n in zip(batch["adjacency"], batch["nodes"].tolist(), strict=True):
        parts = sequences(adjacency[None, :n, :n], torch.tensor([n]), 18)
        found, entries = masked_bce(module.network(*parts), parts.targets, parts.valid)
        total, count = total + found, count + int(entries)
    assert loss is not None
    assert float(loss.detach()) == pytest.approx(float(total.detach()) / count, rel=1e-5)


def test_a_graph_beyond_the_bandwidth_sits_the_step_out() -> None:
    module, data, _ = trained("graphrnn_s")
    batch = data.sets["train"].__getitems__([(0, i) for i in range(4)])
    adjacency = torch.zeros(5, 20, 20, dtype=torch.uint8)
    adjacency[:4, : batch["adjacency"].shape[1], : batch["adjacency"].shape[1]] = batch["adjacency"]
    adjacency[4, 0, 19] = adjacency[4, 19, 0] = 1
    wide = {"adjacency": adjacency, "nodes": torch.cat([batch["nodes"], torch.tensor([20])])}
    with mock.patch.object(module, "log") as log:
        loss = module.training_step(wide, 0)
        assert float(log.call_args_list[1].args[1]) == pytest.approx(0.2)
        expected = module.training_step(batch, 0)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


@pytest.mark.parametrize("arch", ARCHS)
def test_a_graph_depends_on_its_seed_and_index_alone(arch: str) -> None:
    module, _, _ = trained(arch, 3)
    module.eval()
    together, nodes = module.sample(7, seed=3)
    again, counts = module.sample([5, 2], seed=3)
    assert torch.equal(together[[5, 2]], again)
    assert torch.equal(nodes[[5, 2]], counts)
    other, _ = module.sample(7, seed=4)
    assert not torch.equal(together, other)
    assert not torch.equal(together, module.sample(7, seed=3, stream="test")[0])
    with mock.patch("zoo.graphs.generation.module._CHUNK", 2):
        assert torch.equal(module.sample(7, seed=3)[0], together)


def test_random_graphs_are_fitted_to_the_training_graphs_alone() -> None:
    module, data, trainer = trained("er", 4)
    assert trainer.global_step == 4  # a step that learns nothing is a step
    sizes = torch.tensor([len(g) for g in data.graphs["train"]])
    assert torch.equal(module.network.graphs.detach().long(), torch.bincount(sizes, minlength=21))
    n = int(sizes[0])
    edges = np.mean([g.sum() / 2 for g in data.graphs["train"] if len(g) == n])
    assert float(module.network.density()[n]) == pytest.approx(edges / (n * (n - 1) / 2))


def test_bce_of_the_random_graph_is_that_of_its_density() -> None:
    module, data, trainer = trained("er")
    trainer.limit_test_batches = 1.0
    (found,) = trainer.test(module, data, verbose=False)
    p = module.network.density()
    losses, pairs = 0.0, 0
    for graph in data.graphs["test"]:
        q, upper = float(p[len(graph)]), graph[np.triu_indices(len(graph), 1)]
        losses -= float((upper * np.log(q) + (1 - upper) * np.log(1 - q)).sum())
        pairs += len(upper)
    assert found["test/bce"] == pytest.approx(losses / pairs, rel=1e-5)


@pytest.mark.parametrize("arch", ARCHS)
def test_the_test_reports_every_number(arch: str) -> None:
    module, data, trainer = trained(arch)
    trainer.limit_test_batches = 1.0
    (found,) = trainer.test(module, data, verbose=False)
    names = {f"mmd_{k}" for k in ("degree", "clustering", "orbit", "spectrum", "mean")}
    names |= {"validity", "uniqueness", "novelty", "capped", "nodes"}
    names |= {f"floor_{k}" for k in ("degree", "clustering", "orbit", "spectrum")}
    if arch != "ba":
        names.add("bce")
    assert set(found) == {f"test/{n}" for n in names}
    # exp(-W1^2 / 2) is no positive definite kernel: MMD^2 may be a little below 0
    assert all(-0.1 < found[f"test/{n}"] <= 2 for n in names - {"nodes", "bce"})
    # training graphs are nearer to the held-out ones than an untrained generator's
    assert found["test/floor_degree"] < found["test/mmd_degree"]


def test_two_metrics_by_hand() -> None:
    module, data, trainer = trained("er", 1)
    adjacency, nodes = module.sample(10, seed=0, stream="test")
    trainer.limit_test_batches = 1.0
    (found,) = trainer.test(module, data, verbose=False)
    from zoo.metrics.graph_mmd import is_connected, mmd_squared
    from zoo.metrics.graph_statistics import degree_histogram

    fake = [a[:n, :n] for a, n in zip(adjacency.numpy(), nodes.tolist(), strict=True)]
    histograms = [[degree_histogram(g) for g in graphs] for graphs in (data.graphs["test"], fake)]
    expected = mmd_squared(*histograms)
    assert found["test/mmd_degree"] == pytest.approx(float(expected), rel=1e-5)
    assert found["test/validity"] == pytest.approx(sum(map(is_connected, fake)) / 10)


@pytest.mark.parametrize(("flags", "words"), [
    (["--model.init_args.bandwidth=5"], "bandwidth is 5, but the data (datamodules.GraphSet) has 1"),
    (["--model.init_args.max_nodes=19", "--model.init_args.bandwidth=18"],
     "max_nodes is 19, but the data (datamodules.GraphSet) has 20"),
    (["--data.init_args.order=canonical"], "arch graphrnn needs data.init_args.order: bfs, got canonical"),
    (flags_of("graphvae")[:-1], "needs data.init_args.order: canonical, got bfs"),
    (["--model.init_args.bandwidth=20"], "bandwidth must be less than max_nodes, got 20 and 20"),
    (["--model.init_args.arch=gan"], "arch"),
    (["--data=datamodules.KarateClub"], "learns from sets of graphs: KarateClub is none"),
    (["--data.init_args.batch_size=2000"], "batch_size is 2000"),
])  # fmt: skip
def test_what_does_not_fit_is_refused_in_one_line(
    flags: Any, words: str, tmp_path: Path, capsys: Any
) -> None:
    arguments = [f"--config={CONFIG}", *flags, f"--trainer.default_root_dir={tmp_path}"]
    assert cli.main(["fit", *arguments, "--trainer.accelerator=cpu"]) != 0
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("zoo: error")]
    assert words in line


def test_images_are_refused() -> None:
    module = GraphGenerator(**small("graphrnn_s"))
    with pytest.raises(ValueError, match="Digits is none"):
        quiet_trainer(max_steps=1).fit(module, Digits())


@pytest.mark.parametrize(
    ("arch", "step"),
    covering([("graphrnn_s", 8), ("graphrnn", 4), ("graphvae", 12)], [("graphrnn", 4), ("graphvae", 12)]),
)
def test_a_killed_run_goes_on_to_the_same_bits(arch: str, step: int, tmp_path: Path) -> None:
    whole = fit(tmp_path / "whole", arch)
    with pytest.raises(Killed), dying("saved", step):
        fit(tmp_path / "killed", arch)
    resumed = fit(tmp_path / "killed", arch, "--ckpt_path=last")
    assert run_differences(whole, resumed) == []


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["graphrnn_s", "graphrnn", "graphvae"])
def test_two_processes_give_what_one_gives(arch: str, tmp_path: Path) -> None:
    command = [sys.executable, str(CLI), "fit", f"--config={CONFIG}", *FLAGS, "--config=trainer/ddp"]
    command += flags_of(arch)
    command += [f"--trainer.default_root_dir={tmp_path / 'two'}", "--trainer.devices=2"]
    output: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 300, "check": False}
    done = subprocess.run(command, env=environment(), cwd=tmp_path, **output)
    assert done.returncode == 0, done.stderr[-3000:]
    folders = fit(tmp_path / "one", arch), tmp_path / "two" / CONFIG / "version_0"
    files = [f / "checkpoints/step=00000013.ckpt" for f in folders]
    weights = [torch.load(f, weights_only=True)["state_dict"] for f in files]
    assert max(float((weights[0][k] - weights[1][k]).abs().max()) for k in weights[0]) < 1e-5
    rows = [read_metrics(f / "metrics.csv") for f in folders]
    for a, b in zip(*rows, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            # a sampled edge may fall on the other side of its probability in the last bit
            assert a[key] == pytest.approx(b[key], abs=0.02 if "mmd" in key else 1e-4), key


def test_predict_refuses_two_processes() -> None:
    data = GraphSet(bfs_draws=0)
    data.setup("predict")

    class Two:
        world_size, datamodule, strategy = 2, data, None

    module = GraphGenerator(**small("graphrnn_s"))
    module._trainer = Two()  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"set trainer\.devices: 1 for predict"):
        module.setup("predict")
    module.setup("test")
    module.hparams["test_samples"] = 1
    with pytest.raises(ValueError, match="1 graphs cannot be spread over 2 devices"):
        module.setup("test")


def predicted(root: Path, *flags: str) -> Path:
    sizes = flags_of("graphrnn_s")
    return (
        run("predict", CONFIG, root, *sizes, *FLAGS, "--data.init_args.predict_samples=9", *flags)
        / "predictions"
    )


def test_predictions_are_edge_lists_numbers_and_a_picture(tmp_path: Path) -> None:
    with mock.patch("zoo.graphs.generation.report._COLUMNS", 4):
        out = predicted(tmp_path, "--weights=none")
    lines = [json.loads(x) for x in (out / "graphs.jsonl").read_text().splitlines()]
    assert [x["index"] for x in lines] == list(range(9))
    arrays = np.load(out / "graphs.npz")
    assert arrays["nodes"].tolist() == [x["nodes"] for x in lines]
    for i, line in enumerate(lines):
        edges = arrays["edges"][arrays["start"][i] : arrays["start"][i + 1]].tolist()
        assert edges == line["edges"]
        assert all(0 <= a < b < line["nodes"] for a, b in edges)
    with (out / "statistics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [r["source"] for r in rows].count("generated") == 9
    assert [r["source"] for r in rows].count("training") == 64
    assert [int(r["edges"]) for r in rows[:9]] == [len(x["edges"]) for x in lines]
    assert {r["connected"] for r in rows} == {"1"}
    assert (out / "graphs.png").stat().st_size > 20_000


def test_predictions_repeat_and_depend_on_the_seed(tmp_path: Path) -> None:
    last = fit(tmp_path / "run", "graphrnn_s") / "checkpoints/step=00000013.ckpt"
    with mock.patch("zoo.graphs.generation.report.GeneratedGraphs._draw"):
        seeds = [[f"--ckpt_path={last}", f"--seed_everything={seed}"] for seed in (0, 0, 1)]
        folders = [predicted(tmp_path / str(i), *flags) for i, flags in enumerate(seeds)]
    first, second, third = ((f / "graphs.jsonl").read_text() for f in folders)
    assert first == second != third


def test_a_saved_baseline_keeps_its_fit(tmp_path: Path) -> None:
    module, _, _ = trained("ba")
    again = zoo.load(zoo.save(module, tmp_path / "ba.safetensors"))
    assert torch.equal(again.sample(5)[0], module.sample(5)[0])


def test_drawings_keep_neighbours_together() -> None:
    for graph in (grid(2, 9), grid(4, 5)):
        places = layout(graph)
        lengths = np.linalg.norm(places[:, None] - places[None], axis=2)
        edges, others = lengths[graph == 1], lengths[(graph == 0) & ~np.eye(len(graph), dtype=bool)]
        assert edges.max() < 1.3 * edges.min()  # neither folded nor twisted
        assert others.min() > edges.min()
    assert layout(np.zeros((1, 1), dtype=np.uint8)).shape == (1, 2)
    assert np.isfinite(layout(np.zeros((4, 4), dtype=np.uint8))).all()
