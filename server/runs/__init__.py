"""Execution of runs: here or in a job, where their state is stored, when they restart."""
