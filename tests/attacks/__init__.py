"""Attacks: what a stranger, a hospital, a coordinator or a changed file may try, and the no."""
