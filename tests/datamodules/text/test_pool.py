"""The pool, the order of a round and the noisy oracle as functions of seed, round and position."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes.named_entities import fake_ontonotes

from datamodules import NER
from datamodules.loading.loaders import TrainLoader
from datamodules.text.pool import Pool, noisy, take_budget
from datamodules.text.rounds import RoundLoader, RoundSampler, padded_words
from datamodules.text.schemes import tags_of
from zoo.ner import ActiveNER

LENGTHS = [(7 * i) % 23 + 1 for i in range(40)]
MEMBERS = [1, 4, 5, 8, 13, 21, 22, 30, 31, 32, 39]


def sampler(updates: int = 22, **options: object) -> RoundSampler:
    return RoundSampler(MEMBERS, LENGTHS, 4, updates, seed=3, round_=2, window=4, **options)  # type: ignore[arg-type]


def test_a_round_has_whole_passes_in_orders_of_their_own() -> None:
    drawn = [key for batch in sampler() for key in batch]
    assert len(drawn) == 88  # eight passes over eleven sentences
    assert Counter(index for _, index in drawn) == dict.fromkeys(MEMBERS, 8)
    assert len(list(sampler(9))) == 9
    short = Counter(index for batch in sampler(9) for _, index in batch)  # 36 draws: the last window is cut
    assert set(short.values()) == {3, 4}
    assert [k for b in sampler() for k in b] == drawn
    other = RoundSampler(MEMBERS, LENGTHS, 4, 22, seed=3, round_=3, window=4)
    assert [k for b in other for k in b] != drawn


def test_batches_pad_little_and_their_order_does_not_follow_length() -> None:
    batches = [[i for _, i in batch] for batch in sampler()]
    plain = [[i for _, i in b] for b in RoundSampler(MEMBERS, LENGTHS, 4, 22, 3, 2, window=1)]
    assert padded_words(batches, LENGTHS) < 0.8 * padded_words(plain, LENGTHS)
    longest = [max(LENGTHS[i] for i in batch) for batch in batches[:4]]
    assert any(sorted(w) != w for w in (longest, [max(LENGTHS[i] for i in b) for b in batches[4:8]]))


def test_a_resumed_round_and_two_processes_see_the_same_batches() -> None:
    whole = list(sampler())
    for position in (0, 3, 4, 21, 22):
        assert list(sampler(position=lambda p=position: p)) == whole[position:]
    halves = [list(sampler(rank=r, world_size=2)) for r in (0, 1)]
    assert all(sorted(a + b) == sorted(w) for a, b, w in zip(*halves, whole, strict=True))
    with pytest.raises(ValueError, match="multiple of the number of devices"):
        sampler(world_size=3)


def test_the_seed_set_and_the_sample_are_functions_of_the_seed() -> None:
    pools = []
    for seed in (0, 0, 1):
        pool = Pool(LENGTHS, 30)
        pool.start(seed, 50, held_out=5)
        pools.append(pool)
        spent = sum(LENGTHS[i] for i in pool.labelled)
        assert 50 <= spent < 50 + max(LENGTHS)
        assert len(pool.labelled) + len(pool.unlabelled) + 5 == 40
        assert not set(pool.held_out) & {*pool.labelled, *pool.unlabelled}
    assert pools[0].state() == pools[1].state()
    assert pools[0].labelled != pools[2].labelled
    restored = Pool(LENGTHS, 30)
    restored.restore(pools[2].state())
    assert restored.state() == pools[2].state()
    with pytest.raises(ValueError, match="40 sentences, the data have 3"):
        Pool([1, 2, 3], 1).restore(pools[2].state())


def test_both_rooms_walk_down_a_ranking_alike() -> None:
    from zoo.ner import acquisition

    order = [5, 3, 9, 1, 0]
    for budget in range(80):
        assert take_budget(order, LENGTHS, budget) == acquisition.take_budget(order, LENGTHS, budget)


def test_the_noisy_oracle_errs_in_its_share_and_each_time_alike() -> None:
    spans, types = [(2, 5, "A"), (7, 8, "B")], ["A", "B"]
    wrong = words = 0
    for index in range(400):
        found = noisy(spans, 10, types, 0.2, 0, index)
        assert found == noisy(spans, 10, types, 0.2, 0, index)
        pairs = zip(tags_of(found, 10, "iob2"), tags_of(spans, 10, "iob2"), strict=True)
        wrong += sum(a != b for a, b in pairs)
        words += 10
    assert 0.16 < wrong / words < 0.24
    assert noisy(spans, 10, types, 0.0, 0, 7) == spans
    assert noisy(spans, 10, types, 0.5, 0, 7) != noisy(spans, 10, types, 0.5, 1, 7)
    data = NER(train_sentences=60, seed_budget=100, noise=0.5)
    data.setup("fit")
    assert any(data.labels_of(i) != list(s.spans or ()) for i, s in enumerate(data.sets["train"]))


def test_units_of_the_budget() -> None:
    for unit, seed_budget, expected in (("sentences", 7, 7), ("percent", 100, 60)):
        data = NER(train_sentences=60, seed_budget=seed_budget, budget=5, unit=unit)  # type: ignore[arg-type]
        data.setup("fit")
        assert data.pool is not None
        assert len(data.pool.labelled) == expected
    with pytest.raises(ValueError, match=r"budget is 2.5, but whole words are labelled"):
        NER(budget=2.5, seed_budget=3, unit="words")
    with pytest.raises(ValueError, match="seed_budget is 101 percent"):
        NER(seed_budget=101)


def test_a_cost_counts_sentences_and_words() -> None:
    data = NER(
        train_sentences=60, unit="cost", sentence_cost=2.5, word_cost=0.5, seed_budget=40.0, budget=21.5
    )
    data.setup("fit")
    pool = data.pool
    assert pool is not None
    assert pool.costs == [2.5 + 0.5 * n for n in data.lengths]
    assert pool.budget == 21.5
    spent = sum(2.5 + 0.5 * data.lengths[i] for i in pool.labelled)
    assert 40 <= spent < 40 + max(pool.costs)
    with pytest.raises(ValueError, match="are both 0"):
        NER(unit="cost", word_cost=0.0)
    # with no cost of its own a sentence is its words
    words = NER(train_sentences=60, unit="words", seed_budget=40, budget=21)
    same = NER(train_sentences=60, unit="cost", seed_budget=40, budget=21)
    for each in (words, same):
        each.setup("fit")
    assert words.pool is not None
    assert same.pool is not None
    assert words.pool.state() == same.pool.state()


def test_a_pool_of_other_sentences_is_not_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / "train.conll").write_text("Ada B-PER\n")
    (tmp_path / "dev.conll").write_text("Ely B-PER\n")
    state: dict[str, Any] = {}
    for text in ("a b\nc\n", "a b\nd\n", "c\na b\n", "a\nb c\n"):
        (tmp_path / "pool.txt").write_text(text)
        data = NER("files", str(tmp_path), oracle="human")
        data.setup("fit")
        state = state or data.state_dict()
        if text == "a b\nc\n":
            data.load_state_dict(state)
            continue
        with pytest.raises(ValueError, match=r"other sentences than the data.*start anew"):
            data.load_state_dict(state)


def test_a_run_that_goes_on_with_other_labels_or_another_seed_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def data(train: str = "Ada B-PER\n", dev: str = "Ely B-PER\n", seed: int = 0) -> NER:
        (tmp_path / "train.conll").write_text(train)
        (tmp_path / "dev.conll").write_text(dev)
        (tmp_path / "pool.txt").write_text("a b\nc\n")
        found = NER("files", str(tmp_path), oracle="human", seed=seed, types=["PER", "LOC"])
        found.setup("fit")
        return found

    state = data().state_dict()
    changes: list[tuple[dict[str, Any], str]] = [
        ({}, ""),
        ({"dev": "Ely B-LOC\n"}, "goes on with another dev set: val/f1 of rounds before and after cannot"),
        ({"dev": "Ely B-PER\nleft O\n"}, "goes on with another dev set"),
        (
            {"train": "Ada B-LOC\n"},
            "goes on with other labels of its train set: what is labelled has the new",
        ),
        ({"seed": 3}, "goes on with seed 3, it had 0: the orders of its rounds are others"),
    ]
    for change, said in changes:
        capsys.readouterr()
        data(**change).load_state_dict(state)
        out = capsys.readouterr().out
        assert said in out
        assert out.count("\n") == bool(said)
    data(seed=3).load_state_dict({"pool": state["pool"]})  # a checkpoint of before
    simulated = NER(train_sentences=60)
    simulated.setup("fit")
    state = simulated.state_dict()
    noisy_one = NER(train_sentences=60, noise=0.25)
    noisy_one.setup("fit")
    noisy_one.load_state_dict(state)
    assert "goes on with noise 0.25, it had 0.0" in capsys.readouterr().out


def own(folder: Path, pool: str, **options: Any) -> NER:
    """A user's folder with one labelled sentence, and its data."""
    (folder / "train.conll").write_text("Ada B-PER\nleft O\n")
    (folder / "dev.conll").write_text("Ely B-PER\n")
    (folder / "pool.txt").write_text(pool)
    data = NER("files", str(folder), oracle="human", **options)
    data.setup("fit")
    assert data.pool is not None
    return data


def test_what_has_labels_or_stands_twice_is_not_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = own(tmp_path, "Ada left\nx y\nx y\nEly\nz\n", held_out=1)
    assert data.pool is not None
    assert sorted([*data.pool.unlabelled, *data.pool.held_out]) == [2, 5]  # as numbered in the files
    said = capsys.readouterr().out
    assert "3 of 5 pool sentences are not asked: 2 stand in train, dev or test, 1 stand in the pool" in said


def test_a_late_label_does_not_change_where_the_round_began(tmp_path: Path) -> None:
    """Without updates of their own, rounds are as long as what is labelled when they begin."""
    pool, state = "a\nb\nc\nd\n", None
    begun = []
    for asked, lines in (
        ([1, 2], []),
        (
            [3],
            [
                {"text": "a", "meta": {"index": 1}, "answer": "ignore"},
                {"text": "b", "meta": {"index": 2}, "answer": "accept"},
            ],
        ),
        (
            [4],
            [
                {"text": "a", "meta": {"index": 1}, "answer": "accept"},
                {"text": "c", "meta": {"index": 3}, "answer": "accept"},
            ],
        ),
    ):
        (tmp_path / "back.jsonl").write_text("\n".join(map(json.dumps, lines)) or "\n")
        labels = [str(tmp_path / "back.jsonl")] if lines else []
        data = own(tmp_path, pool, passes=3, batch_size=2, labels=labels)
        assert data.pool is not None
        if state is not None:
            data.load_state_dict(state)
        begun.append(data.pool.batches_before)
        data.ask(asked, {})
        state = data.state_dict()
    assert begun == [0, 2, 5]  # one sentence three times in batches of two, then two of them


def test_limits_of_length_hold_for_the_pool_of_people(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train.conll").write_text("Ada B-PER\nleft O\n")
    (tmp_path / "dev.conll").write_text("Ely B-PER\n")
    (tmp_path / "pool.txt").write_text("one\ntwo words\nthese are too many words\nthree more words\n")
    data = NER("files", str(tmp_path), oracle="human", min_words=2, max_words=3)
    data.setup("fit")
    assert [len(s.words) for s in data.sets["train"]] == [2, 2, 3]
    assert "1 of 3 pool sentences have more than data.init_args.max_words 3" in capsys.readouterr().out


def test_genres_of_ontonotes_are_kept_chosen_and_counted(tmp_path: Path) -> None:
    fake_ontonotes(tmp_path, "english")
    data = NER("ontonotes", str(tmp_path), genres=["nw"])
    data.setup("fit")
    assert {s.genre for s in data.sets["train"]} == {"nw"}
    assert data.genres == ["bc", "nw"]  # of all sets; pt has no entities and is left out
    assert len(data.tags) == 73
    names = {data.genres[g] for batch in data.val_dataloader() for g in batch["genre"].tolist()}
    assert names == {"bc", "nw"}
    with pytest.raises(ValueError, match=r"genres has 'wb'; .* has bc, nw"):
        NER("ontonotes", str(tmp_path), genres=["wb"]).setup("fit")
    with pytest.raises(FileNotFoundError, match=r"layout of CoNLL-2012"):
        NER("ontonotes", str(tmp_path), language="chinese").setup("fit")


def test_pretrained_vectors_reach_the_embedding_of_their_word(tmp_path: Path) -> None:
    path = tmp_path / "v.txt"
    path.write_text("rained 1 2 3\nAnna 4 5 6\n")
    data = NER(train_sentences=50, embeddings=str(path))
    data.setup("fit")
    assert data.vector_size == 3
    module = ActiveNER(data.tags, data.num_words, data.num_characters, word_dim=3, word_filters=8)
    assert module.vocabulary is not None
    module.vocabulary.fill(data.vocabulary_words, data.vocabulary_characters)
    module._take_vectors(data.vectors)
    weight = module.network.encoder.embedding.weight
    assert torch.equal(weight[module.vocabulary.id_of("rained")], torch.tensor([1.0, 2, 3]))
    assert torch.equal(weight[module.vocabulary.id_of("Anna")], torch.tensor([4.0, 5, 6]))
    assert float(weight[module.vocabulary.id_of("nobody")].abs().max()) <= 1


def test_a_round_of_other_batches_is_told_as_every_loader_does() -> None:
    """What has changed is the batch alone: how many sentences are labelled changes with every round."""
    rows: Any = list(range(100))
    loader, other = RoundLoader(rows, batch_sampler=sampler()), TrainLoader(rows, batch_sampler=sampler())
    assert isinstance(loader, TrainLoader)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loader.load_state_dict(loader.state_dict())
    with pytest.warns(UserWarning, match=r"trained on batches of 8, this run has batches of 4: the order"):
        loader.load_state_dict({"batch_size": 8})
    other.batch_sampler.size = 9
    with pytest.warns(UserWarning, match=r"on batches of 4 of 7 items, this run has batches of 4 of 9 items"):
        other.load_state_dict({"items": 7, "batch_size": 4})
