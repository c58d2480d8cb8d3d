from __future__ import annotations

import itertools
import math
import tracemalloc

import networkx as nx
import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from strategies import AxisCase, GridCase, axis_cases, grid_cases, index_of, masks

from snakemake_blocks.geometry.box import Box, Index
from snakemake_blocks.geometry.phases import (
    Phases,
    _exact_colouring,
    colour,
    context_reach,
    sharing_reach,
)
from snakemake_blocks.geometry.tiling import Axis, Grid

SIDES = {1: (1, 16), 2: (2, 8), 3: (1, 6), 4: (1, 4)}


@st.composite
def relations(draw: st.DrawFn) -> tuple[Index, Index]:
    """Draw the shape of a grid and a conflict reach, some larger than the grid."""
    ndim = draw(st.integers(1, 4))
    side = st.integers(*SIDES[ndim])
    reach = st.integers(0, 4 if ndim < 3 else 2)
    return draw(st.tuples(*[side] * ndim)), draw(st.tuples(*[reach] * ndim))


@st.composite
def masked(draw: st.DrawFn, most: int = 60) -> tuple[NDArray[np.bool_], Index]:
    """Draw a mask of at most ``most`` present nodes, and a reach."""
    shape, reach = draw(relations())
    present = draw(masks(shape))
    few = np.cumsum(present).reshape(shape) <= most
    return present & few, reach


def clash(one: Index, other: Index, reach: Index) -> bool:
    """Tell whether two nodes are in conflict: the definition."""
    return one != other and all(abs(a - b) <= r for a, b, r in zip(one, other, reach, strict=True))


def clashes(nodes: list[Index], reach: Index) -> list[tuple[Index, Index]]:
    return [pair for pair in itertools.combinations(nodes, 2) if clash(*pair, reach)]


def by_phase(phases: Phases) -> list[Index]:
    """Return all nodes in an order in which they may run."""
    return [node for phase in range(len(phases)) for node in phases.nodes(phase)]


def assert_ordered(phases: Phases) -> None:
    """Two nodes in conflict are of different phases, and the later one waits for the earlier."""
    order = by_phase(phases)
    before = oracle.ancestors({node: phases.predecessors(node) for node in order})
    for first, second in clashes(order, phases.reach):
        assert phases.of(first) < phases.of(second)
        assert first in before[second]


class TestReachByHand:
    @pytest.mark.parametrize(
        "lower, upper, reach",
        [(0, 0, 0), (1, 0, 1), (0, 10, 1), (10, 10, 1), (11, 0, 2), (20, 20, 2), (3, 21, 3)],
    )
    def test_context(self, lower: int, upper: int, reach: int) -> None:
        assert context_reach(Grid((Axis(0, 100, 10, lower, upper),))) == (reach,)

    @pytest.mark.parametrize(
        "step, chunk, origin, reach",
        [
            (10, 10, 0, 0),  # a chunk per block
            (10, 5, 0, 0),  # chunks divide the block
            (10, 20, 0, 1),  # two blocks per chunk
            (10, 64, 0, 6),  # chunk [0, 64) holds blocks 0 to 6
            (10, 10, 5, 1),  # chunks begin in the middle of blocks
            (10, 15, 0, 1),  # every other border is inside a chunk
            (10, 10, -1000, 0),  # a far origin on the same lattice
            (10, 1000, 0, 9),  # one chunk for all
        ],
    )
    def test_sharing(self, step: int, chunk: int, origin: int, reach: int) -> None:
        assert sharing_reach(Axis(0, 100, step), chunk=chunk, origin=origin) == reach

    def test_one_block_shares_with_nobody(self) -> None:
        assert sharing_reach(Axis(0, 7, 10), chunk=64, origin=0) == 0


class TestReachLaws:
    @given(grid_cases(ndim=st.just(1)))
    def test_is_how_far_blocks_really_conflict(self, case: GridCase) -> None:
        (reach,) = context_reach(case.grid)
        blocks = case.blocks
        distances = [
            b - a
            for (a,), (b,) in itertools.combinations(blocks, 2)
            if oracle.conflict(blocks[a,], blocks[b,])
        ]
        assert max(distances, default=0) == min(reach, max(0, len(blocks) - 1))

    @given(grid_cases())
    def test_no_conflict_is_missed(self, case: GridCase) -> None:
        reach, blocks = context_reach(case.grid), case.blocks
        for a, b in itertools.combinations(blocks, 2):
            assert clash(a, b, reach) or not oracle.conflict(blocks[a], blocks[b])

    @given(axis_cases(most=40), st.integers(1, 30), st.integers(-20, 20))
    def test_sharing_is_what_a_search_finds(self, case: AxisCase, chunk: int, origin: int) -> None:
        touched = [{(x - origin) // chunk for x in write} for write, _ in case.blocks]
        distances = [
            b - a
            for a, b in itertools.combinations(range(len(touched)), 2)
            if touched[a] & touched[b]
        ]
        assert sharing_reach(case.axis, chunk=chunk, origin=origin) == max(distances, default=0)


class TestDenseByHand:
    def test_gray_order_in_two_dimensions(self) -> None:
        phases = Phases((4, 4), (1, 1))
        assert len(phases) == 4
        assert [phases.of(i) for i in [(0, 0), (0, 1), (1, 1), (1, 0)]] == [0, 1, 2, 3]
        assert [phases.of(i) for i in [(2, 2), (2, 3), (3, 3), (3, 2)]] == [0, 1, 2, 3]

    @pytest.mark.parametrize(
        "shape, reach, count",
        [
            ((9, 9, 9), (0, 0, 0), 1),
            ((9, 9, 9), (1, 1, 1), 8),
            ((9, 9, 9), (2, 2, 2), 27),
            ((9, 9, 9), (1, 0, 2), 6),
            ((1, 2, 9), (3, 3, 3), 8),  # no more digits than blocks
            ((0, 4), (1, 1), 0),
        ],
    )
    def test_counts(self, shape: Index, reach: Index, count: int) -> None:
        assert len(Phases(shape, reach)) == count

    def test_nodes_of_a_phase(self) -> None:
        assert list(Phases((3, 4), (1, 2)).nodes(3)) == [(1, 2)]
        assert list(Phases((3, 4), (1, 2)).nodes(0)) == [(0, 0), (0, 3), (2, 0), (2, 3)]

    def test_predecessors_on_a_line(self) -> None:
        phases = Phases((7,), (2,))
        assert phases.predecessors((3,)) == []
        assert phases.predecessors((4,)) == [(3,), (6,)]
        assert phases.predecessors((5,)) == [(4,)]  # 3 and 6 come before 4 or do not matter
        assert phases.predecessors((2,)) == [(1,), (4,)]

    def test_without_conflict_nobody_waits(self) -> None:
        assert Phases((5, 5), (0, 0)).predecessors((2, 2)) == []

    def test_conflicting_nodes_end_at_the_border(self) -> None:
        assert Phases((5, 5), (1, 2)).conflicting((0, 3)) == Box((0, 1), (2, 5))

    def test_the_phases_of_a_window(self) -> None:
        phases = Phases((4, 4), (1, 1))
        assert phases.all(Box((1, 2), (3, 4))).tolist() == [[3, 2], [0, 1]]

    @pytest.mark.parametrize("shape", [(10**9,), (1, 10**9), (10**3,) * 3])
    def test_a_billion_nodes_are_no_effort(self, shape: Index) -> None:
        tracemalloc.start()
        phases = Phases(shape, (1,) * len(shape))
        node = tuple(n - 1 for n in shape)
        assert len(phases.predecessors(node)) <= 2
        some = list(itertools.islice(phases.nodes(len(phases) - 1), 3))
        assert {phases.of(n) for n in some} == {len(phases) - 1}
        assert len(phases.nodes(0)) == 10**9 // len(phases)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 2**20


class TestDenseLaws:
    @given(relations())
    def test_conflicting_nodes_are_ordered(self, relation: tuple[Index, Index]) -> None:
        assert_ordered(Phases(*relation))

    @given(relations())
    def test_at_most_two_predecessors(self, relation: tuple[Index, Index]) -> None:
        phases = Phases(*relation)
        for node in np.ndindex(phases.shape):
            found = phases.predecessors(node)
            assert len(found) <= 2 and len(set(found)) == len(found)
            assert all(clash(node, u, phases.reach) for u in found)

    @given(relations())
    def test_the_number_of_phases_is_minimal(self, relation: tuple[Index, Index]) -> None:
        """Some nodes are in conflict each with each, as many as there are phases."""
        shape, reach = relation
        corner = [range(min(n, r + 1)) for n, r in zip(shape, reach, strict=True)]
        clique = list(itertools.product(*corner))
        assert len(clashes(clique, reach)) == math.comb(len(clique), 2)
        assert len(Phases(shape, reach)) == len(clique)

    @pytest.mark.parametrize(
        "shape, reach",
        [((4,), (1,)), ((7,), (2,)), ((3, 3), (1, 1)), ((4, 3), (2, 1)), ((3, 1, 2), (1, 1, 1))],
    )
    def test_a_solver_finds_no_colouring_with_fewer_phases(
        self, shape: Index, reach: Index
    ) -> None:
        graph = nx.convert_node_labels_to_integers(
            nx.Graph(clashes(list(np.ndindex(shape)), reach))
        )
        count = len(Phases(shape, reach))
        found = _exact_colouring(graph, count)
        assert found is not None and len(set(found.values())) == count
        assert _exact_colouring(graph, count - 1) is None

    @given(relations())
    def test_nodes_of_all_phases_partition_the_grid(self, relation: tuple[Index, Index]) -> None:
        phases = Phases(*relation)
        assert sorted(by_phase(phases)) == list(np.ndindex(phases.shape))
        for phase in range(len(phases)):
            nodes = phases.nodes(phase)
            assert list(nodes) == sorted(nodes) and len(nodes) == len(list(nodes)) > 0
            assert {phases.of(node) for node in nodes} == {phase}

    @given(relations())
    def test_neighbouring_phases_are_one_step_apart(self, relation: tuple[Index, Index]) -> None:
        phases = Phases(*relation)
        firsts = [next(iter(phases.nodes(p))) for p in range(len(phases))]
        for one, other in itertools.pairwise(firsts):
            assert sum(abs(a - b) for a, b in zip(one, other, strict=True)) == 1

    @given(st.data())
    def test_all_is_of(self, data: st.DataObject) -> None:
        phases = Phases(*data.draw(relations()))
        ranges = [
            sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n)))) for n in phases.shape
        ]
        window = Box(*zip(*ranges, strict=True))
        for box in (None, window):
            table = phases.all(box)
            box = box or Box.from_shape(phases.shape)
            assert table.shape == box.shape
            assert table.ravel().tolist() == [phases.of(node) for node in box]

    @given(relations())
    def test_what_is_remembered_of_a_class_is_right(self, relation: tuple[Index, Index]) -> None:
        """Answers are kept per class of nodes; each must be what a fresh question gives."""
        phases = Phases(*relation)
        for node in np.ndindex(phases.shape):
            assert phases.predecessors(node) == Phases(*relation).predecessors(node)


class TestMaskedByHand:
    def test_absent_nodes_have_no_phase(self) -> None:
        phases = colour(np.array([True, False, True]), (1,))
        assert [phases.of((k,)) for k in range(3)] == [0, -1, 0]
        assert len(phases) == 1
        assert list(phases.nodes(0)) == [(0,), (2,)]

    def test_nothing_present_has_no_phase(self) -> None:
        phases = colour(np.zeros((3, 3), dtype=bool), (1, 1))
        assert len(phases) == 0 and by_phase(phases) == []

    def test_phases_that_nobody_has_are_left_out(self) -> None:
        present = np.zeros((2, 2), dtype=bool)
        present[1, 0] = True  # the last of four phases
        assert len(colour(present, (1, 1))) == 1

    def test_an_absent_node_does_not_break_the_order(self) -> None:
        """Wiring to the previous phase alone would lose the pair (0, 2)."""
        table = np.array([0, -1, 2], dtype=np.int32)
        assert Phases((3,), (2,), table).predecessors((2,)) == [(0,)]

    def test_a_ring_of_seven_needs_three_phases(self) -> None:
        """Its largest clique has two members, so only a search can tell."""
        ring = np.array([[0, 1, 1, 0], [1, 0, 0, 1], [1, 0, 1, 0], [0, 1, 0, 0]], dtype=bool)
        assert len(clashes(index_of(ring), (1, 1))) == len(index_of(ring)) == 7
        phases = colour(ring, (1, 1))
        assert len(phases) == 3
        assert_ordered(phases)

    def test_the_exact_colouring_saves_a_phase(self) -> None:
        """DSATUR of networkx takes six phases here, and the closed form as well."""
        present = np.array([[0, 0, 1, 0], [1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 1, 0]], dtype=bool)
        phases = colour(present, (2, 1))
        assert len(phases) == 5
        assert_ordered(phases)

    def test_without_a_solver_a_phase_more_is_taken(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import pulp

        monkeypatch.setattr(pulp.COIN_CMD, "available", lambda _: False)
        present = np.array([[0, 0, 1, 0], [1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 1, 0]], dtype=bool)
        phases = colour(present, (2, 1))
        assert len(phases) in (5, 6)
        assert_ordered(phases)

    def test_large_masks_keep_the_closed_form(self) -> None:
        """Beyond a few thousand nodes a better colouring is not searched for."""
        present = np.random.default_rng(0).random((90, 90)) < 0.7
        dense = Phases(present.shape, (2, 2)).all()
        assert (colour(present, (2, 2)).all() == np.where(present, dense, -1)).all()


class TestMaskedLaws:
    @given(masked())
    def test_conflicting_nodes_are_ordered(self, case: tuple[NDArray[np.bool_], Index]) -> None:
        present, reach = case
        phases = colour(present, reach)
        assert_ordered(phases)
        assert sorted(by_phase(phases)) == index_of(present)
        assert sorted(set(phases.all().ravel().tolist()) - {-1}) == list(range(len(phases)))

    @given(masked())
    def test_never_more_phases_than_the_closed_form(
        self, case: tuple[NDArray[np.bool_], Index]
    ) -> None:
        present, reach = case
        assert len(colour(present, reach)) <= len(
            np.unique(Phases(present.shape, reach).all()[present])
        )

    @given(masked(most=11))
    @settings(max_examples=60)
    def test_small_masks_have_the_fewest_phases(
        self, case: tuple[NDArray[np.bool_], Index]
    ) -> None:
        present, reach = case
        fewest = oracle.fewest_colours(index_of(present), lambda a, b: clash(a, b, reach))
        assert len(colour(present, reach)) == fewest

    @given(masked(), st.randoms(use_true_random=False))
    def test_any_colouring_is_ordered(
        self, case: tuple[NDArray[np.bool_], Index], random: np.random.Generator
    ) -> None:
        """The rule of inputs holds for every proper colouring, not for ours alone."""
        present, reach = case
        nodes = index_of(present)
        random.shuffle(nodes)
        table = np.full(present.shape, -1, dtype=np.int32)
        for node in nodes:
            taken = {int(table[other]) for other in nodes if clash(node, other, reach)}
            free = [c for c in range(len(nodes) + 1) if c not in taken]
            table[node] = free[random.randrange(min(3, len(free)))]
        assert_ordered(Phases(present.shape, reach, table))

    @given(masked())
    def test_the_same_mask_gives_the_same_phases(
        self, case: tuple[NDArray[np.bool_], Index]
    ) -> None:
        present, reach = case
        assert (colour(present, reach).all() == colour(present.copy(), reach).all()).all()
