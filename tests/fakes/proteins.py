"""A tiny twin of UniRef50, and tables of a user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_LETTERS = "ACDEFGHIKLMNPQRSTVWY"


def sequences(count: int, least: int = 8) -> list[str]:
    """Different ones, by a rule."""
    return [
        "".join(_LETTERS[(i * 7 + j * (i % 5 + 1) + (j > i % 11)) % 20] for j in range(least + i % 9))
        for i in range(count)
    ]


def fake_uniref(root: Path, count: int = 240) -> None:
    """``uniref50.fasta`` with lines of 60 residues and UniProt's heads."""
    root.mkdir(parents=True, exist_ok=True)
    lines = []
    for i, text in enumerate(sequences(count, 55)):
        lines += [f">UniRef50_A{i} Protein n={i} Tax=root TaxID=1 RepID=A{i}", text[:60], text[60:]]
    (root / "uniref50.fasta").write_text("\n".join(line for line in lines if line) + "\n")


def own_proteins(root: Path) -> None:
    """FASTA and tables with classes, numbers and entities; another of each."""
    fake_uniref(root)
    for name, count in (("own", 60), ("other", 50)):
        made = sequences(count)
        (root / f"{name}.fasta").write_text("".join(f">{name}{i}\n{s}\n" for i, s in enumerate(made)))
        rows = [f"{s},{s[::-1]},{i % 2},{i % 3 % 2},2-4" for i, s in enumerate(made)]
        (root / f"{name}.csv").write_text("sequence,back,a,b,spans\n" + "\n".join(rows) + "\n")


def _uniref(root: Path, config: dict[str, Any]) -> dict[str, Any]:
    fake_uniref(root)
    sizes = {"width": 16, "layers": 1, "heads": 2, "hidden": 16}
    return {f"model.init_args.{k}": v for k, v in sizes.items()} | {
        "data.init_args.batch_size": 8, "data.init_args.num_workers": 0, "trainer.precision": 32,
        "data.init_args.fractions": [0.8, 0.1, 0.1],
    }  # fmt: skip


TWINS = {"datamodules.Proteins": _uniref}
WITHOUT_FILES = {"datamodules.Proteins": lambda arguments: arguments.get("layout", "peptides") == "peptides"}
