"""Opt-outs, erasure, and continuity of patients' ids."""
