"""scikit-learn's rows: chosen on validation nodes, fitted again from the batch, never pickled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from quiet import quiet_trainer
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

import cli
import zoo
from datamodules import KNNGraph
from zoo.lds.baselines import GRIDS, FeatureBaseline


def wine(seed: int = 1) -> Any:
    data = KNNGraph(name="wine", seed=seed, steps_per_epoch=100)
    data.setup("fit")
    return data


def fitted(method: Any, **settings: Any) -> FeatureBaseline:
    model = FeatureBaseline(method=method, **settings)
    trainer = quiet_trainer(max_steps=100, limit_val_batches=0)
    trainer.fit(model, wine())
    assert trainer.global_step == len(GRIDS[method])
    return model


@pytest.mark.parametrize("method", GRIDS)
def test_scores_beat_chance_and_are_the_same_when_fitted_again(method: str) -> None:
    model, batch = fitted(method, **({"trees": 20} if method == "random_forest" else {})), wine().graph
    first, second = model.scores(batch), model.scores(batch)
    assert torch.equal(first, second)
    accuracy = float((first.argmax(dim=1) == batch.y)[batch.test_mask].float().mean())
    assert accuracy > 0.75
    assert bool(first.isfinite().all())


def test_the_setting_is_the_best_on_validation_and_early_stopping_nodes_ties_by_loss() -> None:
    model, batch = fitted("logreg"), wine().graph
    x, y = batch.x.double().numpy(), batch.y.numpy()
    train, chosen = batch.train_mask.numpy(), (batch.val_mask | batch.es_mask).numpy()
    assert (train.sum(), chosen.sum()) == (10, 20)
    found = []
    for setting in GRIDS["logreg"]:
        regression = LogisticRegression(max_iter=2000, **setting).fit(x[train], y[train])
        probability = regression.predict_proba(x[chosen])
        accuracy = (probability.argmax(axis=1) == y[chosen]).mean()
        found.append((-accuracy, -np.log(probability[np.arange(20), y[chosen]]).mean()))
    assert model.best == min(range(len(found)), key=lambda i: found[i])
    np.testing.assert_allclose(model.tried.numpy()[:, 0], [-a for a, _ in found], atol=1e-6)
    np.testing.assert_allclose(model.tried.numpy()[:, 1], [b for _, b in found], atol=1e-5)


def test_ties_in_accuracy_go_to_the_least_loss_and_then_to_the_first() -> None:
    model = FeatureBaseline("ffnn")
    model.tried.copy_(torch.tensor([[0.8, 0.1], [0.9, 0.7], [0.9, 0.5], [0.9, 0.5]]))
    assert model.best == 2


def test_predictions_of_an_svm_are_scikit_learns() -> None:
    model, batch = fitted("rbf_svm"), wine().graph
    setting = dict(GRIDS["rbf_svm"][model.best])
    x, y, train = batch.x.double().numpy(), batch.y.numpy(), batch.train_mask.numpy()
    gamma = setting.pop("width") / (13 * x.var())
    expected = SVC(kernel="rbf", gamma=gamma, **setting).fit(x[train], y[train]).predict(x)
    assert (model.scores(batch).argmax(dim=1).numpy() == expected).mean() > 0.99


def test_test_labels_change_nothing() -> None:
    batch, model = wine().graph, fitted("label_propagation")
    before = model.scores(batch)
    batch.y[batch.test_mask] = 0
    assert torch.equal(model.scores(batch), before)


def test_two_classes_get_two_scores() -> None:
    data = KNNGraph(name="cancer", seed=1)
    data.setup("fit")
    model = FeatureBaseline("linear_svm", num_features=30, num_classes=2)
    scores = model._fitted_scores(data.graph, 3)
    assert scores.shape == (569, 2)
    assert float((scores.argmax(dim=1) == data.graph.y)[data.graph.test_mask].float().mean()) > 0.8


def test_other_training_nodes_and_no_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="nothing was fitted yet"):
        FeatureBaseline().scores(wine().graph)
    with pytest.raises(ValueError, match="fitted to other training nodes"):
        fitted("logreg").scores(wine(seed=2).graph)
    with pytest.raises(ValueError, match="method must be one of"):
        FeatureBaseline("boosting")  # type: ignore[arg-type]


def test_a_checkpoint_gives_the_same_test_whatever_the_seed(tmp_path: Path, capsys: Any) -> None:
    flags = ["--config=lds_wine_baseline", "--model.init_args.method=ffnn"]
    flags += ["--trainer.enable_progress_bar=false"]
    root = [f"--trainer.default_root_dir={tmp_path}"]
    assert cli.main(["fit", *flags, *root, "--seed_everything=3"]) == 0
    found = []
    (checkpoint,) = tmp_path.rglob("step=*.ckpt")
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert {k: tuple(v.shape) for k, v in state.items()} == {"tried": (4, 2), "fitted_seed": (), "digest": ()}
    for seed in (3, 4):
        capsys.readouterr()
        arguments = [*flags, *root, f"--ckpt_path={checkpoint}", f"--seed_everything={seed}"]
        assert cli.main(["test", *arguments]) == 0
        lines = capsys.readouterr().out.splitlines()
        found.append([line for line in lines if "accuracy" in line or "loss" in line])
    assert len(found[0]) == 6
    assert found[0] == found[1]
    assert cli.main(["predict", *flags, *root, f"--ckpt_path={checkpoint}"]) == 0
    (scores,) = tmp_path.rglob("scores.csv")
    assert len(scores.read_text().splitlines()) == 179
    assert "FeatureBaseline" in dir(zoo)
