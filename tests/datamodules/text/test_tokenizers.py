from pathlib import Path

import pytest

from datamodules.text.tokenizers import document, from_document, load_tokenizer, token_ids, train_tokenizer

TEXTS = ["the cat sat on the mat", "The dog , the cat !", "Straße und Katze"] * 3


def test_byte_bpe_gives_back_any_text_and_special_tokens_have_their_places() -> None:
    made = train_tokenizer(TEXTS, 300, last_specials=["<mask>"])
    assert [made.bos_token_id, made.pad_token_id, made.eos_token_id, made.unk_token_id] == [0, 1, 2, 3]
    assert made.mask_token_id == len(made) - 1
    text = "a  </s> 汉字 don't ."
    (ids,) = token_ids(made, [text])
    assert made.eos_token_id not in ids
    assert made.decode(ids) == text


def test_words_and_bpe_lower_case_and_know_their_unknown() -> None:
    made = train_tokenizer(TEXTS, 12, "words", ["<unk>", "<pad>", "<s>", "</s>", "<a>"], lowercase=True)
    assert made.convert_tokens_to_ids(["<unk>", "<pad>", "<s>", "</s>", "<a>"]) == [0, 1, 2, 3, 4]
    ids = token_ids(made, ["The zebra, cat"])[0]
    assert made.convert_ids_to_tokens(ids) == ["the", "<unk>", ",", "cat"]
    assert made.decode(token_ids(made, ["the cat"])[0]) == "the cat"
    pieces = train_tokenizer(TEXTS, 60, "bpe", ["<unk>", "<pad>", "<s>", "</s>"], lowercase=True)
    assert pieces.decode(token_ids(pieces, ["the katze"])[0]) == "the katze"


def test_a_document_is_the_whole_tokenizer(tmp_path: Path) -> None:
    made = train_tokenizer(TEXTS, 300, last_specials=["<mask>"])
    made("x", padding="max_length", max_length=9, truncation=True)  # leaves a trace in the library's own
    again = from_document(document(made))
    assert (
        document(again) == document(made) == document(train_tokenizer(TEXTS, 300, last_specials=["<mask>"]))
    )
    assert token_ids(again, TEXTS) == token_ids(made, TEXTS)
    assert (again.bos_token_id, again.mask_token_id) == (0, made.mask_token_id)
    made.save_pretrained(tmp_path / "t")
    for source in (tmp_path / "t", tmp_path / "t/tokenizer.json"):
        found = load_tokenizer(str(source))
        assert token_ids(found, TEXTS) == token_ids(made, TEXTS)
        assert found.eos_token_id == 2


def test_bad_sources_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"model": 3}')
    with pytest.raises(ValueError, match=r"tokenizer\.json is no tokenizer: [^\n]*$"):
        load_tokenizer(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match=r"the folder .* has no tokenizer that can be read: [^\n]*$"):
        load_tokenizer(str(tmp_path))
    with pytest.raises(ValueError, match="has no room for 261 entries"):
        train_tokenizer(TEXTS, 200, last_specials=["<mask>"])
