"""A hospital's site: a warm agent, a trainer, data checks, policy, approvals.

This package decides whether the hospital takes part and what may leave the building. It leaves
noise and its cost to ``flo.privacy``, and rounds and aggregation to ``flo.server``, which it never
imports.
"""
