"""Whether the functions of a plan can be imported: asked of another process, as a worker would.

Planning reads sources and imports nothing. Importing tells the rest: a library that is missing
here, a module that raises. What it prints, starts or leaves behind stays in that process.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from subprocess import Popen, TimeoutExpired

from snakemake_blocks.plan.plan import Plan
from snakemake_blocks.system.processes import end_tree
from snakemake_blocks.tasks.functions import FunctionRef, importable_from, load

__all__ = ["ImportCheck", "questions"]

# A large library takes minutes over a busy network; what takes longer waits for something.
_PATIENCE = 300.0


def questions(plan: Plan) -> list[tuple[str, str]]:
    """Return place and name of every function that is imported, ``tasks.NAME.key`` first."""
    found: dict[str, str] = {}
    for task in plan.tasks.values():
        for key, ref in task.operation.functions.items():
            if not ref.pickle:
                found.setdefault(ref.name, f"tasks.{task.name}.{key}")
    return [(place, name) for name, place in found.items()]


class ImportCheck:
    """A process that imports functions, while others go on.

    Parameters
    ----------
    process : Popen
        It runs this module, with pipes to its standard input and output.
    asked : sequence of (str, str)
        As :func:`questions`.
    folder : Path
        The pipeline's folder.
    """

    def __init__(
        self, process: Popen[bytes], asked: Sequence[tuple[str, str]], folder: Path
    ) -> None:
        self._process = process
        self._question = json.dumps([str(folder), *asked]).encode()
        self._asked = asked

    def problems(self, *, patience: float = _PATIENCE) -> list[str]:
        """Wait so many seconds at most, and return what cannot be imported, a line each."""
        try:
            told, _ = self._process.communicate(self._question, timeout=patience)
        except TimeoutExpired:
            self.cancel()
            self._process.communicate()
            names = ", ".join(name for _, name in self._asked)
            return [f"{self._asked[0][0]}: importing {names} takes longer than {patience:.0f} s"]
        if self._process.returncode < 0 or not told:
            place, name = self._asked[0]
            how = f"ended with status {self._process.returncode}"
            return [f"{place}: {name}: the process that imports the functions {how}"]
        found: list[str] = json.loads(told)
        return found

    def cancel(self) -> None:
        """End the process, and so :meth:`problems` in another thread."""
        if self._process.poll() is None:
            end_tree(self._process.pid)


def _answer() -> None:
    """Read folder and questions, import, and write what went wrong, in the other process."""
    folder, *asked = json.load(sys.stdin)
    with os.fdopen(os.dup(sys.stdout.fileno()), "w") as answer:
        # Modules may print, and what they are made of may write to the file itself.
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        sys.stdout = sys.stderr
        json.dump(list(_problems(Path(folder), asked)), answer)


def _problems(folder: Path, asked: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield what cannot be imported, a line each."""
    with importable_from(folder):
        for place, name in asked:
            try:
                load(FunctionRef(name), folder)
            except BaseException as error:
                last = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
                where = traceback.extract_tb(error.__traceback__)[-1]
                at = f" ({Path(where.filename).name}, line {where.lineno})"
                yield f"{place}: {name} cannot be imported: {last}{at}"


if __name__ == "__main__":
    _answer()
