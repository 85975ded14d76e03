"""Chats for a causal language model, which learns the replies alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from datamodules.loading.arguments import check_choice, data_folder
from datamodules.loading.ranges import Many, Part, Size, Workers, check_ranges
from datamodules.loading.terminal import say
from datamodules.loading.variants import Uses, check_variants
from datamodules.text.chat_files import Chat, chat_of, chatterbot, read_chats, unique
from datamodules.text.corpus import digest_of, normalised
from datamodules.text.language_module import LanguageModule
from datamodules.text.packed_rows import CONTEXT, END, SCORED, PackedRows, Piece, joined
from datamodules.text.prompts import PromptRows, asked_texts
from datamodules.text.records import hub_records

Layout = Literal["chatterbot", "jsonl", "hub"]
SPLITS = ("train", "val", "test")
NAMES = {"system": "System: ", "user": "User: ", "assistant": "Assistant: "}
"""What stands before a turn; a line end stands behind it, and the end token behind a reply."""
_HUB = {"train": ("train", "train_sft"), "val": ("validation", "val"), "test": ("test", "test_sft")}
Array = np.ndarray[Any, Any]


class Chats(LanguageModule):
    """Chats as rows of tokens, of which the replies are learned, for :class:`zoo.CausalLM`.

    A chat is ``<s>User: ...\\nAssistant: ...</s>\\nUser: ...``. For the batches see
    :class:`datamodules.text.stream.TextStream`; ``labels`` are those of the replies and, in training, of the
    end token behind each: evaluation scores texts alone. ``bytes`` are those of the scored replies.

    Chats that are there before are left out, then the rest is split by the digest of its first turn: a
    question is on one side alone. Where files are split already, chats to train whose first turn is held out
    are left out, which is told.

    A chat longer than ``context`` is cut before a turn of the user into pieces that share nothing, so that
    each reply is scored once. A question and its reply that are too long together lose the front of the
    question, of which a quarter of the context is kept, and then the end of the reply with its end token,
    which is told. Turns behind the last reply are left out.

    Layouts:
        ``chatterbot``: the English conversations of the package chatterbot-corpus (BSD-3), 899 different ones
        of 2,026; every second turn is a reply.
        ``jsonl``: ``train.jsonl`` and, where they are there, ``val.jsonl`` and ``test.jsonl`` under ``root``,
        or one file: lines ``{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", ...}]}``,
        or ``{"turns": ["...", "..."]}``, where every second one is a reply.
        ``hub``: a data set of the hub with ``messages``, ``HuggingFaceH4/ultrachat_200k`` for instance.

    Args:
        layout: of the files.
        root: folder or file; null is ``$ZOO_DATA/chats``.
        name: of the hub's data set, its config after a colon.
        context: tokens of a row.
        pack: several chats share a row, of which no token sees another; else each has its own, padded.
        val_share: of the chats, where the files have no such split.
        test_share: likewise.
        predict: what ``zoo predict`` answers: an utterance, a list of turns' openings, or a file, ``.txt``
            with one a line or ``.jsonl`` with ``text``; null answers the test split's first turns.
        predict_samples: how many of these.
        tokenizer: see :class:`datamodules.text.language_module.LanguageModule`.
        vocab_size: likewise.
        batch_size: global training batch, in rows.
        eval_batch_size: global batch of validation, test and prediction.
        num_workers: loader processes.

    Raises:
        ImportError: for ``chatterbot`` without the extra ``language``.
        FileNotFoundError, ValueError: for files that are missing or damaged, in one line.
    """

    of_weights: ClassVar[tuple[str, ...]] = ("context",)
    split_of_weights: ClassVar[tuple[str, ...]] = ("name", "val_share", "test_share")
    of_variants: ClassVar[dict[str, Uses]] = {
        "layout": {"root": ("jsonl",), "name": ("hub",)},
        "tokenizer": {"vocab_size": (None,)},
        "predict": {"predict_samples": (None,)},
    }

    def __init__(
        self,
        layout: Layout = "chatterbot",
        root: str | None = None,
        name: str = "HuggingFaceH4/ultrachat_200k",
        context: Size = 256,
        pack: bool = True,
        val_share: Part = 0.1,
        test_share: Part = 0.1,
        predict: str | list[str] | None = None,
        predict_samples: Many = 8,
        tokenizer: str | None = None,
        vocab_size: Many | None = None,
        batch_size: Many = 16,
        eval_batch_size: Many = 32,
        num_workers: Workers = 0,
    ) -> None:
        check_ranges(Chats, locals())
        check_variants(Chats, locals())
        check_choice("layout", layout, Layout)
        super().__init__(context, tokenizer, vocab_size, batch_size, eval_batch_size, num_workers)
        if context < 8:
            raise ValueError("data.init_args.context must be at least 8: a question and a reply")
        if val_share + test_share >= 1:
            raise ValueError("data.init_args.val_share and test_share leave nothing to train")
        self.layout, self.folder, self.hub_name = layout, data_folder(root, "chats"), name
        self.pack, self.shares = pack, {"test": test_share, "val": val_share}
        self.predict, self.predict_samples = predict, predict_samples
        self._splits: dict[str, list[Chat]] | None = None
        self._pieces: tuple[str, dict[str, list[Piece]]] | None = None

    @property
    def origin(self) -> str:
        """Where the chats are from, in what is told."""
        named = {"chatterbot": "the package chatterbot-corpus", "hub": self.hub_name}
        return named.get(self.layout, str(self.folder))

    @property
    def facts(self) -> dict[str, Any]:
        """What weights keep of the files."""
        name = {"chatterbot": "chatterbot", "hub": self.hub_name}.get(self.layout, self.folder.name)
        return {"set": name}

    # --- chats ----------------------------------------------------------------------------------------------

    def _read(self) -> dict[str, list[Chat]]:
        if self.layout == "chatterbot":
            return {"train": chatterbot()}
        if self.layout == "hub":
            return self._hub()
        if self.folder.is_file():
            return {"train": read_chats(self.folder)}
        paths = {split: self.folder / f"{split}.jsonl" for split in SPLITS}
        if not paths["train"].is_file():
            raise FileNotFoundError(
                f"no {paths['train']}; expected are lines of messages, val.jsonl and test.jsonl beside it at "
                "will; or set data.init_args.root to a folder or a file"
            )
        return {split: read_chats(path) for split, path in paths.items() if path.is_file()}

    def _hub(self) -> dict[str, list[Chat]]:
        name, _, config = self.hub_name.partition(":")
        found = {}
        for split, names in _HUB.items():
            for number, own in enumerate(names):
                try:
                    records = hub_records(name, config or None, own, {})
                except ValueError:
                    if split == "train" and number + 1 == len(names):
                        raise
                    continue
                found[split] = [chat_of(r, f"{name}, {own}, record {i}") for i, r in enumerate(records)]
                break
        return found

    @property
    def splits(self) -> dict[str, list[Chat]]:
        """The different chats of ``train``, ``val`` and ``test`` that have a reply, read once."""
        if self._splits is None:
            read = self._read()
            total = sum(map(len, read.values()))
            found = {split: [c for c in unique(chats) if _has_reply(c)] for split, chats in read.items()}
            left = sum(map(len, found.values()))
            for split in ("test", "val"):
                if split not in found:
                    found["train"], found[split] = self._drawn(found["train"], self.shares[split])
            held = {_first(chat) for split in ("val", "test") for chat in found[split]}
            kept = [chat for chat in found["train"] if _first(chat) not in held]
            told = [
                f"{count:,} {what}"
                for count, what in (
                    (total - left, "that are there before or have no reply"),
                    (len(found["train"]) - len(kept), "to train whose first turn is held out"),
                )
                if count
            ]
            if told:
                say(f"{self.origin}: left out of {total:,} chats: {', '.join(told)}")
            found["train"] = kept
            if empty := [split for split in SPLITS if not found[split]]:
                raise ValueError(f"{self.origin}: {total:,} chats, of which none is left to {empty[0]}")
            self._splits = found
        return self._splits

    @staticmethod
    def _drawn(chats: list[Chat], share: float) -> tuple[list[Chat], list[Chat]]:
        """(the rest, those whose first turns have the smallest digests, of that share of first turns)."""
        firsts = sorted({_first(chat) for chat in chats})
        drawn = {*firsts[: -(-round(share * len(firsts) * 1e6) // 10**6)]}
        return [c for c in chats if _first(c) not in drawn], [c for c in chats if _first(c) in drawn]

    def training_texts(self) -> Iterable[str]:
        """Turns to train, with what stands before them."""
        return (NAMES[role] + text for chat in self.splits["train"] for role, text in chat)

    def learned(self) -> Iterator[Sequence[str]]:
        return (tuple(part for turn in chat for part in turn) for chat in self.splits["train"])

    # --- tokens ---------------------------------------------------------------------------------------------

    @property
    def pieces(self) -> dict[str, list[Piece]]:
        """The chats as tokens, with the tokenizer now."""
        if self._pieces is None or self._pieces[0] != self.vocabulary:
            found, cut = {}, 0
            for split in SPLITS:
                found[split], lost = self._cut(self.splits[split])
                cut += lost
            if cut:
                say(
                    f"{self.origin}: {cut:,} tokens of replies longer than the {self.context} of a row are "
                    "left out; data.init_args.context says how many there may be"
                )
            self._pieces = self.vocabulary, found
        return self._pieces[1]

    def _counted(self, text: str) -> tuple[Array, Array]:
        (ids,), (counts,) = self.encoder.counted([text])
        return ids, counts

    def _cut(self, chats: Sequence[Chat]) -> tuple[list[Piece], int]:
        """(pieces, tokens of replies that are left out)."""
        pieces, lost, room = [], 0, self.context - 1
        start = (np.array([self.bos_token_id]), CONTEXT, np.zeros(1, dtype=np.int64))
        end = (np.array([self.eos_token_id]), END, np.zeros(1, dtype=np.int64))
        for chat in chats:
            parts, size = [start], 0
            for question, reply in exchanges(chat):
                q, q_counts = self._counted(question)
                r, r_counts = self._counted(reply)
                most = room - 1 - min(len(q), self.context // 4)
                if is_cut := len(r) > most:
                    lost += len(r) - most
                    r, r_counts = r[:most], r_counts[:most]
                if size and size + len(q) + len(r) + 1 > room:
                    pieces.append(joined(parts))
                    parts, size = [start], 0
                q, q_counts = q[-(room - len(r) - 1) :], q_counts[-(room - len(r) - 1) :]
                parts += [(q, CONTEXT, q_counts), (r, SCORED, r_counts), *[end] * (not is_cut)]
                size += len(q) + len(r) + (not is_cut)
            pieces.append(joined(parts))
        return pieces, lost

    def setup(self, stage: str) -> None:
        if stage == "predict":
            self.predict_set = self._prompts()
            return
        pieces, pad = self.pieces, self.pad_token_id
        self.train_set = PackedRows(pieces["train"], self.context, pad, self.pack, True, self.batch_size)
        self.val_set = PackedRows(pieces["val"], self.context, pad, self.pack)
        self.test_set = PackedRows(pieces["test"], self.context, pad, self.pack)

    def _prompts(self) -> PromptRows:
        if self.predict is None:
            chats = self.splits["test"][: self.predict_samples]
            found = [next(exchanges(chat)) for chat in chats]
        else:
            found = [
                (f"{NAMES['user']}{t}\n{NAMES['assistant']}", "") for t in asked_texts(self.predict, "text")
            ]
        half = self.context // 2  # room for the reply
        questions = self.encoder.ids([question for question, _ in found])
        rows = [np.concatenate([[self.bos_token_id], ids[-half:]]) for ids in questions]
        replies = [reply for _, reply in found]
        ids = [ids[:half] for ids in self.encoder.ids(replies)]
        return PromptRows(rows, [question for question, _ in found], ids, replies, self.pad_token_id)


def _has_reply(chat: Chat) -> bool:
    return any(role == "assistant" and text.strip() for role, text in chat)


def _first(chat: Chat) -> bytes:
    """Digest of the user's first turn, else of the first."""
    return digest_of(next((text for role, text in chat if role == "user"), normalised(chat[0][1])))


def exchanges(chat: Chat) -> Iterator[tuple[str, str]]:
    """(all that stands before a reply since the one before it, the reply) of each reply.

    The second begins with the line end behind the first reply; replies without text are none.
    """
    before, begun = "", ""
    for role, text in chat:
        if role == "assistant" and text.strip():
            yield begun + before + NAMES[role], text
            before, begun = "", "\n"
        elif role != "assistant":
            before += f"{NAMES[role]}{text}\n"
