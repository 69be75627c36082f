"""Identities, key stores, sealed data, signed claims, key rotation, the roster, and backups."""
