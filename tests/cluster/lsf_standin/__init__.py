"""A stand-in for LSF: its commands as far as snakemake-executor-plugin-lsf 0.3.3 uses them.

This is not LSF. There is no daemon: the commands and the process that runs a job (`runner`) share a
state directory (`book`), and whoever changes it starts what fits into the free slots. Standard
library only.
"""
