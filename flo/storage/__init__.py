"""Durable bytes on one machine: atomic files, SQLite, an artifact store."""
