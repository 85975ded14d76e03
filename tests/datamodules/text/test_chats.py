"""Chats: replies alone are scored, packed or not; repeated ones and questions that are held out go."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from datamodules import Chats
from datamodules.text.chat_files import chat_of, chatterbot, of_turns
from datamodules.text.chats import exchanges
from datamodules.text.packed_rows import packed

TURNS = [["hi", "hello there"], ["how are you?", "fine", "and now?", "still fine é"], ["bye", "see you"]]


def lines(path: Path, chats: list[Any]) -> Path:
    path.write_text("".join(json.dumps(c) + "\n" for c in chats), encoding="utf-8")
    return path


def many(count: int = 40) -> list[Any]:
    return [{"turns": [f"question {i}?", f"answer {i} é" * (1 + i % 5), "more?", "no"]} for i in range(count)]


def whole(rows: Any) -> dict[str, Tensor]:
    found: dict[str, Tensor] = rows.__getitems__(list(range(len(rows))))
    return found


def texts(ids: Tensor) -> str:
    return bytes(i - 3 for i in ids.tolist() if i > 2).decode()


def test_the_corpus_of_chatterbot_has_the_numbers_that_it_is_said_to_have() -> None:
    found = chatterbot()
    turns = [text for chat in found for _, text in chat]
    assert (len(found), len(turns)) == (2026, 4419)
    assert (len({*found}), len({*turns})) == (899, 1902)
    data = Chats()
    assert sum(map(len, data.splits.values())) == 899
    questions = [{chat[0][1].lower() for chat in data.splits[s]} for s in ("train", "val", "test")]
    assert not questions[0] & questions[1] | questions[0] & questions[2] | questions[1] & questions[2]


def test_a_chat_has_its_replies_scored_alone(tmp_path: Path) -> None:
    data = Chats("jsonl", str(lines(tmp_path / "c.jsonl", many())), context=128)
    data.setup("fit")
    assert [*exchanges(of_turns(TURNS[1]))] == [
        ("User: how are you?\nAssistant: ", "fine"),
        ("\nUser: and now?\nAssistant: ", "still fine é"),
    ]
    (piece,), lost = data._cut([of_turns(TURNS[1])])
    assert lost == 0
    ids = torch.from_numpy(piece.ids)
    text = "User: how are you?\nAssistant: fine\nUser: and now?\nAssistant: still fine é"
    assert texts(ids) == text
    assert piece.ids[0] == 1
    assert texts(ids[torch.from_numpy(piece.kinds == 1)]) == "finestill fine é"
    assert piece.ids[piece.kinds == 2].tolist() == [2, 2]
    training, evaluation = whole(data.train_set), whole(data.val_set)
    assert int((training["labels"] == 2).sum()) == 2 * len(data.splits["train"])
    assert not (evaluation["labels"] == 2).any()
    for split, batch in (("train", training), ("val", evaluation)):
        replies = [t for chat in data.splits[split] for role, t in chat if role == "assistant"]
        assert int(batch["bytes"].sum()) == sum(len(t.encode()) for t in replies)
        assert sorted(texts(batch["labels"][batch["labels"] > 2])) == sorted("".join(replies))


def test_chats_too_long_are_cut_before_a_question_and_each_reply_is_scored_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Chats("jsonl", str(lines(tmp_path / "c.jsonl", many())), context=48)
    data.setup("fit")
    pieces, lost = data._cut([of_turns(["q" * 90, "r" * 9, "next?", "yes", "and?", "z" * 200])])
    assert [texts(torch.from_numpy(p.ids)) for p in pieces] == [
        "q" * (47 - 9 - 1 - 12) + "\nAssistant: " + "r" * 9,
        "\nUser: next?\nAssistant: yes",
        # a quarter of the row is the question's, the reply has the rest and no end
        "\nAssistant: " + "z" * 34,
    ]
    assert lost == 166
    assert [2 in p.ids for p in pieces] == [True, True, False]
    assert max(len(p.ids) for p in pieces) <= 48
    assert "tokens of replies longer than the 48 of a row are left out" in capsys.readouterr().out


def test_packing_keeps_the_loss(tmp_path: Path) -> None:
    """The sum over the scored tokens, of a network that sees what ``documents`` let it see."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = LlamaForCausalLM(
        LlamaConfig(vocab_size=259, hidden_size=16, intermediate_size=16, num_hidden_layers=2,
                    num_attention_heads=2, attn_implementation="eager", initializer_range=0.3)
    ).eval()  # fmt: skip
    means, tokens, rows = [], [], []
    for pack in (True, False):
        data = Chats("jsonl", str(lines(tmp_path / "c.jsonl", many())), context=320, pack=pack)
        data.setup("fit")
        batch = whole(data.val_set)
        seen = batch["documents"]
        mask = (seen[:, :, None] == seen[:, None]) & torch.ones_like(seen[0]).diag().cumsum(0).bool()
        bias = torch.zeros(mask.shape).masked_fill(~mask, -1e9)[:, None]
        with torch.no_grad():
            logits = network(
                batch["input_ids"], attention_mask=bias, position_ids=batch["position_ids"]
            ).logits.double()
        losses = torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=-100, reduction="sum"
        )
        tokens.append(int((batch["labels"] >= 0).sum()))
        means.append(float(losses) / tokens[-1])
        rows.append(len(data.val_set))
        begins = (seen[:, 1:] != seen[:, :-1]) & (seen[:, 1:] > 0)
        assert (batch["position_ids"][:, 1:][begins] == 0).all()
        assert int((batch["position_ids"] == 0)[seen > 0].sum()) == 4  # one of each chat
    assert tokens[0] == tokens[1]
    assert rows[0] < rows[1] == 4
    assert means[0] == pytest.approx(means[1], abs=1e-6)


def test_best_fit_cuts_nothing_and_leaves_little() -> None:
    sizes = [7, 5, 5, 3, 3, 3, 2, 2, 10, 1]
    rows = packed(sizes, 10)
    assert sorted(i for row in rows for i in row) == [*range(len(sizes))]
    assert all(sum(sizes[i] for i in row) <= 10 for row in rows)
    assert len(rows) == 5  # 41 tokens: no fewer are enough
    assert rows == packed(sizes, 10)


def test_repeated_chats_and_questions_that_are_held_out_go(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines(tmp_path / "train.jsonl", [*many(9), *many(3), {"turns": ["Who?", "me"]}, {"turns": ["alone"]}])
    lines(tmp_path / "test.jsonl", [{"turns": [" who? ", "you"]}])
    data = Chats("jsonl", str(tmp_path), context=64, val_share=0.3)
    assert [len(data.splits[s]) for s in ("train", "val", "test")] == [6, 3, 1]
    out = capsys.readouterr().out
    assert "4 that are there before or have no reply" in out
    assert all("who" not in chat[0][1].lower() for chat in data.splits["train"])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"text": "x"}, r"line 1: no list 'messages' of role and content, nor 'turns' of texts, only 'text'"),
        ({"messages": []}, "no list 'messages'"),
        ({"messages": [{"role": "user"}]}, r"line 1, message 1: .* has no text 'content' with a 'role'"),
        ({"messages": [{"role": "king", "content": "x"}]}, r"message 1: .*'role' of assistant, system, user"),
        ({"turns": ["a", 3]}, "message 1"),
    ],
)
def test_bad_chats_are_one_line(tmp_path: Path, line: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        Chats("jsonl", str(lines(tmp_path / "c.jsonl", [line]))).setup("fit")
    assert "\n" not in str(caught.value)


def test_messages_of_other_tools_and_a_few_chats_too_few(tmp_path: Path) -> None:
    record = {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}
    assert chat_of(record, "x") == (("user", "a"), ("assistant", "b"))
    with pytest.raises(ValueError, match="1 chats, of which none is left to train"):
        Chats("jsonl", str(lines(tmp_path / "c.jsonl", [record]))).setup("fit")
    with pytest.raises(FileNotFoundError, match=r"no .*train.jsonl; expected are lines of messages"):
        Chats("jsonl", str(tmp_path)).setup("fit")


def test_a_prediction_answers_what_is_asked(tmp_path: Path) -> None:
    data = Chats(
        "jsonl", str(lines(tmp_path / "c.jsonl", many())), context=64, predict=["hi", "how are you?"]
    )
    data.setup("predict")
    batch = next(iter(data.predict_dataloader()))
    assert batch["prompt"] == ["User: hi\nAssistant: ", "User: how are you?\nAssistant: "]
    assert texts(batch["input_ids"][0]) == batch["prompt"][0]
    assert (batch["documents"][0].sum(), batch["input_ids"][0][-1]) == (21, 32 + 3)
    data = Chats("jsonl", str(tmp_path / "c.jsonl"), context=64, predict_samples=2)
    data.setup("predict")
    batch = next(iter(data.predict_dataloader()))
    assert batch["reference"][0].startswith("answer ")
    assert batch["prompt"][0].startswith("User: question ")
