"""lm-evaluation-harness over our models: its scores are those of ``zoo test``."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

import cli

TINY = {
    "model": {
        "class_path": "zoo.CausalLM",
        "init_args": {"width": 16, "layers": 1, "heads": 2, "hidden": 32, "context": 48},
    },
    "trainer": {"max_steps": 3, "enable_progress_bar": False, "accelerator": "cpu", "limit_val_batches": 0},
    "checkpoint": {"every_n_train_steps": 3, "monitor": None},
}


def run(verb: str, root: Path, data: dict[str, Any], *flags: str) -> dict[str, float]:
    path = root / "tiny.yaml"
    path.write_text(yaml.safe_dump({**TINY, "data": data}))
    assert cli.main([verb, f"--config={path}", f"--trainer.default_root_dir={root / 'runs'}", *flags]) == 0
    summary = max((root / "runs").rglob("summary*.json"), key=lambda p: p.stat().st_mtime_ns)
    found: dict[str, float] = json.loads(summary.read_text())["final"]
    return found


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts of many lengths, letters of several bytes, questions, and a model of three steps."""
    home = tmp_path_factory.mktemp("harness")
    (home / "texts").mkdir()
    lines = [json.dumps({"text": "naïve façade " * (1 + i % 9) + f"{i}"}) for i in range(40)]
    for split, part in (("train", lines[:30]), ("val", lines[30:33]), ("test", lines[33:])):
        (home / "texts" / f"{split}.jsonl").write_text("\n".join(part) + "\n")
    (home / "choices").mkdir()
    asked = [
        {
            "question": f"{'so ' * (i % 20)}what is {i}?",
            "choices": ["a", f"é{i}", "nothing " * 3],
            "answer": i % 3,
        }
        for i in range(24)
    ]
    for split, part in (("train", asked[:12]), ("val", asked[12:16]), ("test", asked[16:])):
        (home / "choices" / f"{split}.jsonl").write_text("".join(json.dumps(q) + "\n" for q in part))
    run("fit", home, texts(home), "--trainer.log_every_n_steps=1")
    return home


def texts(home: Path) -> dict[str, Any]:
    root = str(home / "texts")
    return {
        "class_path": "datamodules.TextStream",
        "init_args": {"layout": "files", "root": root, "context": 48},
    }


def weights(home: Path) -> Path:
    return next((home / "runs").rglob("step=00000003.ckpt"))


def test_scores_of_the_harness_are_those_of_zoo_test(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm_eval = pytest.importorskip("lm_eval")
    from lm_eval.tasks import TaskManager

    from zoo.language.harness import ZooLM

    monkeypatch.setenv("HF_DATASETS_CACHE", str(home / "cache"))
    tasks = home / "tasks"
    tasks.mkdir()
    source = {"dataset_path": "json", "test_split": "test"}
    choices = {
        "task": "own_choices", "output_type": "multiple_choice", "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}", "doc_to_target": "{{answer}}",
        "dataset_kwargs": {"data_files": {"test": str(home / "choices" / "test.jsonl")}},
        "metric_list": [{"metric": m, "aggregation": "mean"} for m in ("acc", "acc_norm")],
    }  # fmt: skip
    stream = {
        "task": "own_texts", "output_type": "loglikelihood_rolling", "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "dataset_kwargs": {"data_files": {"test": str(home / "texts" / "test.jsonl")}},
        "metric_list": [{"metric": m} for m in ("byte_perplexity", "bits_per_byte")],
    }  # fmt: skip
    for task in (choices, stream):
        (tasks / f"{task['task']}.yaml").write_text(yaml.safe_dump({**source, **task}))
    found = lm_eval.simple_evaluate(
        model=ZooLM(weights(home), batch_size=5), tasks=["own_choices", "own_texts"], bootstrap_iters=2,
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
    )["results"]  # fmt: skip
    ours = run("test", home, texts(home), f"--weights={weights(home)}")
    for name in ("bits_per_byte", "byte_perplexity"):
        assert found["own_texts"][f"{name},none"] == pytest.approx(
            ours[f"test/{name}"], rel=1e-7, abs=1e-6
        ), name
    data = {
        "class_path": "datamodules.MultipleChoice",
        "init_args": {"layout": "files", "root": str(home / "choices"), "context": 48},
    }
    ours = run("test", home, data, f"--weights={weights(home)}")
    for name in ("acc", "acc_norm"):
        assert found["own_choices"][f"{name},none"] == pytest.approx(
            ours[f"test/{name}"], rel=1e-7, abs=1e-6
        ), name
        stderr = found["own_choices"][f"{name}_stderr,none"]
        assert stderr == pytest.approx(ours[f"test/{name}_stderr"], abs=1e-6), name


def test_pairs_and_texts_that_cannot_be_scored_are_refused(home: Path) -> None:
    pytest.importorskip("lm_eval")
    from zoo.language.harness import ZooLM

    lm = ZooLM(weights(home))

    def asked(*pairs: tuple[str, Any]) -> list[Any]:
        return [SimpleNamespace(args=pair) for pair in pairs]

    whole, ((first, greedy),) = (
        lm.loglikelihood_rolling(asked(("abc",), ("",))),
        lm.loglikelihood(asked(("", "abc"))),
    )
    assert whole == [pytest.approx(first, abs=1e-6), 0.0]
    assert first < -10
    assert not greedy
    text = lm.generate_until(asked(("naïve", {"until": [], "max_gen_toks": 6})))[0]
    ((_, is_greedy),) = lm.loglikelihood(asked(("naïve", text)))
    assert is_greedy
    stop = text[2]
    assert lm.generate_until(asked(("naïve", {"until": [stop], "max_gen_toks": 6}))) == [
        text[: text.find(stop)]
    ]
    for pair, message in (
        (("a", ""), "has 0 tokens"),
        (("a", "b" * 48), "has 48 tokens; the model reads 47"),
    ):
        with pytest.raises(ValueError, match=message):
            lm.loglikelihood(asked(pair))
    with pytest.raises(ValueError, match="'typical' is no setting"):
        lm.generate_until(asked(("a", {"typical": 1})))
    with pytest.raises(ValueError, match="from 2 to 48 tokens"):
        ZooLM(weights(home), context=49)
    with pytest.raises(ValueError, match=r"weights of zoo\.KGEmbedding"):
        ZooLM("kg_umls")
