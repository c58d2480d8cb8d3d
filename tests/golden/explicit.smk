# Made by snakemake-blocks 1.2.3 from pipeline.yaml, plan FINGERPRINT.
# Do not edit; change the pipeline and generate again.
import shlex
import sys
from pathlib import Path

# Jobs find the snakemake-blocks beside this Python, and notice when Snakemake dies.
shell.prefix(
    f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH "
    "SNAKEMAKE_BLOCKS_CONDUCTOR=$PPID; "
)

workflow.register_resource("objects_workers", 3)


localrules:
    all,
    smooth_done,
    objects_done,
    count_done,


rule all:
    input:
        "blocks/smooth/done.json",
        "blocks/objects/done.json",
        "blocks/count/done.json",


rule smooth_p0_0_0:
    output:
        "blocks/smooth/p0/0-0/0-0.json",
    log:
        "blocks/smooth/logs/0-0/0-0.log",
    priority: 2
    retries: 0 if workflow.remote_exec else 2
    conda:
        "envs/blocks.yaml"
    threads: 2
    resources:
        attempt=lambda wildcards, attempt: attempt,
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        queue='a "b"',
        runtime=lambda wildcards, attempt: 30 * attempt,
    shell:
        "snakemake-blocks work {output:q} --attempt {resources.attempt} > {log:q} 2>&1"


rule smooth_p0_0_1:
    output:
        "blocks/smooth/p0/0-0/0-1.json",
    log:
        "blocks/smooth/logs/0-0/0-1.log",
    priority: 2
    retries: 0 if workflow.remote_exec else 2
    conda:
        "envs/blocks.yaml"
    threads: 2
    resources:
        attempt=lambda wildcards, attempt: attempt,
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        queue='a "b"',
        runtime=lambda wildcards, attempt: 30 * attempt,
    shell:
        "snakemake-blocks work {output:q} --attempt {resources.attempt} > {log:q} 2>&1"


rule smooth_p0_1_0:
    output:
        "blocks/smooth/p0/0-0/1-0.json",
    log:
        "blocks/smooth/logs/0-0/1-0.log",
    priority: 2
    retries: 0 if workflow.remote_exec else 2
    conda:
        "envs/blocks.yaml"
    threads: 2
    resources:
        attempt=lambda wildcards, attempt: attempt,
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        queue='a "b"',
        runtime=lambda wildcards, attempt: 30 * attempt,
    shell:
        "snakemake-blocks work {output:q} --attempt {resources.attempt} > {log:q} 2>&1"


rule smooth_p0_1_1:
    output:
        "blocks/smooth/p0/0-0/1-1.json",
    log:
        "blocks/smooth/logs/0-0/1-1.log",
    priority: 2
    retries: 0 if workflow.remote_exec else 2
    conda:
        "envs/blocks.yaml"
    threads: 2
    resources:
        attempt=lambda wildcards, attempt: attempt,
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        queue='a "b"',
        runtime=lambda wildcards, attempt: 30 * attempt,
    shell:
        "snakemake-blocks work {output:q} --attempt {resources.attempt} > {log:q} 2>&1"


rule smooth_p0_2_0:
    output:
        "blocks/smooth/p0/0-0/2-0.json",
    log:
        "blocks/smooth/logs/0-0/2-0.log",
    priority: 2
    retries: 0 if workflow.remote_exec else 2
    conda:
        "envs/blocks.yaml"
    threads: 2
    resources:
        attempt=lambda wildcards, attempt: attempt,
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        queue='a "b"',
        runtime=lambda wildcards, attempt: 30 * attempt,
    shell:
        "snakemake-blocks work {output:q} --attempt {resources.attempt} > {log:q} 2>&1"


rule smooth_p0_2_1:
    output:
        "blocks/smooth/p0/0-0/2-1.json",
    log:
        "blocks/smooth/logs/0-0/2-1.log",
    priority: 2
    retries: 0 if workflow.remote_exec else 2
    conda:
        "envs/blocks.yaml"
    threads: 2
    resources:
        attempt=lambda wildcards, attempt: attempt,
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        queue='a "b"',
        runtime=lambda wildcards, attempt: 30 * attempt,
    shell:
        "snakemake-blocks work {output:q} --attempt {resources.attempt} > {log:q} 2>&1"


rule smooth_done:
    input:
        [
            "blocks/smooth/p0/0-0/0-0.json",
            "blocks/smooth/p0/0-0/0-1.json",
            "blocks/smooth/p0/0-0/1-0.json",
            "blocks/smooth/p0/0-0/1-1.json",
            "blocks/smooth/p0/0-0/2-0.json",
            "blocks/smooth/p0/0-0/2-1.json",
        ],
    output:
        "blocks/smooth/done.json",
    log:
        "blocks/smooth/logs/done.log",
    priority: 2
    retries: 0 if workflow.remote_exec else 2
    conda:
        "envs/blocks.yaml"
    threads: 1
    resources:
        attempt=lambda wildcards, attempt: attempt,
    shell:
        "snakemake-blocks work {output:q} --attempt {resources.attempt} > {log:q} 2>&1"


rule objects_p0_0_0:
    input:
        upstream=[
            "blocks/smooth/p0/0-0/0-0.json",
            "blocks/smooth/p0/0-0/1-0.json",
        ],
    output:
        "blocks/objects/p0/0-0/0-0.json",
    log:
        "blocks/objects/logs/0-0/0-0.log",
    priority: 1
    retries: 0 if workflow.remote_exec else 2
    conda:
        "envs/blocks.yaml"
    threads: 2
    resources:
        attempt=lambda wildcards, attempt: attempt,
        objects_workers=2,
    shell:
        "snakemake-blocks work {output:q} --attempt {resources.attempt} > {log:q} 2>&1"


rule objects_p0_0_2:
    input:
        upstream=[
            "blocks/smooth/p0/0-0/0-0.json",
            "blocks/smooth/p0/0-0/0-1.json",
            "blocks/smooth/p0/0-0/1-0.json",
            "blocks/smooth/p0/0-0/1-1.json",
        ],
    output:
        "blocks/objects/p0/0-0/0-2.json",
    log:
        "blocks/objects/logs/0-0/0-2.log",
    priority: 1
    retries: 0 if workflow.remote_exec else 2
    conda:
        "envs/blocks.yaml"
    threads: 2
    resources:
        attempt=lambda wildcards, attempt: attempt,
        objects_workers=2,
    shell:
        "snakemake-blocks work {output:q} --attempt {resources.attempt} > {log:q} 2>&1"


rule objects_p0_2_0:
    input:
        upstream=[
            "blocks/smooth/p0/0-0/1-0.json",
            "blocks/smooth/p0/0-0/2-0.json",
        ],
    output:
        "blocks/objects/p0/0-0/2-0.json",
    log:
        "blocks/objects/logs/0-0/2-0.log",
    priority: 1
    retries: 0 if workflow.remote_exec else 2
    conda:
        "envs/blocks.yaml"
    threads: 2
    resources:
        attempt=lambda wildcards, attempt: attempt,
        objects_workers=2,
    shell:
        "snakemake-blocks work {output:q} --attempt {resources.attempt} > {log:q} 2>&1"


rule objects_p0_2_2:
    input:
        upstream=[
            "blocks/smooth/p0/0-0/1-0.json",
            "blocks/smooth/p0/0-0/1-1.json",
            "blocks/smooth/p0/0-0/2-0.json",
            "blocks/smooth/p0/0-0/2-1.json",
        ],
    output:
        "blocks/objects/p0/0-0/2-2.json",
    log:
        "blocks/objects/logs/0-0/2-2.log",
    priority: 1
    retries: 0 if workflow.remote_exec else 2
    conda:
        "envs/blocks.yaml"
    threads: 2
    resources:
        attempt=lambda wildcards, attempt: attempt,
        objects_workers=2,
    shell:
        "snakemake-blocks work {output:q} --attempt {resources.attempt} > {log:q} 2>&1"


rule objects_p1_0_1:
    input:
        conflicts=ancient(
            [
                "blocks/objects/p0/0-0/0-0.json",
                "blocks/objects/p0/0-0/0-2.json",
            ]
        ),
        upstream=[
            "blocks/smooth/p0/0-0/0-0.json",
            "blocks/smooth/p0/0-0/0-1.json",
            "blocks/smooth/p0/0-0/1-0.json",
            "blocks/smooth/p0/0-0/1-1.json",
        ],
    output:
        "blocks/objects/p1/0-0/0-1.json",
    log:
        "blocks/objects/logs/0-0/0-1.log",
    priority: 1
    retries: 0 if workflow.remote_exec else 2
    conda:
        "envs/blocks.yaml"
    threads: 2
    resources:
        attempt=lambda wildcards, attempt: attempt,
        objects_workers=2,
    shell:
        "snakemake-blocks work {output:q} --attempt {resources.attempt} > {log:q} 2>&1"


rule objects_p1_0_3:
    input:
        conflicts=ancient(
            [
                "blocks/objects/p0/0-0/0-2.json",
            ]
        ),
        upstream=[
            "blocks/smooth/p0/0-0/0-1.json",
            "blocks/smooth/p0/0-0/1-1.json",
        ],
    output:
        "blocks/objects/p1/0-0/0-3.json",
    log:
        "blocks/objects/logs/0-0/0-3.log",
    priority: 1
    retries: 0 if workflow.remote_exec else 2
    conda:
        "envs/blocks.yaml"
    threads: 2
    resources:
        attempt=lambda wildcards, attempt: attempt,
        objects_workers=2,
    shell:
        "snakemake-blocks work {output:q} --attempt {resources.attempt} > {log:q} 2>&1"


rule objects_p1_2_1:
    input:
        conflicts=ancient(
            [
                "blocks/objects/p0/0-0/2-0.json",
                "blocks/objects/p0/0-0/2-2.json",
            ]
        ),
        upstream=[
            "blocks/smooth/p0/0-0/2-0.json",
            "blocks/smooth/p0/0-0/2-1.json",
        ],
    output:
        "blocks/objects/p1/0-0/2-1.json",
    log:
        "blocks/objects/logs/0-0/2-1.log",
    priority: 1
    retries: 0 if workflow.remote_exec else 2
    conda:
        "envs/blocks.yaml"
    threads: 2
    resources:
        attempt=lambda wildcards, attempt: attempt,
        objects_workers=2,
    shell:
        "snakemake-blocks work {output:q} --attempt {resources.attempt} > {log:q} 2>&1"


rule objects_p1_2_3:
    input:
        conflicts=ancient(
            [
                "blocks/objects/p0/0-0/2-2.json",
            ]
        ),
        upstream=[
            "blocks/smooth/p0/0-0/1-1.json",
            "blocks/smooth/p0/0-0/2-1.json",
        ],
    output:
        "blocks/objects/p1/0-0/2-3.json",
    log:
        "blocks/objects/logs/0-0/2-3.log",
    priority: 1
    retries: 0 if workflow.remote_exec else 2
    conda:
        "envs/blocks.yaml"
    threads: 2
    resources:
        attempt=lambda wildcards, attempt: attempt,
        objects_workers=2,
    shell:
        "snakemake-blocks work {output:q} --attempt {resources.attempt} > {log:q} 2>&1"


rule objects_p2_1_1:
    input:
        conflicts=ancient(
            [
                "blocks/objects/p1/0-0/0-1.json",
                "blocks/objects/p1/0-0/2-1.json",
            ]
        ),
        upstream=[
            "blocks/smooth/p0/0-0/0-0.json",
            "blocks/smooth/p0/0-0/0-1.json",
            "blocks/smooth/p0/0-0/1-0.json",
            "blocks/smooth/p0/0-0/1-1.json",
            "blocks/smooth/p0/0-0/2-0.json",
            "blocks/smooth/p0/0-0/2-1.json",
        ],
    output:
        "blocks/objects/p2/0-0/1-1.json",
    log:
        "blocks/objects/logs/0-0/1-1.log",
    priority: 1
    retries: 0 if workflow.remote_exec else 2
    conda:
        "envs/blocks.yaml"
    threads: 2
    resources:
        attempt=lambda wildcards, attempt: attempt,
        objects_workers=2,
    shell:
        "snakemake-blocks work {output:q} --attempt {resources.attempt} > {log:q} 2>&1"


rule objects_p2_1_3:
    input:
        conflicts=ancient(
            [
                "blocks/objects/p1/0-0/0-3.json",
                "blocks/objects/p1/0-0/2-3.json",
            ]
        ),
        upstream=[
            "blocks/smooth/p0/0-0/0-1.json",
            "blocks/smooth/p0/0-0/1-1.json",
            "blocks/smooth/p0/0-0/2-1.json",
        ],
    output:
        "blocks/objects/p2/0-0/1-3.json",
    log:
        "blocks/objects/logs/0-0/1-3.log",
    priority: 1
    retries: 0 if workflow.remote_exec else 2
    conda:
        "envs/blocks.yaml"
    threads: 2
    resources:
        attempt=lambda wildcards, attempt: attempt,
        objects_workers=2,
    shell:
        "snakemake-blocks work {output:q} --attempt {resources.attempt} > {log:q} 2>&1"


rule objects_p3_1_0:
    input:
        conflicts=ancient(
            [
                "blocks/objects/p2/0-0/1-1.json",
            ]
        ),
        upstream=[
            "blocks/smooth/p0/0-0/0-0.json",
            "blocks/smooth/p0/0-0/1-0.json",
            "blocks/smooth/p0/0-0/2-0.json",
        ],
    output:
        "blocks/objects/p3/0-0/1-0.json",
    log:
        "blocks/objects/logs/0-0/1-0.log",
    priority: 1
    retries: 0 if workflow.remote_exec else 2
    conda:
        "envs/blocks.yaml"
    threads: 2
    resources:
        attempt=lambda wildcards, attempt: attempt,
        objects_workers=2,
    shell:
        "snakemake-blocks work {output:q} --attempt {resources.attempt} > {log:q} 2>&1"


rule objects_p3_1_2:
    input:
        conflicts=ancient(
            [
                "blocks/objects/p2/0-0/1-1.json",
                "blocks/objects/p2/0-0/1-3.json",
            ]
        ),
        upstream=[
            "blocks/smooth/p0/0-0/0-0.json",
            "blocks/smooth/p0/0-0/0-1.json",
            "blocks/smooth/p0/0-0/1-0.json",
            "blocks/smooth/p0/0-0/1-1.json",
            "blocks/smooth/p0/0-0/2-0.json",
            "blocks/smooth/p0/0-0/2-1.json",
        ],
    output:
        "blocks/objects/p3/0-0/1-2.json",
    log:
        "blocks/objects/logs/0-0/1-2.log",
    priority: 1
    retries: 0 if workflow.remote_exec else 2
    conda:
        "envs/blocks.yaml"
    threads: 2
    resources:
        attempt=lambda wildcards, attempt: attempt,
        objects_workers=2,
    shell:
        "snakemake-blocks work {output:q} --attempt {resources.attempt} > {log:q} 2>&1"


rule objects_done:
    input:
        [
            "blocks/objects/p0/0-0/0-0.json",
            "blocks/objects/p1/0-0/0-1.json",
            "blocks/objects/p0/0-0/0-2.json",
            "blocks/objects/p1/0-0/0-3.json",
            "blocks/objects/p3/0-0/1-0.json",
            "blocks/objects/p2/0-0/1-1.json",
            "blocks/objects/p3/0-0/1-2.json",
            "blocks/objects/p2/0-0/1-3.json",
            "blocks/objects/p0/0-0/2-0.json",
            "blocks/objects/p1/0-0/2-1.json",
            "blocks/objects/p0/0-0/2-2.json",
            "blocks/objects/p1/0-0/2-3.json",
        ],
    output:
        "blocks/objects/done.json",
    log:
        "blocks/objects/logs/done.log",
    priority: 1
    retries: 0 if workflow.remote_exec else 2
    conda:
        "envs/blocks.yaml"
    threads: 1
    resources:
        attempt=lambda wildcards, attempt: attempt,
    shell:
        "snakemake-blocks work {output:q} --attempt {resources.attempt} > {log:q} 2>&1"


rule count_p0_0_0:
    input:
        upstream=[
            "blocks/objects/p0/0-0/0-0.json",
            "blocks/objects/p1/0-0/0-1.json",
            "blocks/objects/p0/0-0/0-2.json",
            "blocks/objects/p1/0-0/0-3.json",
            "blocks/objects/p3/0-0/1-0.json",
            "blocks/objects/p2/0-0/1-1.json",
            "blocks/objects/p3/0-0/1-2.json",
            "blocks/objects/p2/0-0/1-3.json",
        ],
    output:
        "blocks/count/p0/0-0/0-0.json",
    log:
        "blocks/count/logs/0-0/0-0.log",
    priority: 0
    retries: 0 if workflow.remote_exec else 2
    conda:
        "envs/blocks.yaml"
    threads: 1
    resources:
        attempt=lambda wildcards, attempt: attempt,
    shell:
        "snakemake-blocks work {output:q} --attempt {resources.attempt} > {log:q} 2>&1"


rule count_p0_1_0:
    input:
        upstream=[
            "blocks/objects/p3/0-0/1-0.json",
            "blocks/objects/p2/0-0/1-1.json",
            "blocks/objects/p3/0-0/1-2.json",
            "blocks/objects/p2/0-0/1-3.json",
            "blocks/objects/p0/0-0/2-0.json",
            "blocks/objects/p1/0-0/2-1.json",
            "blocks/objects/p0/0-0/2-2.json",
            "blocks/objects/p1/0-0/2-3.json",
        ],
    output:
        "blocks/count/p0/0-0/1-0.json",
    log:
        "blocks/count/logs/0-0/1-0.log",
    priority: 0
    retries: 0 if workflow.remote_exec else 2
    conda:
        "envs/blocks.yaml"
    threads: 1
    resources:
        attempt=lambda wildcards, attempt: attempt,
    shell:
        "snakemake-blocks work {output:q} --attempt {resources.attempt} > {log:q} 2>&1"


rule count_done:
    input:
        [
            "blocks/count/p0/0-0/0-0.json",
            "blocks/count/p0/0-0/1-0.json",
        ],
    output:
        "blocks/count/done.json",
    log:
        "blocks/count/logs/done.log",
    priority: 0
    retries: 0 if workflow.remote_exec else 2
    conda:
        "envs/blocks.yaml"
    threads: 1
    resources:
        attempt=lambda wildcards, attempt: attempt,
    shell:
        "snakemake-blocks work {output:q} --attempt {resources.attempt} > {log:q} 2>&1"
