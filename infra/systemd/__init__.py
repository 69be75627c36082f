"""Hardened units for systemd: what an agent or coordinator may do on its machine, and no more."""
