"""Carbon of a run's electricity: intensity of grids, when to start, grams. Who starts runs is in
``flo.server.runs``.
"""
