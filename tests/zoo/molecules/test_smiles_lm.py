"""SmilesLM: the metrics' worked example, what is drawn, what padding counts for, resume."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

import datamodules
import zoo
from zoo.molecules.likelihood import sequence_nll, token_mean
from zoo.molecules.strings.generation import (
    canonical,
    internal_diversity,
    properties,
    scaffold_novelty,
    scores,
    shares,
    similarities,
)
from zoo.molecules.strings.network import GPTLanguageModel, LSTMLanguageModel, nothing_read
from zoo.molecules.strings.report import GeneratedMolecules
from zoo.molecules.tokens import BOS, EOS, PAD, UNK, TokenVocabulary, tokenised
from zoo.nn.decoding import top_p_logits

GENERATED = "Cc1ccccc1 c1ccccc1C CC(C)=O CCOC(C)=O N#CC C1CCC c1cccc1 _ [Na+].[Cl-] CC(=O)C F/C=C/F F/C=C\\F"
DRAWN = [text.replace("_", "") for text in GENERATED.split()]
KNOWN = [canonical(s) for s in ("CC#N", "O=C(C)C")]


def test_validity_uniqueness_and_novelty_of_the_worked_example() -> None:
    """The empty text is none, though rdkit reads it as a molecule; E and Z difluoroethene differ."""
    assert shares(DRAWN, KNOWN) == {"validity": 9 / 12, "uniqueness": 7 / 9, "novelty": 5 / 7}
    assert scores(DRAWN, KNOWN)["novelty"] == 5 / 7
    assert "novelty" not in shares(DRAWN, None)


def test_shares_of_nothing_are_no_numbers() -> None:
    found = shares(["C1CC", ""], KNOWN)
    assert found["validity"] == 0
    assert math.isnan(found["uniqueness"])
    assert math.isnan(found["novelty"])
    assert math.isnan(internal_diversity([]))


def test_internal_diversity_has_all_ordered_pairs_and_each_with_itself() -> None:
    from rdkit import Chem, DataStructs
    from rdkit.Chem import rdFingerprintGenerator

    molecules = ["Cc1ccccc1", "CC(C)=O", "CCO", "CCO"]
    made = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=1024)
    prints = [made.GetFingerprint(Chem.MolFromSmiles(s)) for s in molecules]
    mean = sum(DataStructs.TanimotoSimilarity(a, b) for a in prints for b in prints) / 16
    assert internal_diversity(molecules) == pytest.approx(1 - mean, abs=1e-6)
    assert internal_diversity(["CCO"]) == pytest.approx(0, abs=1e-6)


def test_similarity_to_the_nearest_known_molecule_and_to_all(monkeypatch: pytest.MonkeyPatch) -> None:
    from rdkit import Chem, DataStructs
    from rdkit.Chem import rdFingerprintGenerator

    drawn, known = ["Cc1ccccc1", "CCO", "CCO"], ["CCCO", "Oc1ccccc1", "CCO"]
    made = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=1024)
    prints = [[made.GetFingerprint(Chem.MolFromSmiles(s)) for s in side] for side in (drawn, known)]
    pairs = [[DataStructs.TanimotoSimilarity(a, b) for b in prints[1]] for a in prints[0]]
    expected = {"snn": sum(map(max, pairs)) / 3, "similarity": sum(map(sum, pairs)) / 9}
    assert similarities(drawn, known) == pytest.approx(expected, abs=1e-6)
    monkeypatch.setattr("zoo.molecules.strings.generation._ROWS", 2)  # known ones part after part
    assert similarities(drawn, known) == pytest.approx(expected, abs=1e-6)
    assert internal_diversity(known) > 0.5
    whole, _ = internal_diversity(known), monkeypatch.undo()
    assert whole == pytest.approx(internal_diversity(known), abs=1e-9)
    assert math.isnan(similarities([], known)["snn"])


def test_new_scaffolds() -> None:
    assert scaffold_novelty(["Cc1ccccc1", "c1ccncc1", "CCO"], ["CCc1ccccc1"]) == 0.5
    assert math.isnan(scaffold_novelty(["CCO"], []))  # acyclic molecules have none
    cis, trans = "C1CC[C@H]2CCCC[C@H]2C1", "C1CC[C@H]2CCCC[C@@H]2C1"
    assert canonical(cis) != canonical(trans)
    assert scaffold_novelty([cis], [trans]) == 0  # without chirality


def test_means_are_over_all_valid_molecules_and_scaffolds_of_few() -> None:
    drawn = ["CCO", "CCO", "c1ccncc1", "C1CC"]
    found, known = scores(drawn, ["CCO", "CC"]), [properties(s) for s in drawn[:3]]
    for name in ("qed", "sa"):
        assert found[name] == pytest.approx(sum(p[name] for p in known) / 3)
    assert {"scaffold_novelty", "snn"} <= {*found}
    assert not {"scaffold_novelty", "snn"} & {*scores(drawn, ["CCO", "CC"], most=1)}


def test_qed_of_naproxen() -> None:
    found = properties("COc1ccc2cc(ccc2c1)[C@H](C)C(=O)O")
    assert found["qed"] == pytest.approx(0.8811, abs=1e-4)
    assert (found["weight"], found["log_p"]) == pytest.approx((230.263, 3.0365), abs=1e-3)
    assert 1 < found["sa"] < 3


# --- networks ---------------------------------------------------------------------------------------------


def networks() -> list[Any]:
    torch.manual_seed(0)
    made = [
        LSTMLanguageModel(12, 6, 10, 2, 0.0),
        LSTMLanguageModel(12, None, 10, 1, 0.0),
        GPTLanguageModel(12, 8, 2, 2, 0.0, 16),
    ]
    for network in made:
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return [network.eval() for network in made]


@pytest.mark.parametrize("which", range(3))
def test_one_position_after_the_other_is_all_at_once(which: int) -> None:
    network = networks()[which]
    ids = torch.randint(4, 12, (3, 7), generator=torch.Generator().manual_seed(1))
    whole, state, found = network(ids), network.begin(nothing_read(3, ids.device)), []
    for tokens in ids.unbind(dim=1):
        logits, state = network.step(tokens, state)
        found.append(logits)
    assert torch.allclose(torch.stack(found, dim=1), whole, atol=1e-5)
    assert whole.std() > 0.1
    changed = ids.clone()
    changed[:, 5] = 4 + (ids[:, 5] - 3) % 8
    assert torch.equal(network(changed)[:, :5], whole[:, :5])  # nothing is read of what comes


def test_sizes_are_those_of_the_paper() -> None:
    """LSTM 3 x 512, embedding 128; char-RNN 3 x 768 on one-hot rows; GPT 8 x 256 with 128 positions."""
    count = [sum(p.numel() for p in n.parameters()) for n in (
        LSTMLanguageModel(30), LSTMLanguageModel(30, None, 768), GPTLanguageModel(30)
    )]  # fmt: skip
    lstm = 4 * 512 * (128 + 512 + 2) + 2 * 4 * 512 * (1024 + 2) + 512 * 30 + 30 + 30 * 128
    char = 4 * 768 * (30 + 768 + 2) + 2 * 4 * 768 * (1536 + 2) + 768 * 30 + 30 + 30 * 30
    gpt = 8 * (12 * 256**2 + 13 * 256) + 2 * 256 + (30 + 128) * 256
    assert count == [lstm, char, gpt]


def test_networks_begin_as_their_papers_have_them() -> None:
    """One-hot rows but for the pad; dropout between layers; projections into the residual scaled by depth."""
    rows = LSTMLanguageModel(12, None, 8, 1).embedding.weight
    assert torch.equal(rows, torch.eye(12).index_fill(0, torch.tensor([PAD]), 0))
    assert [LSTMLanguageModel(12, 4, 8, n, 0.2).lstm.dropout for n in (1, 2)] == [0.0, 0.2]
    blocks: Any = GPTLanguageModel(12, 128, 8, 2).blocks
    assert float(blocks[3].inner.weight.std()) == pytest.approx(0.02, rel=0.05)
    for layer in (blocks[3].outer, blocks[3].attention.output):
        assert float(layer.weight.std()) == pytest.approx(0.02 / 4, rel=0.05)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_padding_counts_for_nothing(smoothing: float) -> None:
    logits = torch.randn(2, 6, 9, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.tensor([[4, 5, EOS, PAD, PAD, PAD], [6, 7, 8, 4, 5, EOS]])
    loss = token_mean(logits, labels, smoothing)
    flat = torch.cat([logits[0, :3], logits[1]]), torch.cat([labels[0, :3], labels[1]])
    expected = torch.nn.functional.cross_entropy(*flat, label_smoothing=smoothing)
    assert torch.allclose(loss, expected, atol=1e-6)
    loss.backward()
    assert logits.grad is not None
    assert not logits.grad[0, 3:].any()
    if not smoothing:
        assert torch.allclose(sequence_nll(logits, labels).sum() / 9, loss)


def test_the_nucleus_is_the_fewest_likeliest_tokens() -> None:
    logits = torch.tensor([[0.1, 0.5, 0.3, 0.06, 0.04]]).log()
    kept = [
        (top_p_logits(logits, p) > -math.inf).sum().item() for p in (0.01, 0.5, 0.51, 0.8, 0.89, 0.95, 1.0)
    ]
    assert kept == [1, 1, 2, 2, 3, 4, 5]
    assert (top_p_logits(logits, 0.5) > -math.inf)[0, 1]


# --- the module -------------------------------------------------------------------------------------------


def module(**settings: Any) -> zoo.SmilesLM:
    torch.manual_seed(0)
    made = zoo.SmilesLM(
        **{"vocab_size": 12, "width": 12, "layers": 1, "embedding": 8, "max_length": 20, **settings}
    )
    tokens = TokenVocabulary.of_texts([tokenised("CNOc1(=)"), ["#"]][:1], "smiles").tokens
    made.vocabulary.fill(TokenVocabulary(tokens).document)
    return made.eval()


@pytest.mark.parametrize("settings", [{}, {"arch": "gpt", "embedding": 128, "width": 16}])
def test_a_drawn_molecule_is_a_function_of_seed_and_position(settings: dict[str, Any]) -> None:
    model = module(**settings)
    together = model.sample(30)
    assert together == [model.drawn([i], 0)[0] for i in range(30)]
    assert together[7:20] == model.drawn([*range(7, 20)], 0)
    assert together != model.sample(30, seed=1)
    assert len({*together}) > 20
    assert not any("?" in text for text in model.sample(300, temperature=5.0))  # <unk> is never drawn
    greedy = model.sample(5, top_p=1e-6)
    assert len({*greedy}) == 1  # the nucleus is the likeliest token alone
    assert {*model.sample(5, temperature=1e-4)} == {*greedy}


def test_processes_draw_their_shares_in_order_and_what_is_known_is_canonical(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from types import SimpleNamespace

    model = module()
    expected, shares_of = model.drawn([*range(7)], 3), [model.drawn([*range(r, 7, 2)], 3) for r in (0, 1)]
    own: list[list[str]] = []

    def gathered(texts: list[str]) -> list[list[str]]:
        own.append(texts)
        return shares_of

    monkeypatch.setattr("zoo.molecules.strings.module.gathered", gathered)
    monkeypatch.setattr("zoo.molecules.strings.module.global_seed", lambda: 3)
    for rank in (0, 1):
        monkeypatch.setattr("zoo.molecules.strings.module.place", lambda rank=rank: (rank, 2))
        assert model._drawn(7) == expected
    assert own == shares_of
    model._trainer = SimpleNamespace(datamodule=SimpleNamespace(known=["OCC", "C(C)O", "C1CC"]))  # type: ignore[assignment]
    assert model.known == {"CCO"}


def test_a_validation_counts_tokens_not_molecules(monkeypatch: pytest.MonkeyPatch) -> None:
    model, told = module(), {}
    monkeypatch.setattr(model, "log", lambda name, value, batch_size, **_: told.update({name: batch_size}))
    model.validation_step({"ids": torch.tensor([[BOS, 4, EOS, PAD], [BOS, 4, 5, EOS]])}, 0)
    assert told == {"val/nll": 5, "val/nll_molecule": 2}


@pytest.mark.parametrize(
    "given", [{"count": 0}, {"temperature": 0.0}, {"temperature": math.nan}, {"top_p": 0.0}, {"top_p": 1.5}]
)
def test_draws_that_cannot_be(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="needed are a count of at least"):
        module().sample(**given)


def test_weights_without_a_vocabulary_say_so() -> None:
    with pytest.raises(ValueError, match="have no vocabulary"):
        zoo.SmilesLM(width=8, layers=1).sample(1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"arch": "gpt", "embedding": 64}, "embedding is 64, which arch: gpt does not use"),
        ({"heads": 4}, "heads is 4, which arch: lstm does not use"),
        ({"arch": "x"}, "arch must be lstm or gpt"),
        ({"arch": "gpt", "width": 10}, "multiple of the heads"),
        ({"top_p": 0.0}, "top_p is 0.0"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        zoo.SmilesLM(**settings)


def test_every_selfies_is_a_molecule() -> None:
    import selfies

    model = module()
    tokens = sorted(selfies.get_semantic_robust_alphabet())[:8]
    model.vocabulary.text = TokenVocabulary(tuple(tokens), "selfies").document
    drawn = [s for s in model.sample(60) if s]
    assert len(drawn) > 40
    assert all(map(canonical, drawn))


def test_what_a_prediction_writes(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    report = GeneratedMolecules(DRAWN, torch.arange(12), frozenset(KNOWN), KNOWN * 3)
    assert report.write(tmp_path) == []
    names = [p.name for p in GeneratedMolecules.merge(tmp_path)]
    assert names == ["samples.smi", "molecules.csv", "molecules.png", "distributions.png"]
    assert (tmp_path / "samples.smi").read_text().split("\n") == [*DRAWN, ""]
    rows = (tmp_path / "molecules.csv").read_text().splitlines()
    assert rows[0] == "index,generated,smiles,valid,novel,qed,sa,log_p,weight"
    assert rows[3].startswith("2,CC(C)=O,CC(C)=O,true,false,")
    assert rows[6] == "5,C1CCC,,false,,,,,"
    assert rows[8] == "7,,,false,,,,,"


def test_the_sheet_has_the_first_of_the_same_and_novelty_is_of_canonical_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sheets: list[Any] = []
    monkeypatch.setattr("zoo.molecules.strings.report.molecule_sheet", lambda *a, **_: sheets.append(a[1]))
    monkeypatch.setattr("zoo.molecules.strings.report._SHEET", 2)
    (tmp_path / "parts").mkdir()
    GeneratedMolecules(["OCC", "C1CC", "CN", "CO", "CCO"], torch.arange(5), {"CCO"}).write(tmp_path)
    GeneratedMolecules.merge(tmp_path)
    assert sheets == [["CCO", "CN"]]
    rows = (tmp_path / "molecules.csv").read_text().splitlines()
    assert [row.split(",")[4] for row in rows[1:]] == ["false", "", "true", "true", "false"]


def test_too_long_molecules_for_the_positions_are_refused_before_training() -> None:
    from lightning.pytorch import Trainer

    trainer = Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, max_steps=1
    )
    data = datamodules.SmilesData(longest=40, most_train=64, batch_size=8)
    with pytest.raises(
        ValueError, match=r"longest is 40, which with <eos> is more than model.init_args.max_length: 40"
    ):
        trainer.fit(zoo.SmilesLM(width=8, layers=1, vocab_size=data.vocab_size, max_length=40), data)
    assert UNK == 3
    assert BOS == 1


# --- files of others --------------------------------------------------------------------------------------


def gpt2(folder: Path, model: str = "WordLevel") -> tuple[Any, dict[str, int]]:
    """A random GPT-2 of transformers with a vocabulary of tokens, saved as the library does."""
    import json

    from transformers import GPT2Config, GPT2LMHeadModel

    names = ["[PAD]", "<bos>", "C", "</s>", "N", "[UNK]", "(", ")", "=", "O", "[nH]", "[MASK]"]
    known = {name: i for i, name in enumerate(names)}
    torch.manual_seed(3)
    config = GPT2Config(vocab_size=12, n_positions=16, n_embd=8, n_layer=2, n_head=2, bos_token_id=1,
                        eos_token_id=3, pad_token_id=0, initializer_range=0.3)  # fmt: skip
    theirs = GPT2LMHeadModel(config).eval()
    theirs.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"type": model, "vocab": known}}))
    return theirs, known


def test_a_gpt2_of_transformers_gives_the_same_logits(tmp_path: Path) -> None:
    from zoo.hub.convert import read_foreign

    theirs, known = gpt2(tmp_path)
    weights, lines = read_foreign(tmp_path, "smiles_lm")
    assert lines == ["GPT-2 of 2 layers of 8, 7 tokens of SMILES"]
    ours = zoo.SmilesLM(**weights.hparams).eval()
    ours.load_state_dict(weights.state_dict)
    text = "C(=O)N"
    ids = torch.tensor([[BOS, *ours.tokens.encoded(tokenised(text))]])
    with torch.no_grad():
        expected = theirs(torch.tensor([[1, *(known[t] for t in tokenised(text))]])).logits
        found = ours.network(ids)
    for token, i in ours.tokens.ids.items():
        assert torch.allclose(found[..., i], expected[..., known[token]], atol=1e-5)
    assert torch.allclose(found[..., EOS], expected[..., 3], atol=1e-5)
    assert not ours.network.tokens.weight[PAD].any()  # type: ignore[union-attr, index]
    assert len(ours.sample(3)) == 3


def test_a_vocabulary_of_pieces_is_refused(tmp_path: Path) -> None:
    from zoo.hub.convert import read_foreign

    gpt2(tmp_path, "BPE")
    with pytest.raises(ValueError, match="its tokenizer is 'BPE'; read is one of whole tokens"):
        read_foreign(tmp_path, "smiles_lm")
