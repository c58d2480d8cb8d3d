"""What a proof says, and the task that it is about: for the modules that prove one thing each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from snakemake_blocks.geometry.box import Box
from snakemake_blocks.plan.plan import Plan, PlannedTask
from snakemake_blocks.tasks.array_info import ArrayInfo
from snakemake_blocks.tasks.task import Task

__all__ = ["DEFECT", "Findings", "Proof", "Subject"]

DEFECT = "this is a defect of snakemake-blocks, please report it"


@dataclass(frozen=True, slots=True)
class Proof:
    """What is wrong with a plan, and what has been proved of it.

    Parameters
    ----------
    violations : tuple of str
        Reasons not to run it, each ``tasks.NAME.key: what is wrong; next step``.
    warnings : tuple of str
        What costs time, leaves voxels out or cannot be known, in the same form.
    proved : tuple of str
        One line per fact, each ``NAME: fact``.
    """

    violations: tuple[str, ...]
    warnings: tuple[str, ...]
    proved: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Nothing speaks against running the plan."""
        return not self.violations


@dataclass(slots=True)
class Findings:
    """Lines of a :class:`Proof` while it is being found."""

    violations: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    proved: list[str] = field(default_factory=list)

    def proof(self) -> Proof:
        """Return them, each line once."""
        lines = (self.violations, self.warnings, self.proved)
        return Proof(*(tuple(dict.fromkeys(x)) for x in lines))


@dataclass(frozen=True, slots=True)
class Subject:
    """A planned task beside its declaration, and where findings about it go."""

    plan: Plan
    task: PlannedTask
    tasks: Mapping[str, Task]
    findings: Findings

    @property
    def declared(self) -> Task:
        """What the task was planned from."""
        return self.tasks[self.task.name]

    @property
    def roi(self) -> Box:
        """The region to write, as declared."""
        return self.declared.write_extent

    def is_own(self, array: ArrayInfo) -> bool:
        """Tell whether the task writes what it reads of an array."""
        return any(map(array.meets, self.task.operation.written))

    def span(self, box: Box) -> str:
        """Return a region for people, as the task counts."""
        return self.task.scale.span(box)

    def sizes(self, numbers: Iterable[int]) -> str:
        """Return lengths per axis for people, likewise."""
        return self.task.scale.sizes(tuple(numbers))

    def lengths(self, numbers: Iterable[int]) -> str:
        """Return the same with what they are in any case."""
        text = self.sizes(numbers)
        return text if self.task.scale.array else f"{text} world units"

    @property
    def refused(self) -> int:
        """Number of violations so far."""
        return len(self.findings.violations)

    def refuse(self, key: str, text: str) -> None:
        """Say what of the task stands against running the plan, and at which key."""
        self.findings.violations.append(f"tasks.{self.task.name}.{key}: {text}")

    def warn(self, key: str, text: str) -> None:
        """Say what is worth knowing, and at which key."""
        self.findings.warnings.append(f"tasks.{self.task.name}.{key}: {text}")

    def prove(self, text: str) -> None:
        """Say what has been proved of the task."""
        self.findings.proved.append(f"{self.task.name}: {text}")
