"""The coordinator's folder and its configuration."""
