"""The classifier that judges generated digits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from quiet import quiet_trainer

from datamodules import Digits
from zoo.metrics.digits import DigitClassifier
from zoo.metrics.frechet import frechet_distance, mean_and_covariance


def trainer(**kwargs: Any) -> Trainer:
    return quiet_trainer(use_distributed_sampler=False, **kwargs)


@pytest.fixture(scope="module")
def trained() -> DigitClassifier:
    seed_everything(0, verbose=False)
    module = DigitClassifier(width=8)
    trainer(max_epochs=8, limit_val_batches=0).fit(module, Digits(batch_size=50))
    return module


def test_features_are_the_hidden_layer_and_logits_follow_from_them() -> None:
    module = DigitClassifier(input_size=8, width=4, feature_size=32)
    images = torch.rand(3, 1, 8, 8) * 2 - 1
    features, logits = module.features_and_logits(images)
    assert features.shape == (3, 32)
    assert bool((features >= 0).all())
    torch.testing.assert_close(logits, module.network(images))
    torch.testing.assert_close(logits, module.network[-1](features))


def test_it_learns_the_digits(trained: DigitClassifier) -> None:
    (found,) = trainer().test(trained, Digits(), verbose=False)
    assert found["test/accuracy"] > 0.9


def test_reference_statistics_are_those_of_the_training_images(trained: DigitClassifier) -> None:
    data = Digits()
    data.setup("fit")
    images = data.train_set.tensors["image"]
    with torch.no_grad():
        mean, covariance = mean_and_covariance(trained.features_and_logits(images)[0])
    torch.testing.assert_close(trained.reference_mean, mean)
    torch.testing.assert_close(trained.reference_covariance, covariance)
    assert {"reference_mean", "reference_covariance"} <= trained.state_dict().keys()


def test_held_out_digits_are_near_and_noise_is_far(trained: DigitClassifier) -> None:
    data = Digits()
    data.setup("fit")

    def distance(images: torch.Tensor) -> float:
        with torch.no_grad():
            statistics = mean_and_covariance(trained.features_and_logits(images)[0])
        reference = (trained.reference_mean, trained.reference_covariance)
        return frechet_distance(*reference, *statistics).item()

    near = distance(data.val_set.tensors["image"])
    far = distance(torch.rand(397, 1, 8, 8) * 2 - 1)
    assert far > 5 * near


def test_a_checkpoint_amid_an_epoch_holds_statistics_of_its_own_weights(tmp_path: Path) -> None:
    class Save(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
            if trainer.global_step == 3:
                trainer.save_checkpoint(tmp_path / "step.ckpt")

    data = Digits(batch_size=100)
    trainer(max_steps=5, limit_val_batches=0, callbacks=[Save()]).fit(DigitClassifier(width=4), data)
    state = torch.load(tmp_path / "step.ckpt", weights_only=True)["state_dict"]
    module = DigitClassifier(width=4)
    module.load_state_dict(state)
    with torch.no_grad():
        mean, _ = mean_and_covariance(module.features_and_logits(data.train_set.tensors["image"])[0])
    torch.testing.assert_close(module.reference_mean, mean)


def test_sizes_that_do_not_halve_twice_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 4, got 10"):
        DigitClassifier(input_size=10)
