"""Bytes that are parsed, hashed or signed: canonical JSON, TOML, frozen documents, text."""
