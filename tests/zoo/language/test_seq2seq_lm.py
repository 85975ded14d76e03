"""Seq2SeqLM: T5-small to the last parameter, smoothing, length penalty, padding, baselines."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from quiet import quiet_trainer
from safetensors.torch import load_file, save_file

import datamodules
import zoo
from zoo.hub.convert import read_foreign
from zoo.language.seq2seq.baselines import Dictionary
from zoo.language.seq2seq.report import Translations
from zoo.language.seq2seq.scores import TextScores
from zoo.language.seq2seq.weights import write
from zoo.nn.decoding import beam_search, gnmt_penalty
from zoo.nn.encoder_decoder import Encoded, State

torch.set_num_threads(1)
SMALL: dict[str, Any] = {
    "width": 16, "layers": 2, "heads": 2, "head_width": 8, "hidden": 32, "vocab_size": 40, "pad_id": 1,
    "bos_id": 2, "eos_id": 3, "max_length": 12,
}  # fmt: skip


def module(**settings: Any) -> zoo.Seq2SeqLM:
    torch.manual_seed(0)
    made = zoo.Seq2SeqLM(**{**SMALL, **settings}).eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made


def batch_of(*pairs: tuple[int, int]) -> dict[str, torch.Tensor]:
    """Of (tokens of the source, tokens of the target without ends)."""
    draw = torch.Generator().manual_seed(1)
    source = torch.full((len(pairs), max(a for a, _ in pairs)), 1)
    target = torch.full((len(pairs), max(b for _, b in pairs) + 2), 1)
    for row, (a, b) in enumerate(pairs):
        source[row, :a] = torch.randint(4, 40, (a,), generator=draw)
        target[row, 0], target[row, b + 1] = 2, 3
        target[row, 1 : b + 1] = torch.randint(4, 40, (b,), generator=draw)
    return {"source": source, "target": target}


def test_parameters_are_those_of_t5_small() -> None:
    with torch.device("meta"):
        made = zoo.Seq2SeqLM()
    assert sum(p.numel() for p in made.parameters()) == 60_506_624
    assert made.network.model.config.d_kv == 64


def test_padding_counts_for_nothing_and_labels_stand_where_they_belong() -> None:
    made, both = module(), batch_of((5, 3), (9, 8))
    loss, count = made._summed(both, 0.0)
    assert int(count) == 4 + 9  # EOS is a token, BOS and pads are none
    alone = [made._summed(batch, 0.0)[0] for batch in (
        {"source": both["source"][:1, :5], "target": both["target"][:1, :5]},
        {"source": both["source"][1:], "target": both["target"][1:]},
    )]  # fmt: skip
    assert loss.item() == pytest.approx(float(sum(alone)), rel=1e-5)
    expected = made.network.model(
        input_ids=torch.tensor([[*both["source"][0, :5].tolist(), 3]]), labels=both["target"][:1, 1:5]
    ).loss  # transformers shifts the labels itself
    assert float(alone[0]) / 4 == pytest.approx(float(expected), rel=1e-4)


def test_the_uniform_part_of_the_smoothing_has_the_target_too() -> None:
    made, batch = module(), batch_of((5, 3))
    logits = made.network.decode(batch["target"][:, :-1], made.network.encode(batch["source"]))
    logp, labels = logits.log_softmax(-1), batch["target"][:, 1:]
    gold = -logp.gather(-1, labels[..., None]).sum()
    expected = 0.9 * gold - 0.1 * logp.mean(-1).sum()
    assert float(made._summed(batch, 0.1)[0]) == pytest.approx(float(expected), rel=1e-5)


def test_a_causal_decoder_reads_nothing_of_what_comes() -> None:
    made, batch = module(), batch_of((5, 8))
    changed = batch["target"].clone()
    changed[:, 6] = 4 + (changed[:, 6] - 3) % 30
    encoded = made.network.encode(batch["source"])
    before, after = (made.network.decode(t, encoded)[:, :6] for t in (batch["target"], changed))
    assert torch.allclose(before, after, atol=1e-6)
    state, found = made.network.begin(encoded), []
    for token in batch["target"][:, :6].unbind(dim=1):
        logits, state = made.network.step(token, state)
        found.append(logits)
    assert torch.allclose(torch.stack(found, dim=1), before, atol=1e-4)


class Chain:
    """Words 4 and 5: to stop at once has p = .4, after ten words .6 (1 - 1e-9)..."""

    def begin(self, encoded: Encoded) -> State:
        return State(encoded, None, 0, lambda past, rows: past)

    def step(self, tokens: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        import dataclasses

        place, logits = state.length, torch.full((len(tokens), 6), -30.0)
        logits[:, 3] = math.log(0.55) if place == 0 else (-30.0 if place < 6 else 0.0)
        logits[:, 4] = math.log(0.45) if place == 0 else (0.0 if place < 6 else -30.0)
        return logits, dataclasses.replace(state, length=place + 1)


def test_the_length_penalty_is_gnmts() -> None:
    assert gnmt_penalty(0.6, 1) == 1.0
    assert gnmt_penalty(0.6, 7) == pytest.approx(2**0.6)
    encoded = Encoded(torch.zeros(1, 1, 1), torch.ones(1, 1, dtype=torch.bool))
    short, _ = beam_search(Chain(), encoded, 2, 9, 2, 3, 1)
    assert short[0, 0].tolist()[0] == 3
    long, scores = beam_search(Chain(), encoded, 2, 9, 2, 3, 1, partial(gnmt_penalty, 0.6))
    assert long[0, 0].tolist() == [4] * 6 + [3]
    assert float(scores[0, 0]) == pytest.approx(math.log(0.45) / 2**0.6, rel=1e-4)


def test_official_folders_are_read_and_written_and_answer_alike(tmp_path: Path) -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    for scaled, forward in ((True, "relu"), (False, "gated-gelu")):
        torch.manual_seed(2)
        model = T5ForConditionalGeneration(T5Config(
            vocab_size=40, d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=2, decoder_start_token_id=0,
            feed_forward_proj=forward, tie_word_embeddings=scaled,
        )).eval()  # fmt: skip
        folder = tmp_path / forward
        model.save_pretrained(folder)
        weights, _ = read_foreign(folder, "seq2seq")
        made = zoo.Seq2SeqLM(**weights.hparams).eval()
        made.load_state_dict(weights.state_dict)
        batch = {k: v.where(v > 3, torch.tensor(0)) for k, v in batch_of((5, 4)).items()}
        source = torch.cat([batch["source"], torch.tensor([[1]])], dim=1)
        expected = model(input_ids=source, decoder_input_ids=batch["target"][:, :-1]).logits
        found = made.network.decode(batch["target"][:, :-1], made.network.encode(batch["source"]))
        assert torch.allclose(found, expected, atol=1e-5)
        write(made, tmp_path / f"{forward}_out", "transformers")
        again = T5ForConditionalGeneration.from_pretrained(tmp_path / f"{forward}_out", use_safetensors=True)
        assert torch.allclose(
            again.eval()(input_ids=source, decoder_input_ids=batch["target"][:, :-1]).logits,
            expected,
            atol=1e-5,
        )
    with pytest.raises(ValueError, match=r"width is 32, but .* has 16"):
        zoo.Seq2SeqLM(pretrained=str(folder), width=32)
    state = {**load_file(folder / "model.safetensors"), "lm_head.weight": torch.zeros(40, 16)}
    save_file(state, folder / "model.safetensors")
    with pytest.raises(ValueError, match="lm_head is a table of its own"):
        read_foreign(folder, "seq2seq")


def test_the_dictionary_learns_words_from_sentences() -> None:
    pairs = [
        ("the red house", "das rote haus"),
        ("the house", "das haus"),
        ("red", "rote"),
        ("a house", "ein haus"),
    ]
    words = Dictionary(pairs)
    assert words(["the red house", "a blue house"]) == ["das rote haus", "ein blue haus"]


def test_bleu_and_chrf_are_sacrebleus_of_the_whole_corpus() -> None:
    import sacrebleu

    outputs = ["das rote Haus ist alt", "ein Haus am See ist neu", "Speichern und weiter"]
    references = ["das rote Haus ist neu", "ein altes Haus am See", "Speichern und weiter"]
    scores = TextScores()
    scores.update([2], outputs[2:], references[2:])
    scores.update([0, 1], outputs[:2], references[:2])
    found, signatures = scores.compute()
    assert found["bleu"] == pytest.approx(sacrebleu.corpus_bleu(outputs, [references]).score)
    assert found["chrf"] == pytest.approx(sacrebleu.corpus_chrf(outputs, [references]).score)
    assert "tok:13a" in signatures[0]
    assert scores.compute() == ({}, [])


def test_training_translating_and_what_is_written(tmp_path: Path) -> None:
    data = datamodules.ParallelText(vocab_size=300, longest=30, batch_size=8, most_pairs=40, most_evaluated=4)
    settings = {**SMALL, "vocab_size": 320, "max_length": 31, "generate_batches": 1, "decoding": "sample"}
    torch.manual_seed(0)
    made = zoo.Seq2SeqLM(**settings)
    trainer = quiet_trainer(max_steps=4)
    trainer.fit(made, data)
    found = trainer.test(made, data, verbose=False)[0]
    assert {"test/nll", "test/bleu", "test/chrf", "test/bleu_copy", "test/bleu_dictionary"} <= found.keys()
    made.eval()
    assert made.translate(["Save", "Delete it"]) == made.translate(["Save", "Delete it"])
    with pytest.raises(ValueError, match="must have a word"):
        made.translate([" "])
    (tmp_path / "parts").mkdir()
    Translations(["a"], ["b"], [-1.0], ["c"], [0], "greedy").write(tmp_path)
    assert [p.name for p in Translations.merge(tmp_path)] == ["translations.jsonl", "translations.txt"]
    assert "reference  c" in (tmp_path / "translations.txt").read_text()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"decoding": "greedy", "beam": 3}, "does not use"),
        ({"decoding": "beam", "top_p": 0.5}, "does not use"),
        ({"eos_id": 50}, "must lie below vocab_size"),
        ({"pretrained": "nowhere"}, "is no folder"),
    ],
)
def test_settings_that_do_not_go_together(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        zoo.Seq2SeqLM(**{**SMALL, **settings})
