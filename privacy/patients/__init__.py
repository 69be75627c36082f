"""The unit of every guarantee: records by patient, and the hold-out split."""
