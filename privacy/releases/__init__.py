"""Releases other than gradients: sums for evaluation, survey, statistics, second moments."""
