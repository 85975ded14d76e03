"""MaskedLM: ESM-2 to the last parameter, what padding counts for, perplexity, contacts, heads, baseline."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from quiet import quiet_trainer

import datamodules
import zoo
from zoo.hub.convert import read_foreign
from zoo.language.masked.baseline import composition
from zoo.language.masked.contacts import corrected, features, fitted, precision_at_length
from zoo.language.masked.network import SHAPES
from zoo.language.masked.probes import probe_scores
from zoo.language.masked.residues import CLS, EOS, FIRST, MASK, PAD
from zoo.language.masked.scores import TokenScores, property_loss, property_scores, token_nll
from zoo.language.masked.weights import start_from, write

torch.set_num_threads(1)
SMALL: dict[str, Any] = {"width": 16, "layers": 2, "heads": 2, "hidden": 32, "context": 64}


def module(**settings: Any) -> zoo.MaskedLM:
    torch.manual_seed(0)
    made = zoo.MaskedLM(**{**SMALL, **settings}).eval()
    for parameter in made.parameters():  # what is near 0 at first hides mistakes
        torch.nn.init.normal_(parameter, std=0.2)
    return made


def ids_of(*lengths: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(1)
    ids = torch.full((len(lengths), max(lengths) + 2), PAD)
    for row, length in zip(ids, lengths, strict=True):
        row[0], row[length + 1] = CLS, EOS
        row[1 : length + 1] = torch.randint(FIRST, 24, (length,), generator=draw)
    return ids


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("esm2-8m", 7_512_474),
        ("esm2-35m", 33_501_394),
        ("esm2-150m", 148_140_154),
        ("esm2-650m", 651_043_254),
    ],
)
def test_parameters_are_those_of_esm2_the_contact_head_among_them(name: Any, count: int) -> None:
    with torch.device("meta"):
        made = zoo.MaskedLM(model=name)
    assert sum(p.numel() for p in made.parameters()) == count
    head = [p for p in made.parameters() if not p.requires_grad]
    layers, heads = SHAPES[name][1][1:3]
    assert sum(p.numel() for p in head) == layers * heads + 1


@pytest.mark.parametrize("model", ["esm2-8m", "bert-base"])
def test_padding_and_companions_count_for_nothing(model: Any) -> None:
    made, ids = module(model=model), ids_of(5, 11, 8)
    ids[1, 4] = ids[0, 2] = MASK
    together, alone = made.network(ids), made.network(ids[:1, :7])
    assert torch.allclose(together[0, :7], alone[0], atol=1e-5)
    assert together.std() > 0.1
    whole = module(model=model, task="classification", targets=["a"])
    assert torch.allclose(whole.network(ids)[:1], whole.network(ids[:1, :7]), atol=1e-5)
    states = whole.network.states(ids)[-1]
    assert torch.allclose(whole.network.pooled(states, ids)[0], states[0, 1:6].mean(dim=0), atol=1e-6)


def test_the_loss_is_of_the_chosen_tokens_alone_and_where_they_stand() -> None:
    """Labels that were shifted by one could not be learned."""
    made = module(width=32, hidden=64)
    torch.manual_seed(1)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    ids = ids_of(12, 12, 12, 12)
    labels = torch.full_like(ids, -100)
    labels[:, [2, 5, 9]] = ids[:, [2, 5, 9]]
    seen = ids.clone()
    seen[:, [2, 5, 9]] = MASK
    optimizer = torch.optim.AdamW([p for p in made.parameters() if p.requires_grad], lr=5e-3)
    for _ in range(150):
        nll, _ = token_nll(made.network(seen), labels)
        optimizer.zero_grad()
        (nll / 12).backward()
        optimizer.step()
    assert nll / 12 < 0.05
    logits = made.network(seen).detach().requires_grad_()
    token_nll(logits, labels)[0].backward()
    assert not logits.grad[labels == -100].any()  # type: ignore[index]


def test_perplexity_is_that_of_all_tokens_and_no_mean_over_batches() -> None:
    """10 nats on 10 tokens and 2 on 1: exp(12 / 11), not (e + e^2) / 2."""
    scores = TokenScores()
    for nats, count in ((1.0, 10), (2.0, 1)):
        p = math.exp(-nats)
        logits = torch.tensor([math.log(p), math.log(1 - p)]).expand(1, count + 1, 2)
        labels = torch.zeros(1, count + 1, dtype=torch.long)
        labels[0, -1] = -100
        scores.update(logits, labels)
    found = scores.compute()
    assert found["perplexity"] == pytest.approx(2.977, abs=1e-3)
    assert found["nll"] == pytest.approx(12 / 11, rel=1e-5)
    uniform = TokenScores()
    uniform.update(torch.zeros(2, 7, 33), torch.randint(33, (2, 7)))
    assert uniform.compute()["perplexity"] == pytest.approx(33, rel=1e-5)
    assert TokenScores().compute()["perplexity"].isnan()


def test_accumulated_batches_of_unlike_masks_are_one_batch() -> None:
    data = datamodules.Proteins(most_train=32, batch_size=8, like_lengths=False, most_evaluated=4)
    states = []
    for size, parts in ((8, 4), (32, 1)):
        data = datamodules.Proteins(most_train=32, batch_size=size, like_lengths=False, most_evaluated=4)
        torch.manual_seed(0)
        made = zoo.MaskedLM(**{**SMALL, "context": 256}, optimizer=lambda p: torch.optim.SGD(p, lr=0.5))
        data.longest = 200
        quiet_trainer(max_steps=2, accumulate_grad_batches=parts, limit_val_batches=0).fit(made, data)
        states.append(made.state_dict())
    for name, value in states[0].items():
        assert torch.allclose(value, states[1][name], atol=1e-6), name


# --- official weights -------------------------------------------------------------------------------------


def official(folder: Path, **changes: Any) -> Any:
    """A folder as transformers writes it, with random weights."""
    from transformers import EsmConfig, EsmForMaskedLM

    torch.manual_seed(3)
    config = EsmConfig(
        vocab_size=33, mask_token_id=32, pad_token_id=1, hidden_size=16, num_hidden_layers=2,
        num_attention_heads=2, intermediate_size=32, max_position_embeddings=64, layer_norm_eps=1e-5,
        position_embedding_type="rotary", token_dropout=True, emb_layer_norm_before=False,
    )  # fmt: skip
    model = EsmForMaskedLM(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    if changes:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return model


def test_official_folders_are_read_and_written_and_answer_alike(tmp_path: Path) -> None:
    from transformers import EsmForMaskedLM, EsmTokenizer

    model, ids = official(tmp_path / "hf"), ids_of(9, 6)
    ids[0, 3] = MASK
    weights, lines = read_foreign(tmp_path / "hf", "masked_lm")
    assert lines == ["ESM-2 of 2 layers of 16, 2 heads"]
    made = zoo.MaskedLM(**weights.hparams).eval()
    made.load_state_dict(weights.state_dict)
    attention = (ids != PAD).long()
    expected = model(input_ids=ids, attention_mask=attention).logits
    assert torch.allclose(made.network(ids), expected, atol=1e-5)
    write(made, tmp_path / "out", "transformers")
    again = EsmForMaskedLM.from_pretrained(tmp_path / "out", use_safetensors=True).eval()
    assert torch.allclose(again(input_ids=ids, attention_mask=attention).logits, expected, atol=1e-5)
    assert EsmTokenizer.from_pretrained(tmp_path / "out")("L A G <mask>")["input_ids"] == [0, 4, 5, 6, 32, 2]
    # a head of one's own on it, sizes taken from the folder, which is no longer needed afterwards
    head = zoo.MaskedLM(pretrained=str(tmp_path / "hf"), task="regression", targets=["a", "b"])
    assert (head.sizes["width"], head.hparams["pretrained"]) == (16, None)
    start_from(head.network, str(tmp_path / "hf"))
    assert torch.equal(head.network.states(ids)[-1], made.network.states(ids)[-1])
    with pytest.raises(ValueError, match=r"width is 32, but .* has 16"):
        zoo.MaskedLM(pretrained=str(tmp_path / "hf"), width=32)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"position_embedding_type": "absolute"}, "read is ESM-2, which has 'rotary'"),
        ({"vocab_size": 40}, "vocab_size is 40"),
        ({"hidden_size": "16"}, "must be whole numbers"),
        ({"hidden_size": 32}, "does not fit"),
    ],
)
def test_a_folder_of_another_model_is_one_line(changes: Any, words: str, tmp_path: Path) -> None:
    official(tmp_path, **changes)
    with pytest.raises(ValueError, match=words):
        read_foreign(tmp_path, "masked_lm")


# --- contacts ---------------------------------------------------------------------------------------------


def test_contacts_are_those_of_transformers(tmp_path: Path) -> None:
    model = official(tmp_path)
    made = zoo.MaskedLM(pretrained=str(tmp_path)).eval()
    start_from(made.network, str(tmp_path))
    sequence = "MKVLSPADKTNWGH"
    ids = next(iter(made._batches([sequence])))
    model.set_attn_implementation("eager")
    expected = model.predict_contacts(ids, torch.ones_like(ids))[0]
    assert np.allclose(made.predict_contacts(sequence), expected.detach(), atol=1e-5)


def test_a_product_of_a_row_and_a_column_is_corrected_to_nothing() -> None:
    a = torch.rand(5, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(corrected(a[:, None] * a), torch.zeros(5, 5), atol=1e-6)
    assert not corrected(torch.zeros(3, 3)).isnan().any()
    maps = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = features(maps)
    assert found.shape == (6, 6, 6)
    assert torch.allclose(found, found.transpose(0, 1))


def test_the_regression_finds_the_map_that_shows_contacts() -> None:
    draw = np.random.default_rng(0)
    contacts = (draw.random((3, 30, 30)) < 0.1).astype(float)
    contacts = np.maximum(contacts, contacts.transpose(0, 2, 1))
    given = [
        torch.from_numpy(np.stack([draw.random((30, 30)), c + 0.1 * draw.random((30, 30))], -1))
        for c in contacts
    ]
    weights, bias = fitted(given[:2], contacts[:2])
    assert weights[1] > 10 * abs(weights[0])
    probability = 1 / (1 + np.exp(-(given[2].numpy() @ weights + bias)))
    assert precision_at_length(probability, contacts[2]) == 1.0
    unknown = np.full((30, 30), np.nan)
    assert math.isnan(precision_at_length(probability, unknown))
    with pytest.raises(ValueError, match="all are contacts, or none is"):
        fitted(given[:1], [np.zeros((30, 30))])


# --- properties -------------------------------------------------------------------------------------------


def test_a_missing_target_counts_for_nothing() -> None:
    out = torch.tensor([[0.3, -1.0], [2.0, 0.5]], requires_grad=True)
    target = torch.tensor([[1.0, math.nan], [0.0, 1.0]])
    loss, count = property_loss("classification", out, target)
    assert int(count) == 3
    loss.backward()
    assert out.grad is not None
    assert out.grad[0, 1] == 0
    none, zero = property_loss("regression", out, torch.full((2, 2), math.nan))
    assert (float(none), int(zero)) == (0.0, 0)
    found = property_scores(
        "classification", np.array([[0.9], [0.2], [0.7]]), np.array([[1.0], [0.0], [np.nan]])
    )
    assert found == {"roc_auc": 1.0, "pr_auc": 1.0, "mcc": 1.0, "accuracy": 1.0}
    assert "roc_auc" not in property_scores("classification", np.array([[0.9]]), np.array([[1.0]]))


def test_probes_find_the_layer_that_knows() -> None:
    draw = np.random.default_rng(0)
    y = (draw.random((80, 1)) < 0.5).astype(float)
    x = draw.normal(size=(80, 3, 4))
    x[:, 1, 2] += 4 * y[:, 0]
    found = probe_scores("classification", x[:50], y[:50], x[50:], y[50:])
    assert found[1] > 0.95
    assert max(found[0], found[2]) < 0.8
    assert math.isnan(probe_scores("regression", x[:50], y[:50], x[50:], np.full((30, 1), np.nan))[0])


def test_composition_and_length_reach_the_published_auc() -> None:
    """.8608 over five folds of the 4,620 peptides; .87 where repeated ones leak."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    data = datamodules.Proteins(task="classification", fractions=(0.98, 0.01, 0.01))
    data.setup("fit")
    items = [data.train_set.__getitems__([*range(len(data.train_set))])]
    items += [s.__getitems__([*range(len(s))]) for s in (data.val_set, data.test_set)]
    x = torch.cat([composition(b["ids"]) for b in items]).numpy()
    y = torch.cat([b["target"] for b in items])[:, 0].numpy()
    assert x[0, :20].sum() == pytest.approx(1)
    assert x[0, 20] == len(data.train_set.sequences[0])
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    found = cross_val_score(model, x, y, cv=folds, scoring="roc_auc")
    assert found.mean() == pytest.approx(0.8608, abs=0.004)


def test_the_baseline_is_that_regression(capsys: pytest.CaptureFixture[str]) -> None:
    data = datamodules.Proteins(task="classification", most_train=400)
    made = zoo.CompositionBaseline(targets=["antimicrobial"])
    trainer = quiet_trainer(max_steps=1, limit_val_batches=0)
    trainer.fit(made, data)
    scores = trainer.test(made, data, verbose=False)[0]
    assert 0.78 < scores["test/roc_auc"] < 0.88
    assert 0.3 < scores["test/mcc"] < 0.7
    with pytest.raises(ValueError, match="nothing was fitted"):
        zoo.CompositionBaseline().answer(torch.zeros(1, 21))


def test_blanks_are_filled_by_the_likeliest_residue() -> None:
    made = module()
    found = made.fill("MKV_LS_W")
    assert [len(f) for f in found] == [20, 20]
    assert all(
        sum(f.values()) <= 1 + 1e-5 and [*f.values()] == sorted(f.values(), reverse=True) for f in found
    )
    for text, words in (("MKV", "write _"), ("MK?", "no residue")):
        with pytest.raises(ValueError, match=words):
            made.fill(text)
    assert made.embed(["MKV", "MKVLS"]).shape == (2, 16)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"width": 18, "heads": 4}, "4 heads do not divide"),
        ({"targets": ["a"]}, "does not use"),
        ({"model": "bert-base", "token_dropout": False}, "does not use"),
        ({"pretrained": "nowhere"}, "no name of bundled weights"),
        ({"vocab_size": 4}, "are special"),
    ],
)
def test_settings_that_do_not_go_together(settings: dict[str, Any], words: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        zoo.MaskedLM(**{**SMALL, **settings})
