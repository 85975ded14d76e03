"""DEMI of dialogues: likelihoods, decoding, terms, gradients, what a run leaves, killed and shared runs."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from commands import run
from interruption import Killed, newest_checkpoint, run_differences
from processes import CLI, environment, largest_difference
from quiet import quiet_trainer
from torch import Tensor

import datamodules
import zoo
from zoo.demi import bounds, language
from zoo.demi.dialogue_terms import recovery
from zoo.demi.language import CausalLM, at_end, config_of, joined, settings

SIZES: dict[str, Any] = {
    "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 96, "initializer_range": 0.3,
    "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
}  # fmt: skip
FLAGS = (
    "--model.init_args.sizes={n_embd: 16, n_layer: 1, n_head: 2, n_positions: 96, initializer_range: 0.1,"
    " resid_pdrop: 0.0, embd_pdrop: 0.0, attn_pdrop: 0.0}",
    "--model.init_args.hidden=16", "--model.init_args.embedding=8", "--model.init_args.warmup_steps=4",
    "--data.init_args.batch_size=8", "--data.init_args.dialogues=200", "--data.init_args.held_dialogues=20",
    "--data.init_args.eval_batch_size=8", "--trainer.max_steps=8", "--trainer.log_every_n_steps=2",
    "--trainer.val_check_interval=4", "--checkpoint.every_n_train_steps=2",
)  # fmt: skip


VAR = ("--model.init_args.objective=var", "--model.init_args.negative_length=8")


def data_of(**more: Any) -> datamodules.DialogueHistories:
    data = datamodules.DialogueHistories(
        model="words", dialogues=300, held_dialogues=20, longest=24, history_tokens=64, **more
    )
    data.setup("fit")
    return data


def batch_of(rows: int = 6, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = data_of(**more).train_set.__getitems__([(0, i) for i in range(rows)])
    return found


def model_of(**more: Any) -> zoo.DialogueDEMI:
    torch.manual_seed(0)
    given: dict[str, Any] = {"sizes": SIZES, "vocab_size": 107, "eos_id": 2, "max_length": 9}
    if more.get("objective") not in ("none", "mmi", "next_utterance"):
        given |= {"hidden": 8, "embedding": 4}
    return zoo.DialogueDEMI(**{**given, **more}).eval()


# --- the language model -----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", language.FAMILIES)
def test_logits_of_a_family_are_its_head_on_its_last_states(family: str) -> None:
    names = {
        "gpt2": {"n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 16},
        "gpt_neo": {"hidden_size": 8, "num_layers": 2, "num_heads": 2, "max_position_embeddings": 16},
    }
    sizes = names.get(family, {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
                               "intermediate_size": 8, "max_position_embeddings": 16})  # fmt: skip
    if family == "gpt_neo":
        found = settings(family, sizes) | {"attention_types": [[["global"], 2]]}
    else:
        found = settings(family, sizes | ({} if family.startswith("gpt") else {"num_key_value_heads": 2}))
    torch.manual_seed(0)
    lm = CausalLM(config_of(found, 20, 3)).eval()
    ids = torch.arange(12).view(2, 6)
    torch.testing.assert_close(lm.logits(lm(ids)), lm.model(input_ids=ids).logits)
    torch.testing.assert_close(lm(ids[:, :4]), lm(ids)[:, :4])  # what is behind a token is not seen by it
    assert (lm.width, lm.vocabulary, lm.positions) == (8, 20, 16)


def test_published_sizes() -> None:
    with torch.device("meta"):
        small = CausalLM(config_of(settings("gpt2", None), 50257, 50256))
    assert sum(p.numel() for p in small.parameters()) == 124_439_808
    assert (small.width, small.positions) == (768, 1024)


def test_rows_are_joined_at_their_own_lengths() -> None:
    first, second = torch.tensor([[5, 6, 7], [8, 0, 0]]), torch.tensor([[1, 0], [2, 3]])
    ids, ends = joined(first, torch.tensor([3, 1]), second, torch.tensor([1, 2]))
    assert ends.tolist() == [4, 3]
    assert ids.tolist() == [[5, 6, 7, 1], [8, 2, 3, 0]]


def test_likelihoods_are_of_the_response_alone() -> None:
    model, batch = model_of(objective="none"), batch_of()
    found, lm = model.terms(batch), model.network.lm.model
    for row in range(6):
        n, y = int(batch["history_length"][row]), int(batch["response_length"][row])
        ids = torch.cat([batch["history"][row, :n], batch["response"][row, :y]])
        logp = lm(input_ids=ids[None]).logits[0].log_softmax(dim=-1)
        by_hand = sum(float(logp[n + t - 1, ids[n + t]].detach()) for t in range(y))
        assert float(found["log_p"][row]) == pytest.approx(by_hand, abs=1e-3)
    assert found["tokens"].tolist() == batch["response_length"].tolist()


def greedy_by_hand(lm: Any, ids: list[int], most: int, eos: int) -> list[int]:
    found: list[int] = []
    for _ in range(most):
        token = int(lm(input_ids=torch.tensor([ids + found])).logits[0, -1].argmax())
        found.append(token)
        if token == eos:
            break
    return found


def test_responses_to_histories_of_any_length() -> None:
    """The cache and the padding on the left change nothing, and a row ends with its EOS."""
    model, batch = model_of(objective="none"), batch_of(8)
    with torch.no_grad():  # an EOS that is likely somewhere
        model.network.lm.model.transformer.wte.weight[2] *= 2.5
    lm = model.network.lm
    ids, lengths = lm.respond(batch["history"], batch["history_length"], 9, 2)
    rows = [batch["history"][i, : batch["history_length"][i]].tolist() for i in range(8)]
    expected = [greedy_by_hand(lm.model, row, 9, 2) for row in rows]
    assert [row[:n].tolist() for row, n in zip(ids, lengths, strict=True)] == expected
    assert len({*batch["history_length"].tolist()}) > 1
    assert 2 in lengths.bincount(minlength=10)[:9] or int(lengths.min()) < 9
    again = lm.respond(batch["history"][:1], batch["history_length"][:1], 9, 2)[0]
    assert again[0].tolist() == ids[0, : again.shape[1]].tolist()


def test_beams_find_what_is_at_least_as_likely_and_draws_follow_their_numbers() -> None:
    batch = {**batch_of(4), "index": torch.arange(4)}
    likely = [model_of(objective="none", **how).responses(batch)[2].sum()
              for how in ({}, {"decoding": "beam", "beams": 8})]  # fmt: skip
    assert float(likely[1]) >= float(likely[0])
    model = model_of(objective="none", decoding="sample", top_k=0)
    first, again = model.responses(batch), model.responses(batch)
    assert first[0].equal(again[0])
    other = model.responses({**batch, "index": torch.arange(4) + 4})
    assert not first[0].equal(other[0])
    alone = model.responses({k: v[2:3] if isinstance(v, Tensor) else v for k, v in batch.items()})
    assert alone[0][0].tolist() == first[0][2, : alone[0].shape[1]].tolist()


# --- terms ------------------------------------------------------------------------------------------------


def pieces(model: zoo.DialogueDEMI, batch: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """States of the history, of its last turn, of the response, each read alone."""
    lm = model.network.lm
    z, recent, y = (
        at_end(lm(batch[name]), batch[f"{name}_length"]) for name in ("history", "recent", "response")
    )
    return z, recent, y


@pytest.mark.parametrize("objective", ["is", "bo", "multi", "infonce", "var"])
def test_terms_are_the_bounds_of_the_spec_s_scores(objective: Any) -> None:
    model, batch = model_of(objective=objective, temperature=0.2), batch_of()
    n, (z, recent, y) = model.network, pieces(model, batch)
    keys = n.key_head(y)
    joint, psi = n.critic(z) @ keys.T / 0.2, n.critic(recent) @ keys.T / 0.2
    uniform = torch.rand(6, 3, 7, generator=torch.Generator().manual_seed(1))
    found = model.terms(batch, uniform=uniform)
    expected = bounds.info_nce(joint if objective == "infonce" else psi, "diagonal")
    torch.testing.assert_close(found["first"], expected, atol=1e-4, rtol=0)
    if objective == "infonce":
        assert "second" not in found
        return
    if objective == "multi":
        second = bounds.info_nce(joint, "diagonal")
    else:
        embedded = n.conditional(torch.cat([z, recent], dim=1))
        phi = embedded @ keys.T / 0.2
        torch.testing.assert_close(
            model.terms(batch)["second"], bounds.importance_nce(phi, psi, "diagonal"), atol=1e-4, rtol=0
        )  # evaluated by I_IS, whatever it is trained by
        second = bounds.importance_nce(phi, psi, "diagonal")
        if objective == "bo":
            second = bounds.boosted_nce(phi, psi, "diagonal")
        if objective == "var":
            drawn, lengths = model.terms.proposed(batch, uniform)
            assert drawn.shape[0] == 18
            negatives = n.key_head(at_end(n.lm(drawn), lengths)).view(6, 3, -1)
            theirs = torch.einsum("be,bke->bk", embedded, negatives)
            own = (embedded * keys).sum(dim=1, keepdim=True)
            second = bounds.conditional_nce(torch.cat([own, theirs], dim=1) / 0.2)
            assert float(second.detach()) <= math.log(4)
    torch.testing.assert_close(found["second"], second, atol=1e-4, rtol=0)


def test_proposals_read_the_last_turn_alone() -> None:
    model, batch = model_of(), batch_of()
    uniform = torch.rand(6, 2, 7, generator=torch.Generator().manual_seed(1))
    drawn = model.terms.proposed(batch, uniform)[0]
    other = {**batch, "history": batch["history"].flip(0), "history_length": batch["history_length"].flip(0)}
    assert model.terms.proposed(other, uniform)[0].equal(drawn)
    helper = model.network.helper
    row = batch["recent"][4, : batch["recent_length"][4]]
    one, length = helper.respond(row[None], torch.tensor([len(row)]), 7, 2, uniform[4, 1, :, None])
    assert drawn[9, : int(length)].tolist() == one[0, : int(length)].tolist()  # row 4's second draw
    model.train()
    model.terms.proposed(batch, uniform)
    assert helper.training


@pytest.mark.parametrize("objective", ["is", "bo", "var"])
def test_gradients_go_where_they_belong(objective: Any) -> None:
    """Trap 3: psi gets none of the second term; tau none of any term, but its own likelihood."""
    model, batch = model_of(objective=objective), batch_of()
    uniform = torch.rand(6, 2, 7, generator=torch.Generator().manual_seed(1))
    found, n = model.terms(batch, uniform=uniform), model.network

    def trained(value: Tensor) -> set[str]:
        model.zero_grad()
        value.backward(retain_graph=True)
        return {k.split(".")[0] for k, p in n.named_parameters() if p.grad is not None and p.grad.any()}

    assert trained(found["first"]) == {"lm", "critic", "key_head"}
    assert trained(found["second"]) == {"lm", "conditional", "key_head"}
    assert trained(found["log_p"].sum()) == {"lm"}
    if objective == "var":
        assert trained(found["helper"].sum()) == {"helper"}


def test_the_helper_s_likelihoods() -> None:
    """tau(y | x'') of var; q(x' | y) of mmi."""
    batch = batch_of()
    for objective, order in (("var", ("recent", "response")), ("mmi", ("response", "history"))):
        how = {"decoding": "sample"} if objective == "mmi" else {}
        model = model_of(objective=objective, **how)
        found = model.terms(batch)
        n, y = (int(batch[f"{name}_length"][3]) for name in order)
        ids = torch.cat([batch[order[0]][3, :n], batch[order[1]][3, :y]])
        logp = model.network.helper.model(input_ids=ids[None]).logits[0].log_softmax(dim=-1)
        by_hand = sum(float(logp[n + t - 1, ids[n + t]].detach()) for t in range(y))
        assert float(found["helper"][3].detach()) == pytest.approx(by_hand, abs=1e-3)
        assert int(found["helper_tokens"][3]) == y


def test_mmi_takes_the_candidate_from_which_the_history_is_recovered() -> None:
    model = model_of(objective="mmi", decoding="sample", candidates=5, top_k=0)
    batch = {**batch_of(3), "index": torch.arange(3)}
    chosen = model.responses(batch)
    plain = model_of(objective="none", decoding="sample", top_k=0)
    plain.network.lm.load_state_dict(model.network.lm.state_dict())
    asked = {k: v.repeat_interleave(5, dim=0) for k, v in batch.items() if isinstance(v, Tensor)}
    seen: dict[str, Any] = {}

    def record(helper: Any, given: Any, ids: Tensor, lengths: Tensor) -> Tensor:
        seen["ids"], seen["value"] = ids, recovery(helper, asked, ids, lengths)
        return seen["value"]

    with mock.patch("zoo.demi.dialogue.recovery", record):
        model.responses(batch)
    best = seen["value"].view(3, 5).argmax(dim=1) + 5 * torch.arange(3)
    assert seen["ids"][best].equal(chosen[0])
    assert len({tuple(row) for row in seen["ids"].tolist()}) > 3


def test_the_next_utterance_is_chosen_among_two() -> None:
    model, batch = model_of(objective="next_utterance"), batch_of(distractors=True)
    n = model.network

    def score(name: str) -> Tensor:
        ids, ends = joined(batch["history"], batch["history_length"], batch[name], batch[f"{name}_length"])
        return n.choice(at_end(n.lm(ids), ends))[:, 0]

    expected = (score("response") - score("distractor")).sigmoid().log().mean()
    torch.testing.assert_close(model.terms(batch)["chosen"], expected, atol=1e-5, rtol=0)


# --- weights and refusals ---------------------------------------------------------------------------------


def test_training_starts_from_a_folder_of_transformers(tmp_path: Path) -> None:
    source = model_of(objective="none").network.lm.model
    source.save_pretrained(tmp_path / "own")
    model = model_of(objective="var")
    for lm in (model.network.lm, model.network.helper):
        said = language.start_from(lm, str(tmp_path / "own"))
        assert said.endswith("parameters)")
        torch.testing.assert_close(lm.model.transformer.wte.weight, source.transformer.wte.weight)
    read = zoo.DialogueDEMI(str(tmp_path / "own"), vocab_size=107, eos_id=2, objective="none")
    assert read.hparams["backbone"] == "gpt2"
    assert read.hparams["sizes"]["n_embd"] == 16
    with pytest.raises(ValueError, match=r"does not fit: .*wte.weight is \[107, 16\]"):
        language.start_from(CausalLM(config_of(settings("gpt2", SIZES), 90, 2)), str(tmp_path / "own"))
    with pytest.raises(ValueError, match="is no causal language model"):
        language.start_from(model.network.lm, str(tmp_path))
    assert not [k for k in model.state_dict() if "lm_head" in k]  # tied: one name


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"objective": "cnce"}, "objective must be one of"),
        ({"decoding": "nucleus"}, "decoding must be one of"),
        ({"objective": "is", "samples": 8}, "samples is 8, which objective: is does not use"),
        ({"objective": "none", "information_weight": 1.0}, "does not use"),
        ({"beams": 3}, "beams is 3, which decoding: greedy does not use"),
        ({"objective": "mmi"}, "re-ranks draws"),
        ({"sizes": {"n_embd": 0}}, "sizes.n_embd is 0"),
        ({"sizes": {"embd": 4}}, "gpt2 has no entry 'embd'"),
        ({"sizes": {"n_embd": 10, "n_head": 3}}, "."),
        ({"backbone": "bert"}, "is no family|known are"),
        ({"eos_id": 107}, "eos_id is 107"),
    ],
)
def test_what_makes_no_sense_is_refused(settings: dict[str, Any], said: str) -> None:
    given = {"sizes": SIZES, "vocab_size": 107, "eos_id": 2, **settings}
    with pytest.raises(ValueError, match=said) as caught:
        zoo.DialogueDEMI(**given)
    assert "\n" not in str(caught.value)


def test_draws_belong_to_a_dialogue_and_to_no_place_in_a_batch() -> None:
    model, batch = model_of(objective="none", decoding="sample", top_k=0), batch_of(6)
    alone = {k: v[3:4] for k, v in batch.items() if isinstance(v, Tensor)}
    ids, lengths, _ = model.responses(batch)
    own, length, _ = model.responses(alone)
    assert own[0, : int(length)].equal(ids[3, : int(lengths[3])])
    same = {k: v[:1].expand(6, *v.shape[1:]) for k, v in alone.items()} | {"index": torch.arange(6)}
    assert len({tuple(row) for row in model.responses(same)[0].tolist()}) > 1  # one history, six draws
    same["index"] = torch.full((6,), 3)
    assert len({tuple(row) for row in model.responses(same)[0].tolist()}) == 1


def test_terms_near_their_ceiling_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    model, log_k = model_of(objective="bo"), math.log(64)
    values = {"first": 0.96 * log_k, "second": 0.94 * log_k, "log_k": log_k}
    model._tell_saturated({k: torch.tensor(v) for k, v in values.items()})
    said = capsys.readouterr().out
    assert "first is saturated: 3.993 of at most 4.159 nats" in said
    assert "second" not in said


def test_one_dialogue_alone_has_no_negatives() -> None:
    for objective, fits in (("bo", False), ("var", False), ("none", True)):
        model = model_of(objective=objective).train()
        if fits:
            quiet_trainer(max_steps=1, limit_val_batches=0).fit(model, data_of(batch_size=1))
            continue
        with pytest.raises(ValueError, match=r"batch_size is 1, but the other rows"):
            quiet_trainer(max_steps=1, limit_val_batches=0).fit(model, data_of(batch_size=1))


# --- runs -------------------------------------------------------------------------------------------------


def test_a_run_leaves_scores_and_responses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run("fit", "demi_facts", tmp_path, *FLAGS, *VAR)
    weights = f"--weights={newest_checkpoint(folder)}"
    tested = run("test", "demi_facts", tmp_path, weights, *FLAGS[6:8])
    final = json.loads((tested / "summary_test.json").read_text())["final"]
    rows = ("ppl", "nll", "helper_nll", "plug_in", "first", "second", "ess", "log_k", "bleu_2", "bleu_4",
            "distinct_1", "distinct_2", "exact", "answer", "first_truth", "second_truth")  # fmt: skip
    assert {f"test/{name}" for name in rows} <= {*final}
    assert final["test/ppl"] == pytest.approx(math.exp(final["test/nll"]), rel=1e-4)
    assert final["test/log_k"] == pytest.approx(math.log(8), abs=1e-5)  # the last four rows have another K
    predicted = run("predict", "demi_facts", tmp_path, weights, *FLAGS[6:8]) / "predictions"
    records = [json.loads(line) for line in (predicted / "responses.jsonl").read_text().splitlines()]
    assert [r["index"] for r in records] == list(range(20))
    assert len(records[0]["history"]) == 4
    assert {"response", "reference", "log_p", "log_p_reference", "nats_last_turn", "nats_history"} <= {
        *records[0]
    }
    assert records[3]["reference"] in (predicted / "responses.html").read_text()
    asked = '--data.init_args.predict=["i live in oslo .", "hello", "where do i live ?"]'
    typed = run("predict", "demi_facts", tmp_path, weights, asked) / "predictions"
    (record,) = [json.loads(line) for line in (typed / "responses.jsonl").read_text().splitlines()]
    assert record["history"][-1] == "where do i live ?"
    model = zoo.load(str(newest_checkpoint(folder)))
    assert model.respond(record["history"]) == record["response"]
    for none in (["", "hm"], [], 3):
        with pytest.raises(ValueError, match="with words"):
            model.respond(none)


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), VAR], ids=["bo", "var"])
def test_a_killed_run_goes_on_to_the_same_bits(more: tuple[str, ...], tmp_path: Path) -> None:
    """With dropout, whose numbers are the global generator's."""
    flags = (*FLAGS, *more, FLAGS[0].replace("resid_pdrop: 0.0", "resid_pdrop: 0.1"))
    whole = run("fit", "demi_facts", tmp_path / "whole", *flags)
    original = zoo.DialogueDEMI.training_step

    def killed(self: zoo.DialogueDEMI, batch: Any, batch_idx: int) -> Tensor:
        loss = original(self, batch, batch_idx)
        if self.trainer.global_step == 5:
            raise Killed
        return loss

    with mock.patch.object(zoo.DialogueDEMI, "training_step", killed), pytest.raises(Killed):
        run("fit", "demi_facts", tmp_path / "killed", *flags)
    resumed = run("fit", "demi_facts", tmp_path / "killed", *flags, "--ckpt_path=last")
    assert run_differences(whole, resumed) == []


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["var", "is", "bo"])
def test_two_processes_train_what_one_does(objective: str, tmp_path: Path) -> None:
    """Negatives of the whole batch with their gradient, likelihoods by the whole batch's tokens."""
    more = (*FLAGS, f"--model.init_args.objective={objective}", "--model.init_args.information_weight=1.0",
            "--model.init_args.optimizer={class_path: torch.optim.SGD, init_args: {lr: 0.1}}")  # fmt: skip
    if objective == "var":
        more += ("--model.init_args.negative_length=8",)
    one = run("fit", "demi_facts", tmp_path / "one", *more)
    two = [f"--trainer.default_root_dir={tmp_path / 'two'}", "--config=trainer/ddp", "--trainer.devices=2",
           "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(CLI), "fit", "--config=demi_facts", *more, *two],
        env=environment(), cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    (other,) = (tmp_path / "two" / "demi_facts").glob("version_*")
    a, b = (torch.load(newest_checkpoint(f), weights_only=True)["state_dict"] for f in (one, other))
    assert largest_difference(a, b) <= 5e-6
