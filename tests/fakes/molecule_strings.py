"""Tiny twins of MOSES and of USPTO in the layouts of the Molecular Transformer and of USPTO-50K."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

ALCOHOLS = [f"{'C' * n}O" for n in range(1, 25)]
BROMIDES = [f"{'C' * n}Br" for n in range(1, 13)]


def fake_moses(root: Path) -> None:
    """``train.csv.gz`` and ``test.csv.gz``, column SMILES."""
    root.mkdir(parents=True, exist_ok=True)
    for name, molecules in (("train", ALCOHOLS + BROMIDES), ("test", [f"{s}C" for s in ALCOHOLS[:6]])):
        text = "\n".join(["SMILES", *molecules]) + "\n"
        (root / f"{name}.csv.gz").write_bytes(gzip.compress(text.encode()))


def _ethers(first: int, count: int = 24) -> list[tuple[str, str, str]]:
    chains = [("C" * (3 * (i % 6) + 1), "C" * (i // 6 % 4 + 1)) for i in range(first, first + count)]
    return [(f"{a}O", f"{b}Br", f"{a}O{b}") for a, b in chains]


def fake_token_lines(root: Path) -> None:
    """``src-train.txt``, ``tgt-train.txt`` and so on."""
    root.mkdir(parents=True, exist_ok=True)
    for first, split in enumerate(("train", "val", "test")):
        rows = _ethers(7 * first)
        sources = [" ".join(f"{a}.{b}>O".replace("Br", "B")).replace("B", "Br") for a, b, _ in rows]
        (root / f"src-{split}.txt").write_text("\n".join(sources) + "\n")
        (root / f"tgt-{split}.txt").write_text("\n".join(" ".join(p) for *_, p in rows) + "\n")


def fake_raw(root: Path) -> None:
    """``train.txt``, ``valid.txt``, ``test.txt``, lines ``rxn_smiles edits``."""
    root.mkdir(parents=True, exist_ok=True)
    for first, split in enumerate(("train", "valid", "test")):
        rows = [f"{a}.{b}>O>{p} 2-3;3-4" for a, b, p in _ethers(7 * first)]
        (root / f"{split}.txt").write_text("\n".join(rows) + "\n")


def fake_guacamol(root: Path) -> None:
    """``guacamol_v1_train.smiles`` and so on."""
    root.mkdir(parents=True, exist_ok=True)
    for split, molecules in (("train", ALCOHOLS), ("valid", BROMIDES), ("test", [*BROMIDES[:5], "CCC"])):
        (root / f"guacamol_v1_{split}.smiles").write_text("\n".join(molecules) + "\n")


def own_molecules(root: Path) -> None:
    """All of these, and files of a user's own."""
    fake_moses(root / "moses")
    fake_guacamol(root / "guacamol")
    (root / "own.smi").write_text("\n".join(ALCOHOLS + BROMIDES) + "\n")
    rows = ["smiles,other", *(f"{a},{b}" for a, b in zip(ALCOHOLS, BROMIDES * 2, strict=True))]
    for name in ("own", "other"):
        (root / f"{name}.csv").write_text("\n".join(rows if name == "own" else rows[:-3]) + "\n")


def own_reactions(root: Path) -> None:
    """Each layout of reactions, and tables of a user's own."""
    fake_token_lines(root / "tokens")
    fake_raw(root / "raw")
    fake_uspto_50k(root / "csv")
    for name, first in (("own", 0), ("other", 3)):
        lines = ["reactants>reagents>production,other"]
        lines += [f"{a}.{b}>O>{p},{b}.{a}>>{p}" for a, b, p in _ethers(first, 60)]
        (root / f"{name}.csv").write_text("\n".join(lines) + "\n")


def fake_uspto_50k(root: Path) -> None:
    """``raw_train.csv``, ``raw_val.csv``, ``raw_test.csv``, atoms mapped."""
    root.mkdir(parents=True, exist_ok=True)
    for first, split in enumerate(("train", "val", "test")):
        lines = ["id,class,reactants>reagents>production"]
        for i, (a, b, product) in enumerate(_ethers(7 * first)):
            mapped = product.replace("O", "[O:1]")
            lines.append(f"US{i},1,{a.replace('O', '[OH:1]')}.{b}>O>{mapped}")
        (root / f"raw_{split}.csv").write_text("\n".join(lines) + "\n")


def _molecules(root: Path, config: dict[str, Any]) -> dict[str, Any]:
    fake_moses(root)
    flags: dict[str, Any] = {
        "model.init_args.width": 16, "model.init_args.layers": 1, "model.init_args.samples": 4,
        "data.init_args.batch_size": 4,
    }  # fmt: skip
    return flags


def _reactions(root: Path, config: dict[str, Any]) -> dict[str, Any]:
    {"tokens": fake_token_lines, "csv": fake_uspto_50k}[config["data"]["init_args"]["layout"]](root)
    sizes = {"width": 16, "layers": 1, "heads": 2, "hidden": 16, "max_length": 12, "beams": 2}
    return {f"model.init_args.{k}": v for k, v in sizes.items()} | {
        "data.init_args.batch_tokens": 400, "data.init_args.eval_batch_size": 4,
        "trainer.accumulate_grad_batches": 1,
    }  # fmt: skip


TWINS = {"datamodules.SmilesData": _molecules, "datamodules.ReactionData": _reactions}
WITHOUT_FILES = {
    "datamodules.SmilesData": lambda arguments: arguments.get("layout", "blocks") == "blocks",
    "datamodules.ReactionData": lambda arguments: arguments.get("layout", "templates") == "templates",
}
