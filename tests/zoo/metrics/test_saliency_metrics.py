"""Saliency metrics against pysodmetrics, the reference evaluation in Python, and against numbers by hand."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from zoo.metrics.saliency import (
    AlignmentMeasure,
    BoundaryMAE,
    EmptyMasks,
    FMeasure,
    PrecisionRecallCurve,
    SaliencyMAE,
    StructureMeasure,
    WeightedFMeasure,
    binarise,
    edge_band,
    stretch,
)

Array = np.ndarray[Any, Any]
Pair = tuple[Array, Array]
METRICS = (SaliencyMAE, FMeasure, WeightedFMeasure, StructureMeasure, AlignmentMeasure, PrecisionRecallCurve)


def blob(rng: np.random.Generator, height: int, width: int) -> Array:
    """An ellipse somewhere inside, uint8 in 0..255."""
    y, x = np.mgrid[:height, :width]
    cy, cx = rng.uniform(0.25, 0.6) * height, rng.uniform(0.25, 0.6) * width
    ry, rx = rng.uniform(0.1, 0.3) * height, rng.uniform(0.1, 0.3) * width
    return (255 * (((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1)).astype(np.uint8)


def random_pairs(count: int = 6) -> list[Pair]:
    rng = np.random.default_rng(0)
    pairs = []
    for i in range(count):
        height, width = int(rng.integers(20, 60)), int(rng.integers(20, 60))
        mask = blob(rng, height, width)
        noise = rng.integers(0, 256, mask.shape)
        share = i / count  # from noise to a map that is nearly right
        pairs.append((((1 - share) * noise + share * mask).astype(np.uint8), mask))
    return pairs


def edge_cases() -> dict[str, Pair]:
    rng = np.random.default_rng(1)
    noise, mask = rng.integers(0, 256, (31, 40), dtype=np.uint8), blob(rng, 31, 40)
    grey = mask.copy()
    grey[0, :20] = np.arange(119, 139)  # 128 is background
    pixel = np.zeros_like(mask)
    pixel[3, 4] = 255
    return {
        "empty mask": (noise, np.zeros_like(mask)),
        "full mask": (noise, np.full_like(mask, 255)),
        "constant map": (np.full_like(mask, 77), mask),
        "black map": (np.zeros_like(mask), mask),
        "white map": (np.full_like(mask, 255), mask),
        "constant map, empty mask": (np.full_like(mask, 77), np.zeros_like(mask)),
        "constant map, full mask": (np.full_like(mask, 77), np.full_like(mask, 255)),
        "perfect map": (mask, mask),
        "inverse map": (255 - mask, mask),
        "grey mask": (noise, grey),
        "one pixel": (noise, pixel),
        "one-pixel block": (noise[:5, :6], np.pad(np.full((1, 1), 255, np.uint8), ((3, 1), (4, 1)))),
    }


def reference(pairs: list[Pair]) -> dict[str, Any]:
    """pysodmetrics' values; its curves are turned to ascending thresholds."""
    import py_sod_metrics as sod

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mae, s, wf, e, f = sod.MAE(), sod.Smeasure(), sod.WeightedFmeasure(), sod.Emeasure(), sod.Fmeasure()
        for prediction, mask in pairs:
            for metric in (mae, s, wf, e, f):
                metric.step(prediction, mask)
    fm, em = f.get_results(), e.get_results()["em"]
    return {
        "mae": mae.get_results()["mae"], "s": s.get_results()["sm"], "weighted_f": wf.get_results()["wfm"],
        "f": fm["fm"]["curve"][::-1], "adaptive_f": fm["fm"]["adp"], "precision": fm["pr"]["p"][::-1],
        "recall": fm["pr"]["r"][::-1], "e": em["curve"][::-1], "adaptive_e": em["adp"],
    }  # fmt: skip


def ours(pairs: list[Pair]) -> dict[str, Tensor]:
    metrics = {cls: cls() for cls in METRICS}
    for prediction, mask in pairs:
        for metric in metrics.values():
            metric.update(torch.from_numpy(prediction), torch.from_numpy(mask))
    values = {
        "mae": metrics[SaliencyMAE].compute(),
        "s": metrics[StructureMeasure].compute(),
        "weighted_f": metrics[WeightedFMeasure].compute(),
    }
    return values | metrics[FMeasure].compute() | metrics[AlignmentMeasure].compute()


def compare(pairs: list[Pair]) -> None:
    found, expected = ours(pairs), reference(pairs)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name].numpy(), value, rtol=0, atol=1e-6, err_msg=name)
    assert float(found["max_f_f_first"]) == pytest.approx(expected["f"].max(), abs=1e-6)
    assert float(found["mean_f"]) == pytest.approx(expected["f"].mean(), abs=1e-6)
    assert float(found["max_e"]) == pytest.approx(expected["e"].max(), abs=1e-6)
    assert float(found["mean_e"]) == pytest.approx(expected["e"].mean(), abs=1e-6)


def test_random_maps_have_the_values_of_pysodmetrics() -> None:
    compare(random_pairs())


@pytest.mark.parametrize("case", edge_cases())
def test_edge_cases_have_the_values_of_pysodmetrics(case: str) -> None:
    compare([edge_cases()[case]])


def test_float_maps_have_the_values_of_pysodmetrics_without_its_rounding() -> None:
    import py_sod_metrics as sod

    rng = np.random.default_rng(2)
    for _ in range(3):
        mask = blob(rng, 33, 27) > 0
        p = stretch(rng.random(mask.shape) * 0.7 + 0.3 * mask)
        e, wf = sod.Emeasure(), sod.WeightedFmeasure()
        e.step(p, mask, normalize=False)
        wf.step(p, mask, normalize=False)
        a, w = AlignmentMeasure(), WeightedFMeasure()
        a.update(torch.from_numpy(p), torch.from_numpy(mask))
        w.update(torch.from_numpy(p), torch.from_numpy(mask))
        assert float(a.compute()["adaptive_e"]) == pytest.approx(e.get_results()["em"]["adp"], abs=1e-6)
        assert float(w.compute()) == pytest.approx(wf.get_results()["wfm"], abs=1e-6)


def test_the_two_conventions_of_max_f_differ() -> None:
    """Two images whose best thresholds lie apart: a perfect one at 200, and one at 50."""
    mask = np.zeros((10, 10), np.uint8)
    mask[:5] = 255
    metric = FMeasure()
    for low, high in ((100, 255), (0, 60)):
        p = np.where(mask > 0, high, low).astype(np.float64) / 255
        p[0, 0], p[9, 9] = 1.0, 0.0  # the whole range, so that nothing is stretched
        metric.update(p, mask)
    values = metric.compute()
    precision, recall = values["precision"].numpy(), values["recall"].numpy()
    by_hand = (1.3 * precision * recall / (0.3 * precision + recall)).max()
    assert float(values["max_f_mean_first"]) == pytest.approx(by_hand, abs=1e-7)
    assert float(values["max_f_f_first"]) == pytest.approx(float(values["f"].max()), abs=1e-7)
    assert abs(float(values["max_f_mean_first"]) - float(values["max_f_f_first"])) > 0.02


def test_a_perfect_map_exceeds_1_by_one_pixel_in_e() -> None:
    mask = np.zeros((10, 12), np.uint8)
    mask[2:6, 3:9] = 255
    metric = AlignmentMeasure()
    metric.update(mask, mask)
    assert float(metric.compute()["max_e"]) == pytest.approx(120 / 119, abs=1e-6)


def test_a_constant_map_is_kept_and_any_other_stretched() -> None:
    assert stretch(np.full((3, 3), 51, np.uint8)) == pytest.approx(0.2)
    stretched = stretch(torch.tensor([[0.2, 0.4], [0.3, 0.2]]))
    np.testing.assert_allclose(stretched, [[0, 1], [0.5, 0]], atol=1e-6)


def test_128_of_255_is_background_and_above_half_is_foreground() -> None:
    assert binarise(np.array([127, 128, 129], np.uint8)).tolist() == [False, False, True]
    assert binarise(np.array([0.5, 0.501])).tolist() == [False, True]


def test_an_empty_block_is_left_out_where_pysodmetrics_has_nan() -> None:
    mask = np.zeros((8, 8), np.uint8)
    mask[7, 2:6] = 255  # the centre of mass lies in the last row
    metric = StructureMeasure()
    metric.update(np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8), mask)
    assert 0 < float(metric.compute()) < 1


def test_means_are_over_images_not_over_batches_or_pixels() -> None:
    """A small image counts as much as a large one, in whatever batches they come."""
    small, large = np.zeros((4, 4), np.uint8), np.zeros((40, 40), np.uint8)
    metric = SaliencyMAE()
    metric.update(np.full((4, 4), 255, np.uint8), small)
    metric.update(np.zeros((40, 40), np.uint8), large)
    assert float(metric.compute()) == 0.5


def test_sums_of_two_processes_are_those_of_one() -> None:
    pairs = random_pairs()
    one, parts = FMeasure(), [FMeasure(), FMeasure()]
    for i, (p, g) in enumerate(pairs):
        one.update(p, g)
        parts[i % 2 if i < 3 else 0].update(p, g)  # unequal shares
    total = FMeasure()
    total.total, total.images = sum(m.total for m in parts), sum(m.images for m in parts)
    for name, value in one.compute().items():
        assert torch.allclose(total.compute()[name], value, atol=1e-12), name


def test_the_edge_band_is_five_pixels_on_both_sides() -> None:
    mask = np.zeros((30, 40), bool)
    mask[:, 20:] = True
    band = edge_band(mask)
    assert band.all(axis=0).nonzero()[0].tolist() == list(range(15, 25))
    metric = BoundaryMAE()
    wrong = mask.copy()
    wrong[:, 19] = True  # one of ten columns of the band
    metric.update(wrong.astype(np.float64), mask)
    assert float(metric.compute()) == pytest.approx(0.1)
    metric.update(np.zeros((30, 40)), np.zeros((30, 40), bool))  # no border: left out
    assert float(metric.compute()) == pytest.approx(0.1)


def test_maps_of_another_size_than_the_mask_are_refused() -> None:
    with pytest.raises(ValueError, match=r"the map is \[4, 4\], its mask \[8, 8\]"):
        SaliencyMAE().update(np.zeros((4, 4)), np.zeros((8, 8)))


def test_masks_without_an_object_are_counted() -> None:
    metric = EmptyMasks()
    metric.update(np.zeros((4, 4)), np.zeros((4, 4)))
    metric.update(np.zeros((4, 4)), np.ones((4, 4)))
    assert float(metric.compute()) == 1
