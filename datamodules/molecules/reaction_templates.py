"""Reactions made of building blocks by ten templates that rdkit runs: real chemistry on paper, no
experiments.

A template of a temporary rdkit reaction is a dangling reference, and the process dies without a message when
it is used: the reactions of :func:`templates` are kept alive for good.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from datamodules.loading.sampling import item_generator
from datamodules.molecules.chemistry import chem

TEMPLATES = {
    "amide coupling": "[C:1](=[O:2])[OH].[N;H2,H1;!$(NC=O):3]>>[C:1](=[O:2])[N:3]",
    "ester": "[C:1](=[O:2])[OH].[OX2H;$(O[CX4]):3]>>[C:1](=[O:2])[O:3]",
    "reductive amination": "[CX3H1;$(C[#6]):1]=O.[N;H2,H1;$(N[CX4]);!$(NC=O):2]>>[C:1][N:2]",
    "Suzuki": "[c:1]B(O)O.[c:2][Br,I]>>[c:1][c:2]",
    "ether": "[OX2H;$(O[#6]);!$(OC=O):1].[CX4;H2,H3:2][Br,I,Cl]>>[O:1][C:2]",
    "sulfonamide": "[S:1](=[O:2])(=[O:3])Cl.[N;H2,H1;!$(NC=O);!$(NS):4]>>[S:1](=[O:2])(=[O:3])[N:4]",
    "urea": "[N:1]=[C:2]=[O:3].[N;H2,H1;!$(NC=O):4]>>[N:1][C:2](=[O:3])[N:4]",
    "SNAr": "[c;$(c1[c,n][c,n][c,n]([N+](=O)[O-])[c,n][c,n]1):1][F,Cl].[N;H2,H1;!$(NC=O):2]>>[c:1][N:2]",
    "Boc removal": "[N:1]C(=O)OC(C)(C)C>>[N:1]",
    "nitro reduction": "[c:1][N+](=O)[O-]>>[c:1][NH2]",
}
"""Name -> reaction SMARTS."""
_KEY = 18_04


@dataclass(frozen=True)
class Reaction:
    """A reaction in canonical SMILES.

    Attributes:
        reactants: of all, sorted, joined by dots.
        product: likewise.
        reagents: likewise; "" for none.
        kind: its class, "" where unknown.
        blocks: what it was made of, in the order of the template.
    """

    reactants: str
    product: str
    reagents: str = ""
    kind: str = ""
    blocks: tuple[str, ...] = ()


@cache
def templates() -> dict[str, Any]:
    """The reactions of :data:`TEMPLATES`, initialised, alive as long as the process."""
    made = {}
    for name, smarts in TEMPLATES.items():
        reaction = chem("rdkit.Chem.rdChemReactions").ReactionFromSmarts(smarts)
        reaction.Initialize()
        made[name] = reaction
    return made


def products(name: str, molecules: Sequence[Any]) -> list[str]:
    """The distinct products of a template that sanitise, canonical SMILES.

    Args:
        name: of the template.
        molecules: of rdkit, one for each reactant.
    """
    found: set[str] = set()
    for (made,) in templates()[name].RunReactants(tuple(molecules)):
        if chem().SanitizeMol(made, catchErrors=True) == chem().SanitizeFlags.SANITIZE_NONE:
            found.add(str(chem().MolToSmiles(made)))
    return sorted(found)


class Generator:
    """Draws reactions: the k-th draw is a function of k and the blocks alone.

    Args:
        blocks: canonical SMILES.
        largest: heavy atoms of a block that takes part.
    """

    def __init__(self, blocks: Sequence[str], largest: int = 18) -> None:
        every = [(s, chem().MolFromSmiles(s)) for s in blocks]
        self.blocks = [(s, m) for s, m in every if m.GetNumHeavyAtoms() <= largest]
        self.roles: dict[str, list[list[int]]] = {}
        for name, reaction in templates().items():
            asked = [reaction.GetReactantTemplate(i) for i in range(reaction.GetNumReactantTemplates())]
            fitting = [[i for i, (_, m) in enumerate(self.blocks) if m.HasSubstructMatch(q)] for q in asked]
            if all(fitting):
                self.roles[name] = fitting

    def draw(self, number: int) -> Reaction | None:
        """The reaction of a draw: None where it has no product, or several."""
        random = item_generator(_KEY, number)
        name = [*self.roles][int(random.integers(len(self.roles)))]
        chosen = [self.blocks[role[int(random.integers(len(role)))]] for role in self.roles[name]]
        found = products(name, [molecule for _, molecule in chosen])
        if len(found) != 1:
            return None
        names = tuple(smiles for smiles, _ in chosen)
        return Reaction(".".join(sorted(names)), found[0], kind=name, blocks=names)


def generated(blocks: Sequence[str], draws: int, largest: int = 18) -> list[Reaction]:
    """The distinct reactions of so many draws, in their order."""
    generator = Generator(blocks, largest)
    if not generator.roles:
        raise ValueError(f"no template has blocks of at most {largest} heavy atoms for all its reactants")
    found = (generator.draw(k) for k in range(draws))
    return [*dict.fromkeys(r for r in found if r is not None)]


def part_of(name: str, held: float) -> str:
    """``test``, ``val`` or ``train``: where a name belongs, a function of itself alone, with a share of
    ``held`` for each of the first two."""
    place = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") / 2**64
    return "test" if place < held else "val" if place < 2 * held else "train"
