"""Tokens join to the very text, and the vocabulary is the training set's alone."""

from __future__ import annotations

from pathlib import Path

import pytest

import datamodules.molecules.tokens
import zoo.molecules.tokens
from datamodules.molecules.tokens import UNK, TokenVocabulary, tokenised


def test_both_sides_of_the_door_have_the_same_tokens() -> None:
    ours, theirs = (
        Path(m.__file__).read_text() for m in (zoo.molecules.tokens, datamodules.molecules.tokens)
    )
    assert ours == theirs


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("CC(=O)Nc1ccc(Br)cc1Cl", "C C ( = O ) N c 1 c c c ( Br ) c c 1 Cl"),
        ("C[C@@H](N)C(=O)[O-].[Na+]", "C [C@@H] ( N ) C ( = O ) [O-] . [Na+]"),
        ("F/C=C\\F", "F / C = C \\ F"),
        ("C%10CC%10", "C %10 C C %10"),
        ("CO.[13CH3]I>>C", "C O . [13CH3] I > > C"),
    ],
)
def test_tokens_of_a_smiles(text: str, tokens: str) -> None:
    assert tokenised(text) == tokens.split()


@pytest.mark.parametrize(
    ("text", "character", "place"), [("CCl Br", " ", 4), ("CCZ", "Z", 3), ("C[NH", "[", 2), ("hello", "h", 1)]
)
def test_what_belongs_to_no_token_is_an_error_with_the_molecule(
    text: str, character: str, place: int
) -> None:
    with pytest.raises(ValueError) as error:
        tokenised(text)
    assert str(error.value) == f"{text!r}: {character!r} at {place} is no token of SMILES"


def test_selfies_have_tokens_of_their_own() -> None:
    assert tokenised("[C][=Branch1][C]", "selfies") == ["[C]", "[=Branch1]", "[C]"]
    with pytest.raises(ValueError, match="no token of SELFIES"):
        tokenised("[C]x", "selfies")


def test_unknown_tokens_are_one_id_and_documents_come_back() -> None:
    vocabulary = TokenVocabulary.of_texts([tokenised("CCO"), tokenised("c1ccccc1")], "smiles")
    assert vocabulary.tokens == ("1", "C", "O", "c")
    assert vocabulary.encoded(tokenised("CBrO")) == [5, UNK, 6]
    assert vocabulary.text([1, 5, UNK, 6, 2, 5]) == "C?O"  # BOS is no text, nothing stands behind EOS
    assert TokenVocabulary.of_document(vocabulary.document) == vocabulary
    assert len(vocabulary) == 8


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "[]",
        '{"tokens": ["C", "C"], "representation": "smiles"}',
        '{"tokens": ["C", 3], "representation": "smiles"}',
        '{"tokens": ["C"], "representation": "x"}',
        '{"tokens": ["<bos>"], "representation": "smiles"}',
    ],
)
def test_another_document_is_no_vocabulary(text: str) -> None:
    with pytest.raises(ValueError, match="has no tokens of molecules"):
        TokenVocabulary.of_document(text)
