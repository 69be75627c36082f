"""Hardened units for systemd: the minimal rights of an agent or coordinator on its machine."""
