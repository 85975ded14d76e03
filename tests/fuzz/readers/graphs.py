"""Graphs, traffic and latents: pickles, npy, npz, HDF5, JSON and tables, each through its data module."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fakes.gaug import fake_gaug
from fakes.latents import fake_latents
from fakes.node_graphs import fake_ppi, fake_reddit
from fakes.planetoid import fake_planetoid
from fakes.samples import fake_samples
from fakes.traffic import fake_chickenpox, fake_traffic, ids, speeds, write_frame
from fakes.tu import fake_tu
from fuzz.forked import Reader

from datamodules import PPI, Chickenpox, GAugGraph, Planetoid, Reddit, Traffic, TUGraphs
from datamodules.graphs.graph_level import GraphLevelModule
from datamodules.images.samples import NpzItems
from datamodules.latents import open_latents
from datamodules.loading.tensors import read_tensors

Write, Read = Callable[[Path], Path], Callable[[Path], Any]


def held(*graphs: Any) -> list[Any]:
    """The tensors of PyG graphs."""
    return [graph.to_dict() for graph in graphs]


def ready(data: Any) -> Any:
    data.setup("fit")
    return data


# --- GAug ---------------------------------------------------------------------------------------------------


def gaug(file: str, several: bool = False) -> Write:
    def write(folder: Path) -> Path:
        root = fake_gaug(folder / "graphs", "own", several=several)
        np.save(root / "own_edges.npy", np.random.default_rng(0).random((60, 60)).astype(np.float32))
        pairs = np.stack([np.arange(59), np.arange(1, 60)])
        np.savez_compressed(root / "own_pairs.npz", pairs=pairs, probability=np.full(59, 0.5))
        return root / file

    return write


def read_gaug(layout: Any, probabilities: bool = False) -> Read:
    def read(path: Path) -> Any:
        chosen = path.name if probabilities else None
        return held(ready(GAugGraph("own", str(path.parent), layout, edge_probabilities=chosen)).graph)

    return read


GAUG = [Reader("npz of GAug", gaug("own.npz"), read_gaug("npz"))]
GAUG += [
    Reader(f"pickle of GAug: {part}", gaug(f"own_{part}.pkl", several), read_gaug("pickle"))
    for part, several in (("adj", False), ("features", False), ("labels", True), ("tvt_nids", False))
]
GAUG += [
    Reader(f"edge probabilities: {Path(name).suffix}", gaug(name), read_gaug("npz", True))
    for name in ("own_edges.npy", "own_pairs.npz")
]

# --- Planetoid, GraphSAGE, TU -------------------------------------------------------------------------------


def planetoid(part: str) -> Write:
    def write(folder: Path) -> Path:
        return fake_planetoid(folder, "PubMed", nodes=600, test=30) / f"PubMed/raw/ind.pubmed.{part}"

    return write


def read_planetoid(path: Path) -> Any:
    return held(ready(Planetoid("PubMed", str(path.parents[2]))).graph)


def ppi(file: str) -> Write:
    return lambda folder: fake_ppi(folder, (2, 1, 1), features=4, labels=3) / "raw" / file


def read_ppi(path: Path) -> Any:
    data = ready(PPI(str(path.parents[1])))
    return held(*data.train_graphs, *data.val_graphs)


def reddit(file: str) -> Write:
    return lambda folder: fake_reddit(folder, nodes=60, features=5, classes=3) / "raw" / file


def read_reddit(path: Path) -> Any:
    return held(ready(Reddit(str(path.parents[1]))).graph)


def tu(part: str) -> Write:
    def write(folder: Path) -> Path:
        root = fake_tu(folder, graphs=8, attributes=2, labels=3, edge_labels=2)
        return root / f"ENZYMES/raw/ENZYMES_{part}.txt"

    return write


def read_tu_set(path: Path) -> Any:
    class Uncached(TUGraphs):
        def split_file(self) -> None:
            return None

    root = path.parents[2]
    data: GraphLevelModule = Uncached(root=str(root), cache=str(root / "cache"), folds=2)
    store = data.read()
    return [store.batch(torch.arange(len(store))).to_dict(), data.class_names]


def tensors(folder: Path) -> Path:
    torch.save({"mean": torch.zeros(1, 4, 1, 1), "std": torch.ones(1, 4, 1, 1)}, folder / "stats.pt")
    return folder / "stats.pt"


GRAPHS = [
    Reader(f"Planetoid: {part}", planetoid(part), read_planetoid)
    for part in ("tx", "ally", "graph", "test.index")
]
GRAPHS += [
    Reader(f"PPI: {file}", ppi(file), read_ppi)
    for file in ("train_feats.npy", "train_graph_id.npy", "train_graph.json", "train_labels.npy")
]
GRAPHS += [
    Reader(f"Reddit: {file}", reddit(file), read_reddit) for file in ("reddit_data.npz", "reddit_graph.npz")
]
GRAPHS += [
    Reader(f"TU: {part}", tu(part), read_tu_set)
    for part in ("A", "graph_indicator", "graph_labels", "node_labels", "node_attributes", "edge_labels")
]

# --- traffic ------------------------------------------------------------------------------------------------


def traffic(name: str, file: str) -> Write:
    def write(folder: Path) -> Path:
        root = fake_traffic(folder / "sensors", name, rows=60, sensors=4)
        rows = [f"{a},{b},{100 + int(a) - int(b)}" for a in ids(4) for b in ids(4)]
        (root / "distances.csv").write_text("\n".join(["from,to,cost", *rows]) + "\n")
        if file.endswith(".h5"):
            (root / "metr-la.npz").unlink()
            times = np.datetime64("2012-03-01", "ns") + np.arange(60) * np.timedelta64(5, "m")
            write_frame(root / file, speeds(60, 4), ids(4), times)
        return root / file

    return write


def read_traffic(name: Any, graph: Any = "directed") -> Read:
    return lambda path: Traffic(name, str(path.parent), graph).read()


TRAFFIC = [
    Reader(f"traffic: {file} ({name})", traffic(name, file), read_traffic(name, *graph))
    for name, file, *graph in (
        ("metr_la", "metr-la.h5"),
        ("metr_la", "metr-la.npz"),
        ("metr_la", "adj_mx.pkl"),
        ("metr_la", "distances.csv", "distances_dcrnn"),
        ("metr_la", "graph_sensor_locations.csv"),
        ("metr_la_week", "los_speed.csv"),
        ("metr_la_week", "adj_mx.npz"),
        ("metr_la_week", "los_adj.csv", "symmetric"),
        ("pemsd7m", "vel.csv"),
        ("pemsd7m", "adj.npz"),
    )
]
TRAFFIC += [
    Reader(
        "chickenpox.json",
        lambda folder: fake_chickenpox(folder, weeks=20, counties=3) / "chickenpox.json",
        lambda path: Chickenpox(str(path.parent)).read(),
    )
]

# --- latents and samples ------------------------------------------------------------------------------------


def latents(layout: str, file: str) -> Write:
    return lambda folder: fake_latents(folder / "latents", layout, count=6, size=2) / file


def read_latents(layout: Any, up: int) -> Read:
    def read(path: Path) -> Any:
        items = open_latents(path.parents[up], layout, 1000, expected=6)
        return items.__getitems__([(1, i) for i in range(len(items))])

    return read


def samples(file: str) -> Write:
    return lambda folder: fake_samples(folder / "files", count=6, references=6) / file


def compressed_samples(folder: Path) -> Path:
    path = samples("samples.npz")(folder)
    content = dict(np.load(path))
    np.savez_compressed(path, **content)
    return path


def read_samples(path: Path) -> Any:
    items = NpzItems(path)
    return items.__getitems__(range(len(items)))


LATENTS = [
    Reader(f"latents: {layout}, {Path(file).name}", latents(layout, file), read_latents(layout, up))
    for layout, file, up in (
        ("packed", "latents.npy", 0),
        ("packed", "labels.npy", 0),
        ("packed", "meta.json", 0),
        ("fast-dit", "imagenet256_features/0.npy", 1),
        ("fast-dit", "imagenet256_labels/3.npy", 1),
        ("repa", "vae-sd/00000/img-mean-std-00000002.npy", 2),
        ("repa", "vae-sd/dataset.json", 1),
        ("lightningdit", "latents_rank00_shard000.safetensors", 0),
        ("lightningdit", "latents_stats.pt", 0),
    )
]
LATENTS += [
    Reader("samples.npz", samples("samples.npz"), read_samples),
    Reader("samples.npz, compressed", compressed_samples, read_samples),
    Reader("a file of torch.save", tensors, lambda path: _named(path)),
]


def _named(path: Path) -> list[Any]:
    """Shapes alone: its callers judge the values, and add the name."""
    try:
        held = read_tensors(path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    found = held.values() if isinstance(held, dict) else [held]
    return [tuple(t.clone().shape) for t in found if isinstance(t, torch.Tensor)]


READERS = [*GAUG, *GRAPHS, *TRAFFIC, *LATENTS]
