"""Does a test fail if one line of tiling, phases, dependencies or planning is wrong?

    python tests/mutations.py

Changes one line at a time in a copy of the package, runs one quick test against it, and prints a
table. Exit status 1 if a test passes nevertheless, or fails without any change. pytest does not
collect this; test_mutations.py only sees that the lines are still there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Mutation:
    """One line, made wrong.

    Parameters
    ----------
    module : str
        Of the package.
    old, new : str
        What stands there once, and what it becomes.
    test : str
        The test that has to fail, as pytest names it, inside tests/.
    why : str
        What is wrong then.
    """

    module: str
    old: str
    new: str
    test: str
    why: str

    def apply(self, package: Path) -> None:
        """Change the line in a copy of the package."""
        path = package / f"{self.module}.py"
        text = path.read_text()
        if text.count(self.old) != 1:
            raise SystemExit(f"{path.name}: {self.old!r} stands there {text.count(self.old)} times")
        path.write_text(text.replace(self.old, self.new))


MUTATIONS = (
    Mutation(
        "operations/label",
        "reversed(parts)",
        "parts",
        "operations/test_label.py::test_parts_of_the_result_change_nothing",
        "numbers are looked for where they were replaced",
    ),
    Mutation(
        "operations/label",
        "if sum(map(abs, offset)) > more:",
        "if sum(map(abs, offset)) > more + 1:",
        "operations/test_label.py::test_any_volume_has_the_labels_of_scipy",
        "corners touch across faces where only faces count",
    ),
    Mutation(
        "operations/stitch",
        "if all(b < e for b, e in zip(*region, strict=True)):",
        "if any(b < e for b, e in zip(*region, strict=True)):",
        "operations/test_stitch.py::TestScores::test_of_labels_that_touch",
        "blocks that saw nothing twice are compared as if they had",
    ),
    Mutation(
        "work/array_call",
        "made = self.then(made, block)",
        "self.then(made, block)",
        "work/test_parts.py::test_then_makes_what_is_stored",
        "what then returns is not stored",
    ),
    Mutation(
        "tasks/pipeline",
        "scope |= operation.identity(task.scale)",
        "pass",
        "end_to_end/test_outputs.py::TestRows::test_after_another_read",
        "a set-up is not done again for what its task reads",
    ),
    Mutation(
        "work/block_work",
        "if self._clear is not None and (again or self.has_leftovers):",
        "if self._clear is not None and self.has_leftovers:",
        "end_to_end/test_outputs.py::TestRows::test_a_failed_attempt_is_dropped",
        "rows of a failed attempt stay",
    ),
    Mutation(
        "state/reset",
        "chosen |= bool(outputs)",
        "chosen |= False",
        "end_to_end/test_outputs.py::TestOutputs::test_is_told_and_made_anew_when_it_is_changed",
        "a changed output is told and left as it is",
    ),
    Mutation(
        "state/products",
        "last = [maker for maker in makers if _has_begun(judge.root, maker)][-1]",
        "last = makers[0]",
        "end_to_end/test_outputs.py::TestOutputs::test_that_a_later_task_changes_is_right_after_that",
        "a database that a later task changes counts as damaged",
    ),
    Mutation(
        "geometry/tiling",
        "end=begin + length // step * step",
        "end=begin + -(-length // step) * step",
        "geometry/test_tiling.py::TestAxisLaws::test_is_the_oracle",
        "valid writes beyond the region",
    ),
    Mutation(
        "geometry/tiling",
        "return low, min(low + self.step, self.end)",
        "return low, low + self.step",
        "geometry/test_tiling.py::TestAxisLaws::test_writes_are_disjoint_and_cover_what_the_fit_promises",
        "shrink does not cut the last block",
    ),
    Mutation(
        "geometry/tiling",
        "self.begin) // self.step, -(-(high - self.begin) // self.step)",
        "self.begin) // self.step, (high - self.begin) // self.step",
        "geometry/test_tiling.py::TestAxisLaws::test_ranges_are_what_a_search_finds",
        "the last block that meets a region is lost",
    ),
    Mutation(
        "geometry/tiling",
        "return self.writing(low - self.upper, high + self.lower)",
        "return self.writing(low - self.lower, high + self.upper)",
        "geometry/test_tiling.py::TestAxisLaws::test_ranges_are_what_a_search_finds",
        "contexts of the two sides are swapped",
    ),
    Mutation(
        "geometry/tiling",
        "end = tuple(min(b + f, n) for b, f, n in zip(begin, factors, self.shape, strict=True))",
        "end = tuple(b + f for b, f in zip(begin, factors, strict=True))",
        "geometry/test_tiling.py::TestGridByHand::test_members_end_at_the_border",
        "a job at the border has blocks that do not exist",
    ),
    Mutation(
        "geometry/phases",
        "return tuple(-(-max(a.lower, a.upper) // a.step) for a in grid.axes)",
        "return tuple(-(-a.lower // a.step) for a in grid.axes)",
        "geometry/test_phases.py::TestReachLaws::test_no_conflict_is_missed",
        "only the context below makes conflicts",
    ),
    Mutation(
        "geometry/phases",
        "return tuple(max(1, min(n, r + 1)) for",
        "return tuple(max(1, min(n, r)) for",
        "geometry/test_phases.py::TestDenseLaws::test_conflicting_nodes_are_ordered",
        "conflicting blocks share a phase",
    ),
    Mutation(
        "geometry/phases",
        "rank = rank * m + (m - 1 - digit if rank % 2 else digit)",
        "rank = rank * m + digit",
        "geometry/test_phases.py::TestDenseLaws",
        "phases are not in Gray order",
    ),
    Mutation(
        "geometry/phases",
        "listed = (lower >= 0) & (lower == largest_near(lower, self.reach))",
        "listed = (lower >= 0) & (lower == self.of(index) - 1)",
        "geometry/test_phases.py::TestMaskedLaws::test_conflicting_nodes_are_ordered",
        "only the previous phase is waited for, so a mask breaks the order",
    ),
    Mutation(
        "geometry/phases",
        "(k % m, min(k, r), min(n - 1 - k, r))",
        "(k % m, min(k, r), 0)",
        "geometry/test_phases.py::TestDenseLaws::test_what_is_remembered_of_a_class_is_right",
        "a job at the upper border waits for jobs that do not exist",
    ),
    Mutation(
        "geometry/phases",
        "last_voxel = axis.begin + (k + 1) * axis.step - 1",
        "last_voxel = axis.begin + k * axis.step",
        "geometry/test_phases.py::TestReachLaws::test_sharing_is_what_a_search_finds",
        "a chunk that a block only ends in is not shared",
    ),
    Mutation(
        "geometry/phases",
        "if count > clique:",
        "if count < clique:",
        "geometry/test_phases.py::TestMaskedByHand::test_the_exact_colouring_saves_a_phase",
        "masked grids get more phases than they need",
    ),
    Mutation(
        "plan/dependencies",
        "return up.writing(down.read(index))",
        "return up.writing(down.write(index))",
        "plan/test_dependencies.py::TestLaws::test_blocks_need_blocks_iff_they_overlap",
        "context of upstream results is not waited for",
    ),
    Mutation(
        "plan/dependencies",
        "up.jobs_of(up.grid.writing(down.jobs.read(job)))",
        "up.jobs_of(up.grid.writing(down.jobs.write(job)))",
        "plan/test_dependencies.py::TestLaws::test_jobs_need_jobs_iff_present_blocks_overlap",
        "the same between jobs",
    ),
    Mutation(
        "plan/dependencies",
        "return read & up.presence(blocks)",
        "return read",
        "plan/test_dependencies.py::TestLaws::test_jobs_need_jobs_iff_present_blocks_overlap",
        "masked upstream blocks are waited for",
    ),
    Mutation(
        "geometry/tiling",
        "np.logical_or.reduceat(found, starts, axis=axis)",
        "np.logical_and.reduceat(found, starts, axis=axis)",
        "plan/test_dependencies.py::TestLaws::test_a_job_is_present_iff_a_block_is",
        "a job with one masked block does not exist",
    ),
    Mutation(
        "plan/dependencies",
        "end = tuple(-(-e // f) for e, f in zip(blocks.end, self.batch, strict=True))",
        "end = tuple(e // f for e, f in zip(blocks.end, self.batch, strict=True))",
        "plan/test_dependencies.py::TestLaws::test_jobs_of_is_the_smallest_box",
        "the last job that is read from is lost",
    ),
    Mutation(
        "plan/planning",
        "reach = tuple(map(max, _conflict_reach(task, grid), _sharing(task, grid.coarsen(group))))",
        "reach = _conflict_reach(task, grid)",
        "plan/test_planning.py::TestSharedChunks",
        "blocks of a job that share a chunk run at once",
    ),
    Mutation(
        "plan/planning",
        "return none if any(_sharing(task, grid.coarsen(group))) else group",
        "return group",
        "plan/test_planning.py::TestGroups",
        "boxes of blocks that share a shard are taken for apart",
    ),
    Mutation(
        "work/block_queue",
        "if (last == worker and not alone) or self._is_taken(number, worker):",
        "if last == worker and not alone:",
        "work/test_block_queue.py::TestStoredTogether",
        "two workers write one shard at the same time",
    ),
    Mutation(
        "storage/held",
        "if sum(box.size for box, _ in parts) == whole.size:",
        "if True:",
        "end_to_end/test_shards.py::test_a_failed_block_costs_the_others_of_its_shard_nothing",
        "what a shard holds of earlier runs is lost",
    ),
    Mutation(
        "storage/lattice",
        "return near if abs(ratio - near) <= noise else ratio",
        "return near",
        "storage/test_lattice.py",
        "measured sizes are rounded to simple fractions",
    ),
    Mutation(
        "plan/planning",
        "own = task.scale.grid(grid)",
        "own = grid",
        "storage/test_spatial.py::test_what_is_done_stays_done_when_another_array_joins",
        "what is done is stale when another array joins",
    ),
    Mutation(
        "tasks/array_info",
        "begin[channel_axes.index(axis)] = index",
        "begin[channel_axes.index(axis)] = 0",
        "storage/test_arrays.py::TestAxes",
        "all channels up to the selected one are read",
    ),
)


def failed(copy: Path, test: str) -> bool:
    """Tell whether a test fails against the package in a folder."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "-c", str(ROOT / "pyproject.toml"), str(ROOT / "tests" / test)],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy), "CI": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode not in (0, 1):
        raise SystemExit(f"{test} did not run:\n{done.stdout}{done.stderr}")
    return done.returncode == 1


def outcomes(folder: Path) -> Iterator[tuple[Mutation, bool]]:
    """Yield every mutation, and whether its test fails with it and not without it."""
    copy, package = folder / "copy", folder / "copy" / "snakemake_blocks"
    sound: dict[str, bool] = {}
    for mutation in MUTATIONS:
        shutil.rmtree(copy, ignore_errors=True)
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "snakemake_blocks", package, ignore=ignored)
        if mutation.test not in sound:
            sound[mutation.test] = not failed(copy, mutation.test)
        for cache in list(package.rglob("__pycache__")):
            shutil.rmtree(cache)
        mutation.apply(package)
        yield mutation, sound[mutation.test] and failed(copy, mutation.test)


def main() -> int:
    """Print the table."""
    survived = 0
    with tempfile.TemporaryDirectory(prefix="blocks-mutations-") as folder:
        for mutation, found in outcomes(Path(folder)):
            survived += not found
            verdict = "found" if found else "NOT FOUND"
            print(f"{verdict:9}  {mutation.module:12}  {mutation.why}", flush=True)
            print(f"{'':9}  {'':12}  by {mutation.test}", flush=True)
    print(f"{len(MUTATIONS) - survived} of {len(MUTATIONS)} wrong lines are found")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
