"""Versions of one model, compared on this hospital's own patients while they are in use.

It says which versions are compared, which patient gets whose answer, and what the outcomes show.
`clients.serving` answers; which version is in use is decided in `clients.prediction`.
"""
