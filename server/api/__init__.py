"""Calls for hospitals, operators and jobs."""
