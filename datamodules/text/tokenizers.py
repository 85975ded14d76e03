"""Tokenizers: trained offline on the training split, or read from a folder, a file or the hub.

All are transformers' :class:`PreTrainedTokenizerFast`. Their JSON document, :func:`document`, travels among
the weights of a network that was trained with them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from datamodules.loading.files import check_claim, json_of, one_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Model = Literal["byte_bpe", "bpe", "words"]
ROLES = ("bos", "eos", "pad", "unk", "mask", "cls", "sep")
_USUAL = {"<s>": "bos", "</s>": "eos", "<pad>": "pad", "<unk>": "unk", "<mask>": "mask"}


def train_tokenizer(
    texts: Iterable[str],
    vocab_size: int,
    model: Model = "byte_bpe",
    specials: Sequence[str] = ("<s>", "<pad>", "</s>", "<unk>"),
    last_specials: Sequence[str] = (),
    lowercase: bool = False,
    min_frequency: int = 2,
    normalised: bool = True,
) -> PreTrainedTokenizerFast:
    """A tokenizer of at most ``vocab_size`` entries, a function of the texts and the arguments.

    Args:
        texts: to train on: the training split.
        vocab_size: with the special ones.
        model: ``byte_bpe``: byte-level BPE (Radford et al. 2019), which decodes to the very text;
            ``bpe``: BPE over words and punctuation (Sennrich et al. 2016) with ``##`` for what goes on within
            a word; ``words``: whole words and punctuation, the rarer ones ``<unk>``.
        specials: take the first ids, in this order.
        last_specials: take the last ids.
        lowercase: texts are lower-cased first.
        min_frequency: of a merge or a word.
        normalised: texts are brought to NFC first; else tokens are those of the very bytes.

    Raises:
        ValueError: where ``vocab_size`` has no room for the special ones and the alphabet.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    room = vocab_size - len(last_specials)
    unknown = "<unk>"
    if model == "byte_bpe":
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        trainer: Any = trainers.BpeTrainer(
            vocab_size=room, min_frequency=min_frequency, special_tokens=list(specials),
            initial_alphabet=alphabet, show_progress=False,
        )  # fmt: skip
        least = len(specials) + len(alphabet)
    else:
        made = Tokenizer(
            models.BPE(unk_token=unknown, continuing_subword_prefix="##")
            if model == "bpe"
            else models.WordLevel(unk_token=unknown)
        )
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        made.decoder = decoders.WordPiece(prefix="##") if model == "bpe" else decoders.WordPiece(prefix="\0")
        arguments: dict[str, Any] = {"vocab_size": room, "min_frequency": min_frequency}
        arguments |= {"special_tokens": list(specials), "show_progress": False}
        trainer = (
            trainers.BpeTrainer(**arguments, continuing_subword_prefix="##")
            if model == "bpe"
            else trainers.WordLevelTrainer(**arguments)
        )
        least = len(specials) + 1
        if unknown not in specials:
            raise ValueError(f"a tokenizer of {model} needs {unknown} among its special tokens")
    if room < least:
        raise ValueError(
            f"data.init_args.vocab_size: {vocab_size} has no room for {least + len(last_specials)} entries "
            f"that a tokenizer of {model} begins with"
        )
    if steps := [normalizers.NFC()] * normalised + [normalizers.Lowercase()] * lowercase:
        made.normalizer = normalizers.Sequence(steps)
    made.train_from_iterator(texts, trainer)
    made.add_special_tokens(list(last_specials))
    return _wrapped(made, {**dict.fromkeys([*specials, *last_specials])})


def _wrapped(made: Any, specials: Iterable[str]) -> PreTrainedTokenizerFast:
    from transformers import PreTrainedTokenizerFast

    roles = {f"{_USUAL[token]}_token": token for token in specials if token in _USUAL}
    extra = [token for token in specials if token not in _USUAL]
    # spaces before punctuation belong to the text: nothing is tidied up behind the scorer's back
    return PreTrainedTokenizerFast(
        tokenizer_object=made, **roles, extra_special_tokens=extra, clean_up_tokenization_spaces=False
    )


def load_tokenizer(source: str) -> PreTrainedTokenizerFast:
    """The tokenizer of a folder, a ``tokenizer.json`` or a model of the hub.

    Raises:
        ValueError: for one that cannot be read, in one line.
    """
    path = Path(source)
    if path.suffix == ".json":
        if not path.is_file():
            raise FileNotFoundError(f"no tokenizer {path}")
        check_claim(path, "the file", path.stat().st_size)
        return from_document(path.read_text(encoding="utf-8", errors="replace"), str(path))
    from transformers import AutoTokenizer

    try:
        found: Any = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # of the library anything may come
        where = "the folder" if path.is_dir() else "the hub's"
        raise ValueError(
            f"{where} {source} has no tokenizer that can be read: {one_line(error, 200)}"
        ) from None
    if not getattr(found, "is_fast", False):
        raise ValueError(f"the tokenizer of {source} has no tokenizer.json; save it anew as a fast one")
    tokenizer: PreTrainedTokenizerFast = found
    return tokenizer


def document(tokenizer: PreTrainedTokenizerFast) -> str:
    """All of a tokenizer as one JSON document: the same for the same tokenizer."""
    roles = {role: getattr(tokenizer, f"{role}_token") for role in ROLES}
    content = {
        "tokenizer": json.loads(tokenizer.backend_tokenizer.to_str()),
        "roles": {role: token for role, token in roles.items() if token is not None},
    }
    content["tokenizer"]["truncation"] = content["tokenizer"]["padding"] = None  # of the last call
    return json.dumps(content, ensure_ascii=False, sort_keys=True)


def tokenizer_part(text: str) -> str:
    """:func:`document` out of one that says more, of templates and lengths for instance."""
    content = json_of(text.encode())
    part = {key: content[key] for key in ("tokenizer", "roles") if key in content}
    return json.dumps(part, ensure_ascii=False, sort_keys=True)


def from_document(text: str, name: str = "the vocabulary among the weights") -> PreTrainedTokenizerFast:
    """The tokenizer of :func:`document`, or of a plain ``tokenizer.json`` with the usual special tokens.

    Raises:
        ValueError: with ``name`` for a damaged one.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    try:
        content = json_of(text.encode())
        inner = content.get("tokenizer", content)
        made = Tokenizer.from_str(json.dumps(inner))
        added = [entry["content"] for entry in inner.get("added_tokens", ()) if entry.get("special")]
        roles = content.get("roles")
        if roles is None:
            return _wrapped(made, added)
        if not set(roles) <= set(ROLES) or not all(isinstance(token, str) for token in roles.values()):
            raise ValueError("unknown roles of special tokens")
        extra = [token for token in added if token not in roles.values()]
        return PreTrainedTokenizerFast(
            tokenizer_object=made, extra_special_tokens=extra, clean_up_tokenization_spaces=False,
            **{f"{role}_token": token for role, token in roles.items()},
        )  # fmt: skip
    except Exception as error:  # the library's reader raises Exception itself
        raise ValueError(f"{name} is no tokenizer: {one_line(error, 200)}") from None


def token_ids(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[list[int]]:
    """Ids of texts without special tokens; a ``</s>`` that stands in a text is text."""
    if not texts:
        return []
    found = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True, verbose=False)
    ids: list[list[int]] = found["input_ids"]
    return ids
