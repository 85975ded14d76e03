"""GaussianMI: fairness of samples, what each curve trains, estimates on held-out pairs, what it leaves."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import run
from quiet import quiet_trainer
from torch import Tensor, nn

import datamodules
import zoo
from zoo.demi import bounds, estimation
from zoo.demi.network import JointCritic, Proposal, SeparableCritic
from zoo.demi.report import Estimate


def batch_of(items: int = 64, **settings: Any) -> dict[str, Tensor]:
    data = datamodules.KnownInformation(**{"dim": 3, "total_mi": 2.0, "test_items": items, **settings})
    data.setup("test")
    found: dict[str, Tensor] = data.test_set.__getitems__(list(range(items)))
    return found


def size_of(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_critics_have_the_spec_s_parameters() -> None:
    network = zoo.GaussianMI().network
    assert size_of(network.first) == 158_784
    assert size_of(network.undivided["infonce"]) == size_of(network.terms["bo"][0]) == 163_904
    joint = zoo.GaussianMI(critic="joint", curves=["infonce"]).network.undivided["infonce"]
    assert size_of(joint.f[:-1]) == 147_200


def test_candidates_of_each_row_and_of_all_rows_score_alike() -> None:
    g = torch.Generator().manual_seed(0)
    a, y = torch.randn(4, 6, generator=g), torch.randn(5, 3, generator=g)
    for critic in (SeparableCritic(6, 3, 8, 2, 4), JointCritic(6, 3, 8, 2)):
        scores = critic(a, y)
        torch.testing.assert_close(critic(a, y.expand(4, 5, 3)), scores)
        torch.testing.assert_close(critic(a[2:3], y[4:5])[0, 0], scores[2, 4])


def test_terms_share_the_rows_of_one_infonce() -> None:
    """128 pairs for InfoNCE are 64 + 64 for two terms: the estimates are of those rows and no others."""
    model, batch = zoo.GaussianMI(3, 3, hidden=8, embedding=4), batch_of(10)
    found = model.estimates(batch)
    half = {k: v[:5] for k, v in batch.items()}
    scores = model.network.first(half["subviews"][:, 0], half["y"])
    assert found["first"] == pytest.approx(float(bounds.info_nce(scores.detach(), "diagonal")), abs=1e-6)
    other = {k: v[5:] for k, v in batch.items()}
    phi = model.network.terms["bo"][0](other["subviews"].flatten(1), other["y"])
    psi = model.network.first(other["subviews"][:, 0], other["y"])
    weighted = float(bounds.importance_nce(phi.detach(), psi, "diagonal"))
    assert found["bo_is"] == pytest.approx(found["first"] + weighted, abs=1e-5)
    assert found["bo_value"] == pytest.approx(
        float(bounds.info_nce((phi + psi).detach(), "diagonal")), abs=1e-5
    )
    assert found["bo_exact"] == pytest.approx(found["first"] + found["bo_conditional_exact"], abs=1e-6)
    with pytest.raises(ValueError, match="a batch of 3 rows leaves 1"):
        model.estimates({k: v[:3] for k, v in batch.items()})


@pytest.mark.parametrize("curve", ["bo", "is", "exact", "var"])
def test_each_bound_trains_its_own_critics_alone(curve: Any) -> None:
    model = zoo.GaussianMI(3, 3, 3, curves=[curve, "infonce"], hidden=8, embedding=4)
    batch, g = batch_of(24, subviews=3), torch.Generator().manual_seed(0)
    found = estimation.training_bounds(model.scorer, model.curves, batch, g)
    parts = {
        "infonce": "undivided.infonce",
        "first": "first",
        f"{curve}_2": f"terms.{curve}.0",
        f"{curve}_3": f"terms.{curve}.1",
    }
    if curve == "var":
        parts |= {"tau_2": "proposals.0", "tau_3": "proposals.1"}
    assert set(found) == set(parts)
    for name, place in parts.items():
        model.zero_grad()
        found[name].backward(retain_graph=True)
        got = {
            n.rpartition(".")[0]
            for n, p in model.network.named_parameters()
            if p.grad is not None and p.grad.any()
        }
        assert got
        assert all(n.startswith(place) for n in got), name


def test_optimal_critics_need_no_training_and_give_the_table(tmp_path: Path) -> None:
    """64 pairs dealt to two terms of K 32: the oracle row of T = 10."""
    model = zoo.GaussianMI(20, 20, critic="oracle")
    batch = batch_of(64 * 30, dim=20, total_mi=10.0)
    values = [model.estimates({k: v[i * 64 :][:64] for k, v in batch.items()}, i) for i in range(30)]
    mean = {k: sum(v[k] for v in values) / 30 for k in values[0]}
    assert mean["first"] == pytest.approx(3.017, abs=0.12)
    assert mean["bo_conditional_exact"] == pytest.approx(3.011, abs=0.12)
    assert mean["bo_is"] == pytest.approx(6.335, abs=0.15)
    data = datamodules.KnownInformation(batch_size=16)
    with pytest.raises(ValueError, match="nothing to fit"):
        quiet_trainer(max_steps=1).fit(model, data)


def test_a_later_term_conditions_on_all_before_it() -> None:
    """psi of the third term is psi + phi_2, so that optimal critics count nothing twice: 3 x T / 3."""
    model, total = zoo.GaussianMI(20, 20, 3, critic="oracle", curves=["bo"]), 3.0
    batch = batch_of(3 * 512, dim=20, total_mi=total, subviews=3)
    found = model.estimates(batch)
    assert found["bo_exact"] == pytest.approx(total, abs=0.25)
    assert found["bo_is"] == pytest.approx(total, abs=0.25)
    earlier = model.scorer.earlier("bo", batch, 3)
    joint = model.scorer._oracle(batch, batch["y"], 2, 0)
    torch.testing.assert_close(earlier, joint, atol=2e-4, rtol=0)


def test_the_variational_bound_subtracts_its_divergence() -> None:
    model, batch = zoo.GaussianMI(3, 3, curves=["var"], hidden=8, embedding=4), batch_of(200)
    for layer in (model.network.proposals[0].f[-1], model.network.terms["var"][0].g[-1]):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)  # tau = N(0, I), a critic that says nothing
    mean, variance = batch["mean"][100:, 0], batch["variance"][100:, :1]
    kl = 0.5 * (variance + mean**2 - 1 - variance.log()).sum(dim=1).mean()
    assert model.estimates(batch)["var_conditional_bound"] == pytest.approx(-float(kl), abs=1e-5)
    assert float(kl) > 0.3


def test_each_bound_is_trained_by_the_one_of_its_name() -> None:
    model = zoo.GaussianMI(3, 3, curves=["bo", "is"], hidden=8, embedding=4)
    batch, g = batch_of(12), torch.Generator().manual_seed(0)
    found = estimation.training_bounds(model.scorer, model.curves, batch, g)
    half = {k: v[6:] for k, v in batch.items()}
    psi = model.scorer.term("bo", half, 1, half["y"])
    for curve, bound in (("bo", bounds.boosted_nce), ("is", bounds.importance_nce)):
        phi = model.scorer.term(curve, half, 2, half["y"])  # type: ignore[arg-type]
        torch.testing.assert_close(found[f"{curve}_2"], bound(phi, psi, "diagonal"))


def test_a_trained_conditional_bound_stays_at_0_where_there_is_nothing() -> None:
    """Trap 7: x' tells nothing about y given x''; a phi that ignored x'' would find no harm either."""
    torch.manual_seed(0)
    data = datamodules.KnownInformation(dim=5, total_mi=0.72, split=[0.999, 0.001], items_per_epoch=3200)
    model = zoo.GaussianMI(5, 5, curves=["exact"], hidden=32, embedding=8)
    quiet_trainer(max_steps=60, limit_val_batches=0).fit(model, data)
    data.setup("test")
    values = [
        model.estimates(data.test_set.__getitems__(list(range(i, i + 128))), i) for i in range(0, 2560, 128)
    ]
    assert sum(v["exact_conditional_exact"] for v in values) / len(values) < 0.02


def test_a_proposal_learns_the_conditional_density() -> None:
    torch.manual_seed(0)
    tau, batch = Proposal(3, 3, 16, 1), batch_of(400)
    network = nn.Module()
    network.proposals = nn.ModuleList([tau])
    optimizer = torch.optim.Adam(tau.parameters(), lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        (-estimation.likelihood(network, batch, 2)).backward()  # type: ignore[arg-type]
        optimizer.step()
    mean, log_variance = tau(batch["subviews"][:, 0])
    assert float(((mean - batch["mean"][:, 0]) ** 2).mean()) < 0.05
    assert float(log_variance.exp().mean()) == pytest.approx(float(batch["variance"][0, 0]), rel=0.15)


def test_a_run_leaves_its_estimates_beside_the_truth(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = [
        "--data.init_args.test_items=400",
        "--data.init_args.dim=4",
        "--trainer.enable_progress_bar=false",
    ]
    flags = [*small, "--data.init_args.total_mi=9", "--model.init_args.critic=oracle"]
    folder = run("test", "demi_gaussian", tmp_path, *flags)
    said = capsys.readouterr().out
    assert "infonce is saturated" in said
    assert "16 rows at the end are no whole batch of 128" in said
    rows = list(csv.DictReader((folder / "estimates.csv").open()))
    assert [r["estimate"] for r in rows] == ["infonce", "bo_exact", "bo_is"]
    assert rows[0]["saturated"] == "true"
    assert {r["truth"] for r in rows} == {"9.0000"}
    assert float(rows[1]["ceiling"]) == pytest.approx(2 * math.log(64), abs=1e-4)
    assert (folder / "estimates.png").stat().st_size > 10_000
    folder = run("predict", "demi_gaussian", tmp_path, *flags, "--data.init_args.test_items=130")
    table = list(csv.DictReader((folder / "predictions" / "pointwise.csv").open()))
    assert [int(r["row"]) for r in table] == list(range(130))  # the last two have negatives as well
    assert float(table[129]["infonce"]) > 2


def test_one_batch_has_no_interval_and_no_deviation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--data.init_args.test_items=120", "--data.init_args.dim=4", "--model.init_args.critic=oracle",
             "--trainer.enable_progress_bar=false"]  # fmt: skip
    for rows, said in ((120, True), (60, False)):
        folder = run("test", "demi_gaussian", tmp_path, *flags, f"--data.init_args.eval_batch_size={rows}")
        told = (
            "one batch of 120 rows alone has no interval: for one, lower data.init_args.eval_batch_size to 60"
        )
        assert (told in capsys.readouterr().out) is said
        final = json.loads((folder / "summary_test.json").read_text())["final"]
        assert ("test/estimate_sd" in final) is not said
        for row in csv.DictReader((folder / "estimates.csv").open()):
            assert [row[k] == "" for k in ("sd_of_a_batch", "low", "high")] == [said] * 3
            if not said:
                mean, low, high = (float(row[k]) for k in ("nats", "low", "high"))
                half = 12.7062 * float(row["sd_of_a_batch"]) / math.sqrt(2)  # of t with one degree
                assert (mean - low, high - mean) == pytest.approx((half, half), rel=1e-2)


def test_an_estimate_near_its_ceiling_is_saturated() -> None:
    assert Estimate("infonce", [4.62, 4.61], 128, 1).saturated
    assert not Estimate("infonce", [4.60, 4.60], 128, 1).saturated
    assert not Estimate("bo_exact", [6.2], 64, 2).saturated
    one = Estimate("bo_exact", [1.0, 2.0, 3.0], 64, 2)
    assert (one.mean, one.deviation) == pytest.approx((2.0, 1.0))
    assert one.margin == pytest.approx(4.3027 / math.sqrt(3), rel=1e-4)
    assert math.isnan(Estimate("x", [1.0], 64, 1).margin)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"curves": []}, "each once"),
        ({"curves": ["bo", "bo"]}, "each once"),
        ({"curves": ["mine"]}, "must be of"),
        ({"clip": 3.0}, "clip is 3.0, which curves: bo, infonce does not use"),
        ({"subviews": 1}, "nothing is decomposed"),
        ({"critic": "bilinear"}, "critic must be"),
        ({"critic": "oracle", "curves": ["is"]}, "say how a critic is trained"),
        ({"critic": "joint", "embedding": 8}, "does not use"),
    ],
)
def test_what_makes_no_sense_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        zoo.GaussianMI(**settings)


def test_bounds_without_a_ceiling_by_optimal_critics() -> None:
    """At T = 2 all are near the truth, at 20 they know no log K, and none of them is printed as saturated."""
    names = ["dv", "nwj", "smile", "infonce"]
    model = zoo.GaussianMI(20, 20, critic="oracle", curves=names)  # type: ignore[arg-type]
    batch = batch_of(128 * 20, dim=20, total_mi=2.0)
    values = [model.estimates({k: v[i * 128 :][:128] for k, v in batch.items()}, i) for i in range(20)]
    mean = {k: sum(v[k] for v in values) / 20 for k in names}
    for name in ("dv", "nwj", "smile"):
        assert mean[name] == pytest.approx(2, abs=0.2)
    found = model.estimates(batch_of(256, dim=20, total_mi=20.0))
    assert found["infonce"] == pytest.approx(math.log(256), abs=1e-3)
    assert found["smile"] > 10  # its clipped partition sum cannot outgrow the partners
    assert not Estimate("smile", [found["smile"]], 256, 1).saturated
    assert Estimate("smile", [1.0], 256, 1).ceiling == math.inf


def test_smile_s_critic_is_trained_by_jensen_and_shannon() -> None:
    model = zoo.GaussianMI(3, 3, curves=["smile", "dv", "nwj"], hidden=8, embedding=4, clip=0.5)
    batch, g = batch_of(12), torch.Generator().manual_seed(0)
    found = estimation.training_bounds(model.scorer, model.curves, batch, g)
    scores = {c: model.scorer.joint(c, batch) for c in model.curves}
    torch.testing.assert_close(found["smile"], bounds.jensen_shannon(scores["smile"], "diagonal"))
    torch.testing.assert_close(found["dv"], bounds.donsker_varadhan(scores["dv"], "diagonal"))
    torch.testing.assert_close(found["nwj"], bounds.nguyen_wainwright_jordan(scores["nwj"], "diagonal"))
    told = model.estimates(batch)
    by_hand = bounds.smile(scores["smile"].detach(), 0.5, "diagonal")
    assert told["smile"] == pytest.approx(float(by_hand), abs=1e-5)
    assert "first" not in found


def test_exact_negatives_are_refused_where_nobody_knows_them() -> None:
    model = zoo.GaussianMI(3, 3, curves=["exact"], hidden=8, embedding=4)
    with pytest.raises(ValueError, match="Gaussian data alone"):
        model.estimates(batch_of(8, family="half_cube"))
    model = zoo.GaussianMI(3, 3, hidden=8, embedding=4)
    assert "bo_exact" not in model.estimates(batch_of(8, family="half_cube"))
