"""Rounds inside one fit, through the command line: pool, budget, history, kill and resume to the bit."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from commands import of_data, of_model, run, words
from covering import covering
from interruption import Killed, newest_checkpoint, run_differences

from datamodules import NER
from zoo.engine.metrics_csv import read_metrics
from zoo.ner import ActiveNER
from zoo.ner.rounds import Rounds

# Rounds of 9 and 5 updates with checkpoints inside and at their borders (steps 4, 8, 9 is a border, 12, 14,
# ...).
FLAGS = (
    *of_model(char_dim=4, char_filters=4, word_dim=8, word_filters=8, decoder_hidden=8),
    *of_data(train_sentences=120, val_sentences=20, seed_budget=60, budget=50, unit="words", rounds=3),
    *of_data(seed_updates=9, round_updates=5, window=3),
    *words({"trainer.log_every_n_steps": 2, "checkpoint.every_n_train_steps": 4}),
)


def fit(root: Path, *flags: str) -> Path:
    return run("fit", "ner_grammar", root, *FLAGS, *flags)


def rows_of(folder: Path, name: str = "rounds") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


def pool_of(folder: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(newest_checkpoint(folder), weights_only=True)["NER"]["pool"]
    return state


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(tmp_path_factory.mktemp("whole"))


def test_the_pool_shrinks_by_the_budget_and_nobody_is_asked_twice(whole: Path) -> None:
    rows, asked, pool = rows_of(whole), rows_of(whole, "asked"), pool_of(whole)
    data = NER(train_sentences=120)
    data.setup("fit")
    longest = max(data.lengths)
    sizes = [row["words"] for row in rows]
    assert [row["round"] for row in rows] == [0, 1, 2, 3]
    assert 60 <= sizes[0] < 60 + longest
    assert all(50 <= b - a < 50 + longest for a, b in itertools.pairwise(sizes))
    labelled = [i for i, _ in pool["rounds"]]
    assert len(labelled) == len(set(labelled)) == rows[-1]["sentences"]
    assert sum(data.lengths[i] for i in labelled) == sizes[-1]
    assert [a["index"] for a in asked] == [i for i, r in pool["rounds"] if r > 0]
    assert {a["asked_after_round"] for a in asked} == {0, 1, 2}
    assert all(
        a["status"] == "labelled" and a["text"].split() == list(data.sets["train"][a["index"]].words)
        for a in asked
    )
    for number in range(3):
        scores = [a["score"] for a in asked if a["asked_after_round"] == number]
        assert scores == sorted(scores)  # MNLP: the lowest first
    last = read_metrics(whole / "metrics.csv")[-1]
    assert last["step"] == 9 + 3 * 5 - 1
    assert last["rounds/words"] == sizes[-1]
    assert (whole / "rounds.png").is_file()


def test_each_round_trains_on_what_is_labelled_by_then() -> None:
    data = NER(train_sentences=120, seed_budget=60, budget=50, unit="words", seed_updates=4, round_updates=4)
    data.setup("fit")
    assert data.pool is not None
    seen: list[set[int]] = []
    for _ in range(2):
        loader = data.train_dataloader()
        seen.append({i for batch in loader for i in batch["index"].tolist()})
        assert seen[-1] == set(data.pool.labelled)
        assert not seen[-1] & set(data.pool.unlabelled)
        assert all(loader.dataset.spans[i] is None for i in data.pool.unlabelled)  # not even at hand
        data.ask(data.pool.unlabelled[:5], {})
    assert len(seen[1]) == len(seen[0]) + 5
    every = {word.lower() for s in data.sets["train"] for word in s.words}
    assert set(data.vocabulary_words) == every  # of the text of the whole pool
    assert data.pool.round == 2
    assert data.pool.batches_before == 8
    rest = list(data.pool_dataloader())
    assert [i for batch in rest for i in batch["index"].tolist()] == data.pool.unlabelled
    # nothing of a label goes where the pool is scored
    assert not {"tags", "spans"} & set().union(*rest, data.batch_of(data.pool.unlabelled[:3]))
    with pytest.raises(ValueError, match="asked twice"):
        data.ask(data.pool.labelled[:1], {})


def killed(root: Path, step: int, *flags: str) -> None:
    original = ActiveNER.training_step

    def training_step(self: ActiveNER, batch: Any, batch_idx: int) -> Any:
        if self.trainer.global_step == step:
            raise Killed
        return original(self, batch, batch_idx)

    with mock.patch.object(ActiveNER, "training_step", training_step), pytest.raises(Killed):
        fit(root, *flags)


@pytest.mark.parametrize("step", covering([6, 9, 11, 14, 20, 23], [6, 14]))
def test_a_killed_run_goes_on_with_its_pool_to_the_bit(step: int, whole: Path, tmp_path: Path) -> None:
    killed(tmp_path, step)
    resumed = fit(tmp_path, "--ckpt_path=last")
    assert run_differences(whole, resumed) == []
    strip = [{k: v for k, v in row.items() if k != "seconds"} for row in rows_of(resumed)]
    assert strip == [{k: v for k, v in row.items() if k != "seconds"} for row in rows_of(whole)]
    assert (resumed / "asked.jsonl").read_bytes() == (whole / "asked.jsonl").read_bytes()


def test_the_audit_trail_names_who_asked_also_after_a_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    killed(tmp_path, 14)
    resumed = fit(tmp_path, "--ckpt_path=last", *of_model(acquisition="random"))
    rows = [json.loads(line) for line in (resumed / "asked.jsonl").read_text().splitlines()]
    asked = {row["asked_after_round"]: row["acquisition"] for row in rows}
    assert asked[0] == "mnlp"
    assert asked[max(asked)] == "random"
    assert "random asks, before it mnlp" in capsys.readouterr().out


def test_a_kill_while_the_pool_is_scored_asks_the_same(whole: Path, tmp_path: Path) -> None:
    def score(self: Rounds, trainer: Any, *args: Any) -> Any:
        if trainer.datamodule.pool.round == 1:
            raise Killed
        return original(self, trainer, *args)

    original = Rounds._score
    with mock.patch.object(Rounds, "_score", score), pytest.raises(Killed):
        fit(tmp_path)
    assert run_differences(whole, fit(tmp_path, "--ckpt_path=last")) == []


def differing(folder: Path) -> list[str]:
    return [
        name
        for name in ("state_dict", "NER")
        if name not in torch.load(newest_checkpoint(folder), weights_only=True)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        of_data(num_workers=2),
        of_model(warm_start=False),
        of_model(acquisition="bald", mc_passes=3),
        [*of_data(held_out=10), *of_model(stop_agreement=0.0, stop_training=True)],
    ],
    ids=["workers", "cold", "bald", "stopping"],
)
def test_kills_under_other_settings(flags: Sequence[str], tmp_path: Path) -> None:
    reference = fit(tmp_path / "whole", *flags)
    killed(tmp_path / "killed", 11, *flags)
    killed(tmp_path / "killed", 17, *flags, "--ckpt_path=last")
    assert run_differences(reference, fit(tmp_path / "killed", *flags, "--ckpt_path=last")) == []


def test_a_finished_run_has_nothing_left_and_more_rounds_go_on(whole: Path, tmp_path: Path) -> None:
    short = fit(tmp_path, *of_data(rounds=1))
    assert len(rows_of(short)) == 2
    again = fit(tmp_path, *of_data(rounds=1), "--ckpt_path=last")
    assert again == short
    assert len(rows_of(again)) == 2
    longer = fit(tmp_path, "--ckpt_path=last")
    assert [r["words"] for r in rows_of(longer)] == [r["words"] for r in rows_of(whole)]
    assert pool_of(longer) == pool_of(whole)


def test_cold_rounds_begin_with_the_first_weights_and_no_moments(tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []
    original = ActiveNER.training_step

    def training_step(self: ActiveNER, batch: Any, batch_idx: int) -> Any:
        if batch_idx == 0:
            weights = {k: v.clone() for k, v in self.network.state_dict().items()}
            seen.append({"weights": weights, "moments": len(self.optimizers().state)})  # type: ignore[union-attr]
        return original(self, batch, batch_idx)

    with mock.patch.object(ActiveNER, "training_step", training_step):
        folder = fit(tmp_path, *of_model(warm_start=False))
        assert all(s["moments"] == 0 for s in seen)
        assert all(torch.equal(seen[0]["weights"][k], s["weights"][k]) for s in seen for k in s["weights"])
        assert {row["start"] for row in rows_of(folder)} == {"cold"}
        seen.clear()
        fit(tmp_path / "warm", *of_data(rounds=1))
        assert seen[1]["moments"] > 0
        assert any(not torch.equal(seen[0]["weights"][k], seen[1]["weights"][k]) for k in seen[0]["weights"])


def test_the_stopping_rule_says_its_number_and_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [*of_data(held_out=10, rounds=8), *of_model(stop_agreement=0.0, stop_training=True)]
    with mock.patch("zoo.ner.rounds.kappa", side_effect=[0.5, 0.25, 0.75]):
        folder = fit(tmp_path, *flags)
    rows, said = rows_of(folder), capsys.readouterr().out
    assert [row.get("agreement") for row in rows] == [None, 0.5, 0.25, 0.75]
    assert rows[-1]["stop"] == 0.5
    assert len(rows) == 4  # three agreements of four models
    assert f"agree to {rows[-1]['stop']:.4f}" in said
    assert "labelling more is unlikely to help" in said
    assert not {i for i, _ in pool_of(folder)["rounds"]} & set(pool_of(folder)["held_out"])


@pytest.mark.parametrize("step", covering([11, 17, 20], [17]))
def test_the_stopping_rule_replays_after_a_kill(
    step: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three agreements end the run after round 3; those of before the kill count."""
    flags = [*of_data(held_out=10, rounds=8), *of_model(stop_agreement=0.625, stop_training=True)]
    with mock.patch("zoo.ner.rounds.kappa", lambda before, after: 0.5 + 0.125 * (before != [] != after)):
        killed(tmp_path, step, *flags)
        capsys.readouterr()
        rows = rows_of(fit(tmp_path, *flags, "--ckpt_path=last"))
    assert "round 3: successive models agree to 0.6250" in capsys.readouterr().out
    assert [row.get("agreement") for row in rows] == [None, 0.625, 0.625, 0.625]
    assert rows[-1]["stop"] == 0.625


def test_models_that_find_nothing_do_not_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On the plateau where every word is O the rule must not end a run."""
    flags = [*of_data(held_out=10, rounds=4), *of_model(stop_agreement=0.0, stop_training=True)]
    with mock.patch("zoo.ner.rounds.Rounds._score", nothing_found):
        rows = rows_of(fit(tmp_path, *flags, *of_model(acquisition="random")))
    assert len(rows) == 5
    assert [row["agreement"] for row in rows[1:]] == [None] * 4
    assert "unlikely to help" not in capsys.readouterr().out


def nothing_found(self: Rounds, trainer: Any, module: Any, indices: Any, name: str) -> Any:
    return {i: (0.0, 0.0, [0] * trainer.datamodule.lengths[i], None) for i in indices}


def test_the_seed_set_is_that_of_every_strategy(whole: Path, tmp_path: Path) -> None:
    seeds = {}
    for name in ("lc", "submod", "random_length"):
        folder = fit(tmp_path / name, *of_model(acquisition=name), *of_data(rounds=1))
        rounds = pool_of(folder)["rounds"]
        seeds[name] = [i for i, r in rounds if r == 0]
        added = rows_of(folder)[1]["words"] - rows_of(folder)[0]["words"]
        assert added <= 50 if name == "submod" else added >= 50, name
    assert len(set(map(tuple, seeds.values()))) == 1
    assert seeds["lc"] == [i for i, r in pool_of(whole)["rounds"] if r == 0]


def test_a_budget_of_cost_is_asked_and_told(tmp_path: Path) -> None:
    cost = of_data(unit="cost", sentence_cost=4.0, word_cost=1.5, seed_budget=90, budget=70.5, rounds=1)
    folder = fit(tmp_path, *cost)
    rows = rows_of(folder)
    assert [r["cost"] for r in rows] == [4 * r["sentences"] + 1.5 * r["words"] for r in rows]
    assert rows[1]["cost"] - rows[0]["cost"] >= 70.5
    assert read_metrics(folder / "metrics.csv")[-1]["rounds/cost"] == rows[1]["cost"]
    data = NER(train_sentences=120)
    data.setup("fit")
    assert [r["share"] for r in rows] == [r["words"] / sum(data.lengths) for r in rows]


def test_a_round_that_was_not_validated_has_no_f1(tmp_path: Path) -> None:
    folder = fit(tmp_path, *of_data(rounds=2), "--trainer.check_val_every_n_epoch=2")
    assert [row["f1"] is None for row in rows_of(folder)] == [True, False, True]


def test_scores_of_a_diverged_model_and_other_data_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import cli

    nan = "--model.init_args.optimizer={class_path: torch.optim.SGD, init_args: {lr: 1.0e+30}}"
    code = cli.main(["fit", "--config=ner_grammar", *FLAGS, nan, f"--trainer.default_root_dir={tmp_path}"])
    assert code == 1
    assert "after round 0 the model's scores are no finite numbers" in capsys.readouterr().err

    code = cli.main(
        [
            "fit",
            "--config=ner_grammar",
            *FLAGS,
            "--data.class_path=datamodules.Digits",
            f"--trainer.default_root_dir={tmp_path}",
        ]
    )
    assert code == 1
    assert "datamodules" in capsys.readouterr().out
