"""The coordinator: Flower's SuperLink behind FLO's gateway, rounds, aggregation.

It decides who may connect, which round is next and what the published model is. Privacy decisions
are in ``flo.privacy``; code that handles patient data is in ``flo.clients``, which this package
never imports.
"""
