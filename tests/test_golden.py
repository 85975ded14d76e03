"""Golden curves: the first steps of each embedded config, so that a change of behaviour cannot pass unseen.

After a change meant to move them, `python tests/test_golden.py` writes the files anew; review the diff.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import pytest

import cli
from zoo.callbacks.metrics_csv import read_metrics
from zoo.catalog import config_folder, config_names

GOLDEN = Path(__file__).parent / "golden"
EMBEDDED = (
    "dtr_dit_digits",
    "dtr_dit_mnist",
    "digit_classifier_digits",
    "digit_classifier_mnist",
    "gaug_m_digits",
    "gaug_o_digits",
)
# In the place of the batch size, for methods that see a whole graph: all phases within the few steps.
WHOLE_GRAPH = {
    "gaug_m_digits": {"model.init_args.predictor_epochs": 6},
    "gaug_o_digits": {"model.init_args.pretrain_ep": 4, "model.init_args.pretrain_nc": 4},
}
STEPS = 12


def curve(config: str, root: Path) -> list[dict[str, float]]:
    """Rows of metrics.csv of a short run."""
    flags = {
        "trainer.max_steps": STEPS,
        "trainer.log_every_n_steps": 3,
        "trainer.val_check_interval": STEPS,
        "trainer.default_root_dir": root,
        "trainer.accelerator": "cpu",
        "trainer.enable_progress_bar": "false",
        "previews.count": 0,
        **WHOLE_GRAPH.get(config, {"data.init_args.batch_size": 16}),
    }
    arguments = [f"--{key}={value}" for key, value in flags.items()]
    assert cli.main(["fit", "--config", config, *arguments]) == 0
    return read_metrics(root / config / "version_0" / "metrics.csv")


@pytest.mark.parametrize("config", EMBEDDED)
def test_first_steps_follow_the_golden_curve(config: str, tmp_path: Path) -> None:
    expected = json.loads((GOLDEN / f"{config}.json").read_text())
    rows = curve(config, tmp_path)
    assert [row["step"] for row in rows] == [row["step"] for row in expected]
    for row, golden in zip(rows, expected, strict=True):
        # float32 sums differ between machines and thread counts; a changed method differs by far more
        assert row == pytest.approx(golden, rel=2e-3, abs=1e-5)


def test_every_config_is_trained_by_a_test() -> None:
    """Embedded configs here, recipes in test_full_size_configs, overlays in test_overlays."""
    names = {n for n in config_names() if "/" not in n}
    full_size = ("ImageNetLatents", "GAugGraph")  # test_full_size_configs, test_gaug_configs
    texts = {n: (config_folder() / f"{n}.yaml").read_text() for n in names}
    recipes = {n for n, text in texts.items() if any(data in text for data in full_size)}
    assert names - recipes == set(EMBEDDED)


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for name in sys.argv[1:] or EMBEDDED:
        with tempfile.TemporaryDirectory() as folder:
            (GOLDEN / f"{name}.json").write_text(json.dumps(curve(name, Path(folder)), indent=1) + "\n")
