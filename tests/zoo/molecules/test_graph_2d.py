"""The spec's numbers and traps of 2-D graphs and descriptors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from quiet import quiet_trainer
from rdkit import Chem
from rdkit.Chem import QED, Crippen, Descriptors, Lipinski, rdMolDescriptors

import datamodules
import zoo
from zoo.metrics.properties import averaged, by_task, undefined
from zoo.molecules.graph import featurised
from zoo.molecules.graph.descriptors import (
    Standardiser,
    ecfp,
    nearest,
    rdkit_names,
    rdkit_values,
    width_of,
)
from zoo.molecules.graph.features import molecule_graph, side_by_side
from zoo.molecules.graph.network import DMPNN
from zoo.molecules.graph.probes import common_neighbours, linear_cka, ridge_r2
from zoo.molecules.graph.uncertainty import (
    conformal_widths,
    gaussian_widths,
    miscalibration_area,
    mixture,
    observed_coverage,
)

NAPROXEN = "COc1ccc2cc(ccc2c1)[C@H](C)C(=O)O"
L_ALANINE, D_ALANINE = "C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O"
BACKBONES = ("dmpnn", "gin", "attentivefp")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def small(**given: Any) -> zoo.MoleculeGraph2D:
    torch.manual_seed(0)
    module = zoo.MoleculeGraph2D(**{"hidden": 16, "ffn_hidden": 16, "targets": ["y"], **given})
    module.fit_scales(["CCO", "CCN", "c1ccccc1", "C"], np.array([[0.0], [1.0], [3.0], [0.5]]))
    return module.double().eval()


def test_the_published_numbers_of_parameters() -> None:
    def count(**given: Any) -> int:
        return sum(p.numel() for p in zoo.MoleculeGraph2D(**given).network.parameters())

    assert count(dmpnn_2019=True) == 354_901  # what chemprop 1 prints
    assert count(features="v1") == 354_901
    assert count() == 318_301
    assert zoo.MoleculeGraph2D(dmpnn_2019=True, readout="sum").network.members[0].readout == "mean"


def test_anchors_of_descriptors() -> None:
    found = Chem.MolFromSmiles(NAPROXEN)
    assert Descriptors.MolWt(found) == pytest.approx(230.263, abs=1e-3)
    assert rdMolDescriptors.CalcTPSA(found) == pytest.approx(46.53, abs=1e-2)
    assert Crippen.MolLogP(found) == pytest.approx(3.0365, abs=1e-4)
    assert QED.qed(found) == pytest.approx(0.8811, abs=1e-4)
    assert (Lipinski.NumHDonors(found), Lipinski.NumHAcceptors(found)) == (1, 2)
    assert Lipinski.NumRotatableBonds(found) == 3
    # ECFP4 is Morgan of radius 2, the diameter is in its name
    assert int(ecfp(found).sum()) == 29
    assert int(ecfp(found, chirality=True).sum()) == 28
    values = dict(zip(rdkit_names(), rdkit_values(found), strict=True))
    assert values["MolWt"] == pytest.approx(230.263, abs=1e-3)
    assert width_of("both") == 2048 + len(values)


def test_the_features_of_atoms_and_bonds_are_chemprops() -> None:
    for features, width, carbon in (("v1", 133, 5), ("v2", 72, 5)):
        graph = molecule_graph("F/C=C/[NH3+]", features)
        assert graph.x.shape == (4, width)
        # one slot each of number, degree, charge, chirality, hydrogens and hybridisation
        assert (graph.x[:, :-2] == 1).sum(dim=1).tolist() == [6, 6, 6, 6]
        assert graph.x[1, carbon] == 1
        assert graph.x[1, -1] == pytest.approx(0.12011)
        blind = molecule_graph("F/C=C/[NH3+]", features, chirality=False)
        assert (blind.x[:, :-2] == 1).sum(dim=1).tolist() == [5, 5, 5, 5]
        assert blind.edge_attr[:, 7:].sum() == 0
    double = graph.edge_attr[2]
    assert double.nonzero().flatten().tolist() == [2, 7 + 3]  # double, E
    unknown = molecule_graph("[Hg]", "v2").x[0]
    assert unknown[37] == 1  # the slot of what is not in the list


def the_loop(model: DMPNN, graph: Any) -> np.ndarray[Any, Any]:
    """The equations bond by bond."""
    w_i, w_h = model.W_i.weight.detach().numpy(), model.W_h.weight.detach().numpy()
    w_o, bias = model.W_o.weight.detach().numpy(), model.W_o.bias.detach().numpy()
    x, e = graph.x.numpy(), graph.edge_attr.numpy()
    bonds = list(zip(*graph.edge_index.tolist(), strict=True))
    first = {vw: w_i @ np.concatenate([x[vw[0]], e[k]]) for k, vw in enumerate(bonds)}
    h = {vw: np.maximum(value, 0) for vw, value in first.items()}
    for _ in range(model.depth - 1):
        new = {}
        for v, w in bonds:
            message = sum((h[k, u] for k, u in bonds if u == v and k != w), np.zeros(len(w_h)))
            new[v, w] = np.maximum(first[v, w] + w_h @ message, 0)
        h = new
    states = []
    for v in range(len(x)):
        arriving = sum((h[w, u] for w, u in bonds if u == v), np.zeros(len(w_h)))
        states.append(np.maximum(w_o @ np.concatenate([x[v], arriving]) + bias, 0))
    return np.stack(states)


def test_dmpnn_is_its_equations() -> None:
    torch.manual_seed(0)
    model = DMPNN(72, 12, 3, 0.0).double()
    graph = side_by_side([molecule_graph(s) for s in (NAPROXEN, "C", "CC(C)(C)O")]).to("cpu", torch.float64)
    found = model(graph).detach().numpy()
    assert np.abs(found - the_loop(model, graph)).max() < 1e-13


@pytest.mark.parametrize("backbone", BACKBONES)
def test_mirror_images_differ_with_chirality_alone(backbone: Any) -> None:
    pair = [L_ALANINE, D_ALANINE]
    blind = small(backbone=backbone, chirality=False)(pair)[0, :, 0]
    seeing = small(backbone=backbone)(pair)[0, :, 0]
    assert abs(blind[0] - blind[1]) < 1e-15
    assert abs(seeing[0] - seeing[1]) > 1e-6


def test_mirror_images_have_one_ecfp_without_chirality() -> None:
    a, b = (Chem.MolFromSmiles(s) for s in (L_ALANINE, D_ALANINE))
    assert (ecfp(a) == ecfp(b)).all()
    assert (ecfp(a, chirality=True) != ecfp(b, chirality=True)).any()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_molecule_alone_and_in_a_batch(backbone: Any) -> None:
    module = small(backbone=backbone)
    molecules = [NAPROXEN, "C", "[Na+].[Cl-]", "CCO"]  # one atom, no bond at all
    together = module(molecules)[0, :, 0]
    alone = torch.stack([module([s])[0, 0, 0] for s in molecules])
    assert together.std() > 1e-4
    assert (together - alone).abs().max() < 1e-12


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_order_of_atoms_does_not_matter(backbone: Any) -> None:
    module = small(backbone=backbone, chirality=False)
    a, b = module(["OCCc1ccncc1", "c1cc(ccn1)CCO"])[0, :, 0]  # canonicalised nowhere here
    assert abs(a - b) < 1e-12


def test_descriptors_are_scaled_by_the_training_molecules() -> None:
    scaler = Standardiser("rdkit")
    width = len(rdkit_names())
    values = np.random.default_rng(0).normal(3, 2, (50, width))
    values[:, 0] = 7.1  # constant: dropped
    values[3, 1] = np.nan
    values[4, 2] = np.inf
    values[:, 3] = 1e300 * np.arange(50)  # beyond any deviation, as Ipc of a large molecule nearly is
    scaler.fit(values)
    clean = np.where(np.isfinite(values), values, 0)
    own = scaler(values)
    assert own.dtype == torch.float32
    expected = np.clip((clean[:, 4:] - clean[:, 4:].mean(0)) / clean[:, 4:].std(0), -5, 5)
    assert np.abs(own[:, 4:].numpy() - expected).max() < 1e-6
    assert own[:, 0].abs().max() == 0
    assert scaler.kept[1:3].all()
    assert not scaler.kept[0]
    assert own.isfinite().all()
    other = values + 1e6
    assert scaler(other)[:, 4:].unique().tolist() == [5.0]  # clipped, not scaled anew
    assert scaler(other)[:, 0].abs().max() == 0


def test_another_rdkit_and_unfitted_descriptors_are_refused() -> None:
    scaler = Standardiser("rdkit")
    with pytest.raises(ValueError, match="never standardised"):
        scaler(np.zeros((1, len(rdkit_names()))))
    scaler.fit(np.zeros((2, len(rdkit_names()))))
    scaler.version += 1
    with pytest.raises(ValueError, match="another version of rdkit"):
        scaler(np.zeros((1, len(rdkit_names()))))


def test_a_task_of_one_class_is_left_out_of_the_mean() -> None:
    predicted = np.array([[0.9, 0.2], [0.1, 0.8], [0.8, 0.5], [0.3, 0.5]])
    target = np.array([[1.0, 1.0], [0.0, 1.0], [0.0, np.nan], [1.0, 1.0]])
    scores = by_task("classification", predicted, target)
    assert scores["roc_auc"][0] == 0.75
    assert np.isnan(scores["roc_auc"][1])
    assert averaged(scores) == {"roc_auc": 0.75, "pr_auc": pytest.approx((1 + 2 / 3) / 2)}
    assert undefined(scores, ["a", "b"]) == ["b"]
    assert averaged(by_task("classification", predicted[:, 1:], target[:, 1:])) == {}


def test_missing_targets_have_no_gradient() -> None:
    module = small(task="classification", targets=["a"])
    outputs = torch.zeros(1, 3, 1, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([[1.0], [torch.nan], [0.0]])
    module.losses(outputs, target).sum().backward()
    assert outputs.grad.flatten().tolist() == [-0.5, 0.0, 0.5]


def test_the_second_epoch_asks_rdkit_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    smiles = ["CCO", "CCN", "c1ccccc1", "C"]
    module = small(descriptors="both")
    first = module(smiles)

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("rdkit was asked")

    monkeypatch.setattr(featurised, "chem", refuse)
    for name in ("molecule_graph", "ecfp", "rdkit_values"):
        monkeypatch.setattr(featurised, name, refuse)
    assert torch.equal(module(smiles), first)
    with pytest.raises(AssertionError, match="rdkit was asked"):  # another option is another key
        featurised.graphs_of(smiles, "v1", False)


def test_a_mixture_has_the_variance_of_its_members_and_between_them() -> None:
    mean, variance = mixture(torch.tensor([[[1.0]], [[3.0]]]), torch.tensor([[[0.5]], [[1.5]]]))
    assert (mean.item(), variance.item()) == (2.0, 1.0 + 1.0)


def test_conformal_widths_are_the_order_statistics() -> None:
    residual = np.random.default_rng(0).permutation(np.arange(1.0, 100.0))  # 99 of them
    widths = conformal_widths(residual, np.ones(99))
    assert widths[89] == 90.0  # ceil(100 * .9)-th smallest
    assert widths[49] == 50.0
    few = conformal_widths(np.array([3.0, 1.0, 2.0]), np.ones(3))
    assert np.isnan(few[80])  # three molecules cannot promise 81 %
    assert few[74] == 3.0
    assert conformal_widths(2 * residual, np.full(99, 2.0))[89] == 90.0


def test_gaussian_errors_are_calibrated_by_gaussian_widths() -> None:
    assert gaussian_widths()[89] == pytest.approx(1.6449, abs=1e-4)
    score = np.abs(np.random.default_rng(0).standard_normal(20_000))
    assert miscalibration_area(observed_coverage(score, gaussian_widths())) < 0.005
    # twice too sure: the area between the curves
    assert miscalibration_area(observed_coverage(2 * score, gaussian_widths())) == pytest.approx(
        0.19, abs=0.02
    )


def test_the_nearest_training_molecule() -> None:
    names, similarity = nearest(["CCO", NAPROXEN], ["c1ccccc1", "OCC", "COc1ccc2cc(ccc2c1)C(C)C(=O)O"])
    assert names == ["OCC", "COc1ccc2cc(ccc2c1)C(C)C(=O)O"]
    assert similarity == [1.0, 1.0]  # ECFP4 without chirality
    assert nearest(["C"], [])[0] == [""]


def test_contributions_follow_the_atoms_of_the_smiles() -> None:
    module = small(backbone="dmpnn", members=2).float()
    found = module.predict_smiles(["OCC", NAPROXEN], train=["CCO"])
    assert found.smiles == ["CCO", Chem.MolToSmiles(Chem.MolFromSmiles(NAPROXEN))]
    assert [len(c) for c in found.contributions] == [3, 17]
    assert found.neighbour[0] == "CCO"
    assert found.deviation is not None
    with pytest.raises(ValueError, match="molecule 1, 'c1cccc1', is no SMILES"):
        module.predict_smiles(["C", "c1cccc1"])


@pytest.mark.parametrize(
    ("smiles", "train", "said"),
    [
        ("CCO", [], r"a list of SMILES is needed, got the text 'CCO'; write \['CCO'\]"),
        (["C", "*CC"], [], r"molecule 1, '\*CC', has a dummy atom"),
        ([None], [], r"molecule 0, 'None', is no SMILES"),
        (["C" * 5000], [], r"molecule 0, 'C{60}', is no SMILES"),
        ([], [], r"no SMILES are given"),
        (["C"], ["zz"], r"training molecule 0, 'zz', is no SMILES"),
    ],
)
def test_python_gives_lists_of_molecules(smiles: Any, train: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        small(backbone="gin").float().predict_smiles(smiles, train=train)


def test_maps_are_taken_off_what_python_gives() -> None:
    found = small(backbone="gin").float().predict_smiles(["[CH3:1][CH2:2][OH:3]"], train=["[CH3:7][OH:8]"])
    assert (found.smiles, found.neighbour) == (["CCO"], ["CO"])


def test_what_does_not_belong_together_is_refused() -> None:
    with pytest.raises(ValueError, match="an FFN on descriptors"):
        zoo.MoleculeGraph2D(backbone="none")
    with pytest.raises(ValueError, match="head: mve is of regression"):
        zoo.MoleculeGraph2D(task="classification", head="mve")
    with pytest.raises(ValueError, match=r"readout is sum, which backbone: attentivefp does not use"):
        zoo.MoleculeGraph2D(backbone="attentivefp", readout="sum")


def test_scales_keep_their_digits_in_a_module_of_bfloat16() -> None:
    module = small(descriptors="ecfp").float()
    module.target_mean.fill_(1.23456789)
    mean = module.standardiser.mean.clone()
    module.bfloat16()
    assert module.network.members[0].ffn[0].weight.dtype == torch.bfloat16
    assert module.target_mean.item() == 1.23456789
    assert torch.equal(module.standardiser.mean, mean)
    found = module.predict_smiles(["CCO"])
    assert found.predicted.dtype == torch.float64
    with pytest.raises(ValueError, match="no SMILES are given"):
        module.predict_smiles([])


def test_scales_are_those_of_the_training_molecules_alone() -> None:
    data = datamodules.MoleculeNet("esol", batch_size=50)
    module = zoo.MoleculeGraph2D(
        targets=["measured log solubility in mols per litre"], descriptors="ecfp", hidden=4, ffn_hidden=4
    )
    quiet_trainer(max_steps=1, limit_val_batches=0).fit(module, data)
    assert module.target_mean.item() == pytest.approx(data.train_target.mean(), abs=1e-12)
    bits = np.stack([ecfp(Chem.MolFromSmiles(s), True) for s in data.train_smiles])
    kept = module.standardiser.kept.numpy()
    assert (kept == (bits.std(axis=0) > 0)).all()  # a bit of the test molecules alone is dropped
    assert np.abs(module.standardiser.mean.numpy()[kept] - bits.mean(axis=0)[kept]).max() < 1e-12
    everything = np.stack([ecfp(Chem.MolFromSmiles(s), True) for s in data.all_smiles])
    assert (everything.std(axis=0) > 0).sum() > kept.sum()


def test_probes_of_known_features() -> None:
    random = np.random.default_rng(0)
    x, other = random.normal(size=(400, 6)), random.normal(size=(400, 6))
    turn = np.linalg.qr(random.normal(size=(6, 6)))[0]
    assert linear_cka(x, 3 * x @ turn + 1) == pytest.approx(1.0)  # rotations and scales do not matter
    assert linear_cka(x, other) < 0.05
    a, b = x - x.mean(0), other - other.mean(0)
    by_columns = (a.T @ b) ** 2
    expected = by_columns.sum() / (np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b))
    assert linear_cka(x, other) == pytest.approx(expected)
    y = np.stack([x[:, 0] + 2 * x[:, 1], other[:, 0], np.ones(400)], axis=1)
    found = ridge_r2(x[:300], y[:300], x[300:], y[300:])
    assert found[0] > 0.999
    assert found[1] < 0.1
    assert np.isnan(found[2])
    wide = random.normal(size=(400, 500)) @ np.diag([1.0] * 2 + [1e-9] * 498)
    narrow = ridge_r2(wide[:300, :2], wide[:300, :1], wide[300:, :2], wide[300:, :1])
    assert narrow[0] > 0.999
    assert common_neighbours(x, x) == 1.0
    assert common_neighbours(np.eye(2, 20), np.fliplr(np.eye(2, 20))) < 1.0


def test_a_target_too_few_know_to_calibrate_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    module = zoo.MoleculeGraph2D(hidden=8, ffn_hidden=8, targets=["many", "few"])
    values = torch.randn(3, 20, 2, generator=torch.Generator().manual_seed(0))
    values[2, 8:, 1] = torch.nan  # eight know it; nine are needed for 90 %
    module._calibrate(values)
    assert capsys.readouterr().out.count("no 90 % interval of few: too few of the calibration molecules") == 1
    module._calibrate(values)
    assert capsys.readouterr().out == ""
    assert (module.half_widths[:, 89] > 0).tolist() == [True, False]
