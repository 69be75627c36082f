"""Listeners for HTTP: TLS, and limits on connections, heads and bodies, whoever listens.

Who may call, and what is answered, is the business of the rooms that listen.
"""
