"""Clusters for tests: a real one-node SLURM, and a stand-in for LSF."""
