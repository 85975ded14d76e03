"""The pool's scores as the rounds compute them: from a training network, by length, ranked by log P."""

from __future__ import annotations

import math
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from zoo.ner import ActiveNER
from zoo.ner.acquisition import LOWEST_FIRST, ranking
from zoo.ner.choice import representative
from zoo.ner.decoders import LinearDecoder
from zoo.ner.network import Encoded
from zoo.ner.rounds import Rounds
from zoo.ner.tagger import Tagger, score_batch

SENTENCES = [["ab", "cd"], ["cd"] * 9, ["ab", "ab", "cd", "zz"], ["x"], ["ab", "x", "cd", "ab", "ef"]]


class Same(nn.Module):
    """The same state at every word."""

    def forward(self, batch: Encoded) -> Tensor:
        return torch.zeros(*batch.mask.shape, 1)


def always(p: float, lengths: list[int]) -> tuple[Tagger, Encoded]:
    """A tagger that gives its best tag the probability p at every word, and sentences for it."""
    decoder = LinearDecoder(1, 2, 0.0)
    with torch.no_grad():
        decoder.output.bias.copy_(torch.tensor([p, 1 - p]).log())
    words = torch.zeros(len(lengths), max(lengths) + 2, dtype=torch.long)
    return Tagger(Same(), decoder).eval(), Encoded(words, words[:1], words, torch.tensor(lengths))


def test_lc_is_ranked_by_log_p_where_all_probabilities_are_zero() -> None:
    network, batch = always(math.exp(-0.55144), [790, 800])
    score = score_batch(network, batch, "lc", 1, 0).score
    assert float(score[1]) == pytest.approx(-441.15, abs=0.01)
    assert ranking(score.tolist(), [0, 1], "lc" in LOWEST_FIRST) == [1, 0]


def test_scores_of_sentences_with_one_probability() -> None:
    network, batch = always(0.9, [5, 50])
    found = {
        name: score_batch(network, batch, name, 1, 0).score for name in ("lc", "mnlp", "margin", "entropy")
    }
    assert (1 - found["lc"].exp()).tolist() == pytest.approx([0.40951, 0.99485], abs=1e-5)
    assert found["mnlp"].tolist() == pytest.approx([-0.1053605] * 2, abs=1e-6)
    assert found["margin"].tolist() == pytest.approx([0.8] * 2, abs=1e-6)
    assert found["entropy"].tolist() == pytest.approx(
        [-0.9 * math.log(0.9) - 0.1 * math.log(0.1)] * 2, abs=1e-6
    )


@pytest.mark.parametrize("name", ["mnlp", "lc", "entropy", "margin"])
def test_the_surest_sentence_is_asked_last(name: str) -> None:
    unsure, batch = always(0.5001, [7])
    sure, _ = always(0.99, [7])
    values = [float(score_batch(n, batch, name, 1, 0).score) for n in (unsure, sure)]
    assert ranking(values, [4, 3], name in LOWEST_FIRST) == [4, 3]


def trained(**options: Any) -> tuple[ActiveNER, Any]:
    """A module in the middle of its training with much dropout, and the trainer that its rounds look at."""
    torch.manual_seed(0)
    sizes = {"char_dim": 5, "char_filters": 6, "word_dim": 7, "word_filters": 9, "decoder_hidden": 8}
    module = ActiveNER(["O", "B-A", "I-A"], 3, 6, **sizes, **options)  # type: ignore[arg-type]
    assert module.vocabulary is not None
    module.vocabulary.fill(["ab", "cd", "ef"], "abcdef")
    data = SimpleNamespace(
        pool=SimpleNamespace(round=0),
        batch_of=lambda batch: {"words": [SENTENCES[i] for i in batch]},
        pool_batches=lambda indices: [[i] for i in indices],
    )
    trainer = SimpleNamespace(
        datamodule=data,
        global_rank=0,
        world_size=1,
        precision_plugin=SimpleNamespace(forward_context=nullcontext),
    )
    return module.train(), trainer


@pytest.mark.parametrize("name", ["mnlp", "bald"])
def test_a_network_in_training_is_scored_without_dropout_and_goes_on_training(name: str) -> None:
    module, trainer = trained(dropout=0.5)
    rounds = Rounds()
    one, two = (rounds._score(trainer, module, range(5), name) for _ in range(2))
    assert [row[0] for row in one.values()] == [row[0] for row in two.values()]
    assert [row[1:3] for row in one.values()] == [row[1:3] for row in two.values()]
    assert all(m.training for m in module.modules())
    module.eval()
    words = [SENTENCES[i] for i in range(5)]
    _, expected = module.tag_batch(words)  # no word is [UNK] in it
    assert [one[i][1] for i in range(5)] == pytest.approx(expected, abs=1e-6)
    assert [len(one[i][2]) for i in range(5)] == [len(w) for w in words]


def test_each_sentence_gets_its_own_score() -> None:
    module, trainer = trained()
    module.eval()
    _, expected = module.tag_batch(SENTENCES)
    trainer.datamodule.pool_batches = lambda indices: [[3, 0], [2, 4], [1]]  # by length, as no index is
    found = Rounds()._score(trainer, module, range(5), "mnlp")
    assert [found[i][0] for i in range(5)] == pytest.approx(expected, abs=1e-6)


def test_every_pass_has_dropout_of_its_own() -> None:
    module, _ = trained(dropout=0.5)
    module.eval()
    batch = module.encode([SENTENCES[1]])
    assert 0 < float(score_batch(module.network, batch, "bald", 40, 0).score) < 1
    assert float(score_batch(module.network, batch, "bald", 1, 0).score) == 0  # one pass agrees with itself


# --- who is asked ----------------------------------------------------------------------------------------

POOL = [[word] * length for word in ("ab", "cd", "ef", "x") for length in (1, 2, 3, 4)]


def choosing(name: str, **options: Any) -> tuple[ActiveNER, Any, list[int]]:
    """A module, the data and the choice that it makes for a budget of nine words."""
    module, trainer = trained(acquisition=name, **options)
    data = trainer.datamodule
    data.lengths = [len(words) for words in POOL]
    data.batch_of = lambda batch: {"words": [POOL[i] for i in batch]}
    data.pool = SimpleNamespace(round=1, unlabelled=list(range(2, 16)), costs=data.lengths, budget=9)
    chosen, _, _ = Rounds()._choose(trainer, module, data)
    return module, data, chosen


@pytest.mark.parametrize("name", ["mnlp", "lc", "entropy", "margin"])
def test_the_choice_is_the_top_of_the_ranking(name: Any) -> None:
    module, data, chosen = choosing(name)
    module.eval()
    scores = {
        i: float(score_batch(module.network, module.encode([POOL[i]]), name, 1, 0).score)
        for i in data.pool.unlabelled
    }
    sign = -1 if name == "entropy" else 1
    assert chosen == sorted(scores, key=lambda i: sign * scores[i])[: len(chosen)]
    words = [data.lengths[i] for i in chosen]
    assert sum(words[:-1]) < 9 <= sum(words)


def test_the_rivals_have_the_lengths_of_mnlp_or_an_entity() -> None:
    _, data, certain = choosing("mnlp")
    _, _, rival = choosing("random_length")
    assert sorted(data.lengths[i] for i in rival) == sorted(data.lengths[i] for i in certain)
    assert rival != certain
    module, _, marked = choosing("random_entity")
    module.eval()
    holds = [any(tag != "O" for tag in module.tag_batch([words])[0][0]) for words in POOL]
    found = [holds[i] for i in marked]
    assert found == sorted(found, reverse=True)  # those without one come last
    assert any(found)
    assert not all(holds[2:])


def test_submod_weighs_by_uncertainty() -> None:
    pool = SimpleNamespace(costs=[1, 1, 1], budget=1)
    found = {i: (0.0, m, [], torch.eye(3)[i]) for i, m in enumerate((-2.0, -1.0, -0.5))}
    assert representative(pool, [0, 1, 2], found, 4) == [0]


def test_an_order_of_chance_is_one_of_seed_and_round() -> None:
    one, two = (choosing("random")[2] for _ in range(2))
    assert one == two
    assert one != sorted(one)


def test_near_copies_wait() -> None:
    _, data, plain = choosing("mnlp")
    _, _, chosen = choosing("mnlp", max_similarity=0.9)
    assert POOL[12:14] == [["x"], ["x", "x"]]
    assert plain.index(12) < plain.index(13) < plain.index(4)
    assert chosen.index(12) < chosen.index(4) < chosen.index(13)
    assert sum(data.lengths[i] for i in chosen) >= 9


def test_a_sample_of_the_pool_is_all_that_is_scored() -> None:
    module, data, _ = choosing("mnlp", pool_sample=6)
    trainer: Any = SimpleNamespace(
        datamodule=data,
        global_rank=0,
        world_size=1,
        precision_plugin=SimpleNamespace(forward_context=nullcontext),
    )
    data.pool.budget = 10**6
    chosen, values, _ = Rounds()._choose(trainer, module, data)
    assert len(chosen) == len(set(chosen)) == 6
    assert set(values) == set(chosen) <= set(data.pool.unlabelled)
