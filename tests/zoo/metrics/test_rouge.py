"""ROUGE and statistics of summaries, with texts whose numbers can be worked out by hand."""

from __future__ import annotations

import random

import pytest
import torch

from zoo.metrics.rouge import Rouge, sentences
from zoo.metrics.spread import Spread
from zoo.metrics.summaries import SummaryStatistics, statistics


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("Dr. Smith paid $3.50. He left.", ["Dr. Smith paid $3.50.", "He left."]),
        ('It was 5 p.m. in the U.S. and e.g. Paris. "Go." She went.', None),
        ("first line\nsecond line", ["first line", "second line"]),
        ("\u4f60\u597d\u3002\u518d\u89c1\u3002", ["\u4f60\u597d\u3002", "\u518d\u89c1\u3002"]),
        ("", []),
    ],
)
def test_sentences_are_cut_at_their_ends(text: str, expected: list[str] | None) -> None:
    found = sentences(text)
    if expected is None:
        assert found == ["It was 5 p.m. in the U.S. and e.g. Paris.", '"Go."', "She went."]
    else:
        assert found == expected


def test_the_mean_of_200_texts_is_that_of_rouge_score() -> None:
    from rouge_score.rouge_scorer import RougeScorer

    luck = random.Random(0)
    words = ["storm", "storms", "hit", "the", "coast", "on", "monday", "Mayor", "said", "12", "roofs"]

    def text() -> str:
        return " ".join(" ".join(luck.choices(words, k=luck.randint(3, 9))) + "." for _ in range(3))

    outputs, gold = [text() for _ in range(200)], [text() for _ in range(200)]
    metric = Rouge().double()
    metric.update(outputs[:120], gold[:120])
    metric.update(outputs[120:], gold[120:])
    scorer = RougeScorer(["rouge1", "rouge2", "rougeLsum"], use_stemmer=True)
    cut = [("\n".join(sentences(g)), "\n".join(sentences(o))) for g, o in zip(gold, outputs, strict=True)]
    scores = [scorer.score(*pair) for pair in cut]
    for place, key in enumerate(("rouge1", "rouge2", "rougeLsum")):
        expected = sum(s[key].fmeasure for s in scores) / 200
        assert float(metric.totals[place] / metric.items) == pytest.approx(expected, abs=1e-9)
        assert metric.compute()[key].item() == pytest.approx(expected, abs=1e-6)


def test_summary_level_rouge_needs_the_sentences() -> None:
    gold, output = "The cat sat. The dog ran.", "The dog ran. The cat sat."
    assert Rouge().scores(output, gold)["rougeLsum"] == pytest.approx(1.0)
    from rouge_score.rouge_scorer import RougeScorer

    plain = RougeScorer(["rougeL"], use_stemmer=True).score(gold, output)["rougeL"].fmeasure
    assert plain == pytest.approx(0.5)


def test_text_without_latin_letters_is_refused_by_name_of_the_option() -> None:
    chinese = "\u5929\u6c14\u5f88\u597d"
    with pytest.raises(ValueError, match=r"rouge_tokenizer: characters") as caught:
        Rouge().update([chinese], [chinese])
    assert "\n" not in str(caught.value)
    metric = Rouge("characters")
    metric.update([chinese[:2]], [chinese])
    assert metric.compute()["rouge1"].item() == pytest.approx(2 * 0.5 / 1.5)
    words = Rouge("words")
    words.update(["m\u00fcller"], ["m ller"])
    assert words.compute()["rouge1"].item() == 0  # to the latin tokenizer they are the same


def test_statistics_of_one_summary_by_hand() -> None:
    found = statistics("In Rome 12 people met Bob .", "12 people met in Rome on Monday", "people met in Rome")
    assert found["length"] == 6
    assert found["length_ratio"] == 1.5
    assert found["novel_1grams"] == pytest.approx(1 / 6)
    assert found["novel_2grams"] == pytest.approx(2 / 5)  # (rome, 12) and (met, bob)
    assert found["copied"] == pytest.approx(3 / 6)  # 12 people met
    assert found["names_in_source"] == pytest.approx(1 / 2)  # Rome, Bob; In begins the sentence
    assert found["numbers_in_source"] == 1.0


def test_what_a_summary_does_not_have_is_no_zero() -> None:
    metric = SummaryStatistics()
    metric.update(["", "two words"], ["a document", "two words"], ["x", "two words"])
    found = metric.compute()
    assert found["novel_1grams"].item() == 0  # of the second alone
    assert found["length"].item() == 1
    assert "numbers_in_source" not in found


def test_spread_over_batches_is_that_of_all_vectors() -> None:
    vectors = torch.randn(50, 6)
    metric = Spread(6)
    metric.update(vectors[:3])
    metric.update(vectors[3:])
    assert metric.compute().item() == pytest.approx(vectors.std(dim=0).mean().item(), abs=1e-6)
    alone = Spread(6)
    alone.update(vectors[:1])
    assert alone.compute().item() == 0
