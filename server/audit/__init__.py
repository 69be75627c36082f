"""Audit entries that remote parties cause, rate-limited, and copies of the log."""
