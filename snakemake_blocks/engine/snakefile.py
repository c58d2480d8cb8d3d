"""The text of a Snakefile for a plan."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from snakemake_blocks.engine.input_functions import all_resources
from snakemake_blocks.errors import PlanError
from snakemake_blocks.plan.paths import index_name
from snakemake_blocks.plan.plan import Job, Plan, PlannedTask
from snakemake_blocks.state.completion import aggregate_inputs
from snakemake_blocks.system.quoting import comment, literal
from snakemake_blocks.tasks.resources import grows
from snakemake_blocks.work.stop_reasons import CONDUCTOR

__all__ = ["COMMAND", "MADE_BY", "conda_environment", "explicit_snakefile", "snakefile"]

# The same bytes in both layouts, so that switching between them re-runs nothing.
COMMAND = "snakemake-blocks work {output:q} --attempt {resources.attempt} > {log:q} 2>&1"
MADE_BY = "# Made by snakemake-blocks"
"""How a Snakefile begins that may be made again."""

JOB_RETRIES = 2
_EXPLICIT_JOBS = 2000
_RETRIES_AND_CONDA = (
    # A remote job runs Snakemake again, where a rule's retries beat its --retries 0: they would
    # multiply, and what was drained before the walltime would begin again just before it.
    f"    retries: 0 if workflow.remote_exec else {JOB_RETRIES}",
    "    conda:",
    '        "envs/blocks.yaml"',
)


def snakefile(plan: Plan, *, version: str, at: str = "") -> str:
    """Return the Snakefile of a plan: one loop over phases per task, inputs computed.

    Parameters
    ----------
    plan : Plan
        The plan.
    version : str
        Of this package.
    at : str
        The run directory as seen from where Snakemake runs; default: from the pipeline's folder.
    """
    here = replace(plan, run_directory=at or plan.run_directory)
    head = [
        *_header(plan, version),
        "from snakemake_blocks.rules import Rules",
        "",
        f"blocks = Rules({literal(here.run_directory)}, plan={literal(plan.fingerprint)})",
        "",
        *_limits(plan),
        *_local_rules(plan),
        *_all_rule(here),
    ]
    for task in plan.tasks.values():
        head += _task_rules(here, task)
    return "\n".join(head).rstrip() + "\n"


def explicit_snakefile(plan: Plan, *, version: str, at: str = "") -> str:
    """Return the Snakefile with one literal rule per job, readable without this package.

    Parameters are those of :func:`snakefile`.

    Raises
    ------
    PlanError
        Above 2,000 jobs, where Snakemake's cost per rule grows quadratically.
    """
    jobs = sum(task.num_jobs for task in plan.tasks.values())
    if jobs > _EXPLICIT_JOBS:
        raise PlanError(
            f"--explicit writes one rule per job, and {jobs:,} jobs are more than "
            f"{_EXPLICIT_JOBS:,}; leave --explicit out, or use larger blocks_per_job"
        )
    here = replace(plan, run_directory=at or plan.run_directory)
    lines = [
        *_header(plan, version),
        "import shlex",
        "import sys",
        "from pathlib import Path",
        "",
        "# Jobs find the snakemake-blocks beside this Python, and notice when Snakemake dies.",
        "shell.prefix(",
        '    f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH "',
        f'    "{CONDUCTOR}=$PPID; "',
        ")",
        "",
        *_limits(plan),
        *_local_rules(plan, explicit=True),
        *_all_rule(here),
    ]
    for task in plan.tasks.values():
        for job in here.jobs(task.name):
            lines += _explicit_job(job)
        lines += _explicit_aggregates(here, task)
    return "\n".join(lines).rstrip() + "\n"


def conda_environment(version: str) -> str:
    """Return envs/blocks.yaml, used only with Snakemake's --sdm conda."""
    return (
        "# The environment of the workers, for `snakemake --sdm conda`. Add what your functions\n"
        "# import; without --sdm this file does nothing.\n"
        "channels:\n"
        "  - conda-forge\n"
        "dependencies:\n"
        "  - python >=3.11\n"
        "  - pip\n"
        "  - pip:\n"
        f"      - snakemake-blocks =={version}\n"
    )


def _header(plan: Plan, version: str) -> list[str]:
    return [
        f"{MADE_BY} {version} from {comment(plan.name)}, plan {plan.fingerprint}.",
        "# Do not edit; change the pipeline and generate again.",
    ]


def _limits(plan: Plan) -> list[str]:
    lines = []
    for task in plan.tasks.values():
        if task.budget.max_workers is not None:
            lines.append(
                f'workflow.register_resource("{task.slug}_workers", {task.budget.max_workers})'
            )
    return [*lines, ""] if lines else []


def _local_rules(plan: Plan, *, explicit: bool = False) -> list[str]:
    names = ["all"]
    for task in plan.tasks.values():
        for level, count in enumerate(task.aggregates.levels):
            nodes = [f"_{node}" for node in range(count)] if explicit else [""]
            names += [f"{task.slug}_tree{level + 1}{node}" for node in nodes]
        names.append(f"{task.slug}_done")
    return ["", "localrules:", *(f"    {name}," for name in names), "", ""]


def _all_rule(plan: Plan) -> list[str]:
    targets = [f"        {literal(str(plan.paths.done(t.slug)))}," for t in plan.tasks.values()]
    return ["rule all:", "    input:", *targets, "", ""]


def _task_rules(plan: Plan, task: PlannedTask) -> list[str]:
    root = plan.paths.task(task.slug)
    about = f"# {comment(task.name)}: {task.num_blocks:,} blocks in {task.num_jobs:,} jobs"
    name = literal(task.name)
    index = "-".join(["[0-9]+"] * task.grid.ndim)
    lines = [
        about,
        f"for phase in range({task.num_phases}):",
        "",
        "    rule:",
        "        name:",
        f'            f"{task.slug}_p{{phase}}"',
        "        input:",
        f"            conflicts=ancient(blocks.conflicts({name})),",
        f"            upstream=blocks.upstream({name}),",
        "        output:",
        f'            f"{root}/p{{phase}}/{{{{job}}}}.json",',
        "        log:",
        f'            "{root}/logs/{{job}}.log",',
        "        wildcard_constraints:",
        f'            job="{index}/{index}",',
        *_indented(_settings(task), "    "),
        "",
        "",
    ]
    for level in range(1, len(task.aggregates.levels) + 1):
        lines += _aggregate_rule(
            task,
            f"{task.slug}_tree{level}",
            f"blocks.below({name}, {level}),",
            f"{root}/tree/{level}/{{node}}.json",
            f"{root}/logs/tree-{level}-{{node}}.log",
            ["    wildcard_constraints:", '        node="[0-9]+",'],
        )
    return lines + _aggregate_rule(
        task,
        f"{task.slug}_done",
        f"blocks.top({name}),",
        f"{root}/done.json",
        f"{root}/logs/done.log",
    )


def _settings(task: PlannedTask) -> list[str]:
    """Return what follows input, output and log in the rule of a job."""
    lines = [
        *_RETRIES_AND_CONDA,
        "    threads: " + str(task.budget.workers * task.budget.threads),
        "    resources:",
        "        attempt=lambda wildcards, attempt: attempt,",
    ]
    for name, value in all_resources(task):
        if grows(name, value):
            text = f"lambda wildcards, attempt: {value} * attempt"
        else:
            text = literal(value) if isinstance(value, str) else repr(value)
        lines.append(f"        {name}={text},")
    return [*lines, "    shell:", f'        "{COMMAND}"']


def _aggregate_rule(
    task: PlannedTask,
    name: str,
    inputs: str,
    output: str,
    log: str,
    more: list[str] | None = None,
) -> list[str]:
    return [
        f"rule {name}:",
        "    input:",
        f"        {inputs}",
        "    output:",
        f'        "{output}",',
        "    log:",
        f'        "{log}",',
        *(more or []),
        *_RETRIES_AND_CONDA,
        "    threads: 1",
        "    resources:",
        "        attempt=lambda wildcards, attempt: attempt,",
        "    shell:",
        f'        "{COMMAND}"',
        "",
        "",
    ]


def _indented(lines: list[str], by: str) -> Iterator[str]:
    return (by + line for line in lines)


def _explicit_job(job: Job) -> list[str]:
    inputs = []
    if job.conflicts:
        inputs += ["        conflicts=ancient(", "            ["]
        inputs += [f"                {literal(path)}," for path in job.conflicts]
        inputs += ["            ]", "        ),"]
    if job.upstream:
        inputs += ["        upstream=["]
        inputs += [f"            {literal(path)}," for path in job.upstream]
        inputs += ["        ],"]
    name = f"{job.task.slug}_p{job.phase}_{index_name(job.index).replace('-', '_')}"
    return [
        f"rule {name}:",
        *(["    input:", *inputs] if inputs else []),
        "    output:",
        f"        {literal(job.sentinel)},",
        "    log:",
        f"        {literal(job.log)},",
        *_settings(job.task),
        "",
        "",
    ]


def _explicit_aggregates(plan: Plan, task: PlannedTask) -> list[str]:
    lines: list[str] = []
    root = plan.paths.task(task.slug)
    nodes = [
        (task.slug, "tree", str(level + 1), f"{node}.json")
        for level, count in enumerate(task.aggregates.levels)
        for node in range(count)
    ]
    for parts in [*nodes, (task.slug, "done.json")]:
        below = aggregate_inputs(plan.paths, task, task.aggregates, parts)
        stem = [p.removesuffix(".json") for p in parts[1:]]
        text = "[\n" + "".join(f"            {literal(str(p))},\n" for p in below) + "        ],"
        name = f"{task.slug}_done" if stem == ["done"] else f"{task.slug}_tree{stem[1]}_{stem[2]}"
        lines += _aggregate_rule(
            task,
            name,
            text,
            str(plan.paths.root.joinpath(*parts)),
            f"{root}/logs/{'-'.join(stem)}.log",
        )
    return lines
