"""Studies that wait for the steward, and their review."""
