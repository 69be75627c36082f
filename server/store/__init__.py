"""The coordinator's SQLite tables."""
