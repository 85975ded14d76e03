"""NSGA-II against hand-made numbers, and against pymoo where that is installed."""

from __future__ import annotations

import numpy as np
import pytest

from zoo.caa import nsga
from zoo.caa.space import Space

POINTS = np.array([(1, 5), (2, 3), (4, 1), (3, 4), (5, 5)], dtype=float)


def test_fronts_and_crowding_of_the_specs_points() -> None:
    assert nsga.fronts(POINTS) == [[0, 1, 2], [3], [4]]
    distance = nsga.crowding(POINTS[:3])
    assert distance[1] == 2.0  # (4 - 1) / 3 + (5 - 1) / 4
    assert np.isinf(distance[[0, 2]]).all()
    flat = np.array([(1.0, 7.0), (2.0, 7.0), (4.0, 7.0)])
    assert nsga.crowding(flat).tolist() == [
        np.inf,
        1.0,
        np.inf,
    ]  # an objective that is equal for all is left out
    assert nsga.fronts(np.array([(1.0, 1.0), (1.0, 1.0)])) == [[0, 1]]  # neither dominates its equal
    assert nsga.fronts(np.array([(1.0, 3.0), (1.0, 2.0), (2.0, 2.0)])) == [
        [1],
        [0, 2],
    ]  # equal in one is enough


def test_survival_fills_fronts_and_cuts_the_last_by_crowding() -> None:
    assert sorted(nsga.survivors(POINTS, 4)) == [0, 1, 2, 3]
    line = np.array([(0.0, 10.0), (1.0, 9.0), (1.5, 8.5), (6.0, 4.0), (10.0, 0.0)])
    assert sorted(nsga.survivors(line, 4)) == [0, 2, 3, 4]  # of the crowded pair the one nearer to the gap


def test_the_tournament_prefers_rank_then_room() -> None:
    rank, distance = nsga.ranking(POINTS)
    assert rank.tolist() == [0, 0, 0, 1, 2]
    wins = np.bincount([nsga.tournament(rank, distance, np.random.default_rng(i)) for i in range(2000)])
    assert min(wins[0], wins[2]) > wins[1] > wins[3] > wins[4]
    assert wins[4] == pytest.approx(2000 / 25, abs=40)  # only against itself


def test_children_keep_their_parents_genes_and_mutation_its_rate() -> None:
    random = np.random.default_rng(0)
    parents = np.stack([np.zeros(9, dtype=int), np.ones(9, dtype=int)])
    pair = nsga.crossed(*parents, random)
    assert (pair[0] + pair[1] == 1).all()
    objectives = np.array([(0.0, 1.0), (1.0, 0.0)])
    same = nsga.offspring(parents, objectives, [8] * 9, 0.0, 0.0, random)
    assert all((child == parents).all(axis=1).any() for child in same)
    changed = [nsga.mutated(parents[0], [8] * 9, 1 / 9, random) for _ in range(3000)]
    assert np.mean(changed != parents[0]) == pytest.approx(7 / 8 / 9, abs=0.006)
    assert np.max(changed) == 7


def test_hypervolume() -> None:
    front = np.array([(0.2, 0.5), (0.5, 0.1), (0.6, 0.6), (0.1, 1.5)])
    assert nsga.hypervolume(front) == pytest.approx(0.8 * 0.5 + 0.5 * 0.4)  # the last is beyond the reference
    assert nsga.hypervolume(front[:0]) == 0.0


@pytest.mark.parametrize("objectives", [2, 3])
@pytest.mark.parametrize("ties", [False, True])
def test_pymoo_ranks_spaces_and_keeps_alike(objectives: int, ties: bool) -> None:
    """Random clouds of reals, or of few whole numbers with many equal ones. Seen to pass with pymoo 0.6.2."""
    pytest.importorskip("pymoo", reason="pymoo is not installed")
    from pymoo.core.population import Population
    from pymoo.core.problem import Problem
    from pymoo.operators.survival.rank_and_crowding import RankAndCrowding
    from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

    random = np.random.default_rng(objectives)
    for _ in range(20):
        points = random.random((60, objectives))
        points = np.floor(12 * points) if ties else points
        theirs = [sorted(map(int, f)) for f in NonDominatedSorting().do(points)]
        assert [sorted(f) for f in nsga.fronts(points)] == theirs
        rank, distance = nsga.ranking(points)
        population = Population.new(F=points)
        problem = Problem(n_obj=objectives)
        RankAndCrowding().do(problem, population, n_survive=60, random_state=np.random.default_rng(0))
        assert rank.tolist() == population.get("rank").tolist()
        large = np.bincount(rank)[rank] > 2  # of one or two they make all infinite, equal or not
        spaces = objectives * population.get("crowding")  # theirs is the mean over objectives
        assert np.allclose(distance[large], spaces[large], rtol=1e-12)
        kept = RankAndCrowding().do(problem, population, n_survive=25, random_state=random)
        ours = np.array(nsga.survivors(points, 25))
        places = np.array([next(i for i, p in enumerate(population) if p is one) for one in kept])
        cut = rank[ours].max()  # equal distances at the cut, infinite ones too, are drawn there
        assert sorted(ours[rank[ours] < cut]) == sorted(places[rank[places] < cut])
        assert sorted(distance[ours[rank[ours] == cut]]) == sorted(distance[places[rank[places] == cut]])


def gene(space: Space, name: str) -> int:
    return next(i for i, a in enumerate(space.attackers) if a.name == name)


def test_genomes_of_one_policy_are_one() -> None:
    space = Space("l2", longest=200)
    pgd, ddn, skip = (gene(space, n) for n in ("PGD", "DDN", "Skip"))
    genome = np.array([skip, 3, 4, ddn, 5, 7, pgd, 6, 0])
    assert space.canonical(genome) == (ddn, 0, 7, pgd, 6, 0, skip, 0, 0)
    assert str(space.policy(genome)) == "DDN(1000) -> PGD(0.875, 25)"  # 5 T_max; T_max / 8
    assert space.canonical(np.array(space.canonical(genome))) == space.canonical(genome)
    assert str(space.policy(np.array([skip, 1, 1] * 3))) == "Skip"
    assert space.policy(np.array([skip, 1, 1] * 3)).backward(10) == 0
    free = Space("unrestricted")
    fog, spsa = gene(free, "fog"), gene(free, "SPSA")
    assert free.canonical(np.array([fog, 1, 5, spsa, 4, 2, spsa, 0, 0]))[:6] == (fog, 0, 0, spsa, 0, 0)
    found = {
        free.policy(np.array([fog, k, 0] + [gene(free, "Skip"), 0, 0] * 2)).steps[0].magnitude
        for k in range(8)
    }
    assert found == {1, 2, 3, 4, 5}
    assert len(Space("linf").choices) == 9
    assert Space("linf").choices[:3] == [7, 8, 8]


def test_spaces_that_differ_have_other_numbers() -> None:
    others = (
        Space("linf"), Space("l2", 2), Space("l2", longest=100), Space("l2", mode="union"),
        Space("l2", extra=True),
    )  # fmt: skip
    words = {Space("l2").word(), Space("l2").word(eps=1.0), *(space.word() for space in others)}
    assert len(words) == 7
