"""Networks of molecules in space: the papers' equations, parameter counts, symmetries in double precision."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from zoo.molecules.space.neighbours import radius_graph
from zoo.molecules.space.network import INVARIANT, Backbone, MoleculeNetwork, Units, pooled

torch.set_num_threads(1)

Z = torch.tensor([6, 6, 7, 6, 8, 8, 1, 1, 1, 1, 1, 1, 1])
"""L-alanine, by rdkit's force field."""
# fmt: off
POS = torch.tensor([
    [-0.558, -1.239, -0.425], [-0.382, 0.163, 0.143], [-0.871, 1.138, -0.853], [1.076, 0.476, 0.506],
    [1.62, 1.569, 0.426], [1.744, -0.565, 1.04], [-1.599, -1.421, -0.717], [-0.289, -1.999, 0.316],
    [0.077, -1.398, -1.304], [-0.969, 0.272, 1.062], [-0.592, 2.075, -0.552], [-1.889, 1.125, -0.87],
    [2.632, -0.196, 1.228],
], dtype=torch.float64)
# fmt: on
Network = Any


def opened(backbone: Backbone, **given: Any) -> Network:
    """A small network in double precision whose output is not 0: DimeNet++'s last layers start there."""
    torch.manual_seed(0)
    network: Any = MoleculeNetwork(backbone, **{"hidden": 16, "layers": 2, **given})
    if backbone == "dimenet++":
        for block in network.body.output_blocks:
            block.output_initializer = "glorot_orthogonal"
            block.reset_parameters()
    if backbone == "egnn" and given.get("update_coordinates"):
        for layer in network.body.layers[:-1]:  # gain .001 hides what moves
            torch.nn.init.xavier_uniform_(layer.phi_x[-1].weight)
    if backbone == "egnn":
        network.body.of_molecule[-1].weight.data *= 100
    return network.double().eval()


def answers(network: Network, z: Tensor, pos: Tensor) -> tuple[Tensor, Tensor]:
    """Energies (B,) and forces (B, n, 3) of coordinates (B, n, 3)."""
    at = pos.reshape(-1, 3).clone().requires_grad_()
    owner = torch.arange(len(pos)).repeat_interleave(pos.shape[1])
    energy = network(z.repeat(len(pos)), at, owner, len(pos)).number
    (gradient,) = torch.autograd.grad(energy.sum(), at)
    return energy.detach(), -gradient.view_as(pos)


def turn(seed: int = 3) -> Tensor:
    q = torch.linalg.qr(
        torch.randn(3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    )[0]
    return q * torch.linalg.det(q)


OPEN = [
    *((b, {}) for b in INVARIANT),
    ("egnn", {"update_coordinates": True}),
    ("visnet", {"lmax": 2, "vertex": True}),
]


@pytest.mark.parametrize(("backbone", "given"), OPEN)
def test_energies_do_not_change_with_the_frame_and_forces_turn_with_it(
    backbone: Backbone, given: Any
) -> None:
    network, rotation = opened(backbone, **given), turn()
    frames = torch.stack(
        [POS, POS + 0.1 * torch.randn(POS.shape, generator=torch.Generator().manual_seed(1))]
    )
    energy, force = answers(network, Z, frames)
    assert float((energy[0] - energy[1]).abs()) > 1e-3  # an output of 0 is as invariant
    assert float(force.abs().max()) > 1e-3
    turned_energy, turned_force = answers(network, Z, frames @ rotation.T + 3.0)
    assert float((turned_energy - energy).abs().max()) < 1e-9
    assert float((turned_force - force @ rotation.T).abs().max()) < 1e-9
    mirrored, _ = answers(network, Z, -frames)
    assert float((mirrored - energy).abs().max()) < 1e-9
    order = torch.randperm(len(Z), generator=torch.Generator().manual_seed(2))
    other, _ = answers(network, Z[order], frames[:, order])
    assert float((other - energy).abs().max()) < 1e-9
    assert float(force.sum(dim=1).abs().max()) < 1e-9
    assert float(torch.linalg.cross(frames, force).sum(dim=1).abs().max()) < 1e-8


@pytest.mark.parametrize("backbone", INVARIANT)
def test_forces_are_the_derivative_of_the_energy(backbone: Backbone) -> None:
    network, step = opened(backbone), 1e-5
    _, force = answers(network, Z, POS[None])
    atoms, axes = (0, 3, 9), (0, 1, 2)
    moved = POS.repeat(6, 1, 1)
    for row, (atom, axis) in enumerate(zip(atoms, axes, strict=True)):
        moved[2 * row, atom, axis] += step
        moved[2 * row + 1, atom, axis] -= step
    energy, _ = answers(network, Z, moved)
    for row, (atom, axis) in enumerate(zip(atoms, axes, strict=True)):
        slope = float(energy[2 * row] - energy[2 * row + 1]) / (2 * step)
        assert abs(slope + float(force[0, atom, axis])) < 1e-6 * max(1.0, abs(slope))


@pytest.mark.parametrize("backbone", INVARIANT)
def test_a_molecule_alone_and_in_a_batch_is_the_same_and_lone_atoms_have_numbers(backbone: Backbone) -> None:
    network = opened(backbone)
    z = torch.cat([Z, torch.tensor([6, 8, 1]), Z[:5]])
    pos = torch.cat([POS, torch.zeros(1, 3), torch.ones(1, 3), 2 * torch.ones(1, 3), POS[:5]]).double()
    owner = torch.tensor([0] * 13 + [1, 2, 3] + [4] * 5)
    together = network(z, pos, owner, 5).number
    for number in range(5):
        own = owner == number
        alone = network(z[own], pos[own], torch.zeros(int(own.sum()), dtype=torch.long), 1).number
        assert float((alone - together[number]).abs()) < 1e-12
    assert bool(together.isfinite().all())


def test_dimenet_is_exactly_0_before_training() -> None:
    network = MoleculeNetwork("dimenet++", hidden=16, layers=1).double()
    assert float(network(Z, POS, torch.zeros_like(Z), 1).number) == 0


def test_three_atoms_on_a_line_have_forces() -> None:
    z, pos = torch.tensor([1, 6, 6, 1]), torch.tensor([[0, 0, 0], [1.06, 0, 0], [2.26, 0, 0], [3.32, 0, 0]])
    _, force = answers(opened("dimenet++"), z, pos.double()[None])
    assert bool(force.isfinite().all())
    assert float(force[0, 0, 0].abs()) > 1e-3


@pytest.mark.parametrize("backbone", INVARIANT)
def test_lone_atoms_and_symmetric_molecules_leave_the_gradients_of_a_loss_of_forces_numbers(
    backbone: Backbone,
) -> None:
    network = opened(backbone)
    z, owner = torch.tensor([8, 6, 8, 1]), torch.tensor([0, 0, 0, 1])  # CO2, and an atom of hydrogen
    pos = torch.tensor([[-1.16, 0, 0], [0, 0, 0], [1.16, 0, 0], [9, 9, 9]]).double().requires_grad_()
    energy = network(z, pos, owner, 2).number
    (force,) = torch.autograd.grad(energy.sum(), pos, create_graph=True)
    (energy.sum() + force.square().sum()).backward()
    assert all(bool(p.grad.isfinite().all()) for p in network.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    ("backbone", "count"),
    [("schnet", 455_809), ("dimenet++", 1_885_830), ("egnn", 745_224), ("painn", 589_057)],
)
def test_parameters_are_the_papers(backbone: Backbone, count: int) -> None:
    with torch.device("meta"):
        network = MoleculeNetwork(backbone)
    assert sum(p.numel() for p in network.parameters()) == count


@pytest.mark.slow  # sympy writes out 42 functions
def test_the_basis_of_triplets_is_that_of_torch_geometric() -> None:
    from torch_geometric.nn.models.dimenet import SphericalBasisLayer

    from zoo.molecules.space.geometric import SphericalBasis

    g = torch.Generator().manual_seed(0)
    length = 0.9 + 4 * torch.rand(200, generator=g, dtype=torch.float64)
    angle = math.pi * torch.rand(500, generator=g, dtype=torch.float64)
    kj = torch.randint(200, (500,), generator=g)
    ours = SphericalBasis(7, 6)(length, angle, kj)
    theirs = SphericalBasisLayer(7, 6)(length, angle, kj)
    assert float((ours - theirs).abs().max()) < 1e-5


def test_the_basis_of_triplets_is_its_equations() -> None:
    from scipy.special import eval_legendre, spherical_jn

    from zoo.molecules.space.geometric import SphericalBasis

    basis = SphericalBasis(7, 6, cutoff=4.0)
    length, angle = torch.tensor([1.3, 3.1], dtype=torch.float64), torch.tensor([0.4, 2.2, 1.1]).double()
    found = basis(length, angle, torch.tensor([1, 0, 1])).view(3, 7, 6)
    for row, edge in enumerate((1, 0, 1)):
        x = float(length[edge]) / 4
        envelope = 1 / x - 28 * x**5 + 48 * x**6 - 21 * x**7  # p = 6
        for degree in range(7):
            legendre = eval_legendre(degree, math.cos(float(angle[row])))
            harmonic = math.sqrt((2 * degree + 1) / (4 * math.pi)) * legendre
            for n in range(6):
                root = float(basis.roots[degree, n])
                assert abs(spherical_jn(degree, root)) < 1e-6  # it is one
                norm = math.sqrt(2) / abs(spherical_jn(degree + 1, root))
                wanted = envelope * norm * spherical_jn(degree, root * x) * harmonic
                assert float(found[row, degree, n]) == pytest.approx(wanted, rel=1e-6, abs=1e-8)


def test_dimenet_sends_its_messages_as_torch_geometrics_does(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch_geometric.nn.models import dimenet

    from zoo.molecules.space.neighbours import triplets

    network, batch = opened("dimenet++"), torch.zeros_like(Z)
    edges = radius_graph(POS, batch, 1, 5.0)
    monkeypatch.setattr(dimenet, "radius_graph", lambda *args, **given: edges.index)
    monkeypatch.setattr(dimenet, "triplets", lambda index, num_nodes: triplets(index, num_nodes))
    theirs = dimenet.DimeNetPlusPlus.forward(network.body, Z, POS, batch)
    assert float((network(Z, POS, batch, 1).number - theirs.flatten()).abs()) < 1e-9
    assert float(theirs.abs()) > 1e-3


def test_visnet_has_the_degree_and_the_vertices_that_are_asked_for() -> None:
    from torch_geometric.nn.models.visnet import ViS_MP_Vertex

    for lmax, vertex in ((1, False), (2, False), (1, True)):
        model = MoleculeNetwork("visnet", hidden=16, layers=2, lmax=lmax, vertex=vertex).body
        model = model.representation_model
        assert model.lmax == lmax
        assert isinstance(model.vis_mp_layers[0], ViS_MP_Vertex) == vertex


def test_schnet_is_its_equations() -> None:
    torch.set_default_dtype(torch.float64)  # the centres of the Gaussians too
    try:
        network = opened("schnet", hidden=12, layers=2, radial=9, cutoff=4.0)
    finally:
        torch.set_default_dtype(torch.float32)
    state = {k.removeprefix("body."): v for k, v in network.state_dict().items()}

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ state[f"{name}.weight"].T + state.get(f"{name}.bias", torch.zeros(()))

    def ssp(x: Tensor) -> Tensor:
        return functional.softplus(x) - math.log(2)

    centres = torch.linspace(0, 4, 9, dtype=torch.float64)
    width = centres[1] - centres[0]
    h = state["embedding.weight"][Z]
    for block in range(2):
        name = f"interactions.{block}"
        found = []
        for i in range(len(Z)):
            total = torch.zeros(12, dtype=torch.float64)
            for j in range(len(Z)):
                r = (POS[i] - POS[j]).norm()
                if i != j and r <= 4:
                    basis = torch.exp(-((r - centres) ** 2) / (2 * width**2))
                    weight = linear(ssp(linear(basis, f"{name}.conv.nn.0")), f"{name}.conv.nn.2")
                    fade = 0.5 * (torch.cos(math.pi * r / 4) + 1)
                    total += linear(h[j], f"{name}.conv.lin1") * weight * fade
            found.append(linear(ssp(linear(total, f"{name}.conv.lin2")), f"{name}.lin"))
        h = h + torch.stack(found)
    wanted = linear(ssp(linear(h, "lin1")), "lin2").sum()
    got = network(Z, POS, torch.zeros_like(Z), 1).number[0]
    assert float((wanted - got).abs()) < 1e-10
    assert float(wanted.abs()) > 0.1


def test_painn_is_its_equations() -> None:
    network = opened("painn", hidden=8, layers=2, radial=6, cutoff=4.0)
    body, n = network.body, torch.arange(1, 7).double()
    s = body.embedding(Z)
    v = torch.zeros(len(Z), 3, 8, dtype=torch.float64)
    for message, update in zip(body.messages, body.updates, strict=True):
        ds, dv = torch.zeros_like(s), torch.zeros_like(v)
        for i in range(len(Z)):
            for j in range(len(Z)):
                between = POS[j] - POS[i]
                r = between.norm()
                if i != j and r < 4:
                    fade = 0.5 * (torch.cos(math.pi * r / 4) + 1)
                    product = message.phi(s[j]) * message.filter(torch.sin(n * math.pi * r / 4) / r) * fade
                    a, d, b = product.split(8)
                    ds[i] += a
                    dv[i] += v[j] * b + (between / r)[:, None] * d
        s, v = s + ds, v + dv
        of_v, of_u = update.mix.weight.split(8)
        vv, uv = v @ of_v.T, v @ of_u.T
        norm = (vv.square().sum(dim=1) + 1e-8).sqrt()
        ss, of_vectors, sv = update.mlp(torch.cat([s, norm], dim=1)).split(8, dim=1)
        s, v = s + ss + sv * (uv * vv).sum(dim=1), v + of_vectors[:, None] * uv
    wanted = body.head(s).sum()
    got = network(Z, POS, torch.zeros_like(Z), 1).number[0]
    assert float((wanted - got).abs()) < 1e-10


def test_a_layer_of_vector_heads_is_its_equations() -> None:
    from zoo.molecules.space.painn import GatedEquivariant

    g = torch.Generator().manual_seed(0)
    s, v = (torch.randn(5, *shape, 8, generator=g).double() for shape in ((), (3,)))
    for last in (False, True):
        layer = GatedEquivariant(8, 4, last).double()
        n, w = v @ layer.mix.weight[:4].T, v @ layer.mix.weight[4:].T
        norm = (n.square().sum(dim=1) + 1e-8).sqrt()
        both = layer.mlp[2](functional.silu(layer.mlp[0](torch.cat([s, norm], dim=1))))
        scalars, vectors = layer(s, v)
        wanted = both[:, :4] if last else functional.silu(both[:, :4])
        assert float((scalars - wanted).abs().max()) < 1e-12
        assert float((vectors - both[:, None, 4:] * w).abs().max()) < 1e-12
    gated = MoleculeNetwork("painn", head="vector_dipole", hidden=8, layers=1).body.gated
    assert [layer.last for layer in gated] == [False, True]


def test_networks_begin_as_their_authors_code_does() -> None:
    torch.manual_seed(0)
    for name, parameter in MoleculeNetwork("painn", hidden=32, layers=1).body.named_parameters():
        if name.endswith("bias"):
            assert float(parameter.abs().max()) == 0
        elif "embedding" not in name:  # Xavier's uniform fills its bound, torch's own ends at fan_in^-.5
            bound = math.sqrt(6 / sum(parameter.shape))
            assert 0.9 * bound < float(parameter.abs().max()) <= bound
    moving = MoleculeNetwork("egnn", hidden=32, layers=2, update_coordinates=True).body.layers
    assert 0 < float(moving[0].phi_x[-1].weight.abs().max()) <= 0.001 * math.sqrt(6 / 33)
    assert moving[1].phi_x is None  # its coordinates would reach no scalar


def test_filters_end_at_the_cutoff() -> None:
    from zoo.molecules.space.painn import cosine_cutoff

    found = cosine_cutoff(torch.tensor([0.0, 2.5, 5.0, 7.5, 10.0]), 5.0)
    assert found.tolist() == pytest.approx([1.0, 0.5, 0.0, 0.0, 0.0], abs=1e-7)


def test_egnn_is_its_equations_with_moving_coordinates() -> None:
    network = opened("egnn", hidden=8, layers=2, update_coordinates=True)
    body, n = network.body, len(Z)
    one_hot = (Z[:, None] == torch.tensor([1, 6, 7, 8, 9])).double()
    inputs = torch.stack([torch.cat([row[e] * (z / 9) ** torch.arange(3) for e in range(5)])
                          for row, z in zip(one_hot, Z.double(), strict=True)])  # fmt: skip
    h, x = body.embedding(inputs), POS
    for layer in body.layers:
        messages, moves = torch.zeros(n, 8).double(), torch.zeros(n, 3).double()
        for i in range(n):
            for j in range(n):
                if i != j:
                    between = x[i] - x[j]
                    m = layer.phi_e(torch.cat([h[i], h[j], between.square().sum()[None]]))
                    m = torch.sigmoid(layer.gate[0](m)) * m
                    messages[i] += m
                    if layer.phi_x is not None:
                        moves[i] += between * layer.phi_x(m) / (n - 1)
        h, x = h + layer.phi_h(torch.cat([h, messages], dim=1)), x + moves
    wanted = body.of_molecule(body.of_atoms(h).sum(dim=0))
    got = network(Z, POS, torch.zeros_like(Z), 1).number
    assert float((x - POS).abs().max()) > 1e-3
    assert float((wanted - got).abs()) < 1e-10


@pytest.mark.parametrize("backbone", ["schnet", "egnn", "painn"])
def test_mirror_images_differ_only_with_signed_volumes(backbone: Backbone) -> None:
    images = torch.stack([POS, POS * torch.tensor([-1.0, 1.0, 1.0])])
    plain, _ = answers(opened(backbone), Z, images)
    assert float((plain[0] - plain[1]).abs()) < 1e-9
    network = opened(backbone, chirality=True)
    chiral, _ = answers(network, Z, images)
    assert float((chiral[0] - chiral[1]).abs()) > 1e-6
    left, right = (network.volumes.volumes(Z, radius_graph(p, torch.zeros_like(Z), 1, 5.0)) for p in images)
    assert float(left.abs().max()) > 1e-3
    assert float((left + right).abs().max()) < 1e-9 * float(left.abs().max())
    rotated, force = answers(network, Z, (images @ turn().T))
    assert float((rotated - chiral).abs().max()) < 1e-9
    assert float(force.sum(dim=1).abs().max()) < 1e-9


@pytest.mark.parametrize("backbone", ["schnet", "painn"])
def test_a_cell_twice_as_long_has_twice_the_energy(backbone: Backbone) -> None:
    network, cell = opened(backbone), torch.diag(torch.tensor([6.0, 7.0, 6.5], dtype=torch.float64))
    double = cell.clone()
    double[0] *= 2
    one = network(Z, POS, torch.zeros_like(Z), 1, cell[None]).number[0]
    alone = network(Z, POS, torch.zeros_like(Z), 1).number[0]
    assert float((one - alone).abs()) > 1e-3  # it sees its neighbours
    z, pos = Z.repeat(2), torch.cat([POS, POS + cell[0]])
    two = network(z, pos, torch.zeros_like(z), 1, double[None]).number[0]
    assert float((two - 2 * one).abs()) < 1e-9
    outside = POS.clone()
    outside[3] += 2 * cell[1] - cell[2]
    moved = network(Z, outside, torch.zeros_like(Z), 1, cell[None]).number[0]
    assert float((moved - one).abs()) < 1e-9
    mixed = network(torch.cat([Z, Z]), torch.cat([POS, POS]), torch.arange(2).repeat_interleave(13), 2,
                    torch.stack([cell, torch.zeros(3, 3).double()])).number  # fmt: skip
    assert float((mixed - torch.stack([one, alone])).abs().max()) < 1e-12


@pytest.mark.parametrize("head", ["dipole", "vector_dipole", "polarisability"])
def test_tensors_of_heads_turn_with_the_molecule(head: Any) -> None:
    network, rotation = opened("painn", head=head), turn()
    where = torch.zeros_like(Z)
    here, there = network(Z, POS, where, 1), network(Z, POS @ rotation.T + 2.0, where, 1)
    wanted = rotation @ here.tensor[0]
    wanted = wanted @ rotation.T if head == "polarisability" else wanted
    assert float((there.tensor[0] - wanted).abs().max()) < 1e-9
    assert float((there.number - here.number).abs()) < 1e-9
    assert float(here.tensor.abs().max()) > 1e-3
    if head == "polarisability":
        assert float((here.tensor[0] - here.tensor[0].T).abs().max()) < 1e-12
        assert float(here.number - here.tensor[0].trace() / 3) == pytest.approx(0, abs=1e-12)
    else:
        assert float(here.number) == pytest.approx(float(here.tensor.norm()), abs=1e-9)


def test_heads_are_their_equations() -> None:
    z = torch.tensor([8, 1, 6, 1])
    pos = torch.tensor([[0.1, 0.2, 0.3], [1.0, -0.2, 0.4], [-0.9, 0.8, 0.1], [0.3, 0.9, -1.1]]).double()
    mass = torch.tensor([15.999, 1.008, 12.011, 1.008]).double()
    r = pos - (mass[:, None] * pos).sum(dim=0) / mass.sum()
    batch, charges = torch.zeros_like(z), torch.tensor([0.7, -0.2, 0.4, 0.3]).double()
    vectors = torch.tensor([[0.3, 0.1, 0], [0.2, 0, -0.4], [0, 0.5, 0.1], [-0.1, 0.2, 0.3]]).double()

    def read(head: Any, v: Tensor | None = None) -> Any:
        network = MoleculeNetwork("painn", head=head, hidden=8, layers=1).double()
        network.body.forward = lambda *args, **given: (charges[:, None], v)  # type: ignore[method-assign]
        return network(z, pos, batch, 1)

    mean = MoleculeNetwork("painn", pool="mean", hidden=8, layers=1).double()
    mean.body.forward = lambda *args, **given: (charges[:, None], None)  # type: ignore[method-assign]
    assert float(mean(z, pos, batch, 1).number) == pytest.approx(0.3)
    assert float(read("scalar").number) == pytest.approx(1.2)
    lone = pooled(torch.tensor([[3.0], [1.0], [2.0]]), torch.tensor([0, 2, 2]), 3, "mean")
    assert lone.tolist() == [[3.0], [0.0], [1.5]]  # the second molecule has no atoms
    assert float(read("r2").number) == pytest.approx(float((charges * r.square().sum(dim=1)).sum()), rel=1e-6)
    plain = (charges[:, None] * r).sum(dim=0)
    assert torch.allclose(read("dipole").tensor[0], plain, rtol=1e-6)
    neutral = ((charges - 0.3)[:, None] * r + vectors).sum(dim=0)
    assert torch.allclose(read("vector_dipole", vectors).tensor[0], neutral, rtol=1e-5)
    tensor = torch.zeros(3, 3).double()
    for a, v, at in zip(charges, vectors, r, strict=True):
        tensor += a * torch.eye(3) + torch.outer(v, at) + torch.outer(at, v)
    assert torch.allclose(read("polarisability", vectors).tensor[0], tensor, rtol=1e-5)


def test_a_molecule_without_a_dipole_has_a_gradient() -> None:
    network, z = opened("schnet", head="dipole"), torch.tensor([1, 1])
    pos = torch.tensor([[0.0, 0, 0.4], [0, 0, -0.4]], dtype=torch.float64, requires_grad=True)
    number = network(z, pos, torch.zeros_like(z), 1).number
    number.sum().backward()
    assert float(number.detach()) < 1e-9
    assert pos.grad is not None
    assert bool(pos.grad.isfinite().all())
    one = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    network(torch.tensor([6]), one, torch.tensor([0]), 1).number.sum().backward()
    assert one.grad is not None
    assert bool(one.grad.isfinite().all())


def test_the_mean_counts_once_a_molecule_or_once_an_atom() -> None:
    units, z, batch = Units(), torch.tensor([6, 1, 1, 8]), torch.tensor([0, 0, 0, 1])
    units.mean.fill_(2.0)
    units.references[6] = 10.0
    assert units.offset(z, batch, 2, per_atom=True).tolist() == [16.0, 2.0]
    assert units.offset(z, batch, 2, per_atom=False).tolist() == [12.0, 2.0]


def test_signed_volumes_fade_by_the_cutoff_of_the_network() -> None:
    edges = radius_graph(POS, torch.zeros_like(Z), 1, 3.0)
    found = []
    for cutoff in (3.0, 6.0):
        torch.manual_seed(0)
        network = MoleculeNetwork("painn", hidden=8, layers=1, chirality=True, cutoff=cutoff)
        assert network.volumes is not None
        found.append(network.volumes.double().volumes(Z, edges))
    assert float((found[0] - found[1]).abs().max()) > 1e-3


def test_totals_keep_double_precision_whatever_the_network_has() -> None:
    units = Units()
    units.references[6], units.references[1] = -23_000.123456789, -313.000000123
    units.half().float()
    z = torch.tensor([6, 1, 1, 1, 1])
    total = units.offset(z, torch.zeros_like(z), 1, per_atom=False)
    assert total.dtype == torch.float64
    assert float(total) == pytest.approx(-23_000.123456789 - 4 * 313.000000123, abs=1e-9)


def test_what_a_backbone_cannot_take_is_one_line() -> None:
    where = torch.zeros_like(Z)
    cell = 9 * torch.eye(3)[None]
    for network, z, box, words in (
        (opened("egnn"), Z.clone().fill_(16), None, "egnn knows the elements H, C, N, O, F, not S"),
        (opened("dimenet++"), Z, cell, "dimenet.. takes no periodic cells"),
        (opened("dimenet++"), Z.clone().fill_(95), None, "has a table of 94 elements"),
        (opened("distances", atoms=9), Z, None, "reads molecules of 9 atoms .* one has 13"),
    ):
        with pytest.raises(ValueError, match=words):
            network(z, POS, where, 1, box)
    network = opened("painn")
    network.units.elements[:] = False
    network.units.elements[torch.tensor([1, 6, 7])] = True
    with pytest.raises(
        ValueError, match=r"element O \(8\) is in none of the molecules .* which have H, C, N"
    ):
        network(Z, POS, where, 1)
