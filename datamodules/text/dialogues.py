"""Dialogues: PersonaChat as ParlAI has it, the hub's, chitchat-dataset's, JSON lines."""

from __future__ import annotations

import json
from typing import Any, ClassVar, Literal

from datamodules.loading.arguments import check_choice, data_folder
from datamodules.loading.ranges import Depth, Many, Size, Workers, check_ranges
from datamodules.loading.sampling import item_generator
from datamodules.loading.variants import Uses, check_variants
from datamodules.text.exchanges import DialogueTemplate, exchanges_of
from datamodules.text.pair_files import asked, of_hub, read_chitchat, read_parlai, read_splits
from datamodules.text.pairs import OF_A_TRAINED_ONE, PairModule, Splits
from datamodules.text.records import hub_records, package_folder
from datamodules.text.tokenizers import Model

Layout = Literal["chitchat", "parlai", "jsonl", "hub"]
PERSONACHAT = {
    "train": "train_self_original.txt",
    "val": "valid_self_original.txt",
    "test": "test_self_original.txt",
}


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
        embeddings: file of word vectors, see :class:`datamodules.text.pairs.PairModule`, as all below.
        tokenizer: likewise.
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
    split_key = 16_01

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
        embeddings: str | None = None,
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
            most_pairs,
            most_evaluated,
            embeddings,
        )
        self.layout, self.folder, self.hub_name = layout, data_folder(root, "dialogues"), name
        self.predict, self.history = predict, history

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
        return json.dumps(
            {**json.loads(super().vocabulary), "history": self.history}, ensure_ascii=False, sort_keys=True
        )

    @property
    def origin(self) -> str:
        named = {"chitchat": "the package chitchat-dataset", "hub": self.hub_name}
        return named.get(self.layout, str(self.folder))

    def read(self) -> Splits:
        if self.layout == "jsonl":
            train, val, test = read_splits(self.folder)
            splits = Splits(train, val, test)
        else:
            splits = {"chitchat": self._chitchat, "parlai": self._parlai, "hub": self._hub}[self.layout]()
        splits.facts = {"set": self.hub_name if self.layout == "hub" else self.layout}
        return splits

    def _chitchat(self) -> Splits:
        path = package_folder("chitchat_dataset") / "dataset.json"
        conversations = read_chitchat(path)
        order = item_generator(self.split_key, 0).permutation(len(conversations))
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
            self.tell_unread(self.predict_set)
