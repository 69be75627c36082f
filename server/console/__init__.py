"""The coordinator's console: pages on the private listener, for whoever has a token.

``door`` lets people in, ``routes`` and the ``_pages`` answer them, ``studies`` says what is shown;
the look is ``flo.pages``. What a person may do is ``flo.server.http.roles``; how it is done
``flo.server.studies.actions``. Nothing here is known of patients, and no page decides anything by
itself.
"""
