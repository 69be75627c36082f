"""The audit log: entries, their hash chain, its verification, a limit on what others cause."""
