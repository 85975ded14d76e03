"""The tagger: the paper's sizes, nothing that depends on padding, the decoders against brute force."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from zoo.ner import ActiveNER
from zoo.ner.decoders import CRFDecoder, LSTMDecoder
from zoo.ner.network import FIRST, UNKNOWN, drop_words
from zoo.ner.tagger import score_batch
from zoo.ner.vocabulary import Vocabulary, key_of

SMALL = {
    "num_words": 4, "num_characters": 6, "char_dim": 5, "char_filters": 6, "word_dim": 7, "word_filters": 9,
    "decoder_hidden": 8, "tags": ["O", "B-A", "I-A"],
}  # fmt: skip
SENTENCES = [["ab", "Cd", "ab"], ["x", "ef", "cd", "abc", "zzzz", "Q", "ef", "ab"], ["ef"]]


def small(**options: Any) -> ActiveNER:
    torch.manual_seed(0)
    light = options.get("word_encoder", "cnn") == "cnn"
    sizes = {k: v for k, v in SMALL.items() if light or k != "word_filters"}
    if options.get("char_encoder", "cnn") != "cnn":
        sizes.pop("char_filters")
    if options.get("tag_decoder", "lstm") != "lstm":
        sizes.pop("decoder_hidden")
    module = ActiveNER(**{**sizes, **options})
    assert module.vocabulary is not None
    module.vocabulary.fill(["ab", "cd", "ef", "000"], "abcdef")
    return module.eval()


VARIANTS = [
    {},
    {"char_encoder": "lstm", "word_encoder": "lstm", "word_hidden": 5, "char_hidden": 3},
    {"char_encoder": "none", "word_residual": True, "word_layers": 3, "char_dim": 25, "char_filters": 50},
    {"tag_decoder": "crf"},
    {"tag_decoder": "linear", "char_layers": 2, "char_kernel": 4, "word_kernel": 2},
]


@pytest.mark.parametrize(("residual", "total"), [(False, 3_547_693), (True, 3_548_993)])
def test_cnn_cnn_lstm_has_the_papers_parameters(residual: bool, total: int) -> None:
    module = ActiveNER(char_residual=residual)  # K = 17, all widths the paper's
    sizes = {n: p.numel() for n, p in module.named_parameters()}
    assert sum(v for n, v in sizes.items() if "embedding" not in n) == total
    convolutions = {n: v for n, v in sizes.items() if ".layers." in n}
    of_characters = sum(v for n, v in convolutions.items() if "characters" in n)
    assert (of_characters, sum(convolutions.values()) - of_characters) == (6_300, 360_800 + 1_920_800)
    assert sum(v for n, v in sizes.items() if "decoder.lstm" in n) == 1_255_424
    assert sum(v for n, v in sizes.items() if "decoder.output" in n) == 4_369


@torch.no_grad()
@pytest.mark.parametrize("options", VARIANTS, ids=lambda o: "-".join(map(str, o.values())) or "paper")
def test_what_a_sentence_gets_does_not_depend_on_its_batch(options: dict[str, Any]) -> None:
    module = small(**options)
    together = module.network.encoder(module.encode(SENTENCES))
    whole = module.network.decode(module.encode(SENTENCES))
    for row, sentence in enumerate(SENTENCES):
        alone = module.encode([sentence])
        torch.testing.assert_close(
            module.network.encoder(alone)[0], together[row, : len(sentence)], atol=1e-5, rtol=1e-5
        )
        assert float(module.network.decode(alone).log_p) == pytest.approx(float(whole.log_p[row]), abs=1e-6)
        if len(sentence) < 8:
            assert bool((together[row, len(sentence) :] == 0).all())


def test_dropped_words_keep_marks_and_characters() -> None:
    module = small()
    batch = module.encode(SENTENCES)
    inner = batch.words[:, 1:-1]
    dropped = drop_words(batch, torch.zeros(inner.shape), 0.5)
    assert bool((dropped.words[:, 1:-1][batch.mask] == UNKNOWN).all())
    assert torch.equal(dropped.words[:, 0], batch.words[:, 0])
    ends = batch.words[torch.arange(3), batch.lengths + 1]
    assert torch.equal(dropped.words[torch.arange(3), batch.lengths + 1], ends)
    assert torch.equal(dropped.characters, batch.characters)
    kept = drop_words(batch, torch.full(inner.shape, 0.6), 0.5)
    assert torch.equal(kept.words, batch.words)


def test_words_are_looked_up_exact_then_lower_then_with_zeros() -> None:
    vocabulary = Vocabulary(4, 2)
    vocabulary.fill(["Ab", "ab", "cd", "000-0"], "ab")
    found = [vocabulary.id_of(w) - FIRST for w in ("Ab", "AB", "CD", "123-4")]
    assert found == [0, 1, 2, 3]
    assert vocabulary.id_of("zz") == UNKNOWN
    assert vocabulary.spelled("abc")[1:-1] == [4, 5, UNKNOWN]
    other = Vocabulary(4, 2)
    other.load_state_dict(vocabulary.state_dict())
    assert other.id_of("CD") == vocabulary.id_of("CD")
    assert key_of("ab") != key_of("Ab")
    with pytest.raises(ValueError, match="4 words and 2 characters, given are 1 different of 2"):
        vocabulary.fill(["a", "a"], "ab")


# --- the LSTM decoder -----------------------------------------------------------------------------------


def decoder_and_states(length: int = 5, tags: int = 4, seed: int = 3) -> tuple[LSTMDecoder, Tensor, Tensor]:
    torch.manual_seed(seed)
    decoder = LSTMDecoder(6, tags, 7, 0.5).eval()
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    h = torch.randn(3, length, 6)
    mask = torch.arange(length) < torch.tensor([[length], [length - 2], [1]])
    return decoder, h, mask


def test_one_fused_call_equals_step_by_step() -> None:
    decoder, h, mask = decoder_and_states()
    greedy = decoder.decode(h, mask)
    fused = decoder.log_probabilities(h, greedy.tags)
    torch.testing.assert_close(fused.exp(), greedy.probabilities, atol=1e-5, rtol=1e-5)
    loss = decoder.negative_log_likelihood(h, mask, greedy.tags)
    torch.testing.assert_close(-loss.double(), greedy.log_p, atol=1e-5, rtol=1e-5)
    assert greedy.probabilities.shape[2] == 4  # K columns: no [GO]


def brute_force(decoder: Any, h: Tensor, tags: int, length: int) -> tuple[float, tuple[int, ...]]:
    every = torch.tensor(list(itertools.product(range(tags), repeat=length)))
    h = h.detach()
    rows, mask = h[:1].expand(len(every), -1, -1), torch.ones(len(every), length, dtype=torch.bool)
    log_p = -decoder.negative_log_likelihood(rows, mask, every).detach()
    assert float(log_p.exp().sum()) == pytest.approx(1, abs=1e-5)
    best = int(log_p.argmax())
    return float(log_p[best]), tuple(every[best].tolist())


def test_beams_lie_between_greedy_and_brute_force() -> None:
    decoder, h, mask = decoder_and_states(4, 3)
    greedy = decoder.decode(h, mask)
    one = decoder.beam(h, mask, 1)
    assert torch.equal(torch.where(mask, one.tags, 0), torch.where(mask, greedy.tags, 0))
    torch.testing.assert_close(one.log_p, greedy.log_p, atol=1e-6, rtol=1e-6)
    before = greedy.log_p
    for width in (2, 5, 27):
        wider = decoder.beam(h, mask, width)
        assert bool((wider.log_p >= greedy.log_p - 1e-6).all())
        # what it says of its tags is so: states and histories belong together
        loss = decoder.negative_log_likelihood(h, mask, wider.tags)
        torch.testing.assert_close(-loss.double(), wider.log_p, atol=1e-5, rtol=1e-5)
        before = wider.log_p
    best, tags = brute_force(decoder, h, 3, 4)
    assert float(before[0].detach()) == pytest.approx(best, abs=1e-5)
    assert tuple(decoder.beam(h, mask, 27).tags[0].tolist()) == tags


@torch.no_grad()
def test_a_beam_of_all_hypotheses_finds_what_greedy_misses() -> None:
    missed = 0
    for seed in range(8):
        decoder, h, mask = decoder_and_states(4, 3, seed)
        best, tags = brute_force(decoder, h, 3, 4)
        found = decoder.beam(h, mask, 27)
        assert float(found.log_p[0]) == pytest.approx(best, abs=1e-5)
        assert tuple(found.tags[0].tolist()) == tags
        missed += float(decoder.decode(h, mask).log_p[0]) < best - 1e-3
    assert missed


def test_gold_tags_do_not_reach_the_decoding() -> None:
    seen = []
    for gold in (0, 2):
        module = small()
        batch = {
            "words": SENTENCES,
            "tags": torch.full((3, 8), gold),
            "spans": [[(0, 1, "A")], [], []],
            "index": torch.arange(3),
        }
        module.validation_step(batch, 0)
        module.test_step(batch, 0)
        counts = [getattr(module, name).metric_state for name in ("val_f1", "test_f1", "test_strict")]
        seen.append((str(counts), module.predict_step(batch, 0).spans))
    assert seen[0] == seen[1]


def test_feeding_back_its_own_tags_changes_the_loss_where_they_are_wrong() -> None:
    decoder, h, mask = decoder_and_states()
    gold = (decoder.decode(h, mask).tags + 1) % 4
    taught = decoder.negative_log_likelihood(h, mask, gold)
    decoder.feedback = "greedy"
    alone = decoder.negative_log_likelihood(h, mask, gold)
    assert float((taught - alone).abs()[0]) > 1e-3
    assert float((taught - alone).abs()[2]) < 1e-6  # of one word, whose history is [GO] alone


# --- the CRF -----------------------------------------------------------------------------------------------


def test_the_crf_is_the_brute_force_one() -> None:
    torch.manual_seed(1)
    crf = CRFDecoder(5, 3, 0.0).eval()
    torch.nn.init.normal_(crf.transitions)
    h = torch.randn(2, 4, 5)
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    best, tags = brute_force(crf, h, 3, 4)
    found = crf.decode(h, mask)
    assert tuple(found.tags[0].tolist()) == tags
    assert float(found.log_p[0]) == pytest.approx(best, abs=1e-5)
    every = torch.tensor(list(itertools.product(range(3), repeat=4)))
    p = (-crf.negative_log_likelihood(h[:1].expand(81, -1, -1), mask[:1].expand(81, -1), every)).exp()
    marginals = torch.stack([(p[:, None] * (every == k)).sum(0) for k in range(3)], 1)
    torch.testing.assert_close(found.probabilities[0], marginals, atol=1e-5, rtol=1e-5)
    short = crf.decode(h[1:, :2], mask[1:, :2])
    torch.testing.assert_close(found.log_p[1:], short.log_p, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(found.probabilities[1:, :2], short.probabilities, atol=1e-6, rtol=1e-6)


# --- scoring ---------------------------------------------------------------------------------------------


def test_scores_repeat_to_the_bit_and_dropout_acts_in_its_passes_alone() -> None:
    module = small()
    batch = module.encode(SENTENCES)
    state = torch.get_rng_state()
    for name in ("mnlp", "lc", "entropy", "margin", "bald", "bald_mi"):
        one, two = (score_batch(module.network, batch, name, 7, 5).score for _ in range(2))
        assert torch.equal(one, two), name
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(m.training for m in module.modules())
    bald = [score_batch(module.network, batch, "bald_mi", 7, seed).score for seed in (1, 2)]
    assert not torch.equal(*bald)
    again = score_batch(module.network, batch, "mnlp", 7, 5).score  # after passes with dropout
    assert torch.equal(again, score_batch(module.network, batch, "mnlp", 7, 6).score)


@pytest.mark.parametrize("repeats", ["all", "decoder"])
def test_without_dropout_all_passes_agree(repeats: Any) -> None:
    module = small(dropout=0.0)
    batch = module.encode(SENTENCES)
    assert score_batch(module.network, batch, "bald", 9, 0, repeats).score.tolist() == [0, 0, 0]
    assert score_batch(module.network, batch, "bald_mi", 9, 0, repeats).score.abs().max() < 1e-6


def test_padding_and_marks_are_not_counted_in_the_score() -> None:
    module = small()
    alone = score_batch(module.network, module.encode(SENTENCES[:1]), "mnlp", 1, 0)
    padded = score_batch(module.network, module.encode([SENTENCES[0], ["ab"] * 23]), "mnlp", 1, 0)
    assert float(alone.score) == pytest.approx(float(padded.score[0]), abs=1e-6)
    torch.testing.assert_close(alone.vectors[0], padded.vectors[0], atol=1e-6, rtol=1e-5)
    log_p = module.network.decode(module.encode(SENTENCES[:1])).log_p
    assert float(alone.mnlp) == pytest.approx(float(log_p) / 3)


def test_embeddings_begin_in_the_narrow_range_and_forget_gates_open() -> None:
    module = small(word_dim=12)
    weight = module.network.encoder.embedding.weight
    assert 0.4 < float(weight.abs().max()) <= (3 / 12) ** 0.5
    lstm = module.network.decoder.lstm
    assert bool((lstm.bias_ih_l0[8:16] == 1).all())
    assert float(lstm.bias_ih_l0.sum()) == 8
    assert float(lstm.bias_hh_l0.abs().sum()) == 0
