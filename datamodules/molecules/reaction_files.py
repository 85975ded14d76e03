"""Files of reactions: token lines of the Molecular Transformer, ``rxn_smiles edits``, USPTO-50K's tables."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from datamodules.loading.files import written_whole
from datamodules.loading.tables import cut
from datamodules.loading.terminal import say
from datamodules.molecules.chemistry import chem
from datamodules.molecules.reaction_templates import Reaction
from datamodules.molecules.smiles import Unreadable, canonical
from datamodules.molecules.smiles_files import column_of, is_table, table_rows, text_lines

COLUMN = "reactants>reagents>production"


def mixture(text: str) -> str:
    """The molecules of a side: maps taken off, each canonical, sorted, joined by dots; "" of nothing.

    Raises:
        Unreadable: for one that is no molecule.
    """
    return ".".join(sorted(canonical(part) for part in text.split(".") if part.strip()))


def reaction_of(text: str, kind: str = "") -> Reaction:
    """``reactants>reagents>product`` without atom maps and canonical: the maps of a product leak the answer.

    Raises:
        Unreadable: for what is no such reaction.
    """
    sides = text.strip().split(" ")[0].split(">")
    if len(sides) != 3:
        raise Unreadable(f"{len(sides) - 1} times > where reactants>reagents>product have 2")
    reactants, reagents, product = map(mixture, sides)
    if not reactants or not product:
        raise Unreadable("no " + ("product" if reactants else "reactants"))
    if product in reactants.split("."):
        raise Unreadable("the product is among the reactants")
    return Reaction(reactants, product, reagents, kind)


def _texts(path: Path, column: str) -> Iterator[tuple[int, str, str]]:
    """(line, reaction, class) of a table or of lines ``rxn_smiles edits``."""
    if not is_table(path):
        for number, text in text_lines(path):
            if text.strip():
                yield number, text, ""
        return
    kinds = {line: row.get("class", "") for line, row in table_rows(path)}
    for line, text in column_of(path, column):
        yield line, text, kinds[line]


def read_reactions(path: Path, column: str = COLUMN) -> list[Reaction]:
    """The reactions of a file; lines that hold none are left out and told.

    Raises:
        FileNotFoundError, ValueError: for a file that cannot be read, or holds none at all.
    """
    found: list[Reaction] = []
    skipped: Counter[str] = Counter()
    first: dict[str, str] = {}
    for line, text, kind in _texts(path, column):
        try:
            found.append(reaction_of(text, kind))
        except Unreadable as error:
            skipped[str(error)] += 1
            first.setdefault(str(error), f"first line {line}, {cut(text)}")
    for reason, count in skipped.items():
        say(f"{path}: {count:,} row{'s' * (count > 1)} skipped, {reason}: {first[reason]}")
    if not found:
        raise ValueError(f"{path} holds no reaction that can be read")
    return found


def read_token_lines(source: Path, target: Path) -> list[Reaction]:
    """``src-train.txt`` and ``tgt-train.txt``: tokens separated by blanks, line i of one belongs to line i
    of the other; what stands behind ``>`` in a source are reagents.

    The texts stay as they are, for the authors made them canonical.

    Raises:
        FileNotFoundError, ValueError: for files that are missing, of different lengths, or have an
            empty line.
    """
    sides = [[(n, "".join(text.split())) for n, text in text_lines(path)] for path in (source, target)]
    if len(sides[0]) != len(sides[1]):
        raise ValueError(
            f"{source} has {len(sides[0]):,} lines, {target} has {len(sides[1]):,}: line i of one belongs to "
            "line i of the other"
        )
    found = []
    for (number, reactants), (_, product) in zip(*sides, strict=True):
        if not reactants or not product:
            raise ValueError(f"{target if reactants else source}, line {number}: empty, no reaction")
        before, _, reagents = reactants.partition(">")
        found.append(Reaction(before, product, reagents))
    return found


def kept(name: str, make: Callable[[], Iterable[Reaction]]) -> list[Reaction]:
    """What ``make`` gives, kept in ``$ZOO_CACHE`` or ``~/.cache/zoo`` under ``name``, with rdkit's
    version."""
    folder = Path(os.environ.get("ZOO_CACHE") or Path.home() / ".cache" / "zoo")
    path = folder / f"reactions_{name}_rdkit{chem('rdkit').__version__}.tsv"
    if path.is_file():
        rows = [text.split("\t") for _, text in text_lines(path)]
        if rows and all(len(row) == 5 for row in rows):
            return [Reaction(a, b, c, d, tuple(filter(None, e.split(" ")))) for a, b, c, d, e in rows]
    found = [*make()]
    lines = ("\t".join((r.reactants, r.product, r.reagents, r.kind, " ".join(r.blocks))) for r in found)
    try:
        with written_whole(path) as temporary:
            temporary.write_text("\n".join(lines) + "\n")
    except OSError as error:
        say(f"reactions are not kept for the next run ({error.strerror or error})")
    return found


def randomised(source: str, seed: int) -> str:
    """Another SMILES of each side of a source, fragments in another order; a function of (source, seed)."""
    sides = []
    for side in source.split(">"):
        molecule = chem().MolFromSmiles(side)
        if molecule is None or not side:
            sides.append(side)
        else:
            sides.append(str(chem().MolToRandomSmilesVect(molecule, 1, randomSeed=seed % 2**31 or 1)[0]))
    return ">".join(sides)
