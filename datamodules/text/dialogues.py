"""Dialogues: PersonaChat as ParlAI has it, the hub's, chitchat-dataset's, JSON lines."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from datamodules.loading.arguments import check_choice, data_folder
from datamodules.loading.files import check_claim, json_of, one_line
from datamodules.loading.ranges import Depth, Many, Size, Workers, check_ranges
from datamodules.loading.sampling import item_generator
from datamodules.loading.variants import Uses, check_variants
from datamodules.text.pairs import OF_A_TRAINED_ONE, DialogueTemplate, Exchange, PairModule, Splits
from datamodules.text.records import hub_records, lines_of, package_folder, read_jsonl
from datamodules.text.tokenizers import Model

Layout = Literal["chitchat", "parlai", "jsonl", "hub"]
PERSONACHAT = {
    "train": "train_self_original.txt",
    "val": "valid_self_original.txt",
    "test": "test_self_original.txt",
}
_PERSONA = re.compile(r"(?:your|partner's) persona: ?")
_SPLIT_KEY = 16_01


class Dialogues(PairModule):
    """Pairs of a dialogue's history and the reply to it, for :class:`zoo.AMI`.

    The forward network reads ``persona ... <a> a1 <b> b1 ... <b> b2 <a> <mask>`` and says a3; the backward
    one reads ``persona ... <b> <mask> <a> a3`` and recovers the last utterance b2. For batches see
    :mod:`datamodules.text.pairs`.

    Layouts:
        ``chitchat``: the 7,168 conversations of the installed package ``chitchat-dataset`` (BYU, MIT
        licence), its messages of a turn joined; conversations, not pairs, are split 90 : 5 : 5.
        ``parlai``: ``train_self_original.txt``, ``valid_self_original.txt`` and, where it is there,
        ``test_self_original.txt`` under ``root`` (PersonaChat in ParlAI's text, as its ``build.py`` gets it):
        ``N text<TAB>response<TAB><TAB>cand1|cand2|...``, N restarts at 1 with each dialogue, lines
        ``N your persona: ...`` lead it.
        ``jsonl``: ``train.jsonl``, ``val.jsonl`` and, where it is there, ``test.jsonl`` under ``root``, lines
        ``{"source": "...", "target": "..."}`` with ``history`` and ``persona``, lists of texts, at will.
        ``hub``: a data set of the hub as ``bavard/personachat_truecased`` or ``AlekseyKorshuk/persona-chat``.

    Args:
        layout: of the files.
        root: folder; null is ``$ZOO_DATA/dialogues``.
        name: of the hub's data set, with ``name/config``'s config after a colon, where it has several.
        predict: what ``zoo predict`` answers: a typed utterance, several (a list, oldest first), or a file,
            ``.txt`` with an utterance a line or ``.jsonl`` as above; null answers the test split.
        history: utterances of the history that are read, the latest.
        longest: tokens of an utterance that are kept.
        most_pairs: training pairs, the first of a fixed shuffle; null takes all.
        most_evaluated: pairs of validation and of test, the first; null takes all.
        tokenizer: see :class:`datamodules.text.pairs.PairModule`, as all below.
        vocab_size: likewise.
        model: likewise.
        lowercase: likewise.
        batch_size: likewise.
        batch_tokens: likewise.
        eval_batch_size: likewise.
        num_workers: likewise.

    Raises:
        ImportError: for ``chitchat`` without the extra ``text``.
        FileNotFoundError, ValueError: for files that are missing or damaged, in one line.
    """

    of_weights: ClassVar[tuple[str, ...]] = ("longest", "lowercase", "history")
    split_of_weights: ClassVar[tuple[str, ...]] = ("name", "most_pairs")
    of_variants: ClassVar[dict[str, Uses]] = {
        "layout": {"root": ("parlai", "jsonl"), "name": ("hub",)},
        **OF_A_TRAINED_ONE,
    }
    bleu = "dialogue"
    template_name = "dialogue"

    def __init__(
        self,
        layout: Layout = "chitchat",
        root: str | None = None,
        name: str = "bavard/personachat_truecased:full",
        predict: str | list[str] | None = None,
        history: Depth = 1,
        longest: Size = 30,
        most_pairs: Many | None = None,
        most_evaluated: Many | None = None,
        tokenizer: str | None = None,
        vocab_size: Many = 4000,
        model: Model = "byte_bpe",
        lowercase: bool = True,
        batch_size: Many = 64,
        batch_tokens: Many | None = None,
        eval_batch_size: Many = 64,
        num_workers: Workers = 0,
    ) -> None:
        check_ranges(Dialogues, locals())
        check_variants(Dialogues, locals())
        check_choice("layout", layout, Layout)
        check_choice("model", model, Model)
        super().__init__(
            tokenizer,
            vocab_size,
            model,
            lowercase,
            longest,
            batch_size,
            batch_tokens,
            eval_batch_size,
            num_workers,
        )
        self.layout, self.folder, self.hub_name = layout, data_folder(root, "dialogues"), name
        self.predict, self.history = predict, history
        self.most_pairs, self.most_evaluated = most_pairs, most_evaluated

    def template(self, tokenizer: Any) -> DialogueTemplate:
        a, b, mask = (tokenizer.convert_tokens_to_ids(t) for t in ("<a>", "<b>", "<mask>"))
        if len({a, b, mask, tokenizer.unk_token_id}) < 4 or None in (a, b, mask):
            raise ValueError(
                f"the tokenizer {self.tokenizer_source} has no special tokens <a>, <b>, <mask>, which tell "
                "the speakers; "
                "add them, or leave data.init_args.tokenizer out"
            )
        return DialogueTemplate(self.longest, self.history, (a, b, mask))

    @property
    def vocabulary(self) -> str:
        import json

        return json.dumps(
            {**json.loads(super().vocabulary), "history": self.history}, ensure_ascii=False, sort_keys=True
        )

    def read(self) -> Splits:
        splits = {"chitchat": self._chitchat, "parlai": self._parlai, "jsonl": self._jsonl, "hub": self._hub}[
            self.layout
        ]()
        for split in ("train", "val"):
            if not getattr(splits, split):
                raise ValueError(
                    f"{self.folder if self.layout != 'hub' else self.hub_name}: no pairs to {split}"
                )
        if self.most_pairs is not None and self.most_pairs < len(splits.train):
            order = item_generator(_SPLIT_KEY, 1).permutation(len(splits.train))[: self.most_pairs]
            splits.train = [splits.train[i] for i in order]
        splits.val, splits.test = (s[: self.most_evaluated] for s in (splits.val, splits.test))
        splits.facts = {"set": self.layout if self.layout != "hub" else self.hub_name}
        return splits

    def _chitchat(self) -> Splits:
        path = package_folder("chitchat_dataset") / "dataset.json"
        conversations = read_chitchat(path)
        order = item_generator(_SPLIT_KEY, 0).permutation(len(conversations))
        held = len(conversations) // 20
        parts = (order[2 * held :], order[:held], order[held : 2 * held])
        train, val, test = (
            [pair for i in sorted(p) for pair in exchanges_of(conversations[i])] for p in parts
        )
        return Splits(train, val, test)

    def _parlai(self) -> Splits:
        paths = {split: self.folder / file for split, file in PERSONACHAT.items()}
        if missing := [p for s, p in paths.items() if s != "test" and not p.is_file()]:
            raise FileNotFoundError(
                f"no {missing[0]}; PersonaChat is parl.ai/downloads/personachat/personachat.tgz, whose "
                f"{' and '.join(PERSONACHAT.values())} belong there, or set data.init_args.root"
            )
        train, val, test = (read_parlai(p) if p.is_file() else [] for p in paths.values())
        return Splits(train, val, test)

    def _jsonl(self) -> Splits:
        paths = {split: self.folder / f"{split}.jsonl" for split in ("train", "val", "test")}
        if missing := [p for s, p in paths.items() if s != "test" and not p.is_file()]:
            raise FileNotFoundError(
                f"no {missing[0]}; expected are train.jsonl and val.jsonl with lines "
                f'{{"source": "...", "target": '
                '"..."}, or set data.init_args.root'
            )
        train, val, test = (read_pairs(p) if p.is_file() else [] for p in paths.values())
        return Splits(train, val, test)

    def _hub(self) -> Splits:
        name, _, config = self.hub_name.partition(":")
        found = []
        for split in ("train", "validation"):
            records = hub_records(name, config or None, split, {})
            found.append(
                [pair for i, r in enumerate(records) for pair in of_hub(r, f"{name}, {split}, record {i}")]
            )
        return Splits(found[0], found[1])

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "predict" and self.predict is not None:
            self.predict_set = self.items(asked(self.predict), "the prediction")


def asked(given: str | Sequence[str]) -> list[Exchange]:
    """What a prediction answers: an utterance, the utterances of one history, or a file of them.

    Raises:
        FileNotFoundError, ValueError: for a file that is missing or damaged, and for nothing to answer.
    """
    if isinstance(given, str) and given.endswith((".txt", ".jsonl")):
        path = Path(given)
        if path.suffix == ".jsonl":
            return read_pairs(path, replies=False)
        found = [Exchange((text.strip(),)) for _, text in lines_of(path) if text.strip()]
        if not found:
            raise ValueError(f"{path} has no line to answer")
        return found
    utterances = tuple(text.strip() for text in ([given] if isinstance(given, str) else given))
    if not utterances or not all(utterances):
        raise ValueError("data.init_args.predict has an utterance without a word")
    return [Exchange(utterances)]


def exchanges_of(turns: Sequence[str]) -> Iterator[Exchange]:
    """Each turn but the first with those before it."""
    for number in range(1, len(turns)):
        yield Exchange(tuple(turns[:number]), turns[number])


def read_chitchat(path: Path) -> list[list[str]]:
    """Turns of each conversation of ``chitchat_dataset/dataset.json``; a turn's messages are joined by
    spaces.

    Empty turns are left out. The package is not imported.

    Raises:
        FileNotFoundError, ValueError: for a file that is missing or of another layout.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no {path}; install the extra again: pip install 'lightning-zoo[text]'")
    check_claim(path, "the file", path.stat().st_size)
    try:
        content = json_of(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({one_line(error)})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} is no object of conversations")
    found = []
    for name, conversation in content.items():
        try:
            turns = [" ".join(message["text"] for message in turn) for turn in conversation["messages"]]
        except (TypeError, KeyError, AttributeError):
            raise ValueError(
                f"{path}, conversation {one_line(name, 40)}: its messages are no lists of turns with texts"
            ) from None
        found.append([text for t in turns if (text := " ".join(t.split()))])
    return found


def read_parlai(path: Path) -> list[Exchange]:
    """Exchanges of a file of ParlAI's text.

    Raises:
        FileNotFoundError, ValueError: for a file that is missing or has a line of another form.
    """
    found: list[Exchange] = []
    persona: list[str] = []
    turns: list[str] = []
    for number, line in lines_of(path):
        if not line.strip():
            continue
        count, _, text = line.partition(" ")
        if not count.isascii() or not count.isdigit():
            raise ValueError(
                f"{path}, line {number}: begins with no number; expected is 'N text<TAB>response'"
            )
        if int(count[:9]) == 1:
            persona, turns = [], []
        if match := _PERSONA.match(text):
            persona.append(text[match.end() :])
            continue
        said, *rest = text.split("\t")
        if not rest or not said.strip() or not rest[0].strip():
            raise ValueError(f"{path}, line {number}: has no response after a tab")
        reply = rest[0]
        candidates = tuple(rest[2].split("|")) if len(rest) > 2 and rest[2] else ()
        if candidates and reply not in candidates:
            raise ValueError(f"{path}, line {number}: the response is not among its candidates")
        turns.append(said)
        found.append(Exchange(tuple(turns), reply, tuple(persona), candidates))
        turns.append(reply)
    if not found:
        raise ValueError(f"{path} holds no dialogue")
    return found


def read_pairs(path: Path, replies: bool = True) -> list[Exchange]:
    """Exchanges of JSON lines with ``source``, ``target``, and ``history`` and ``persona`` at will.

    Raises:
        FileNotFoundError, ValueError: for a file that is missing, damaged, or has an empty text.
    """
    found = []
    for number, record in enumerate(
        read_jsonl(path, {"source": str, **({"target": str} if replies else {})}), 1
    ):
        before, persona = (record.get(key) or [] for key in ("history", "persona"))
        for key, value in (("history", before), ("persona", persona)):
            if not isinstance(value, list) or not all(
                isinstance(text, str) and text.strip() for text in value
            ):
                raise ValueError(f"{path}, record {number}: {key!r} must be a list of texts")
        target = record.get("target", "")
        if not record["source"].strip() or not isinstance(target, str) or (replies and not target.strip()):
            raise ValueError(f"{path}, record {number}: source and target must have a word")
        found.append(Exchange((*before, record["source"]), target, tuple(persona)))
    return found


def of_hub(record: dict[str, Any], where: str) -> Iterator[Exchange]:
    """Exchanges of a record of either PersonaChat of the hub; the gold reply is the last candidate.

    Raises:
        ValueError: for a record of another layout.
    """
    try:
        persona = tuple(record["personality"])
        for turn in record.get("utterances") or [record]:
            candidates, history = tuple(turn["candidates"]), tuple(turn["history"])
            if not all(isinstance(t, str) for t in (*candidates, *history, *persona)):
                raise TypeError
            yield Exchange(history, candidates[-1], persona, candidates)
    except (KeyError, TypeError, IndexError):
        raise ValueError(
            f"{where}: expected are personality, candidates and history, or utterances of those"
        ) from None
