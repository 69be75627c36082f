"""Identities, key stores, sealed data, signed claims, key rotation and encrypted backups."""
