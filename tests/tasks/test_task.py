from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from declared import array, make_task, roi
from funlib.geometry import Roi
from hypothesis import given
from strategies import FUNCTION, GridCase, grid_cases

from snakemake_blocks.errors import SpecError
from snakemake_blocks.geometry.box import Box
from snakemake_blocks.geometry.tiling import Fit
from snakemake_blocks.tasks.operation import Call, Read, Write
from snakemake_blocks.tasks.task import Chunks, Task


def problems(**more: Any) -> list[str]:
    """Return what is wrong with a changed task, without the name of the task."""
    with pytest.raises(SpecError) as caught:
        make_task(**more)
    assert all(p.startswith("task smooth: ") for p in caught.value.problems)
    return [p.removeprefix("task smooth: ") for p in caught.value.problems]


class TestSignature:
    def test_the_first_parameters_and_defaults_are_daisys(self) -> None:
        """Those of daisy 1.2.3."""
        parameters = list(inspect.signature(Task).parameters.values())[:13]
        assert [p.name for p in parameters[:5]] == [
            "task_id",
            "total_roi",
            "read_roi",
            "write_roi",
            "process_function",
        ]
        assert {p.name: p.default for p in parameters[5:]} == {
            "check_function": None,
            "init_callback_fn": None,
            "read_write_conflict": True,
            "num_workers": 1,
            "max_retries": 2,
            "fit": "valid",
            "timeout": None,
            "upstream_tasks": None,
        }

    def test_an_argument_that_does_not_exist_is_refused(self) -> None:
        with pytest.raises(
            TypeError, match=r"unexpected keyword argument 'treads'; did you mean t"
        ):
            make_task(treads=2)

    def test_a_function_that_is_empty_is_one(self) -> None:
        class Steps(list[int]):
            def __call__(self, block: Any) -> None: ...

        steps = Steps()
        found = make_task(process_function=steps, check_function=steps).operation
        assert found.function.given is steps
        assert found.check_before is not None and found.check_before.given is steps

    def test_a_changed_one_keeps_the_rest(self) -> None:
        task = make_task(threads=2, params={"a": 1}, requires={"gpu": 1}, workers=2)
        found = task.changed(params={"a": 2}, max_retries=0)
        assert found.operation.params == {"a": 2}
        assert (found.budget.threads, found.budget.retries) == (2, 0)
        assert found.budget.resources == {"gpu": 2}

    def test_rois_are_its_own(self) -> None:
        total = roi(0, 29)
        found = make_task(total_roi=total)
        total.offset = (100,)
        assert found.total_roi == roi(0, 29)

    def test_words_become_enums(self) -> None:
        found = make_task(fit="shrink", call="worker", chunks="refuse")
        assert (found.fit, found.operation.call, found.chunks) == (
            Fit.SHRINK,
            Call.WORKER,
            Chunks.REFUSE,
        )

    def test_max_workers_is_another_name_of_num_workers(self) -> None:
        assert make_task().budget.max_workers == 1
        assert make_task(num_workers=5).budget.max_workers == 5
        assert make_task(max_workers=7).budget.max_workers == 7
        assert make_task(num_workers=None).budget.max_workers is None

    def test_one_check_is_the_one_before(self) -> None:
        assert make_task().checks == (None, None)
        assert make_task(check_function=FUNCTION).checks == (FUNCTION, None)
        assert make_task(check_function=(None, FUNCTION)).checks == (None, FUNCTION)


class TestDaisy2:
    def test_a_skip_mask_says_what_is_not_there(self) -> None:
        task = make_task(fit="shrink", skip_mask=np.array([True, False, False, True]))
        assert task.present is not None
        assert task.present.tolist() == [False, True, True, False]
        again = dataclasses.replace(task, present=~task.present)
        assert again.present is not None
        assert again.present.tolist() == [True, False, False, True]

    # faults: kind 5; what is no bool, but means one
    @pytest.mark.parametrize(
        "flags",
        [
            [0, 1, 0],
            np.array([0, 255, 0], np.uint8),
            np.array([0, -0.5, 0], np.float32),
            np.array([0, 2**63, 0], np.uint64),
        ],
    )
    def test_what_is_not_zero_is_true(self, flags: Any) -> None:
        for change, want in (("present", [False, True, False]), ("skip_mask", [True, False, True])):
            task = make_task(**{change: flags})
            assert task.present is not None
            assert (task.present.dtype, task.present.tolist()) == (bool, want)

    @pytest.mark.parametrize("flags", [[math.nan, 0, 1], ["", "a", ""], [None, 1, 0], [1j, 0, 0]])
    @pytest.mark.parametrize("name", ["present", "skip_mask"])
    def test_what_is_neither_true_nor_false_is_refused(self, name: str, flags: Any) -> None:
        assert problems(**{name: flags}) == [
            f"{name}: must be an array of bool, or of numbers that are 0 where it is false"
        ]

    def test_a_skip_mask_of_another_shape_is_refused(self) -> None:
        assert problems(skip_mask=np.zeros(2, bool), fit="shrink") == [
            "present: tells of (2) blocks, the grid has (4)"
        ]
        with pytest.raises(SpecError, match="skip_mask: there is present, too; give one"):
            make_task(skip_mask=np.zeros(3, bool), present=np.ones(3, bool))

    def test_what_workers_require_a_job_takes(self) -> None:
        task = make_task(requires={"gpu": 2}, workers=3, resources={"mem_mb": 10})
        assert task.budget.resources == {"mem_mb": 10, "gpu": 6}
        assert dataclasses.replace(task).budget.resources == task.budget.resources

    def test_budgets_that_snakemake_cannot_keep_are_refused(self) -> None:
        assert problems(requires={"gpu": 0.5, "attempt": 1, "a b": 1, "mem": 1, "disk": -1}) == [
            "requires.gpu: must be a whole number, got 0.5",
            "requires.attempt: cannot be the name of a resource; choose another",
            "requires.a b: cannot be the name of a resource; choose another",
            "requires.disk: must be a whole number, got -1",
        ]
        assert problems(requires={"mem": 1}, resources={"mem": 2}) == [
            "requires.mem: is among resources, too; give it once"
        ]


class TestCall:
    class Model:
        def __call__(self, block: Any) -> None: ...

    @pytest.mark.parametrize(
        "function, call",
        [
            (FUNCTION, Call.BLOCK),
            (lambda block: None, Call.BLOCK),
            (lambda block, sigma=3: None, Call.BLOCK),
            (lambda sigma=3: None, Call.BLOCK),
            (lambda *blocks: None, Call.BLOCK),
            (lambda: None, Call.WORKER),
            (Model, Call.BLOCK),
            (Model(), Call.BLOCK),
            (print, Call.BLOCK),
            (functools.partial(pow, 2), Call.BLOCK),
            (functools.partial(lambda block: None, 2), Call.WORKER),
            (functools.partial(lambda where: None, where="local"), Call.WORKER),
            (functools.partial(lambda block, where: None, where="local"), Call.BLOCK),
            (lambda *, context=None: None, Call.WORKER),
        ],
    )
    def test_follows_from_the_parameters(self, function: Any, call: Call) -> None:
        assert make_task(process_function=function).operation.call is call

    def test_can_be_said(self) -> None:
        assert (
            make_task(process_function=lambda: None, call=Call.BLOCK).operation.call is Call.BLOCK
        )


class TestGeometry:
    def test_by_hand(self) -> None:
        found = make_task(fit="shrink")
        assert (found.lower, found.upper) == ((4,), (4,))
        assert found.write_extent == Box((4,), (25,))
        assert len(found.grid) == 4
        assert found.grid.read((3,)) == Box((18,), (29,))

    def test_only_the_relative_position_of_read_and_write_matters(self) -> None:
        one, other = make_task(), make_task(read_roi=roi(-1000, 14), write_roi=roi(-996, 6))
        assert one.grid == other.grid

    @given(grid_cases(empty=False))
    def test_is_the_grid_of_the_write_extent(self, case: GridCase) -> None:
        found = case.task("any")
        assert found.grid == case.grid
        assert all(type(x) is int for a in found.grid.axes for x in (a.begin, a.end, a.step))


# faults: kind 5


class TestNumbers:
    def test_those_of_numpy_become_pythons(self) -> None:
        task = make_task(
            max_retries=np.int64(3),
            num_workers=np.uint8(2),
            timeout=np.float32(0.5),
            reads={"raw": Read(array(dtype="uint64"), np.uint64(2**64 - 1))},  # type: ignore[arg-type]
        )
        found = (task.max_retries, task.num_workers, task.timeout, task.operation.reads["raw"].fill)
        assert found == (3, 2, 0.5, 2**64 - 1)
        assert [type(n) for n in found] == [int, int, float, int]

    @pytest.mark.parametrize("dtype", ["float128", ">u2", "M8[ns]", "what"])
    def test_a_type_that_cannot_be_made_is_refused(self, dtype: str) -> None:
        change = {"writes": {"out": Write(array(dtype=dtype, exists=False))}}
        assert problems(**change) == [
            f"writes.out.dtype: {dtype!r} is not numpy's name of a type of numbers"
        ]

    @pytest.mark.parametrize(
        ("fill", "dtype"),
        [
            (300.5, "uint64"), (-1, "uint8"), (2**64, "uint64"), (math.nan, "int16"), (2, "bool"),
            (1e39, "float32"), (2**53 + 1, "float64"), ("0", "uint8"), (1 + 2j, "complex64"),
        ],
    )  # fmt: skip
    def test_a_fill_that_does_not_fit_is_refused(self, fill: Any, dtype: str) -> None:
        change = {"reads": {"raw": Read(array(dtype=dtype), fill)}}
        assert problems(**change) == [
            f"reads.raw.fill: {dtype} of sample.zarr/raw cannot hold {fill!r}"
        ]


class TestRefusals:
    @pytest.mark.parametrize(
        "change, problem",
        [
            ({"fit": "tight"}, "fit: 'tight' is not one of valid, overhang, shrink"),
            ({"call": "often"}, "call: 'often' is not one of block, arrays, worker, once"),
            ({"chunks": "ignore"}, "chunks: 'ignore' is not one of color, refuse"),
            ({"max_retries": -1}, "max_retries: must be at least 0, got -1"),
            ({"num_workers": 0}, "num_workers: must be at least 1, got 0"),
            ({"threads": 0}, "threads: must be at least 1, got 0"),
            ({"timeout": 0}, "timeout: must be positive, got 0; leave it out for none"),
            ({"total_roi": (0, 29)}, "total_roi: must be a bounded Roi, got (0, 29)"),
            (
                {"read_roi": roi(0, 14, 2)},
                "read_roi: 2 sizes for a 1-D roi; give one per axis",
            ),
            ({"write_roi": roi(4, 0)}, "write_roi: sizes must be positive, got (0)"),
            (
                {"write_roi": roi(12, 6)},
                "read_roi: [0:14] (14) does not contain the write Roi [12:18] (6)",
            ),
            (
                {"total_roi": roi(0, 12)},
                "total_roi: no block of (6) fits into (4) with fit valid; "
                "use a smaller block or fit: shrink",
            ),
            ({"blocks_per_job": "many"}, "blocks_per_job: 'many' is neither auto nor positive"),
            ({"blocks_per_job": 0}, "blocks_per_job: 0 is neither auto nor positive"),
            ({"blocks_per_job": 2.5}, "blocks_per_job: 2.5 is neither auto nor positive"),
            ({"blocks_per_job": [0]}, "blocks_per_job: [0] is neither auto nor positive"),
            (
                {"blocks_per_job": [1, 1]},
                "blocks_per_job: 2 counts for a 1-D roi; give one per axis",
            ),
            (
                {"present": np.ones(4, dtype=bool)},
                "present: tells of (4) blocks, the grid has (3)",
            ),
            (
                {"params": {"sigma": np.int64(3)}},
                "params.sigma: np.int64(3) of the type int64 would arrive as another; use "
                "numbers, text, lists and mappings",
            ),
            (
                {"reads": {"raw": Read(array(2))}},
                "reads.raw: sample.zarr/raw has 2 spatial axes, the roi has 1",
            ),
            ({"mask": array(2)}, "mask: sample.zarr/raw has 2 axes, the roi has 1"),
            (
                {"call": "arrays"},
                "writes: call: arrays needs at least one array to write, a table or an output",
            ),
            (
                {"writes": {"out": Write(array(voxel_size=(4,)))}},
                "write_roi: block size (6) is not a multiple of the voxel size (4) of "
                "sample.zarr/raw (writes.out); use (4) or (8)",
            ),
            (
                {
                    "reads": {"raw": Read(array(voxel_size=(4,)))},
                    "writes": {
                        "a": Write(array(path="a")),
                        "b": Write(array(path="b", voxel_size=(5,))),
                    },
                    "read_roi": roi(4, 6),
                },
                "write_roi: block size (6) is not a multiple of the voxel size (4) of "
                "sample.zarr/raw (reads.raw) and (5) of b (writes.b); use (20)",
            ),
            (
                {"reads": {"raw": Read(array(voxel_size=(3,), offset=(1,)))}},
                "read_roi: context (4) is not a multiple of the voxel size (3) of "
                "sample.zarr/raw (reads.raw); use (3) or (6)",
            ),
            (
                {"reads": {"raw": Read(array(voxel_size=(2,), offset=(1,)))}},
                "total_roi: the region to write, (4) to (25), cuts voxels of sample.zarr/raw "
                "(reads.raw) with offset (1) and voxel size (2); make it whole voxels",
            ),
        ],
    )
    def test_one_by_one(self, change: dict[str, Any], problem: str) -> None:
        assert problems(**change) == [problem]

    def test_all_at_once(self) -> None:
        found = problems(fit="tight", max_retries=-1, threads=0, timeout=-1)
        assert [p.partition(":")[0] for p in found] == ["max_retries", "timeout", "threads", "fit"]

    @pytest.mark.parametrize("lower, upper", [(2, 0), (0, 2)])
    def test_context_of_either_side_has_to_be_whole_voxels(self, lower: int, upper: int) -> None:
        found = problems(
            total_roi=roi(-lower, 24 + lower + upper),
            read_roi=roi(-lower, 6 + lower + upper),
            write_roi=roi(0, 6),
            writes={"out": Write(array(voxel_size=(3,)))},
        )
        assert found == [
            "read_roi: context (2) is not a multiple of the voxel size (3) of sample.zarr/raw "
            "(writes.out); use (0) or (3)"
        ]

    def test_only_shrink_minds_the_end_of_the_region(self) -> None:
        change = {"writes": {"out": Write(array(voxel_size=(2,)))}}
        assert len(make_task(**change, fit="valid").grid) == 3
        assert problems(**change, fit="shrink")[0].startswith("total_roi: the region to write")


@pytest.mark.parametrize("offset", [10 * 2**31, -10 * 2**31 - 10, 10 * 2**31 - 30])
def test_blocks_that_ledgers_cannot_number_are_refused(offset: int) -> None:
    block = roi(offset, 10)
    message = r"task a: total_roi: blocks are numbered .* along axis 0, more than 32 bits can tell"
    with pytest.raises(SpecError, match=message):
        Task("a", roi(offset, 40), block, block, FUNCTION)


def test_the_last_blocks_that_ledgers_can_number_are_fine() -> None:
    block = roi(0, 10)
    assert len(Task("a", roi(10 * 2**31 - 40, 40), block, block, FUNCTION).grid) == 4
    assert len(Task("a", roi(-10 * 2**31, 40), block, block, FUNCTION).grid) == 4


# faults: kind 8
def test_none_for_an_optional_argument_is_its_default() -> None:
    rois = (Roi((0,), (40,)), Roi((0,), (10,)), Roi((0,), (10,)))
    plain = Task("t", *rois, "m:f")
    assert Task("t", *rois, "m:f", None, None, None, None).budget.max_workers is None
    names = {f.name for f in fields(Task) if f.init} - {"num_workers"}
    names -= {"task_id", "total_roi", "read_roi", "write_roi", "process_function"}
    same = Task("t", *rois, "m:f", **dict.fromkeys(names))
    for name in names:
        assert getattr(same, name) == getattr(plain, name), name


# faults: kind 12
@pytest.mark.parametrize(
    "more, problem",
    [
        ({"params": {"a": {1: "x"}}}, "params.a: key 1 would arrive as text"),
        ({"params": {"a": {None: 1}}}, "params.a: key None would arrive as text"),
        (
            {"params": {"a": [0, {"b": (1, 2)}]}},
            r"params.a: \[1\]\['b'\]: \(1, 2\) of the type tuple",
        ),
        ({"params": {"a": b"x"}}, "params.a: b'x' of the type bytes"),
        ({"params": {"a": 10**400}}, "params.a: has too many digits"),
        ({"resources": {"mro": 3}}, "resources.mro: cannot be the name"),
        ({"resources": {"a\nb": 3}}, "cannot be the name of a resource"),
        ({"requires": {"gpu\u00e9": 1}}, "cannot be the name of a resource"),
        ({"resources": {"mem_mb": "10 GB"}}, "resources.mem_mb: '10 GB' is no number"),
        ({"resources": {"gpu": True}}, "resources.gpu: must be a number or text"),
        ({"resources": {"gpu": -1}}, "resources.gpu: must be between 0"),
        ({"resources": {"tmpdir": 5}}, "resources.tmpdir: must be the path of a folder, got 5"),
        ({"resources": {"gpu": "a\0"}}, "resources.gpu: has control characters"),
    ],
)
def test_what_would_not_arrive_or_not_run(more: dict[str, Any], problem: str) -> None:
    with pytest.raises(SpecError, match=problem):
        make_task(**more)


# faults: kind 12
def test_params_that_arrive_as_they_are() -> None:
    params = {"a": [1, 2.5, None, True, {"b": "\u00e9"}], "c": float("inf"), "d": 2**64}
    assert make_task(params=params).operation.params == params
