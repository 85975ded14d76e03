"""ReactionData: templates that live, maps that do not leak, splits, sources alone randomised."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import datamodules
from datamodules.molecules.building_blocks import building_blocks
from datamodules.molecules.chemistry import chem
from datamodules.molecules.reaction_files import (
    kept,
    randomised,
    reaction_of,
    read_reactions,
    read_token_lines,
)
from datamodules.molecules.reaction_templates import (
    TEMPLATES,
    Generator,
    generated,
    part_of,
    products,
    templates,
)
from datamodules.molecules.smiles import Unreadable, canonical
from datamodules.molecules.tokens import tokenised


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def small(**settings: Any) -> datamodules.ReactionData:
    return datamodules.ReactionData(**{"draws": 300, "held": 0.1, "batch_size": 4, **settings})


@pytest.mark.parametrize(
    ("name", "blocks", "product"),
    [
        ("amide coupling", ["CC(=O)O", "CN"], "CNC(C)=O"),
        ("ester", ["CC(=O)O", "CCO"], "CCOC(C)=O"),
        ("reductive amination", ["CC=O", "CN"], "CCNC"),
        ("Suzuki", ["OB(O)c1ccccc1", "Brc1ccncc1"], "c1ccc(-c2ccncc2)cc1"),
        ("ether", ["Oc1ccccc1", "CBr"], "COc1ccccc1"),
        ("sulfonamide", ["CS(=O)(=O)Cl", "CN"], "CNS(C)(=O)=O"),
        ("urea", ["CN=C=O", "CN"], "CNC(=O)NC"),
        ("SNAr", ["O=[N+]([O-])c1ccc(F)cc1", "CN"], "CNc1ccc([N+](=O)[O-])cc1"),
        ("Boc removal", ["CNC(=O)OC(C)(C)C"], "CN"),
        ("nitro reduction", ["O=[N+]([O-])c1ccccc1"], "Nc1ccccc1"),
    ],
)
def test_templates_make_the_textbook_product(name: str, blocks: list[str], product: str) -> None:
    assert products(name, [chem().MolFromSmiles(s) for s in blocks]) == [product]


def test_reactions_outlive_their_templates() -> None:
    """A template of a reaction that was freed ends the process without a word: a process of its own."""
    code = (
        "import gc\nfrom datamodules.molecules.reaction_templates import templates\n"
        "asked = [r.GetReactantTemplate(i) for r in templates().values() for i in "
        "range(r.GetNumReactantTemplates())]\ngc.collect()\n"
        "from rdkit import Chem\nm = Chem.MolFromSmiles('CC(=O)O')\n"
        "print(sum(m.HasSubstructMatch(q) for q in asked))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "2")
    assert [r.IsInitialized() for r in templates().values()] == [True] * len(TEMPLATES)


def test_draws_are_a_function_of_their_number() -> None:
    blocks = building_blocks()[::4]
    generator, again = Generator(blocks), Generator(blocks)
    one = [generator.draw(k) for k in range(60)]
    assert one[40:] == [again.draw(k) for k in range(40, 60)]
    made = [r for r in one if r is not None]
    assert 40 <= len(made) < 60  # five of six have exactly one product
    assert not any(r.product in r.reactants.split(".") for r in made)  # the copy baseline is 0
    assert all(canonical(r.product) == r.product for r in made)


def test_blocks_are_no_larger_than_asked_and_reactions_are_different() -> None:
    blocks = ["CC(=O)O", "CCCCCCCCCC(=O)O", "CN", "OCCN"]
    assert [s for s, _ in Generator(blocks, 4).blocks] == ["CC(=O)O", "CN", "OCCN"]
    made = generated(["CC(=O)O", "CN", "NCCN"], 60)
    assert {r.product for r in made} == {"CNC(C)=O", "CC(=O)NCCN"}
    assert len(made) == 2  # of 60 draws
    rows = small(largest_block=6).splits["train"]
    assert max(chem().MolFromSmiles(b).GetNumHeavyAtoms() for r in rows for b in r.blocks) <= 6


def test_draws_with_several_products_are_left_out() -> None:
    two = Generator(["CC(=O)O", "NCCCN(C)CCN"])  # two primary amines that differ
    assert two.roles == {"amide coupling": [[0], [1]]}
    assert two.draw(0) is None


def test_held_out_parts_are_equal_shares() -> None:
    found = [part_of(str(n), 0.2) for n in range(2000)]
    assert [found.count(name) for name in ("test", "val", "train")] == pytest.approx([400, 400, 1200], abs=60)


def test_reactions_are_kept_by_what_they_are_a_function_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path))
    names = {small(**s)._name() for s in ({}, {"draws": 301}, {"largest_block": 9}, {"held": 0.2})}
    assert len(names) == 3  # the share of a split is no matter of the draws
    made = [reaction_of("CO.CBr>O>COC", "1")]
    assert kept("x", lambda: made) == made
    (file,) = tmp_path.iterdir()
    assert file.name == f"reactions_x_rdkit{chem('rdkit').__version__}.tsv"
    assert kept("x", list) == made
    file.write_text("CO.CBr\tCOC\tO\n")  # of another kind of file
    assert kept("x", lambda: made) == made


def test_maps_of_the_product_are_taken_off_before_anything_is_tokenised() -> None:
    """Trap: the product of a mapped reaction tells which atoms it is made of."""
    text = "[CH3:1][C:2](=[O:3])[OH].[NH2:4][CH3:5]>CC#N.[Na+]>[CH3:5][NH:4][C:2]([CH3:1])=[O:3]"
    found = reaction_of(text, "2")
    assert (found.reactants, found.reagents, found.product) == ("CC(=O)O.CN", "CC#N.[Na+]", "CNC(C)=O")
    assert ":" not in "".join((found.reactants, found.reagents, found.product))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("CC>CO", "1 times >"),
        (">>CO", "no reactants"),
        ("CO>>", "no product"),
        ("CO>>C1CC", "no SMILES that rdkit can read"),
        ("CO.CN>>CO", "the product is among the reactants"),
    ],
)
def test_what_is_no_reaction(text: str, reason: str) -> None:
    with pytest.raises(Unreadable, match=reason):
        reaction_of(text)


def test_products_to_test_are_never_trained_on() -> None:
    splits = small().splits
    names = {split: {r.product for r in rows} for split, rows in splits.items()}
    assert not names["train"] & (names["val"] | names["test"])
    assert not names["val"] & names["test"]
    assert min(map(len, names.values())) >= 10


def test_blocks_to_test_are_never_trained_on() -> None:
    splits = small(split="block").splits
    trained = {b for r in splits["train"] for b in r.blocks}
    assert {part_of(b, 0.1) for b in trained} == {"train"}
    assert all(any(b not in trained and part_of(b, 0.1) == "test" for b in r.blocks) for r in splits["test"])


def test_sources_alone_are_randomised_and_targets_stay_canonical() -> None:
    """Trap: a randomised target would ask the network to guess."""
    plain, more = small(), small(augment=True)
    sources, targets = plain.training_pairs()
    count = len(sources)
    all_sources, all_targets = more.training_pairs()
    assert (all_sources[:count], all_targets) == (sources, targets * 2)
    extra = all_sources[count:]
    assert [".".join(sorted(map(canonical, s.split(".")))) for s in extra] == sources
    assert sum(a != b for a, b in zip(extra, sources, strict=True)) > 0.8 * count
    assert small(augment=True).training_pairs() == (all_sources, all_targets)
    assert all(canonical(t) == t for t in all_targets)
    assert randomised("CCO>", 3).endswith(">")
    assert len({randomised("CC(=O)Oc1ccccc1C(=O)O", seed) for seed in range(20)}) > 10


def test_the_vocabulary_is_that_of_the_training_reactions() -> None:
    data = small()
    data.setup("fit")
    trained = {t for column in data.training_pairs() for s in column for t in tokenised(s)}
    held = {t for r in data.splits["test"] for s in (r.reactants, r.product) for t in tokenised(s)}
    assert {*data.tokens().tokens} == trained
    assert held - trained  # or this test says nothing


def test_long_and_further_reactions_are_left_out(capfd: pytest.CaptureFixture[str]) -> None:
    data = small(longest=20, most_train=10)
    assert len(data.splits["train"]) == 10
    assert max(len(tokenised(s)) for pair in data.training_pairs() for s in pair) <= 20
    assert re.search(
        r"train: \d+ of \d+ reactions have a side of more than 20 tokens", capfd.readouterr().out
    )


def test_retrosynthesis_turns_the_pairs_around() -> None:
    forward, back = small(), small(direction="retro")
    assert back.training_pairs() == forward.training_pairs()[::-1]


def token_files(root: Path) -> None:
    rows = [("C C ( = O ) O . C N > C C # N", "C N C ( C ) = O"), ("C O . C Br", "C O C")]
    for split in ("train", "val", "test"):
        (root / f"src-{split}.txt").write_text("".join(f"{s}\n" for s, _ in rows))
        (root / f"tgt-{split}.txt").write_text("".join(f"{t}\n" for _, t in rows))


def test_token_lines_of_the_molecular_transformer(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    token_files(tmp_path)
    found = read_token_lines(tmp_path / "src-train.txt", tmp_path / "tgt-train.txt")
    assert [(r.reactants, r.reagents, r.product) for r in found] == [
        ("CC(=O)O.CN", "CC#N", "CNC(C)=O"), ("CO.CBr", "", "COC"),
    ]  # fmt: skip
    data = datamodules.ReactionData(layout="tokens", root=str(tmp_path), batch_size=2)
    assert data.training_pairs()[0] == ["CC(=O)O.CN>CC#N", "CO.CBr"]
    assert "2 of 2 items to test are among those to train" in capfd.readouterr().out
    retro = datamodules.ReactionData(layout="tokens", root=str(tmp_path), batch_size=2, direction="retro")
    assert retro.training_pairs()[1] == ["CC(=O)O.CN", "CO.CBr"]  # no reagents to guess
    (tmp_path / "tgt-train.txt").write_text("C N C ( C ) = O\n")
    with pytest.raises(ValueError, match=r"src-train.txt has 2 lines, .*tgt-train.txt has 1"):
        read_token_lines(tmp_path / "src-train.txt", tmp_path / "tgt-train.txt")


ROWS = [
    "id,class,reactants>reagents>production",
    "a,2,[CH3:1][C:2](=[O:3])O.[NH2:4][CH3:5]>>[CH3:5][NH:4][C:2]([CH3:1])=[O:3]",
    "b,1,not>a>reaction",
    "c,1,C[OH:1].[CH3:2]Br>O>C[O:1][CH3:2]",
]


def test_tables_and_raw_lines(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "own.csv"
    table.write_text("\n".join(ROWS) + "\n")
    found = read_reactions(table)
    assert [(r.kind, r.product) for r in found] == [("2", "CNC(C)=O"), ("1", "COC")]
    assert (
        "1 row skipped, no SMILES that rdkit can read: first line 3, 'not>a>reaction'"
        in capfd.readouterr().out
    )
    raw = tmp_path / "train.txt"
    raw.write_text("[CH3:1][OH:2].[CH3:3]Br>O>[CH3:1][O:2][CH3:3] 2-3;3-4\n")
    assert [(r.reactants, r.reagents, r.product) for r in read_reactions(raw)] == [("CBr.CO", "O", "COC")]


@pytest.mark.parametrize(
    ("how", "source"), [("mixed", "CBr.CO.O"), ("separated", "CBr.CO>O"), ("none", "CBr.CO")]
)
def test_where_reagents_stand(how: Any, source: str, tmp_path: Path) -> None:
    data = datamodules.ReactionData(layout="raw", root=str(tmp_path), reagents=how)
    assert data._sides(reaction_of("CO.CBr>O>COC"))[0] == source


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layout": "file"}, "set data.init_args.file"),
        ({"layout": "tokens", "draws": 5}, "draws is 5, which layout: tokens does not use"),
        ({"reagents": "none"}, "reagents is none, which layout: templates does not use"),
        ({"batch_tokens": 4096, "batch_size": 3}, "batch_size is 3, which batch_tokens: 4096"),
        ({"held": 1.0}, "held is 1.0"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        datamodules.ReactionData(**settings)


def test_typed_and_written_sources(tmp_path: Path) -> None:
    data = small()
    assert data._asked("OC(C)=O.NC") == ["CC(=O)O.CN"]
    (tmp_path / "asked.smi").write_text("NC.OC(C)=O first\n\nCO>CBr\n")
    assert data._asked(str(tmp_path / "asked.smi")) == ["CC(=O)O.CN", "CO>CBr"]
    with pytest.raises(ValueError, match=r"line 1: no SMILES that rdkit can read"):
        data._asked("C1CC")
    with pytest.raises(ValueError, match="asks nothing"):
        data._asked("")
