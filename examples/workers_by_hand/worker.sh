#!/usr/bin/env bash
# One worker: takes jobs that are ready until none is left. Start as many as you like, where you
# like; they need nothing but the files. The lines below are for SLURM and for LSF.
#SBATCH --array=1-4
#SBATCH --time=01:00:00
#SBATCH --mem=2G
#BSUB -J "worker[1-4]"
#BSUB -W 01:00
#BSUB -M 2GB
set -euo pipefail
snakemake-blocks work "${1:-blocks/smooth}"
