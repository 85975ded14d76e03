"""Tokens of bytes, and how many bytes of its text each token of a byte-level tokenizer stands for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from datamodules.text.tokenizers import from_document, token_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Array = np.ndarray[Any, Any]
SPECIALS = ("<pad>", "<s>", "</s>")
"""Ids 0 to 2 of a tokenizer of bytes and of one that is trained for a language model."""
OFFSET, ENTRIES = len(SPECIALS), 256 + len(SPECIALS)


@cache
def letters() -> dict[str, int]:
    """The character that stands for each byte in a byte-level vocabulary (Radford et al. 2019)."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(b): b for b in shown} | {chr(256 + n): b for n, b in enumerate(hidden)}


def byte_document() -> str:
    """The tokenizer of bytes as a document: id = byte + 3, pad 0, bos 1, eos 2; 259 entries."""
    vocabulary = {name: number for number, name in enumerate(SPECIALS)}
    vocabulary |= {letter: byte + OFFSET for letter, byte in letters().items()}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    content = {
        "version": "1.0",
        "added_tokens": [
            {"id": i, "content": name, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True} for i, name in enumerate(SPECIALS)
        ],
        "pre_tokenizer": level,
        "decoder": level,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
    }  # fmt: skip
    roles = {"pad": "<pad>", "bos": "<s>", "eos": "</s>"}
    return json.dumps({"tokenizer": content, "roles": roles})


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """See :func:`byte_document`."""
    return from_document(byte_document(), "the tokenizer of bytes")


def is_of_bytes(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether a tokenizer is that of bytes, whose ids need no library."""
    vocabulary = tokenizer.get_vocab()
    if len(vocabulary) != ENTRIES or tokenizer.backend_tokenizer.normalizer is not None:
        return False
    return all(vocabulary.get(letter) == byte + OFFSET for letter, byte in letters().items())


def token_bytes(tokenizer: PreTrainedTokenizerFast) -> list[bytes] | None:
    """The bytes that each id stands for, none of special tokens; None for a tokenizer that is not
    byte-level, whose tokens say nothing of blanks or of what a normaliser has changed."""
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    if "ByteLevel" not in json.dumps(content.get("decoder")) or content.get("normalizer") is not None:
        return None
    if '"add_prefix_space": true' in json.dumps(content.get("pre_tokenizer")):
        return None
    known, found = letters(), [b""] * len(tokenizer)
    special = set(tokenizer.all_special_ids)
    for token, number in tokenizer.get_vocab().items():
        if number not in special:
            if number >= len(found):
                return None
            is_added = any(letter not in known for letter in token)
            found[number] = token.encode() if is_added else bytes(known[letter] for letter in token)
    return found


class Encoder:
    """Texts to ids, with the bytes of each token.

    Attributes:
        is_of_bytes: whether it is that of bytes, which needs no library.
        table: bytes of each id of a byte-level tokenizer, else None.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer, self.is_of_bytes = tokenizer, is_of_bytes(tokenizer)
        each = token_bytes(tokenizer)
        self.table = None if each is None else np.array([len(b) for b in each], dtype=np.int64)

    def ids(self, texts: Sequence[str]) -> list[Array]:
        """Ids of texts without special tokens, int64."""
        if self.is_of_bytes:
            return [np.frombuffer(t.encode(), dtype=np.uint8).astype(np.int64) + OFFSET for t in texts]
        return [np.asarray(ids, dtype=np.int64) for ids in token_ids(self.tokenizer, texts)]

    def counted(self, texts: Sequence[str]) -> tuple[list[Array], list[Array]]:
        """(ids, bytes of each token); a text's bytes add up to its length in UTF-8.

        Of a tokenizer that is not byte-level a token has the bytes from the end of those before it to its
        own end, and the last one all that are left.
        """
        if self.table is not None:
            rows = self.ids(texts)
            return rows, [self.table[row] for row in rows]
        if not texts:
            return [], []
        found = self.tokenizer(
            list(texts), add_special_tokens=False, split_special_tokens=True, verbose=False,
            return_offsets_mapping=True,
        )  # fmt: skip
        rows, counts = [], []
        for text, ids, offsets in zip(texts, found["input_ids"], found["offset_mapping"], strict=True):
            ends = np.maximum.accumulate([0, *[end for _, end in offsets]])
            if len(ids):
                ends[-1] = len(text)
            size = np.cumsum([0, *[len(character.encode()) for character in text]])
            rows.append(np.asarray(ids, dtype=np.int64))
            counts.append(np.diff(size[ends]).astype(np.int64))
        return rows, counts
