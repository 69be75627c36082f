"""Counts and sums that are released besides gradients: evaluation, survey, least squares."""
