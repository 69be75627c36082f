"""TLS server, ASGI plumbing, connection tracking, tokens, roles, metrics."""
