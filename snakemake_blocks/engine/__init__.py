"""What stands between a plan and Snakemake."""
