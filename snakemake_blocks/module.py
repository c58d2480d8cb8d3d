"""The name that workflow/Snakefile imports."""

from snakemake_blocks.commands.module_rules import module_rules

__all__ = ["module_rules"]
