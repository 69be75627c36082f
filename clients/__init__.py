"""A hospital's site: a warm agent, a trainer, data checks, policy, approvals.

What it decides: whether this hospital takes part, and what may leave the building.
What it leaves to others: how much noise and what it costs (``flo.privacy``), rounds and
aggregation (``flo.server``, which it never imports).
"""
