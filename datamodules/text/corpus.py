"""Documents cleaned, divided, and without those that are there before: one of each, none of the held out."""

from __future__ import annotations

import hashlib
import itertools
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from datamodules.text.minhash import components, signature
from datamodules.text.stream_files import Document

Array = np.ndarray[Any, Any]
Deduplicate = Literal["none", "exact", "near"]
TEST, VAL, TRAIN, DROPPED = range(4)
NAMES = ("test", "val", "train")
_VERBS = ("test", "validate", "train")
IN_MEMORY = 2**28
"""Characters of a corpus that is kept in memory, at most."""
FEW = 10
"""Fewer documents than these are each divided by place."""


def normalised(text: str) -> str:
    """A text as duplicates are told by: NFKC, lower case, one blank for any run of blanks."""
    return " ".join(unicodedata.normalize("NFKC", text).lower().split())


def digest_of(text: str) -> bytes:
    """16 bytes of the normalised text."""
    return hashlib.blake2b(normalised(text).encode("utf-8", "surrogatepass"), digest_size=16).digest()


_CONTROL = re.compile(r"[^\S\n\t ]|[\x00-\x08\x0b-\x1f\x7f\ufeff\ufffd]")
_TRAILING = re.compile(r"[ \t]+$", re.MULTILINE)
_EMPTY = re.compile(r"\n{4,}")


def cleaned(text: str) -> str:
    """NFC, line ends ``\\n``, no control characters, other blanks as plain ones, none at the end of a line,
    at most two empty lines one after the other."""
    text = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n"))
    text = _CONTROL.sub(lambda found: " " if found[0].isspace() else "", text)
    return _EMPTY.sub("\n\n\n", _TRAILING.sub("", text)).strip("\n")


def cut_by_place(document: Document, val: float, test: float) -> Iterator[Document]:
    """A text divided at line ends: what comes first to train, then to validate, then to test."""
    text, at = document.text, 0
    bounds = []
    for share in (1 - val - test, 1 - test):
        place = text.rfind("\n", at, int(share * len(text))) + 1
        at = place if place > at else max(at, int(share * len(text)))
        bounds.append(at)
    places = [0, *bounds, len(text)]
    for split, (begin, end) in zip(("train", "val", "test"), itertools.pairwise(places), strict=True):
        yield Document(text[begin:end], document.where, split)


@dataclass
class Counts:
    """What became of the documents: ``read`` by split, ``repeated`` and ``similar`` left out, ``held`` out of
    the training documents since they are among those held out, ``empty``."""

    read: dict[str, int]
    repeated: int = 0
    similar: int = 0
    held: int = 0
    empty: int = 0

    def told(self) -> str:
        """In one line."""
        parts = [f"{self.repeated:,} repeated", f"{self.similar:,} all but the same",
                 f"{self.held:,} to train that are held out, too", f"{self.empty:,} empty"]  # fmt: skip
        return ", ".join(p for p in parts if not p.startswith("0 "))


class Corpus:
    """The documents of all splits, iterated as often as is needed; kept in memory where they fit.

    Args:
        source: makes an iterator over all documents.
        val: share of the documents to validate, where names tell no split: those whose digests come after
            the test's. Fewer than ten documents are each divided by place instead.
        test: share to test: those with the smallest digests of their normalised text.
        clean: see :func:`cleaned`.
        deduplicate: ``none``, ``exact`` (of the normalised text) or ``near``
            (:func:`datamodules.text.minhash.components`): one of each is kept, a held-out one before one to
            train. Training documents that are held out, too, are always left out.

    Raises:
        ValueError: where a split has no document.
    """

    def __init__(
        self,
        source: Callable[[], Iterable[Document]],
        val: float = 0.05,
        test: float = 0.05,
        clean: bool = False,
        deduplicate: Deduplicate = "exact",
        name: str = "the texts",
    ) -> None:
        self._source, self._clean, self._shares = source, clean, (val, test)
        self._kept: list[Document] | None = []
        self._by_place = False
        splits, digests, signatures, size = [], [], [], 0
        for document in self._cleaned():
            digests.append(digest_of(document.text))
            splits.append(-1 if document.split is None else NAMES.index(document.split))
            if deduplicate == "near":
                signatures.append(signature(normalised(document.text)))
            if self._kept is not None:
                self._kept.append(document)
                size += len(document.text)
                if size > IN_MEMORY:
                    self._kept = None
        if not splits:
            raise ValueError(f"{name}: no documents")
        if max(splits) < 0 and len(splits) < FEW:
            assert self._kept is not None or size > IN_MEMORY
            self._by_place = True
            parts = [p for d in self._cleaned_or_kept() for p in cut_by_place(d, val, test)]
            self._kept = parts
            digests, splits = [digest_of(p.text) for p in parts], [NAMES.index(p.split or "") for p in parts]
            if deduplicate == "near":
                signatures = [signature(normalised(p.text)) for p in parts]
        codes, keys = np.array(splits), np.frombuffer(b"".join(digests), dtype=">u8").reshape(-1, 2)
        self._divide(codes, keys[:, 0])
        self.counts = Counts({n: int((codes == NAMES.index(n)).sum()) for n in reversed(NAMES)})
        empty = (keys == np.frombuffer(digest_of(""), dtype=">u8")).all(axis=1)
        codes[empty] = DROPPED
        self.counts.empty = int(empty.sum())
        self._drop_repeated(codes, keys, deduplicate)
        if deduplicate == "near":
            self._drop_similar(codes, np.stack(signatures))
        self.codes: Array = codes
        for code in (TRAIN, VAL, TEST):
            if not (codes == code).any():
                raise ValueError(
                    f"{name}: no document to {_VERBS[code]} of "
                    f"{len(codes):,} ({self.counts.told() or 'none left out'})"
                )

    def _cleaned(self) -> Iterator[Document]:
        for document in self._source():
            if self._clean:
                document = Document(cleaned(document.text), document.where, document.split)
            yield document

    def _cleaned_or_kept(self) -> Iterable[Document]:
        return self._cleaned() if self._kept is None else self._kept

    def _divide(self, codes: Array, keys: Array) -> None:
        """Give documents without a split of their own one; what names do not tell is drawn from train."""
        val, test = self._shares
        free = codes == -1
        wanted = [(TEST, test), (VAL, val)]
        if not free.any():
            free = codes == TRAIN
            wanted = [(code, share) for code, share in wanted if not (codes == code).any()]
        codes[codes == -1] = TRAIN
        count = int(free.sum())
        for code, share in wanted:
            left = np.sort(keys[free])
            most = min(len(left), -(-round(share * count * 1e6) // 10**6))
            if most:
                taken = free & (keys <= left[most - 1])
                codes[taken] = code
                free &= ~taken

    def _drop_repeated(self, codes: Array, keys: Array, deduplicate: Deduplicate) -> None:
        order = np.argsort(codes, kind="stable")
        order = order[codes[order] != DROPPED]
        _, first, group = np.unique(keys[order], axis=0, return_index=True, return_inverse=True)
        leader = order[first[group.reshape(-1)]]
        is_held = (codes[order] == TRAIN) & (codes[leader] != TRAIN)
        dropped = (leader != order) if deduplicate != "none" else is_held
        self.counts.held = int(is_held.sum())
        self.counts.repeated = int((dropped & ~is_held).sum())
        codes[order[dropped]] = DROPPED

    def _drop_similar(self, codes: Array, signatures: Array) -> None:
        order = np.argsort(codes, kind="stable")
        order = order[codes[order] != DROPPED]
        leader = order[components(signatures[order])]
        is_held = (codes[order] == TRAIN) & (codes[leader] != TRAIN)
        self.counts.held += int(is_held.sum())
        self.counts.similar = int(((leader != order) & ~is_held).sum())
        codes[order[leader != order]] = DROPPED

    def texts(self, split: str) -> Iterator[str]:
        """The texts of a split, in the order of the files."""
        wanted = NAMES.index(split)
        for document, code in zip(self._cleaned_or_kept(), self.codes, strict=True):
            if code == wanted:
                yield document.text
