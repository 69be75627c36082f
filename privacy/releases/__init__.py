"""Releases other than gradients: counts and sums for evaluation, survey, second moments."""
