"""ReactionTransformer: hits and their ranks, the copy baseline, beams, averages of checkpoints, retro."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from commands import run

import datamodules
import zoo
from zoo.hub.convert import read_foreign
from zoo.molecules.reactions.report import PredictedReactions
from zoo.molecules.reactions.scoring import copied, hits, ranked
from zoo.molecules.tokens import BOS, EOS, PAD, UNK, TokenVocabulary, tokenised
from zoo.nn.decoding import beam_search, forbid

TRUTH = ["CNC(C)=O", "COC", "CC"]


def test_hits_compare_canonical_products_by_rank() -> None:
    beams = [["O=C(C)NC", "CC", "C"], ["C1CC", "COC", "CC"], ["", "CO", "CN"]]
    assert hits(beams, TRUTH, (1, 2, 3)) == {"top1": 1.0, "top2": 2.0, "top3": 2.0, "invalid": 2.0}
    # an invalid candidate keeps its place, and an empty truth is never hit
    assert hits([[""]], [""], (1,)) == {"top1": 0.0, "invalid": 1.0}
    assert ranked(["C1CC", "OC", "CO", "CC"]) == ["CO", "CC"]


def test_the_copy_baseline_never_finds_a_product(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path))
    assert copied("CC(=O)O.CN>O", 2) == ["CC(=O)O", "CN"]
    rows = datamodules.ReactionData(draws=150, held=0.2).splits["train"]
    sources, targets = [r.reactants for r in rows], [r.product for r in rows]
    found = hits([copied(s, 5) for s in sources], targets, (1, 5))
    assert found == {"top1": 0.0, "top5": 0.0, "invalid": 0.0}


def module(**settings: Any) -> zoo.ReactionTransformer:
    torch.manual_seed(0)
    sizes = {"width": 16, "layers": 1, "heads": 2, "hidden": 16, "beams": 3, "max_length": 12, "dropout": 0.0}
    tokens = TokenVocabulary.of_texts([tokenised("CNOBr(=).>")], "smiles")
    made = zoo.ReactionTransformer(vocab_size=len(tokens), **{**sizes, **settings})
    made.vocabulary.fill(tokens.document)
    return made.eval()


def test_candidates_come_best_first_and_a_source_is_made_canonical_first() -> None:
    model = module()
    (one,) = model.react("CN.CC(=O)O", 3)
    assert [one] == model.react(["O=C(O)C.NC"], 3)
    assert [c["log_p"] for c in one] == sorted((c["log_p"] for c in one), reverse=True)
    assert {*one[0]} == {"smiles", "valid", "log_p"}
    # its score is that of the network, whoever is beside it in the batch
    beside = model.react(["CN.CC(=O)O", "CCCCCCCCN.CC"], 3)[0]
    assert [c["smiles"] for c in beside] == [c["smiles"] for c in one]
    assert [c["log_p"] for c in beside] == pytest.approx([c["log_p"] for c in one], abs=1e-4)
    with pytest.raises(ValueError, match="'C1CC' is no molecule"):
        model.react("C1CC")


def test_answers_have_no_dropout_no_unknown_token_and_as_many_candidates_as_asked() -> None:
    model = module(dropout=0.5)
    with torch.no_grad():
        model.network.generator.bias[UNK] = 20.0
    (one,) = model.react("CN", 4)  # more than its three beams
    assert len(one) == 4
    assert not any("?" in c["smiles"] for c in one)
    assert model.train().react("CN", 4) == [one]
    assert model.training


def test_scores_of_candidates_are_those_of_the_network_that_reads_them() -> None:
    """Each beam goes on from its own past."""
    model = module()
    for parameter in model.network.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    source = torch.tensor([model.tokens.encoded(tokenised("CN.CO"))])
    rows, scores = beam_search(model.network, model.network.encode(source), 3, 6, BOS, EOS, PAD, 0.0, (UNK,))
    for row, score in zip(rows[0].tolist(), scores[0].tolist(), strict=True):
        ids = [t for t in row if t != PAD]
        logits = model.network(source, torch.tensor([[BOS, *ids[:-1]]]))
        logp = forbid(logits, PAD, BOS, UNK).log_softmax(dim=-1)[0]
        assert score == pytest.approx(sum(float(logp[i, t]) for i, t in enumerate(ids)), abs=1e-4)


def batch_of(model: zoo.ReactionTransformer, *targets: str) -> dict[str, Any]:
    rows = [torch.tensor([BOS, *model.tokens.encoded(tokenised(t)), EOS]) for t in targets]
    target = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)
    return {"source": target[:, 1:], "target": target, "source_text": [*targets], "target_text": [*targets]}


def test_the_loss_is_of_the_next_token(monkeypatch: pytest.MonkeyPatch) -> None:
    model = module()
    monkeypatch.setattr(model, "log", lambda *_, **__: None)
    batch = batch_of(model, "CN", "COCN")
    logits = model.network(batch["source"], batch["target"][:, :-1])
    expected = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), batch["target"][:, 1:].flatten(), ignore_index=PAD
    )
    assert torch.allclose(model.training_step(batch, 0), expected)


def test_scores_are_means_over_the_reactions_of_as_many_batches_as_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, told = module(generate_batches=1), {}
    monkeypatch.setattr(model, "log", lambda name, value, **_: told.update({name: float(value)}))
    monkeypatch.setattr(model, "answers", lambda source, texts: ([["CO"], *([t] for t in texts[1:])], []))
    model.on_validation_epoch_start()
    for number in range(3):
        model.validation_step(batch_of(model, "CN", "COC", "CC", "CO"), number)
    assert model._sums["count"] == 4
    model.on_validation_epoch_end()
    assert (told["val/top1"], told["val/invalid"]) == (0.75, 0.0)
    model.on_test_epoch_start()
    for number in range(3):
        model.test_step(batch_of(model, "CN", "COC", "CC", "CO"), number)
    assert model._sums["count"] == 12


def test_the_product_found_again_and_weights_that_cannot_find_it(monkeypatch: pytest.MonkeyPatch) -> None:
    back = module(direction="retro", round_trip="x")
    made = {"CC(=O)O.CN": "CNC(C)=O", "CO": "CC"}

    class Forward:
        def react(self, sources: list[str], count: int) -> list[list[dict[str, Any]]]:
            return [[{"smiles": made[s]}] for s in sources]

    back._forward = [Forward()]  # type: ignore[list-item]
    assert back._returned([["NC.CC(=O)O"], ["CO"], ["C1CC"], []], ["O=C(C)NC", "COC", "C", "C"]) == 1.0
    back._forward = []
    monkeypatch.setattr(zoo, "load", lambda _: module(direction="retro"))
    with pytest.raises(ValueError, match="round_trip: x are no forward weights of a ReactionTransformer"):
        back._forward_weights()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"arch": "copy", "hidden": 8}, "hidden is 8, which arch: copy does not use"),
        ({"round_trip": "x"}, "round_trip is x, which direction: forward does not use"),
        ({"arch": "x"}, "arch must be transformer or copy"),
        ({"width": 10, "heads": 4}, "multiple of the heads"),
        ({"dropout": 1.0}, "dropout is 1.0"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        zoo.ReactionTransformer(**settings)


def test_the_papers_recipe_is_the_default() -> None:
    """lr = 2 d^-.5 min(k^-.5, k 8000^-1.5), betas (.9, .998), one table of tokens."""
    with torch.device("meta"):
        model = zoo.ReactionTransformer(vocab_size=300)
    count = sum(p.numel() for p in model.parameters())
    attention, feed = 4 * 256**2 + 4 * 256, 2 * 256 * 2048 + 2048 + 256
    layers = 4 * (attention + feed + 4 * 256) + 4 * (2 * attention + feed + 6 * 256)
    assert count == layers + 300 * 256 + 300 + 4 * 256
    made = module(width=256, heads=8).configure_optimizers()
    optimizer, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
    assert optimizer.defaults["betas"] == (0.9, 0.998)
    assert made["lr_scheduler"]["interval"] == "step"
    assert schedule.factor(0) == pytest.approx(2 / 16 * 8000**-1.5)
    assert schedule.factor(7999) == pytest.approx(2 / 16 * 8000**-0.5)


def test_what_a_prediction_writes(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    beams = [["O=C(C)NC", "CC"], ["C1CC", "COC"]]
    report = PredictedReactions(
        ["CC(=O)O.CN", "CBr.CO>O"],
        TRUTH[:2],
        beams,
        [[-0.1, -2.0], [-0.5, -1.0]],
        torch.tensor([0, 1]),
        ["amide", ""],
    )
    report.write(tmp_path)
    assert [p.name for p in PredictedReactions.merge(tmp_path)] == ["reactions.csv", "reactions.png"]
    assert (tmp_path / "reactions.csv").read_text().splitlines() == [
        "index,kind,source,target,rank,prediction1,log_p1,prediction2,log_p2",
        "0,amide,CC(=O)O.CN,CNC(C)=O,1,CNC(C)=O,-0.1,CC,-2.0",
        "1,,CBr.CO>O,COC,2,C1CC,-0.5,COC,-1.0",
    ]


def test_the_average_of_a_runs_checkpoints(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    models = [module(), module()]
    for number, model in enumerate(models):
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(number))
        content = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}
        torch.save(content, folder / f"step={number:08d}.ckpt")
    torch.save({}, folder / "best.ckpt")  # another name: not averaged
    weights, lines = read_foreign(folder, "reactions")
    assert lines == ["mean of 2 checkpoints, step=00000000 to step=00000001"]
    name = "network.source_embedding.weight"
    mean = (models[0].state_dict()[name] + models[1].state_dict()[name]) / 2
    assert torch.allclose(weights.state_dict[name], mean, atol=1e-7)
    built = zoo.ReactionTransformer(**weights.hparams)
    built.load_state_dict(weights.state_dict)
    assert built.tokens == models[0].tokens
    damaged = models[0].state_dict() | {name: torch.full_like(mean, torch.nan)}
    torch.save(
        {"state_dict": damaged, "hyper_parameters": dict(model.hparams)}, folder / "step=00000002.ckpt"
    )
    with pytest.raises(ValueError, match=rf"step=00000002.ckpt: {name} holds NaN or infinity"):
        read_foreign(folder, "reactions")
    torch.save({"state_dict": {}, "hyper_parameters": {}}, folder / "step=00000002.ckpt")
    with pytest.raises(ValueError, match=r"step=00000002.ckpt is no checkpoint of zoo.ReactionTransformer"):
        read_foreign(folder, "reactions")
    with pytest.raises(ValueError, match="is no folder with checkpoints"):
        read_foreign(tmp_path, "reactions")


@pytest.mark.slow
def test_retro_weights_are_judged_by_forward_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    small = [
        f"--model.init_args.{k}={v}" for k, v in {"width": 16, "hidden": 16, "heads": 2, "layers": 1}.items()
    ]
    small += ["--data.init_args.draws=400", "--data.init_args.most_evaluated=6", "--trainer.max_steps=4",
              "--trainer.val_check_interval=4", "--checkpoint.every_n_train_steps=4"]  # fmt: skip
    forward = run("fit", "reactions_templates", tmp_path, *small)
    found = sorted((forward / "checkpoints").glob("step=*.ckpt"))[-1]
    flags = ["--data.init_args.direction=retro", f"--model.init_args.round_trip={found}", *small]
    back = run("fit", "reactions_templates", tmp_path, *flags)
    tested = run(
        "test",
        "reactions_templates",
        tmp_path,
        f"--ckpt_path={sorted((back / 'checkpoints').glob('step=*.ckpt'))[-1]}",
        *flags[:2],
        *small[4:6],
    )
    import json

    final = json.loads((tested / "summary_test.json").read_text())["final"]
    assert 0 <= final["test/round_trip"] <= 1
