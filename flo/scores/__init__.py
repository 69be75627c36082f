"""Exact, not private metrics of scores: AUC, Brier score, calibration, and their errors."""
