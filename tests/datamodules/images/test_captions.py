"""Pictures with captions: the named glyphs, own tables, COCO; splits by pictures; damaged files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes.captions import fake_captions, fake_coco

from datamodules import ImageCaptions
from datamodules.images.captions import marked


def folder(root: Path, **more: object) -> ImageCaptions:
    data = ImageCaptions("folder", str(root), size=16, context=8, batch_size=4, **more)
    data.setup("fit")
    return data


def test_no_glyph_of_the_test_is_trained_on_under_another_name() -> None:
    data = ImageCaptions(size=32, context=16, batch_size=8)
    data.setup("fit")
    parts = data.parts
    assert sum(map(len, parts.values())) + 61 == 5810
    assert len({w for p in parts.values() for c in p.captions for w in c.split()}) <= 2186
    pictures = {n: {x.tobytes() for x in p.pixels} for n, p in parts.items() if p.pixels is not None}
    assert not pictures["train"] & (pictures["val"] | pictures["test"])
    assert not pictures["val"] & pictures["test"]
    train = parts["train"]
    twins = ("latin capital letter a", "greek capital letter alpha")
    (home,) = (p for p in parts.values() if twins[0] in p.captions)
    assert len({int(home.image[home.captions.index(name)]) for name in twins}) == 1
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (8, 1, 32, 32)
    assert float(batch["image"].max()) <= 1
    assert all(batch["ids"][i, n - 1] == 3 for i, n in enumerate(batch["length"]))
    words = {w for c in train.captions for w in c.split()}
    unseen = next(c for c in parts["test"].captions if not set(c.replace("-", " ").split()) <= words)
    ids = marked(data.tokenizer, [unseen], 16)[0]
    assert data.tokenizer.unk_token_id in ids  # its words are not learned of the test


def test_copies_stay_together_and_captions_may_have_commas(tmp_path: Path) -> None:
    fake_captions(tmp_path)
    for seed in range(3):
        data = folder(tmp_path, held_out=0.3, split_seed=seed)
        where = {path.name: name for name, part in data.parts.items() for path in part.paths or []}
        assert where["copy.png"] == where["00.png"]
        assert all(c.endswith(", on black") for p in data.parts.values() for c in p.captions[:-1] if "," in c)
    twin = next(p for p in data.parts.values() if "the same square again" in p.captions)
    places = [twin.captions.index(c) for c in ("the same square again", "a red square, on black")]
    assert twin.image[places[0]] in twin.image[[i for i in range(len(twin)) if i != places[0]]]


def test_a_split_of_the_file_is_kept_and_lines_read_as_cells(tmp_path: Path) -> None:
    fake_captions(tmp_path / "csv", split=True)
    fake_captions(tmp_path / "lines", split=True, lines=True)
    one, two = folder(tmp_path / "csv"), folder(tmp_path / "lines")
    assert [len(one.parts[n]) for n in ("train", "val", "test")] == [33, 16, 16]
    for name in ("train", "val"):
        a, b = (next(iter(getattr(d, f"{name}_dataloader")())) for d in (one, two))
        assert all(torch.equal(a[k], b[k]) for k in a)


def test_coco_has_several_captions_of_a_picture(tmp_path: Path) -> None:
    fake_coco(tmp_path)
    data = ImageCaptions("coco", str(tmp_path), size=16, context=8, batch_size=4)
    data.setup("fit")
    train = data.parts["train"]
    assert len(train) == 24
    assert train.image[:4].tolist() == [0, 0, 1, 1]
    assert train.captions[:2] == ["A square that is red.", "something red"]
    assert len(np.unique(train.caption)) == 16


def test_a_long_caption_keeps_its_end_mark(tmp_path: Path) -> None:
    fake_captions(tmp_path)
    data = folder(tmp_path)
    found = marked(data.tokenizer, ["a red square, on black and more words than fit"], 5)[0]
    assert len(found) == 5
    assert (found[0], found[-1]) == (data.tokenizer.bos_token_id, data.tokenizer.eos_token_id) == (1, 3)


def test_clip_s_own_marks_are_taken(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["<|startoftext|>", "<|endoftext|>", "a", "red", "square"]
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<|endoftext|>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens(words[:2])
    made.save(str(tmp_path / "tokenizer.json"))
    fake_captions(tmp_path)
    data = folder(tmp_path, tokenizer=str(tmp_path / "tokenizer.json"))
    assert marked(data.tokenizer, ["a red square"], 8) == [[0, 2, 3, 4, 1]]
    assert json.loads(data.vocabulary)["roles"]["eos"] == "<|endoftext|>"


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("file,text\n00.png,a\n", "line 1: no single column 'caption'"),
        ("file,caption\n00.png,a b, c\n", "line 2: 3 cells, the first line names 2"),
        ("file,caption\n00.png,  \n", "line 2: the caption is empty"),
        ("file,caption\n../x.png,a\n", "line 2: file is '../x.png', no path below"),
        ("file,caption\nnone.png,a\n", "line 2: there is no picture"),
        ("file,caption,split\n00.png,a,train\n01.png,a,\n", "some rows have a split"),
        ("file,caption,split\n00.png,a,dev\n", "split is 'dev', not train, val or test"),
        ("file,caption\n", "holds no captions"),
        ("file,caption\n00.png,\xff\n", "no text|UTF-8"),
        ("file,caption\n00.png,a\n", r"held_out is 0\.1 of 1 pictures"),
    ],
)
def test_damaged_tables_are_one_line(table: str, said: str, tmp_path: Path) -> None:
    fake_captions(tmp_path)
    (tmp_path / "captions.csv").write_bytes(table.encode("latin-1"))
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        folder(tmp_path)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no captions\.csv and captions\.jsonl in"):
        folder(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"captions_train2017\.json"):
        ImageCaptions("coco", str(tmp_path)).setup("fit")
    fake_coco(tmp_path)
    path = tmp_path / "annotations" / "captions_val2017.json"
    path.write_text(json.dumps({"images": [{"id": 1}], "annotations": [{}]}))
    with pytest.raises(ValueError, match="image 0 has no file_name and id of its own"):
        ImageCaptions("coco", str(tmp_path)).setup("fit")
    with pytest.raises(ValueError, match=r"held_out is 0\.3, which layout: coco does not use"):
        ImageCaptions("coco", held_out=0.3)
