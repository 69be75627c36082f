"""Simulations of studies on one machine, on data that may be seen, before a real run.

This package runs a whole federation in one process and describes the result: AUC, interval, noise,
each hospital's benefit, advice, an attack. It has no rounds, sites or noise of its own: it uses
those of a real run (``flo.server``, ``flo.clients``, ``flo.privacy``).
"""
