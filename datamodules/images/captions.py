"""Pictures and their captions, for models of both: named glyphs, a folder with a table, COCO."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from datamodules.images.caption_files import SPLITS, numbered, read_captions, read_coco, same_pictures
from datamodules.images.glyphs import dejavu_sans
from datamodules.images.image_folder import centre_crop
from datamodules.loading.arguments import check_choice, data_folder
from datamodules.loading.files import Array
from datamodules.loading.loaders import BatchItems
from datamodules.loading.pictures import read_rgb
from datamodules.loading.ranges import Many, Part, Seed, Size, Workers, check_ranges
from datamodules.loading.sampling import Keys, batch_keys
from datamodules.loading.terminal import say
from datamodules.loading.variants import Uses, check_variants
from datamodules.text.module import TextModule
from datamodules.text.tokenizers import document, load_tokenizer, token_ids, train_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Layout = Literal["glyphs", "folder", "coco"]
Words = Literal["words", "byte_bpe"]
FILES = ("folder", "coco")
_CLIP_MARKS = ("<|startoftext|>", "<|endoftext|>")


@dataclass
class Pairs:
    """Pictures with captions.

    Attributes:
        captions: N texts.
        paths: N files; None where ``pixels`` has the pictures.
        pixels: uint8 (N, S, S) or None.
        image: int64 (N,), the same number for the same picture, whatever its name.
        caption: int64 (N,), the same number for the same text, upper and lower case alike.
    """

    captions: list[str]
    image: Array
    caption: Array
    paths: list[Path] | None = None
    pixels: Array | None = None

    def __len__(self) -> int:
        return len(self.captions)

    def of(self, rows: Array) -> Pairs:
        """Some of them."""
        return replace(
            self,
            captions=[self.captions[i] for i in rows],
            image=self.image[rows],
            caption=self.caption[rows],
            paths=None if self.paths is None else [self.paths[i] for i in rows],
            pixels=None if self.pixels is None else self.pixels[rows],
        )


def joined(captions: list[str], image: list[int], **pictures: Any) -> Pairs:
    """Pairs with numbers for their captions."""
    texts = numbered([" ".join(text.casefold().split()) for text in captions])
    return Pairs(captions, np.array(image, dtype=np.int64), np.array(texts, dtype=np.int64), **pictures)


class CaptionItems(BatchItems):
    """Batches of pairs, texts as ids between the tokenizer's marks of begin and end.

    Args:
        data: whose ``tokenizer`` reads the captions; it may change before the first batch.
        pairs: of this set.
        size: side of the pictures.
        context: the most tokens of a text with its marks; longer ones lose their end, not the mark.
    """

    def __init__(self, data: ImageCaptions, pairs: Pairs, size: int, context: int) -> None:
        self.data, self.pairs, self.size, self.context = data, pairs, size, context
        self._read: tuple[str, list[list[int]]] = ("", [])

    def __len__(self) -> int:
        return len(self.pairs)

    def ids(self) -> list[list[int]]:
        """Of all captions, read once with each tokenizer."""
        vocabulary = self.data.vocabulary
        if self._read[0] != vocabulary:
            self._read = vocabulary, marked(self.data.tokenizer, self.pairs.captions, self.context)
        return self._read[1]

    def __getitems__(self, keys: Keys) -> dict[str, Tensor]:
        index = batch_keys(keys)[1]
        found = [self.ids()[i] for i in index]
        longest = max(map(len, found))
        pad = self.data.tokenizer.pad_token_id
        ids = torch.tensor([row + [pad] * (longest - len(row)) for row in found])
        return {
            "image": self.pictures(index),
            "ids": ids,
            "length": torch.tensor([len(row) for row in found]),
            "image_id": torch.from_numpy(self.pairs.image[index]),
            "caption_id": torch.from_numpy(self.pairs.caption[index]),
            "index": torch.from_numpy(index),
        }

    def pictures(self, rows: Array) -> Tensor:
        """Float32 (B, C, S, S) in [0, 1]."""
        if self.pairs.pixels is not None:
            return torch.from_numpy(self.pairs.pixels[rows]).float()[:, None] / 255
        assert self.pairs.paths is not None
        pixels = np.stack([centre_crop(read_rgb(self.pairs.paths[i]), self.size) for i in rows])
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).float().contiguous() / 255


def marked(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], context: int) -> list[list[int]]:
    """Ids of texts between begin and end, at most ``context``."""
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    return [[begin, *row[: context - 2], end] for row in token_ids(tokenizer, texts)]


class ImageCaptions(TextModule):
    """Pictures and captions.

    Batch: ``image`` float32 (B, C, S, S) in [0, 1]; ``ids`` int64 (B, L), a begin, the text, an end, then
    padding; ``length`` int64 (B,), of the text with its marks; ``image_id`` and ``caption_id`` int64 (B,),
    the same number for the same picture and the same text; ``index``. Validation and test are over pictures
    that the training does not have: copies of a picture stay together, whatever they are called.

    Args:
        layout: ``glyphs``, the 5,810 named characters of matplotlib's DejaVu Sans (Bitstream Vera licence)
            without those that have no ink, one channel; ``folder`` with ``captions.csv`` or
            ``captions.jsonl``, fields ``file``, ``caption`` and at will ``split``; ``coco``.
        root: of the files; null is ``$ZOO_DATA/captions`` or ``$ZOO_DATA/coco``.
        size: S.
        held_out: share of the pictures for validation, and as much for the test, where no file says.
        split_seed: of that split.
        tokenizer: folder, ``tokenizer.json`` or model of the hub, CLIP's for instance; null trains one here.
        model: of that: ``words`` or ``byte_bpe``.
        vocab_size: entries of a tokenizer that is trained here, at most.
        context: the most tokens of a caption, its two marks among them; 77 is CLIP's.
        batch_size: global training batch, over all devices.
        eval_batch_size: global batch of validation, test and prediction.
        num_workers: loader processes.

    Raises:
        FileNotFoundError, ValueError: one line on files that are missing, damaged or of another layout.
    """

    of_weights: ClassVar[tuple[str, ...]] = ("size", "context")
    split_of_weights: ClassVar[tuple[str, ...]] = ("layout", "held_out", "split_seed")
    of_variants: ClassVar[dict[str, Uses]] = {
        "layout": {"root": FILES, "held_out": ("glyphs", "folder"), "split_seed": ("glyphs", "folder")}
    }
    # the end is not 2: transformers takes an end of 2 for a sign of old weights and looks for the largest id
    specials: ClassVar[Sequence[str]] = ("<pad>", "<s>", "<unk>", "</s>")
    lowercase: ClassVar[bool] = True
    parts: dict[str, Pairs]  # not there before setup, as nothing that is learned of them

    def __init__(
        self,
        layout: Layout = "glyphs",
        root: str | None = None,
        size: Size = 224,
        held_out: Part = 0.1,
        split_seed: Seed = 0,
        tokenizer: str | None = None,
        model: Words = "words",
        vocab_size: Many = 10_000,
        context: Size = 77,
        batch_size: Many = 128,
        eval_batch_size: Many = 256,
        num_workers: Workers = 0,
    ) -> None:
        check_ranges(ImageCaptions, locals())
        super().__init__(tokenizer, vocab_size, batch_size, eval_batch_size, num_workers)
        check_choice("layout", layout, Layout)
        check_choice("model", model, Words)
        check_variants(ImageCaptions, locals())
        if tokenizer is not None and (model != "words" or vocab_size != 10_000):
            raise ValueError(
                f"data.init_args.tokenizer is {tokenizer}: model and vocab_size are of one that is trained "
                "here, which it does not use; leave them out"
            )
        if context < 3:
            raise ValueError(f"data.init_args.context is {context}, two marks and a token are 3")
        self.layout, self.size, self.context = layout, size, context
        self.held_out, self.split_seed, self.text_model = held_out, split_seed, model
        self.root = data_folder(root, "coco" if layout == "coco" else "captions")
        self.shape = (1 if layout == "glyphs" else 3, size, size)
        self.facts: dict[str, Any] = {}

    # --- the tokenizer ------------------------------------------------------------------------------------

    def training_texts(self) -> Iterable[str]:
        return self.parts["train"].captions

    def trained(self) -> PreTrainedTokenizerFast:
        return train_tokenizer(
            self.training_texts(), self._most, self.text_model, self.specials, (), self.lowercase, 1
        )

    def _take(self, text: str) -> None:
        if self._tokenizer is None and self.tokenizer_source is not None:
            self._tokenizer = with_marks(load_tokenizer(self.tokenizer_source), self.tokenizer_source)
            self._document = document(self._tokenizer)
        super()._take(text)
        assert self._tokenizer is not None
        with_marks(self._tokenizer, "the weights")

    # --- the sets -----------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        self.parts = {"glyphs": self._glyphs, "folder": self._folder, "coco": self._coco}[self.layout]()
        self._tell()
        sets = {name: CaptionItems(self, p, self.size, self.context) for name, p in self.parts.items()}
        self.train_set, self.val_set = sets["train"], sets["val"]
        self.test_set = sets["test"]
        self.facts = {"set": self.layout}

    def _glyphs(self) -> dict[str, Pairs]:
        found = dejavu_sans(self.size)
        image = numbered([picture.tobytes() for picture in found.pixels])
        pairs = joined(found.names, image, pixels=found.pixels)
        say(
            f"glyphs: {len(pairs) + found.blank:,} named characters of DejaVu Sans, {found.blank} without "
            f"ink are left out; {len(pairs):,} names of {max(image) + 1:,} different pictures"
        )
        return self._divided(pairs)

    def _folder(self) -> dict[str, Pairs]:
        rows = read_captions(self.root)
        image = same_pictures([row.path for row in rows])
        pairs = joined([row.caption for row in rows], image, paths=[row.path for row in rows])
        if not rows[0].split:
            return self._divided(pairs)
        places = {name: [i for i, row in enumerate(rows) if row.split == name] for name in SPLITS}
        if empty := [name for name in SPLITS[:2] if not places[name]]:
            raise ValueError(f"{self.root}: no row of the captions has the split {empty[0]}")
        found = {name: pairs.of(np.array(rows_of)) for name, rows_of in places.items() if rows_of}
        for name in SPLITS[1:]:
            if name in found and (shared := np.isin(found[name].image, found["train"].image)).any():
                say(f"{int(shared.sum()):,} of {len(shared):,} pictures of {name} are in training, too")
        return {"test": found["val"], **found}

    def _coco(self) -> dict[str, Pairs]:
        found = {}
        for name in SPLITS[:2]:
            folder = f"{name}2017"
            rows = read_coco(self.root / "annotations" / f"captions_{folder}.json", self.root / folder)
            paths = [row.path for row in rows]
            found[name] = joined([row.caption for row in rows], numbered(paths), paths=paths)
        return {**found, "test": found["val"]}

    def _divided(self, pairs: Pairs) -> dict[str, Pairs]:
        """By pictures: all names of one are on the same side."""
        pictures = int(pairs.image.max()) + 1
        held = int(self.held_out * pictures)
        if held < 2 or pictures - 2 * held < 2:
            where = "" if self.layout == "glyphs" else f"{self.root}: "
            raise ValueError(
                f"{where}data.init_args.held_out is {self.held_out} of {pictures:,} pictures, twice: at "
                "least two are needed for training, validation and test each"
            )
        order = torch.randperm(pictures, generator=torch.Generator().manual_seed(self.split_seed)).numpy()
        part = np.zeros(pictures, dtype=np.int64)
        part[order[:held]], part[order[held : 2 * held]] = 2, 1
        return {name: pairs.of((part[pairs.image] == i).nonzero()[0]) for i, name in enumerate(SPLITS)}

    def _tell(self) -> None:
        train = self.parts["train"]
        twice = len(train) - len(np.unique(train.caption))
        more = len(train) - len(np.unique(train.image))
        sizes = " / ".join(f"{len(self.parts[name]):,}" for name in SPLITS)
        say(
            f"{sizes} pairs for training, validation and test; in training {twice:,} captions stand with "
            f"more than one picture and {more:,} pictures with more than one caption: in a batch each "
            "other's false negatives, unless the model's positives is same"
        )


def with_marks(tokenizer: PreTrainedTokenizerFast, source: str) -> PreTrainedTokenizerFast:
    """The tokenizer with a begin, an end and a padding: CLIP's have names of their own.

    Raises:
        ValueError: for one without a begin or an end.
    """
    known = tokenizer.get_vocab()
    if (tokenizer.bos_token is None or tokenizer.eos_token is None) and all(m in known for m in _CLIP_MARKS):
        tokenizer.bos_token, tokenizer.eos_token = _CLIP_MARKS
    if tokenizer.bos_token is None or tokenizer.eos_token is None:
        raise ValueError(
            f"the tokenizer of {source} has no mark of begin and end (<s> and </s>, or {_CLIP_MARKS[0]} and "
            f"{_CLIP_MARKS[1]}), between which a caption stands"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token  # what stands behind the end is never looked at
    return tokenizer
