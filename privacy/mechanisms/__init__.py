"""Frozen mechanisms with their proofs, and exact noise."""
