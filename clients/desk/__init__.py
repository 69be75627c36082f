"""Steward's desk: web pages on the hospital's own machine, for users of the site's folder.

``access`` admits the steward's browser, ``routes`` and the ``_pages`` modules answer it, ``facts``
collects the values to show, and ``serve`` runs the server; the layout is in ``flo.pages``. The desk
does what the commands of ``flo site`` do, through the same functions, and makes no own decisions.
"""
