"""The steward's desk: pages on the hospital's own machine, for whoever uses the site's folder.

``guard`` lets one browser in, ``routes`` and the ``_pages`` answer it, ``facts`` says what is
shown, ``serve`` keeps it there; the look is ``flo.pages``. It does what the commands of
``flo site`` do, by the same functions: nothing is decided here.
"""
