"""The LightningModule: metrics, mixup, modality dropout, crops, checks, resume."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from commands import of_data, of_model, of_trainer
from sklearn.metrics import average_precision_score
from torch import Tensor, nn

import cli
import zoo
from zoo.mbt import module as mbt_module
from zoo.mbt.module import top_hits, verb_noun_hits
from zoo.metrics.average_precision import MeanAveragePrecision, average_precision
from zoo.nn.optim import WarmupCosine

TINY: dict[str, Any] = {
    "num_classes": 3, "task": "single_label", "width": 16, "depth": 4, "heads": 2, "mlp": 32, "image_size": 8,
    "patch_size": 4, "frames": 2, "spectrogram_frames": 12, "mel_bins": 8, "spectrogram_patch": 4,
    "fusion_layer": 1, "stochastic_depth": 0.0, "mixup_groups": 1,
}  # fmt: skip


def module(**changes: Any) -> zoo.MBT:
    torch.manual_seed(0)
    made = zoo.MBT(**{**TINY, **changes})
    for parameter in made.parameters():
        if not parameter.detach().any():
            nn.init.normal_(parameter, std=0.5)
    made._trainer = SimpleNamespace(global_step=3, world_size=1, global_rank=0, datamodule=None)  # type: ignore[assignment]
    made.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    return made


def batch(size: int = 4, seed: int = 1) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {
        "rgb": torch.randn(size, 3, 2, 8, 8, generator=g),
        "spectrogram": torch.randn(size, 1, 12, 8, generator=g),
        "label": torch.arange(size) % 3,
        "index": torch.arange(size),
    }


def test_average_precision_is_scikit_learns() -> None:
    g = torch.Generator().manual_seed(0)
    scores, target = torch.randn(60, 5, generator=g), (torch.rand(60, 5, generator=g) < 0.3).float()
    scores[:, 1] = scores[:, 1].round()  # equal scores
    target[:, 4] = 0
    found = average_precision(scores, target)
    for c in range(4):
        expected = average_precision_score(target[:, c].numpy(), scores[:, c].numpy())
        assert float(found[c]) == pytest.approx(expected, abs=1e-9)
    assert torch.isnan(found[4])


def test_map_is_over_the_epoch_and_leaves_absent_classes_out() -> None:
    g = torch.Generator().manual_seed(0)
    scores, target = torch.randn(64, 4, generator=g), (torch.rand(64, 4, generator=g) < 0.2).float()
    target[:, 3] = 0
    metric = MeanAveragePrecision()
    for part in range(0, 64, 16):
        metric.update(scores[part : part + 16], target[part : part + 16])
    expected = np.mean(
        [average_precision_score(target[:, c].numpy(), scores[:, c].numpy()) for c in range(3)]
    )
    assert float(metric.compute()) == pytest.approx(float(expected), abs=1e-6)
    batches = [average_precision(scores[p : p + 16], target[p : p + 16]).nanmean() for p in range(0, 64, 16)]
    assert abs(float(torch.stack(batches).mean()) - float(expected)) > 0.02  # the mean of batches is not it


def test_hits_of_classes_and_of_actions() -> None:
    logits = torch.tensor([[0.1, 0.9, 0.5, 0.4, 0.3, 0.2], [6.0, 5, 4, 3, 2, 1]])
    assert top_hits(logits, torch.tensor([1, 5]), 1).tolist() == [1, 0]
    assert top_hits(logits, torch.tensor([0, 5]), 5).tolist() == [0, 0]
    assert top_hits(logits, torch.tensor([5, 4]), 5).tolist() == [1, 1]
    # verbs .6 .4, nouns .7 .2 .1: pairs .42 .28 .14 .12 .08 .06 -> the pair (1, 2) is the sixth
    verb, noun = torch.tensor([0.6, 0.4]).log(), torch.tensor([0.7, 0.2, 0.1]).log()
    pairs = torch.cat([verb, noun])[None].expand(3, -1)
    hits = verb_noun_hits(pairs, torch.tensor([[0, 0], [1, 2], [1, 0]]), [2, 3])
    assert (hits["verb_top1"].tolist(), hits["noun_top1"].tolist()) == ([1, 0, 0], [1, 0, 1])
    assert (hits["action_top1"].tolist(), hits["action_top5"].tolist()) == ([1, 0, 0], [1, 0, 1])


def test_evaluation_is_the_mean_of_logits_over_modalities_and_crops() -> None:
    made = module().eval()
    one, other = batch(), batch(seed=2)
    crops = {k: torch.stack([one[k], other[k]], dim=1) for k in ("rgb", "spectrogram")}
    with torch.no_grad():
        found, _ = made._clip_logits({**one, **crops})
        expected = (made._clip_logits(one)[0] + made._clip_logits(other)[0]) / 2
        made._evaluate({**one, **crops})
    assert torch.allclose(found, expected, atol=1e-6)
    fused = expected.mean(dim=1)
    right = (fused.argmax(dim=1) == one["label"]).float().mean()
    assert float(made.eval_metrics["acc_fused"].compute()) == pytest.approx(float(right))
    alone = (expected[:, 1].argmax(dim=1) == one["label"]).float().mean()
    assert float(made.eval_metrics["acc_spectrogram"].compute()) == pytest.approx(float(alone))


@pytest.mark.parametrize("used", [True, False])
def test_evaluation_without_bottlenecks_is_late_fusion(used: bool) -> None:
    made, data = module(test_with_bottlenecks=used).eval(), batch()
    inputs = {k: data[k] for k in ("rgb", "spectrogram")}
    with torch.no_grad():
        found, _ = made._clip_logits(data)
        assert torch.equal(found, made.network(**inputs, fuse=used))
        assert float((found - made.network(**inputs, fuse=not used)).abs().max()) > 1e-3


@pytest.mark.parametrize(("changes", "names"), [
    ({"task": "multi_label"}, {"loss", "mAP", "mAP_rgb", "mAP_spectrogram"}),
    ({}, {"loss", "top1", "top5", "acc_rgb", "acc_spectrogram", "acc_fused"}),
    ({"task": "verb_noun", "num_classes": 5, "class_groups": [2, 3]},
     {"loss", "acc_rgb", "acc_spectrogram", "acc_fused"}
     | {f"{p}_top{k}" for p in ("verb", "noun", "action") for k in (1, 5)}),
    ({"classifier": "gap"}, {"loss", "top1", "top5", "acc_fused"}),
    ({"modalities": ["rgb"]}, {"loss", "top1", "top5", "acc_fused"}),
])  # fmt: skip
def test_every_task_has_its_metrics(changes: dict[str, Any], names: set[str]) -> None:
    made = module(**changes).eval()
    data = batch(6)
    if changes.get("task") == "multi_label":
        data["label"] = nn.functional.one_hot(data["label"], 3).float()
    if changes.get("task") == "verb_noun":
        data["label"] = torch.stack([torch.arange(6) % 2, torch.arange(6) % 3], dim=1)
    with torch.no_grad():
        made._evaluate(data)
    assert set(made.eval_metrics) == names
    assert all(0 <= float(m.compute()) < 20 for m in made.eval_metrics.values())


def test_missing_sound_is_left_out_of_the_mean_and_the_metrics() -> None:
    made = module().eval()
    data = batch()
    data["present"] = torch.tensor([[True, True], [True, False], [True, False], [True, True]])
    with torch.no_grad():
        made._evaluate(data)
        logits, _ = made._clip_logits(data)
        alone, _ = made._clip_logits({k: v for k, v in data.items() if k not in ("spectrogram", "present")})
    assert torch.allclose(logits[1, 0], alone[1, 0], atol=1e-6)
    heard = (logits[[0, 3], 1].argmax(dim=1) == data["label"][[0, 3]]).float().mean()
    assert float(made.eval_metrics["acc_spectrogram"].compute()) == pytest.approx(float(heard))


def test_attention_is_rolled_out_for_what_is_drawn_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six clips of four batches, one at a time; of a clip without sound its map is 0."""
    made, data = module().eval(), batch(8)
    data["present"] = torch.tensor([[True, True], [True, False]] * 4)
    sizes: list[int] = []
    original = mbt_module.attention_rollout

    def counted(network: Any, inputs: dict[str, Tensor], **options: Any) -> dict[str, Tensor]:
        sizes.append(len(inputs["rgb"]))
        return original(network, inputs, **options)

    monkeypatch.setattr(mbt_module, "attention_rollout", counted)
    with torch.no_grad():
        first, fifth = made.predict_step(data, 0), made.predict_step(data, 4)
    assert (sizes, len(fifth.scores), fifth.rgb_map) == ([1] * 6, 8, None)
    assert first.spectrogram_map is not None
    assert [bool(m.any()) for m in first.spectrogram_map] == [True, False] * 3


def test_mixup_mixes_inputs_and_labels_of_each_modality_alike() -> None:
    made = module(mixup_alpha=0.5, num_classes=4)
    data = batch()
    target = nn.functional.one_hot(data["label"], 4).float()
    inputs = {k: data[k] for k in ("rgb", "spectrogram")}
    found, labels, _ = made._augmented(inputs, target, None, 0)
    weights = []
    for i, name in enumerate(inputs):
        # recover w from one element, then everything must follow from it
        x, y = inputs[name], inputs[name].flip(0)
        w = ((found[name] - y) / (x - y)).flatten()[0]
        assert torch.allclose(found[name], w * x + (1 - w) * y, atol=1e-4)
        assert torch.allclose(labels[:, i], w * target + (1 - w) * target.flip(0), atol=1e-4)
        weights.append(float(w))
    assert abs(weights[0] - weights[1]) > 1e-3  # modality mixup: weights of their own
    again, _, _ = made._augmented(inputs, target, None, 0)
    assert torch.equal(again["rgb"], found["rgb"])  # a function of seed and step
    other, _, _ = made._augmented(inputs, target, None, 1)
    assert not torch.equal(other["rgb"], found["rgb"])
    shared = module(mixup_alpha=0.5, num_classes=4, modality_mixup=False)
    _, labels, _ = shared._augmented(inputs, target, None, 0)
    assert torch.equal(labels[:, 0], labels[:, 1])


def test_modality_dropout_takes_one_of_two_and_never_the_last() -> None:
    made = module(mixup_alpha=0.0, modality_dropout=0.9)
    data = batch(200)
    target = nn.functional.one_hot(data["label"], 3).float()
    inputs = {k: data[k] for k in ("rgb", "spectrogram")}
    _, _, present = made._augmented(inputs, target, None, 0)
    assert present is not None
    assert present.any(dim=1).all()
    assert float((~present).float().sum(dim=1).mean()) == pytest.approx(0.9, abs=0.08)
    assert 0.3 < float((~present[:, 0]).float().mean()) < 0.6
    alone = torch.tensor([[True, False]]).expand(200, 2)
    _, _, kept = made._augmented(inputs, target, alone, 0)
    assert torch.equal(kept, alone)


def test_the_first_loss_is_that_of_chance() -> None:
    torch.manual_seed(0)
    made = zoo.MBT(**{**TINY, "mixup_alpha": 0.3})
    made._trainer = SimpleNamespace(global_step=0, world_size=1, global_rank=0, datamodule=None)  # type: ignore[assignment]
    made.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    assert float(made.training_step(batch(), 0).detach()) == pytest.approx(np.log(3), abs=1e-6)


def test_the_papers_schedule() -> None:
    """0.5 min(1, k / warm-up) (1 + cos(pi k / total)) / 2 of base rate 0.5, cosine from step 0."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5, momentum=0.9)
    schedule = WarmupCosine(optimizer, total_steps=15900, warmup_steps=795)
    rates = []
    for _ in range(15900):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates[0] == 0
    assert rates[400] == pytest.approx(0.5 * 400 / 795 * 0.5 * (1 + np.cos(np.pi * 400 / 15900)))
    assert rates[795] == pytest.approx(0.5 * 0.5 * (1 + np.cos(np.pi * 795 / 15900)))
    assert rates[795] < 0.4985  # not 0.5: the cosine did not start at the end of the warm-up
    assert schedule.get_last_lr()[0] == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match="warmup_steps must be at most total_steps = 5, got 9"):
        WarmupCosine(optimizer, 5, 9)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"task": "verb_noun"}, "two class_groups that add up to num_classes, got \\[\\] and 3"),
        (
            {"fusion_layer": "middle"},
            "'middle', but must be early or mid or late or a whole number",
        ),
        ({"size": "H"}, "size must be one of tiny, S, B, L"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        zoo.MBT(**{**TINY, **changes})


def test_early_mid_and_late_are_layers() -> None:
    layers = {
        w: zoo.MBT(**{**TINY, "fusion_layer": w}).network.fusion_layer for w in ("early", "mid", "late")
    }
    assert layers == {"early": 0, "mid": 3, "late": 4}
    with torch.device("meta"):
        assert zoo.MBT(fusion_layer="mid").network.fusion_layer == 8


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"num_classes": 5}, "num_classes is 3, but the data .* has 5; set model.init_args.num_classes: 5"),
        ({"task": "multi_label"}, "task is single_label, but the data .* has multi_label"),
        ({"shapes": {"rgb": (3, 1, 8, 8)}}, "frames is 2, but the data .* has 1"),
        ({"shapes": {"spectrogram": (1, 8, 12)}}, "spectrogram_frames is 12, but the data .* has 8"),
    ],
)  # fmt: skip
def test_data_that_do_not_fit_are_refused_with_both_numbers(data: dict[str, Any], text: str) -> None:
    made = module()
    made._trainer = SimpleNamespace(datamodule=SimpleNamespace(**data), world_size=1)  # type: ignore[assignment]
    with pytest.raises(ValueError, match=text):
        made.setup("fit")


def test_more_devices_than_mixup_groups_are_refused() -> None:
    made = module(mixup_groups=3)
    made._trainer = SimpleNamespace(datamodule=None, world_size=2)  # type: ignore[assignment]
    with pytest.raises(
        ValueError, match="mixup_groups must be a multiple of the number of devices, got 3 for 2"
    ):
        made.setup("fit")


def test_a_vit_starts_a_fresh_training_and_no_other(tmp_path: Path) -> None:
    from zoo.mbt.network import build

    source = build(
        **{**module(patch_size=4).network_arguments, "modalities": ["rgb"], "frames": 1}
    ).state_dict()
    vit = {k.replace("blocks.rgb", "blocks"): v for k, v in source.items() if not k.startswith("head")}
    names = {"cls.rgb": "cls_token", "positions.rgb": "pos_embed"}
    words = {".qkv.": ".attn.qkv.", ".proj.": ".attn.proj.", ".fc1.": ".mlp.fc1.", ".fc2.": ".mlp.fc2."}
    state = {}
    for key, value in vit.items():
        key = names.get(key, key.replace("patch.rgb", "patch_embed.proj"))
        for ours, theirs in words.items():
            key = key.replace(ours, theirs) if key.startswith("blocks") else key
        state[key] = value
    torch.save(state, tmp_path / "vit.pth")
    for resumed, given, expected in ((None, False, True), ("x.ckpt", False, False), (None, True, False)):
        torch.manual_seed(5)
        made = zoo.MBT(**{**TINY, "pretrained": str(tmp_path / "vit.pth")})
        made.print = lambda *args: None  # type: ignore[method-assign]
        if given:
            made.load_state_dict(made.state_dict())
        made._trainer = SimpleNamespace(datamodule=None, world_size=1, ckpt_path=resumed)  # type: ignore[assignment]
        made.setup("fit")
        same = torch.equal(
            made.network.state_dict()["blocks.spectrogram.0.qkv.weight"], vit["blocks.0.qkv.weight"]
        )
        assert same is expected


FLAGS = [
    "--config=mbt_tones_sum",
    *of_data(batch_size=16, pairs=160, test_pairs=20),
    *of_model(mixup_alpha=0.3, stochastic_depth=0.3, modality_dropout=0.2),
    *of_trainer(accelerator="cpu", val_check_interval=5, enable_progress_bar=False, log_every_n_steps=2),
]


def fit(root: Path, *flags: str) -> Path:
    assert cli.main(["fit", *FLAGS, f"--trainer.default_root_dir={root}", *flags]) == 0
    return max((root / "mbt_tones_sum").glob("version_*"), key=lambda p: int(p.name.removeprefix("version_")))


def test_a_killed_run_goes_on_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With mixup, stochastic depth, noise and modality dropout on; dies between checkpoints, in an epoch."""
    from interruption import run_differences

    from zoo.engine import run

    monkeypatch.setattr(run, "plot_curves", lambda *args: None)
    often = ("--checkpoint.every_n_train_steps=4", "--trainer.max_steps=14")
    calm = fit(tmp_path / "calm", *often)

    class Killed(BaseException):
        pass

    original = zoo.MBT.training_step

    def dies(self: zoo.MBT, data: dict[str, Tensor], batch_idx: int) -> Tensor:
        if self.trainer.global_step == 6:
            raise Killed
        return original(self, data, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(zoo.MBT, "training_step", dies)
        with pytest.raises(Killed):
            fit(tmp_path / "killed", *often)
    resumed = fit(tmp_path / "killed", *often, "--ckpt_path=last")
    assert run_differences(calm, resumed) == []


def test_fit_test_and_predict_leave_what_a_person_looks_at(tmp_path: Path) -> None:
    root = of_trainer(accelerator="cpu", default_root_dir=tmp_path, enable_progress_bar=False)
    folder = fit(tmp_path, "--trainer.max_steps=2", "--trainer.val_check_interval=2")
    checkpoint = next(folder.rglob("step=*.ckpt"))
    few = of_data(pairs=64, test_pairs=12, eval_batch_size=10)
    assert cli.main(["test", "--config", "mbt_tones_sum", *root, *few, f"--ckpt_path={checkpoint}"]) == 0
    import json

    final = json.loads(next(tmp_path.rglob("summary_test.json")).read_text())["final"]
    assert {"test/top1", "test/acc_rgb", "test/acc_spectrogram", "test/acc_fused", "test/gmac"} <= set(final)
    assert final["test/parameters"] == sum(p.numel() for p in zoo.load(checkpoint).parameters())
    assert cli.main(["predict", "--config", "mbt_tones_sum", *root, *few, f"--ckpt_path={checkpoint}"]) == 0
    found = next(tmp_path.rglob("scores.csv"))
    rows = found.read_text().splitlines()
    assert (rows[0], len(rows)) == ("name,split,label,prediction,score,0,1,2", 13)
    assert rows[1].startswith('"0: written ')
    assert sorted(p.name for p in found.parent.glob("*.png")) == ["attention.png", "attention_1.png"]
