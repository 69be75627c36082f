"""The coordinator: Flower's SuperLink behind FLO's gateway, rounds, aggregation.

What it decides: who may connect, which round is next, what the published model is.
What it leaves to others: every privacy decision (``flo.privacy``), everything that touches a
patient (``flo.clients``). It never imports ``flo.clients``.
"""
