"""FLO: hospitals train one model together and prove what it cost in privacy.

Importing this package loads nothing heavy; pick the room you need:
``flo.study`` (the signed agreement), ``flo.privacy`` (mechanisms, accounting, ledger, report),
``flo.server`` (coordinator), ``flo.clients`` (a hospital's site), ``flo.simulation``.
"""

__version__ = "0.1.0"
