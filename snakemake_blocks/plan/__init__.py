"""The plan: jobs, what they need, how they are named on disk."""
