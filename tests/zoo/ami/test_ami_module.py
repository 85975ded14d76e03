"""The module: whose parameters a turn moves, signs, the order of draws, arms, what validation says."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from quiet import quiet_trainer
from torch import Tensor, tensor

import datamodules
import zoo
from zoo.ami.recovery import recovery_nll
from zoo.nn.processes import evaluated

PAD, BOS, EOS = 1, 2, 3
SMALL: dict[str, Any] = {"variant": "gru", "vocab_size": 58, "width": 16, "samples": 2, "max_length": 6}
TURNS = {"forward_batches": 1, "backward_batches": 1, "noise_batches": 1, "adversarial_every": 1}


def data(**options: Any) -> Any:
    return datamodules.DullReplies(
        **{"batch_size": 8, "train_pairs": 64, "val_pairs": 8, "test_pairs": 40, **options}
    )


def states(module: Any) -> dict[str, dict[str, Tensor]]:
    parts = {"forward": module.network.forward_network, "backward": module.network.backward_network,
             "noise": module.network.noise, "judge": module.judge,
             "source": module.source_network}  # fmt: skip
    return {k: copy.deepcopy(v.state_dict()) for k, v in parts.items() if v is not None}


def moved(module: Any, steps: int, **options: Any) -> list[set[str]]:
    """Which parts each step of a training changes, bit for bit."""
    found: list[set[str]] = []
    before = states(module)

    original = type(module).training_step

    def step(self: Any, batch: Any, batch_idx: int) -> None:
        nonlocal before
        original(self, batch, batch_idx)
        assert all(p.grad is None for p in self.parameters())  # nothing leaks, nothing adds up
        after = states(self)
        found.append({k for k in after if any(not torch.equal(v, before[k][n]) for n, v in after[k].items())})
        before = after

    with mock.patch.object(zoo.AMI, "training_step", step):
        quiet_trainer(max_steps=steps, limit_val_batches=0).fit(module, data(**options))
    return found


@pytest.mark.parametrize("grad", ["official", "straight_through"])
@pytest.mark.parametrize("variant", ["gru", "transformer_tiny"])
def test_a_turn_changes_its_own_network_alone(variant: str, grad: str) -> None:
    torch.manual_seed(0)
    module = zoo.AMI(**{**SMALL, "variant": variant}, **TURNS, pretrain_forward=1, pretrain_backward=1,
                     pretrain_noise=1, pretrain_source=1, source_model=True, noise_grad=grad,
                     noise_limit=100.0)  # fmt: skip
    turns = moved(module, 7)
    # the judge is a copy of phi as pretraining leaves it, and stays so
    assert turns == [
        {"forward"}, {"backward"}, {"noise", "judge"}, {"source"}, {"forward"}, {"backward"}, {"noise"},
    ]  # fmt: skip
    assert module.judged
    assert module.source_trained


def test_gradients_neither_add_up_nor_stay() -> None:
    """Two identical steps of plain SGD move as far; nothing is left in any parameter."""
    module = zoo.AMI(**SMALL, forward_batches=0, backward_batches=1, noise="none", objective="mle")
    start = states(module)["backward"]
    moved(module, 1)
    assert all(p.grad is None for p in module.parameters())
    once = {k: v - start[k] for k, v in states(module)["backward"].items()}
    batch = next(iter(prepared("fit").train_dataloader()))
    fresh = zoo.AMI(**SMALL, noise="none")
    fresh.network.backward_network.load_state_dict(start)
    gold = batch["target"][:, 1:].where(batch["target"][:, 1:] != EOS, PAD)
    recovery_nll(fresh.network.backward_network, batch, gold, PAD).mean().backward()
    for name, parameter in fresh.network.backward_network.named_parameters():
        assert parameter.grad is not None
        assert torch.allclose(once[name], -0.01 * parameter.grad, atol=1e-6), name


def prepared(stage: str, **options: Any) -> Any:
    found = data(**options)
    found.setup(stage)
    return found


class Alone:
    """A trainer's place and step for a module that is stepped by hand."""

    def __init__(self, module: Any, learning_rate: float = 0.1) -> None:
        self.module = module
        net = module.network
        parts = [net.forward_network, net.backward_network, *([net.noise] if net.noise is not None else [])]
        self.optimizers = [torch.optim.SGD(p.parameters(), lr=learning_rate) for p in parts]

    def __enter__(self) -> Any:
        wrapped = [mock.Mock(optimizer=o, step=o.step) for o in self.optimizers]
        trainer = mock.Mock(world_size=1, global_step=0, global_rank=0)
        self.patches = [
            mock.patch.object(type(self.module), "trainer", trainer),
            mock.patch.object(type(self.module), "global_rank", 0),
            mock.patch.object(self.module, "optimizers", return_value=wrapped),
        ]
        for patch in self.patches:
            patch.start()
        return self.module

    def __exit__(self, *error: Any) -> None:
        for patch in self.patches:
            patch.stop()


def test_the_signs_of_the_backward_network() -> None:
    """After one adversarial step its NLL of the synthetic batch has gone up, after an MLE step that of the
    real one has gone down."""
    torch.manual_seed(1)
    module = zoo.AMI(**SMALL, noise="none", adversarial_clip=None)
    batch = next(iter(prepared("fit").train_dataloader()))
    losses = module.objectives

    def nll(sources: Tensor, copies: int) -> float:
        with torch.no_grad():
            return float(recovery_nll(module.network.backward_network, batch, sources, PAD, copies).mean())

    with Alone(module):
        random = torch.Generator().manual_seed(3)
        _, sources, _ = losses.synthetic.draw(batch, random)
        before = nll(sources, 2)
        with mock.patch.object(losses.synthetic, "draw", return_value=(None, sources, None)):
            module._step(1, losses.backward_adversarial(batch, random)[0], counts=False)
        assert nll(sources, 2) > before
        gold = batch["target"][:, 1:].where(batch["target"][:, 1:] != EOS, PAD)
        before = nll(gold, 1)
        module._step(1, losses.backward_mle(batch, False)[0], mle=True)
        assert nll(gold, 1) < before


def test_the_backward_source_has_no_ends_and_its_target_both() -> None:
    module = zoo.AMI(**SMALL, noise="none")
    batch = next(iter(prepared("fit").train_dataloader()))
    seen: list[Tensor] = []
    original = module.network.backward_network.encode

    def encode(ids: Tensor, extra: Any = None) -> Any:
        seen.append(ids)
        return original(ids, extra)

    with mock.patch.object(module.network.backward_network, "encode", encode):
        module.objectives.backward_mle(batch, False)
        module.objectives.forward_adversarial(batch, torch.Generator().manual_seed(0))
        module.objectives.backward_adversarial(batch, torch.Generator().manual_seed(0))
    assert len(seen) == 3
    assert all(not ((ids == BOS) | (ids == EOS)).any() for ids in seen)
    assert (batch["recover"][:, 0] == BOS).all()
    assert ((batch["recover"] == EOS).sum(dim=1) == 1).all()


@pytest.mark.parametrize("rollout", ["sample", "teacher_forced"])
def test_zero_lambda_is_the_plain_forward_network(rollout: str) -> None:
    batch = next(iter(prepared("fit").train_dataloader()))
    drawn = []
    for settings in ({"noise": "learned", "noise_scale": 0.0}, {"noise": "none"}):
        torch.manual_seed(0)
        module = zoo.AMI(**SMALL, rollout=rollout, **settings)
        synthetic, random = module.objectives.synthetic, torch.Generator().manual_seed(0)
        with mock.patch.object(synthetic, "normal", lambda e, r: torch.ones(2, *e.states.shape)):
            drawn.append(synthetic.draw(batch, random)[0])
    assert torch.equal(*drawn)


def test_the_released_noise_grows_to_its_limit_and_stops() -> None:
    torch.manual_seed(0)
    batch = next(iter(prepared("fit").train_dataloader()))

    def moves(**settings: Any) -> bool:
        module = zoo.AMI(**SMALL, noise="learned", **settings)
        before = copy.deepcopy(module.network.noise.state_dict())
        with Alone(module):
            module._step(2, module.objectives.noise(batch, torch.Generator().manual_seed(0))[0])
        return any(not torch.equal(v, before[k]) for k, v in module.network.noise.state_dict().items())

    assert not moves(rho=0.0)  # the argmax passes no gradient
    assert moves(rho=0.1, noise_limit=100.0)
    assert not moves(rho=0.1, noise_limit=0.0)
    assert moves(rho=0.0, noise_grad="straight_through")


def test_replies_are_drawn_without_dropout_and_the_noise_is_that_of_the_scores() -> None:
    torch.manual_seed(0)
    module = zoo.AMI(**{**SMALL, "variant": "transformer_tiny"}, dropout=0.5, noise="gaussian").train()
    batch = next(iter(prepared("fit").train_dataloader()))
    synthetic, network = module.objectives.synthetic, module.network.forward_network
    first, again = (synthetic.draw(batch, torch.Generator().manual_seed(5)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert module.training
    used: list[Tensor] = []
    original = network.decode

    def decode(prefix: Tensor, encoded: Any) -> Tensor:
        used.append(encoded.states)
        return original(prefix, encoded)

    with (
        mock.patch.object(network, "decode", decode),
        mock.patch.object(network.dropout, "p", 0.0),
        evaluated(module.network),
        mock.patch.object(synthetic, "draw", return_value=first),
    ):
        clean = network.encode(batch["source"]).states
        module.objectives.forward_adversarial(batch, torch.Generator().manual_seed(5))
    assert torch.allclose(used[0], (clean + first[2]).flatten(0, 1), atol=1e-6)


def test_arms_have_their_steps() -> None:
    """Equal numbers of MLE steps; the backward network sees synthetic pairs in one arm alone."""
    calls: dict[str, list[str]] = {}
    for objective in ("mle", "vim", "ami"):
        module = zoo.AMI(**SMALL, **{**TURNS, "noise_batches": 4}, objective=objective, noise="none")
        made = calls[objective] = []
        for name in ("forward_mle", "backward_mle", "forward_adversarial", "backward_adversarial"):
            original = getattr(module.objectives, name)

            def call(*a: Any, original: Any = original, name: str = name, made: Any = made) -> Any:
                made.append(name)
                return original(*a)

            setattr(module.objectives, name, call)
        trainer = quiet_trainer(max_steps=4, limit_val_batches=0)
        trainer.fit(module, data())
        assert trainer.global_step == 4
    mle = ["forward_mle", "backward_mle"] * 2
    assert calls["mle"] == mle
    assert calls["vim"] == ["forward_mle", "forward_adversarial", "backward_mle"] * 2
    assert [c for c in calls["ami"] if "mle" in c] == mle
    assert calls["ami"].count("backward_adversarial") == 2


def test_validation_and_test_report_the_bound_and_what_any_model_must_beat(tmp_path: Path) -> None:
    module = zoo.AMI(**SMALL, noise="none", forward_batches=1, backward_batches=1, top_k=0)
    trainer = quiet_trainer(max_steps=2, val_check_interval=2, default_root_dir=tmp_path)
    trainer.fit(module, data())
    found = trainer.callback_metrics
    assert found["val/bound"] == pytest.approx(math.log(144) + float(found["val/log_q"]), abs=1e-4)
    assert "val/judge_bound" in found
    trainer.test(module, data(), verbose=False)
    found = trainer.callback_metrics
    assert {k.split("/")[1] for k in found if k.endswith("/distinct_1")} == {
        "greedy", "beam", "sample", "constant", "retrieval",
    }  # fmt: skip
    assert found["test/constant/generic"] == 1
    assert found["test/constant/information"] == pytest.approx(0, abs=1e-6)
    assert found["test/constant/different"] == pytest.approx(1 / 40)


def test_a_prediction_has_its_scores_in_both_files(tmp_path: Path) -> None:
    module = zoo.AMI(**SMALL, noise="none", decoding="beam", beam=3, replies=3, rerank=True)
    reports = quiet_trainer().predict(module, data(test_pairs=3))
    assert reports is not None
    (tmp_path / "parts").mkdir()
    for report in reports:
        report.write(tmp_path)
    jsonl, page = type(reports[0]).merge(tmp_path)
    records = [json.loads(line) for line in jsonl.read_text().splitlines()]
    assert [r["index"] for r in records] == [0, 1, 2]
    for record in records:
        scores = [reply["log_q"] for reply in record["replies"]]
        assert len(scores) == 3
        assert scores == sorted(scores, reverse=True)
        assert "beam 3" in record["protocol"]
        assert "ordered by log q" in record["protocol"]
    assert "ask topic" in page.read_text()
    ids = module.vocabulary.ids([records[0]["replies"][0]["text"]])
    batch = next(iter(prepared("predict", test_pairs=3).predict_dataloader()))
    with torch.no_grad():
        reply = tensor(ids)
        one = {k: v[:1] for k, v in batch.items() if isinstance(v, Tensor)}
        log_q = -recovery_nll(module.eval().network.backward_network, one, reply, PAD)
    assert records[0]["replies"][0]["log_q"] == pytest.approx(float(log_q), abs=2e-3)


def test_a_prediction_says_what_was_read_of_a_history(tmp_path: Path) -> None:
    """The lines of the input, what stands before the utterances that are read, and what was cut."""
    from fakes.pairs import persona_chat

    persona_chat(tmp_path, 2)
    asked = tmp_path / "asked.jsonl"
    rows = [{"source": "c", "history": ["a", "b"], "persona": ["i ski"]}, {"source": "word " * 40}]
    asked.write_text("\n".join(["", *map(json.dumps, rows)]) + "\n")
    source = datamodules.Dialogues("parlai", str(tmp_path), predict=str(asked), history=2, vocab_size=300)
    module = zoo.AMI(**{**SMALL, "vocab_size": source.vocab_size}, noise="none")
    (report,) = quiet_trainer().predict(module, source) or ()
    (tmp_path / "parts").mkdir()
    report.write(tmp_path)
    jsonl, page = type(report).merge(tmp_path)
    first, second = map(json.loads, jsonl.read_text().splitlines())
    kept = {key: first[key] for key in ("index", "row", "history", "unread", "cut", "persona")}
    assert kept == {
        "index": 0, "row": 2, "history": "b\nc", "unread": 1, "cut": False, "persona": "i ski",
    }  # fmt: skip
    assert (second["row"], second["unread"], second["cut"]) == (3, 0, True)
    for words in ("line 2, 1 earlier ones not read", "<i>i ski</i>", "line 3, read in part alone"):
        assert words in page.read_text()


def test_a_model_of_the_source_gives_its_entropy_where_the_data_do_not_know_it() -> None:
    torch.manual_seed(0)
    source = data(batch_size=32, train_pairs=3200, val_pairs=500)
    source.source_entropy = None
    settings = {"width": 32, "source_model": True, "pretrain_source": 200, "noise": "none", "max_length": 4}
    module = zoo.AMI(**{**SMALL, **settings}, optimizer=lambda p: torch.optim.Adam(p, lr=1e-2))
    trainer = quiet_trainer(max_steps=200, val_check_interval=100, num_sanity_val_steps=1)
    trainer.fit(module, source)
    found = trainer.callback_metrics
    assert found["val/source_entropy"] == pytest.approx(math.log(144), abs=0.1)
    assert found["val/source_nll"] == pytest.approx(float(found["val/source_entropy"]) / 4, rel=1e-4)
    assert found["val/bound"] == pytest.approx(float(found["val/source_entropy"] + found["val/log_q"]))
    source = data(val_pairs=20)  # which knows its entropy
    trainer.validate(module, source, verbose=False)
    found = trainer.callback_metrics
    assert found["val/bound"] == pytest.approx(math.log(144) + float(found["val/log_q"]), abs=1e-4)
    untrained = zoo.AMI(**SMALL, noise="none", source_model=True)
    source.source_entropy = None
    trainer.validate(untrained, source, verbose=False)
    assert not {"val/source_entropy", "val/bound"} & set(trainer.callback_metrics)


def test_the_model_of_the_source_reads_the_history_and_not_the_reply(tmp_path: Path) -> None:
    from fakes.pairs import persona_chat

    persona_chat(tmp_path, 3)
    source = datamodules.Dialogues("parlai", str(tmp_path), history=2, vocab_size=300, batch_size=4)
    source.setup("fit")
    batch = next(iter(source.train_dataloader()))
    module = zoo.AMI(**{**SMALL, "vocab_size": source.vocab_size}, source_model=True, noise="none")
    loss = module.objectives.source_mle(batch)[0]
    assert module.objectives.source_mle({**batch, "target": batch["target"].flip(1)})[0] == loss
    assert module.objectives.source_mle({**batch, "context": batch["context"].flip(1)})[0] != loss
    module.hparams["label_smoothing"] = 0.5
    assert module.objectives.source_mle(batch)[0] == loss


def test_a_clipped_reward_and_a_mixed_loss() -> None:
    batch = next(iter(prepared("fit").train_dataloader()))

    def found(**settings: Any) -> tuple[float, dict[str, Tensor], Any]:
        torch.manual_seed(0)
        module = zoo.AMI(**SMALL, noise="none", baseline="none", **settings)
        loss, logged = module.objectives.forward_adversarial(batch, torch.Generator().manual_seed(0))
        return float(loss), logged, module

    loss, logged, _ = found()
    assert logged["reward"] < -4  # ln 58 = 4.06 of an untrained network
    clipped, logged, _ = found(reward_clip=2.0)
    assert logged["reward"] == pytest.approx(-2)
    assert clipped / loss == pytest.approx(2 / 4.06, rel=0.05)
    mixed, logged, module = found(mle_mix=0.5)
    assert mixed == pytest.approx(
        loss + 0.5 * float(module.objectives.forward_mle(batch, False)[0]), rel=1e-5
    )
    assert float(logged["forward_adversarial"].detach()) == pytest.approx(loss)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rerank": True}, "rerank orders several replies, but replies is 1"),
        ({"decoding": "beam", "replies": 9}, "a beam of 5 has no more replies"),
        ({"replies": 3}, "decoding: greedy has one reply"),
        ({"noise": "none", "rho": 0.3}, "rho is 0.3, which noise: none does not use"),
        ({"heads": 4}, "heads is 4, which variant: gru does not use"),
        ({"eos_id": 1}, "eos_id apart"),
        ({"forward_batches": 0, "backward_batches": 0, "noise": "none"}, "a cycle needs"),
        ({"table": []}, "names no decoding"),
        ({"pretrain_source": 3}, "pretrain_source is 3, which source_model: false does not use"),
    ],
)
def test_impossible_settings_are_one_line(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        zoo.AMI(**{**SMALL, **settings})
    assert "\n" not in str(caught.value)


def test_other_data_than_those_of_the_weights_are_refused() -> None:
    module = zoo.AMI(**SMALL, noise="none")
    module.vocabulary.fill('{"another": "vocabulary"}')
    with pytest.raises(ValueError, match=r"another vocabulary|no tokenizer"):
        quiet_trainer(max_steps=1).fit(module, data())


def test_a_typed_history_becomes_the_ids_of_the_data(tmp_path: Path) -> None:
    from fakes.pairs import persona_chat

    from datamodules.text.exchanges import DialogueTemplate
    from zoo.ami.turns import batch_of
    from zoo.ami.vocabulary import Vocabulary

    persona_chat(tmp_path, 3)
    utterances = ["what is red 0 ?", "my house is red , number 0 .", "what is red 1 ?"]
    for history in (1, 2, 3):
        source = datamodules.Dialogues(
            "parlai", str(tmp_path), predict=utterances, history=history, vocab_size=300, longest=4
        )
        source.setup("predict")
        batch = next(iter(source.predict_dataloader()))
        found = batch_of(Vocabulary(source.vocabulary), utterances, BOS, EOS)
        for name, ids in found.items():
            assert torch.equal(ids, batch[name]), name

    vocabulary = Vocabulary(source.vocabulary)
    tags = tuple(map(vocabulary.special, ("<a>", "<b>", "<mask>")))
    persona = ["i have a red house , it is big", "i ski ."]
    row = DialogueTemplate(4, 3, tags).row(vocabulary.ids(utterances), [], vocabulary.ids(persona))  # type: ignore[arg-type]
    found = batch_of(vocabulary, utterances, BOS, EOS, persona)
    assert found["source"].tolist() == [row.source]
    assert found["context"].tolist() == [row.context]
    assert len(row.source) > batch["source"].shape[1]


def test_settings_of_a_decoding_count_where_it_is_asked_for() -> None:
    """A shorter table on a config that sets them blocks nobody; a turn in Python may ask for any."""
    module = zoo.AMI(**SMALL, noise="none", table=["greedy"], top_k=1, sampling_temperature=0.7, beam=7)
    quiet_trainer(max_steps=1, limit_val_batches=0).fit(module, data())
    (drawn,), (greedy,) = (module.reply("ask topic3 filler1", 1, d) for d in ("sample", "greedy"))  # type: ignore[arg-type]
    assert drawn == greedy
    assert len(module.reply("ask topic3 filler1", 7, "beam")) == 7


def test_a_turn_in_python_is_that_of_the_command_line() -> None:
    module = zoo.AMI(**SMALL, noise="none", decoding="sample", top_k=5)
    trainer = quiet_trainer(max_steps=1, limit_val_batches=0)
    trainer.fit(module, data())
    replies = module.reply("ask topic3 filler1", 4)
    assert len(replies) == 4
    assert [r["log_p"] for r in replies] == sorted((r["log_p"] for r in replies), reverse=True)
    assert module.reply("ask topic3 filler1", 4) == replies
    beams = module.reply("ask topic3 filler1", 5, "beam")
    assert len({r["text"] for r in beams}) > 1
    refused = {
        ("", 1): "needs a word",
        ("a", 2, "greedy"): "has fewer than 2 replies",
        ("a", 3, "foo"): "decoding is one of greedy, beam, sample, not 'foo'",
        ("a", 0): "count is 0, but must be a whole number of at least 1",
        ("a", 2.5, "beam"): "count is 2.5, but must be",
        ("a", True): "count is True, but must be",
        ("a", 10**9, "sample"): "at most 10,000 replies",
        ("a", 1, ""): "decoding is one of greedy, beam, sample, not ''",
        (None,): "utterance: a text is wanted, or a list of texts, not None",
        (b"a",): "utterance: a text is wanted, or a list of texts, not b'a'",
        (("a", None),): "utterance 2 is NoneType, no text",
        ((("a",),),): "utterance 1 is tuple, no text",
        ("\ud800",): "utterance 1 holds half a character",
        ("a", 1, "sample", None): "sentence of the persona: a text is wanted",
        ("a", 1, "sample", "i ski"): "a persona is a list of sentences",
        ("a", 1, "sample", ("i ski",)): "no persona",
    }
    for given, said in refused.items():
        with pytest.raises(ValueError, match=said):
            module.reply(*given)  # type: ignore[arg-type]


def test_a_turn_in_python_says_what_it_does_not_read(capsys: pytest.CaptureFixture[str]) -> None:
    module = zoo.load("ami_dull")
    module.reply(["hi", "ask topic3 filler1"])  # type: ignore[operator]
    module.reply("ask topic3 filler1 " * 4)  # type: ignore[operator]
    module.reply("quarks gluons")  # type: ignore[operator]
    assert capsys.readouterr().out.splitlines() == [
        "zoo: the last 1 of 2 utterances are read",
        "zoo: 1 of 1 utterances have more than 8 tokens, of which so many are read",
        "zoo: the history has no word that these weights know",
    ]


def test_word_vectors_of_a_file_are_those_of_the_embedding_metrics(tmp_path: Path) -> None:
    """By hand: the constant reply `Cats` against `cats`, `cats dogs` and `dogs`, `emus` has no vector."""
    pytest.importorskip("sacrebleu")
    (tmp_path / "v.txt").write_text("4 2\ncats 1 0\ndogs 0 2\nhello 1 1\nhi 1 1\n")
    replies = {"train": ["Cats", "Cats", "emus"], "val": ["cats"], "test": ["cats", "cats dogs", "dogs"]}
    for split, targets in replies.items():
        lines = [json.dumps({"source": "hello", "target": text}) for text in targets]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines))
    source = datamodules.Dialogues(
        "jsonl", str(tmp_path), vocab_size=300, lowercase=False, embeddings=str(tmp_path / "v.txt")
    )
    module = zoo.AMI(**{**SMALL, "vocab_size": source.vocab_size}, noise="none", table=["greedy"])
    trainer = quiet_trainer(default_root_dir=tmp_path / "run")
    with mock.patch.object(type(trainer), "log_dir", str(tmp_path / "run")):
        trainer.test(module, source, verbose=False)
    found, half = trainer.callback_metrics, 2**-0.5
    # of `cats dogs` the mean is (1/2, 1), the extremes (1, 2)
    assert found["test/constant/embedding_average"] == pytest.approx((1 + 5**-0.5 + 0) / 3, abs=1e-6)
    assert found["test/constant/embedding_extrema"] == pytest.approx((1 + 5**-0.5 + 0) / 3, abs=1e-6)
    assert found["test/constant/embedding_greedy"] == pytest.approx((1 + 0.75 + 0) / 3, abs=1e-6)
    assert found["test/constant/embedding_known"] == 1
    assert half > found["test/greedy/embedding_known"]
    rows = json.loads((tmp_path / "run" / "protocol_test.json").read_text())
    assert rows["greedy"]["embeddings"] == "v.txt, 2 dimensions, of 4 of the data's 5 words"


def test_a_test_of_dialogues_says_how_each_row_was_made(tmp_path: Path) -> None:
    pytest.importorskip("sacrebleu")
    from fakes.pairs import persona_chat

    persona_chat(tmp_path, 8)
    source = datamodules.Dialogues(
        "parlai", str(tmp_path), vocab_size=300, eval_batch_size=7, history=2, longest=3
    )
    module = zoo.AMI(
        **{**SMALL, "vocab_size": source.vocab_size}, noise="none", table=["greedy", "beam"], beam=2
    )
    trainer = quiet_trainer(default_root_dir=tmp_path / "run")
    with mock.patch.object(type(trainer), "log_dir", str(tmp_path / "run")):
        trainer.test(module, source, verbose=False)
    found = trainer.callback_metrics
    assert 0 <= found["test/hits_at_1"] <= 1
    for row in ("greedy", "beam", "constant", "retrieval"):
        for name in ("bleu", "bleu_1", "bleu_4", "distinct_2", "adversarial_success", "judge_log_q"):
            assert (f"test/{row}/{name}" in found) == (name != "judge_log_q"), name
    assert found["test/greedy/bleu"] == found["test/greedy/bleu_4"]
    assert "test/greedy/bound" not in found  # H(S) is not known
    rows = json.loads((tmp_path / "run" / "protocol_test.json").read_text())
    assert {*rows} == {"greedy", "beam", "constant", "retrieval"}
    assert "beam 2" in rows["beam"]["generation"]
    assert {r["replies"] for r in rows.values()} == {24}
    assert "case:lc" in rows["greedy"]["bleu"]
    assert rows["greedy"]["entries"] == source.vocab_size
    assert rows["greedy"]["embeddings"] == "the forward network's"
    source.setup("test")
    cut = source.test_set.tokenize().cut
    assert rows["greedy"]["truncated_pairs"] == cut.sum() > 0
