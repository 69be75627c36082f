"""The coordinator's console: pages on the private listener, for people with a token.

``sign_in`` authenticates people, ``routes`` and the ``*_pages`` modules answer requests, and
``view`` computes the displayed facts; layout and style are in ``flo.pages``.
``flo.server.http.roles`` says which role may do what, ``flo.server.studies.actions`` does it. The
console has no patient data, and no page decides anything.
"""
