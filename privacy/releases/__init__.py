"""Releases other than gradients: sums for evaluation, statistics, regressions, second moments."""
