"""The text of a Snakefile: for a plan, with loops or a rule per job, and as a module."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from snakemake_blocks.engine.input_functions import all_resources, job_pattern
from snakemake_blocks.errors import PlanError
from snakemake_blocks.geometry.aggregates import Aggregate
from snakemake_blocks.plan.paths import index_name
from snakemake_blocks.plan.plan import Job, Plan, PlannedTask
from snakemake_blocks.state.completion import aggregate_inputs
from snakemake_blocks.system.quoting import comment, literal
from snakemake_blocks.tasks.resources import grows
from snakemake_blocks.work.stop_reasons import CONDUCTOR

__all__ = [
    "COMMAND",
    "MADE_BY",
    "conda_environment",
    "explicit_snakefile",
    "module_snakefile",
    "snakefile",
]

# The same bytes in all layouts, so that switching between them re-runs nothing.
COMMAND = "snakemake-blocks work {output:q} --attempt {resources.attempt} > {log:q} 2>&1"
MADE_BY = "# Made by snakemake-blocks"
"""How a Snakefile begins that may be made again."""

JOB_RETRIES = 2
_EXPLICIT_JOBS = 2000
_ATTEMPT = "attempt=lambda wildcards, attempt: attempt"


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
    parts = [part for task in plan.tasks.values() for part in _task_rules(here, task)]
    return _text(head, parts)


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
    rules = []
    for task in plan.tasks.values():
        rules += [_explicit_job(job) for job in here.jobs(task.name)]
        rules += [_explicit_aggregate(here, task, aggregate) for aggregate in task.aggregates]
    return _text(lines, rules)


def module_snakefile() -> str:
    """Return workflow/Snakefile: the rules of whatever pipeline its config names."""
    root = "{blocks.root}/{task.slug}"
    words = _Words("task.name", "{task.slug}", root, "blocks.priority(task.name)")
    job = words.job(
        phases="task.num_phases",
        pattern="blocks.job_pattern(task)",
        threads="task.budget.cores",
        resources=["**blocks.resources(task)", _ATTEMPT],
    )
    node = words.aggregate("tree{level}", "blocks.below(task.name, level)", "tree/{level}/{{node}}")
    tree = ["for level in range(1, len(task.aggregates.levels) + 1):", "", *_in(node)]
    top = words.aggregate("done", "blocks.top(task.name)", "done")
    per_task = [*job, "", *tree, "", *top]
    return "\n".join([*_MODULE_HEAD, "for task in blocks.tasks:", *_in(per_task)]) + "\n"


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
        if explicit:
            names += [_name_of(task, aggregate) for aggregate in task.aggregates]
        else:
            levels = range(1, task.aggregates.top.level)
            names += [*(f"{task.slug}_tree{level}" for level in levels), f"{task.slug}_done"]
    return ["", "localrules:", *(f"    {name}," for name in names), "", ""]


def _all_rule(plan: Plan) -> list[str]:
    targets = [f"        {literal(str(plan.paths.done(t.slug)))}," for t in plan.tasks.values()]
    return ["rule all:", "    input:", *targets]


def _rule(
    head: Sequence[str],
    *,
    inputs: Sequence[str],
    output: str,
    log: str,
    priority: str,
    constraint: str = "",
    threads: str = "1",
    resources: Sequence[str] = (_ATTEMPT,),
    is_local: bool = False,
) -> list[str]:
    """Return one rule: what all rules of all layouts have in common stands here alone.

    Parameters
    ----------
    head : sequence of str
        Its first lines.
    inputs, output, log, priority, constraint, threads, resources : str or sequence of str
        Python as it is to stand there.
    is_local : bool
        It says of itself that it runs where Snakemake does.
    """
    # A remote job runs Snakemake again, where a rule's retries beat its --retries 0: they would
    # multiply, and what was drained before the walltime would begin again just before it.
    retries = f"    retries: 0 if workflow.remote_exec else {JOB_RETRIES}"
    return [
        *head,
        *_entry("input", inputs),
        *_entry("output", [output]),
        *_entry("log", [log]),
        *_entry("wildcard_constraints", [constraint] if constraint else []),
        f"    priority: {priority}",
        retries,
        *(["    localrule: True"] if is_local else []),
        "    conda:",
        '        "envs/blocks.yaml"',
        f"    threads: {threads}",
        *_entry("resources", resources),
        "    shell:",
        f'        "{COMMAND}"',
    ]


def _entry(key: str, values: Sequence[str]) -> list[str]:
    """Return what a rule says under a key; a value may have several lines."""
    if not values:
        return []
    return [f"    {key}:", *_in(_in([line for v in values for line in f"{v},".split("\n")]))]


def _in(lines: Iterable[str]) -> list[str]:
    return ["    " + line if line else "" for line in lines]


def _text(head: Sequence[str], parts: Iterable[Sequence[str]]) -> str:
    """Return a file; between what stands at the outermost level are two empty lines."""
    return "\n\n\n".join("\n".join(lines) for lines in (head, *parts)) + "\n"


def _quoted(text: str) -> str:
    """Return the content of an f-string as one, or as a plain string if nothing is put in."""
    plain = text.replace("{{", "").replace("}}", "")
    return f'f"{text}"' if "{" in plain else '"' + text.replace("{{", "{").replace("}}", "}") + '"'


@dataclass(frozen=True, slots=True)
class _Words:
    """How the rules of a task, with wildcards, name it.

    Parameters
    ----------
    name : str
        Its name, as Python.
    slug, root : str
        Its slug and its folder, as they stand in an f-string.
    priority : str
        How much sooner its jobs run than those of later tasks, as Python.
    """

    name: str
    slug: str
    root: str
    priority: str

    def job(
        self, *, phases: str, pattern: str, threads: str, resources: Sequence[str]
    ) -> list[str]:
        """Return the loop over the phases, with a rule for the jobs of each."""
        rule = _rule(
            ["rule:", "    name:", f'        f"{self.slug}_p{{phase}}"'],
            inputs=[
                f"conflicts=ancient(blocks.conflicts({self.name}))",
                f"upstream=blocks.upstream({self.name})",
            ],
            output=_quoted(f"{self.root}/p{{phase}}/{{{{job}}}}.json"),
            log=_quoted(f"{self.root}/logs/{{{{job}}}}.log"),
            priority=self.priority,
            constraint=f"job={pattern}",
            threads=threads,
            resources=resources,
        )
        return [f"for phase in range({phases}):", "", *_in(rule)]

    def aggregate(self, rule: str, inputs: str, path: str, *, head: str = "") -> list[str]:
        """Return the rule of aggregates; it has a ``head``, or is made in a loop."""
        heads = [head] if head else ["rule:", "    name:", f'        f"{self.slug}_{rule}"']
        return _rule(
            heads,
            inputs=[inputs],
            output=_quoted(f"{self.root}/{path}.json"),
            log=_quoted(f"{self.root}/logs/{path.replace('/', '-')}.log"),
            priority=self.priority,
            constraint='node="[0-9]+"' if "{node}" in path else "",
            is_local=not head,
        )


def _task_rules(plan: Plan, task: PlannedTask) -> Iterator[list[str]]:
    """Yield the loop over the phases of a task, and the rules of its aggregates."""
    name, slug = literal(task.name), task.slug
    words = _Words(name, slug, str(plan.paths.task(slug)), str(plan.priority(task.name)))
    about = f"# {comment(task.name)}: {task.num_blocks:,} blocks in {task.num_jobs:,} jobs"
    jobs = words.job(
        phases=str(task.num_phases),
        pattern=literal(job_pattern(task)),
        threads=str(task.budget.cores),
        resources=_resources(task),
    )
    yield [about, *jobs]
    for level in range(1, task.aggregates.top.level):
        inputs, path = f"blocks.below({name}, {level})", f"tree/{level}/{{{{node}}}}"
        yield words.aggregate("", inputs, path, head=f"rule {slug}_tree{level}:")
    yield words.aggregate("", f"blocks.top({name})", "done", head=f"rule {slug}_done:")


def _resources(task: PlannedTask) -> list[str]:
    """Return the resources of a task's jobs, as Python."""
    found = [_ATTEMPT]
    for name, value in all_resources(task):
        if grows(name, value):
            text = f"lambda wildcards, attempt: {value} * attempt"
        else:
            text = literal(value) if isinstance(value, str) else repr(value)
        found.append(f"{name}={text}")
    return found


def _listed(paths: Iterable[object]) -> str:
    """Return paths as a list of literals, a line each."""
    return "\n".join(["[", *(f"    {literal(str(path))}," for path in paths), "]"])


def _explicit_job(job: Job) -> list[str]:
    inputs = []
    if job.conflicts:
        listed = "\n".join(_in(_listed(job.conflicts).split("\n")))
        inputs.append(f"conflicts=ancient(\n{listed}\n)")
    if job.upstream:
        inputs.append(f"upstream={_listed(job.upstream)}")
    name = f"{job.task.slug}_p{job.phase}_{index_name(job.index).replace('-', '_')}"
    return _rule(
        [f"rule {name}:"],
        inputs=inputs,
        output=literal(job.sentinel),
        log=literal(job.log),
        priority=str(job.plan.priority(job.task.name)),
        threads=str(job.task.budget.cores),
        resources=_resources(job.task),
    )


def _name_of(task: PlannedTask, aggregate: Aggregate) -> str:
    """Return what the literal rule of an aggregate is called."""
    name = task.aggregates.name(aggregate).replace("tree/", "tree").replace("/", "_")
    return f"{task.slug}_{name}"


def _explicit_aggregate(plan: Plan, task: PlannedTask, aggregate: Aggregate) -> list[str]:
    name = task.aggregates.name(aggregate)
    return _rule(
        [f"rule {_name_of(task, aggregate)}:"],
        inputs=[_listed(aggregate_inputs(plan.paths, task, aggregate))],
        output=literal(str(plan.paths.aggregate(task.slug, name))),
        log=literal(f"{plan.paths.logs(task.slug)}/{name.replace('/', '-')}.log"),
        priority=str(plan.priority(task.name)),
    )


_MODULE_HEAD = (
    "# The blocks of a pipeline as a Snakemake module:",
    "#",
    "#     module blocks:",
    '#         snakefile: "workflow/Snakefile"   # or the one inside the installed package',
    '#         config: {"pipeline": "pipeline.yaml"}',
    "#",
    "#     use rule * from blocks as blocks_*",
    "#",
    "# Any rule may then take blocks/<task>/done.json as an input.",
    "from snakemake_blocks.module import module_rules",
    "",
    "blocks = module_rules(config, workflow)",
    "",
    "",
    "rule all:",
    "    input:",
    "        blocks.targets,",
    "    localrule: True",
    "",
    "",
)
