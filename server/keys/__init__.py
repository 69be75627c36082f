"""The certificate authority, and the studies' keys."""
