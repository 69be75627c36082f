"""Pairwise masks, and the ring in which they cancel."""
