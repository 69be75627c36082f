"""HTTP calls for hospitals, operators and jobs."""
