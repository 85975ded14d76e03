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
from zoo.engine.metrics_csv import read_metrics
from zoo.hub.catalog import config_folder, config_names

GOLDEN = Path(__file__).parent / "golden"
EMBEDDED = (
    "dtr_dit_digits",
    "dtr_dit_mnist",
    "dtr_unet_digits",
    "digit_classifier_digits",
    "digit_classifier_mnist",
    "gnn_traffic_synthetic",
    "gnn_graph_synthetic",
)
# Configs with flags of their own in the place of the batch size; most have one whole graph as their batch.
# All phases of GAug lie within the few steps.
OWN_FLAGS: dict[str, dict[str, int | str]] = {
    "gaug_m_digits": {"model.init_args.predictor_epochs": 6},
    "gaug_o_digits": {"model.init_args.pretrain_ep": 4, "model.init_args.pretrain_nc": 4},
    # sampled graphs would differ between machines, and with them the validation
    "gnn_gen_grid_small": {"data.init_args.batch_size": 16, "trainer.limit_val_batches": 0},
    "gnn_gen_graphvae_community_small": {"data.init_args.batch_size": 16, "trainer.limit_val_batches": 0},
    "gnn_link_karate": {},
    # a learning encoder's first steps need no more shapes
    "imae_solids": {
        "data.init_args.train_shapes": 8,
        "data.init_args.test_shapes": 1,
        "data.init_args.batch_size": 4,
        "model.init_args.points_per_shape": 128,
    },
    "imae_letters": {},
    "cnnae_letters": {},
    "gnn_link_sbm": {},
    "gnn_node_karate": {},
    "gnn_node_sbm": {},
    "lds_cancer": {},
    "lds_cancer_baseline": {},
    "lds_digits_baseline": {},
    "lds_karate": {},
    "lds_sbm": {},
    "lds_wine": {},
    "lds_wine_baseline": {},
    "lds_wine_dense": {},
    "lds_wine_dense_gcn": {},
    "lds_wine_knn_gcn": {},
    "lds_wine_rbf_gcn": {},
    "lds_wine_sparse_gcn": {},
    "ras_tiny_composites": {"data.init_args.train_items": 96, "data.init_args.val_items": 8},
    # without the recordings, which not every machine has
    "mbt_digits": {"data.init_args.source": "procedural", "data.init_args.test_pairs": 100},
    "mbt_digits_sum": {"data.init_args.source": "procedural", "data.init_args.test_pairs": 100},
    "mbt_tones_sum": {"data.init_args.batch_size": 16, "data.init_args.test_pairs": 100},
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
        **OWN_FLAGS.get(config, {"data.init_args.batch_size": 16}),
    }
    arguments = [f"--{key}={value}" for key, value in flags.items()]
    assert cli.main(["fit", "--config", config, *arguments]) == 0
    return read_metrics(root / config / "version_0" / "metrics.csv")


@pytest.mark.parametrize("config", [*EMBEDDED, *OWN_FLAGS])
def test_first_steps_follow_the_golden_curve(config: str, tmp_path: Path) -> None:
    expected = json.loads((GOLDEN / f"{config}.json").read_text())
    rows = curve(config, tmp_path)
    assert [row["step"] for row in rows] == [row["step"] for row in expected]
    for row, golden in zip(rows, expected, strict=True):
        # float32 sums differ between machines and thread counts; a changed method differs by far more
        assert row == pytest.approx(golden, rel=2e-3, abs=1e-5)


def test_every_config_is_trained_by_a_test() -> None:
    """Embedded configs here, recipes in test_full_size_configs and tests of their own, overlays in
    test_overlays.

    ``adm_evaluation`` trains nothing: tests/zoo/metrics/test_adm_evaluation.py runs it.
    """
    names = {n for n in config_names() if "/" not in n}
    # also in test_extraction, test_unet_recipes, test_gaug_configs, test_gnn_graph_configs, test_ras_configs
    full_size = ("ImageNetLatents", "ImageFolder", "GAugGraph", "TUGraphs", "datamodules.Saliency\n")
    texts = {n: (config_folder() / f"{n}.yaml").read_text() for n in names}
    recipes = {n for n, text in texts.items() if any(word in text for word in full_size)}
    # tests/test_lds_configs.py
    large = {n for n in names if n.startswith(("lds_cora", "lds_citeseer"))} | {"lds_digits", "lds_sbm_20k"}
    # tests/test_gnn_node_configs.py
    large |= {n for n in names if n.startswith("gnn_node_") and n.endswith(("_cora", "_ppi", "_reddit"))}
    # tests/test_gnn_traffic_configs.py
    large |= {n for n in names if n.startswith(("gnn_traffic", "gnn_chickenpox"))} - {*EMBEDDED}
    # tests/test_gnn_gen_configs.py
    large |= {n for n in names if n.startswith("gnn_gen_")} - {*OWN_FLAGS}
    # tests/test_gnn_link_configs.py
    citation = ("_cora", "_citeseer", "_pubmed")
    large |= {n for n in names if n.startswith("gnn_link_") and n.endswith(citation)}
    # tests/test_imnet_configs.py
    large |= {n for n in names if n.startswith(("im", "cnnae_"))} - {*OWN_FLAGS}
    # tests/test_mbt_configs.py
    large |= {n for n in names if n.startswith("mbt_")} - {*OWN_FLAGS}
    assert names - recipes - large - {"adm_evaluation"} == {*EMBEDDED, *OWN_FLAGS}


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for name in sys.argv[1:] or (*EMBEDDED, *OWN_FLAGS):
        with tempfile.TemporaryDirectory() as folder:
            (GOLDEN / f"{name}.json").write_text(json.dumps(curve(name, Path(folder)), indent=1) + "\n")
