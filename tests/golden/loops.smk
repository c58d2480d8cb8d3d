# Made by snakemake-blocks 1.2.3 from pipeline.yaml, plan FINGERPRINT.
# Do not edit; change the pipeline and generate again.
from snakemake_blocks.rules import Rules

blocks = Rules("blocks", plan="FINGERPRINT")

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


# smooth: 6 blocks in 6 jobs
for phase in range(1):

    rule:
        name:
            f"smooth_p{phase}"
        input:
            conflicts=ancient(blocks.conflicts("smooth")),
            upstream=blocks.upstream("smooth"),
        output:
            f"blocks/smooth/p{phase}/{{job}}.json",
        log:
            "blocks/smooth/logs/{job}.log",
        wildcard_constraints:
            job="[0-9]+-[0-9]+/[0-9]+-[0-9]+",
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
        blocks.top("smooth"),
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


# objects: 21 blocks in 12 jobs
for phase in range(4):

    rule:
        name:
            f"objects_p{phase}"
        input:
            conflicts=ancient(blocks.conflicts("objects")),
            upstream=blocks.upstream("objects"),
        output:
            f"blocks/objects/p{phase}/{{job}}.json",
        log:
            "blocks/objects/logs/{job}.log",
        wildcard_constraints:
            job="[0-9]+-[0-9]+/[0-9]+-[0-9]+",
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
        blocks.top("objects"),
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


# count: 2 blocks in 2 jobs
for phase in range(1):

    rule:
        name:
            f"count_p{phase}"
        input:
            conflicts=ancient(blocks.conflicts("count")),
            upstream=blocks.upstream("count"),
        output:
            f"blocks/count/p{phase}/{{job}}.json",
        log:
            "blocks/count/logs/{job}.log",
        wildcard_constraints:
            job="[0-9]+-[0-9]+/[0-9]+-[0-9]+",
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
        blocks.top("count"),
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
