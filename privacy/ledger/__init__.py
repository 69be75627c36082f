"""The append-only, signed record of releases, and the rules for reservations in it."""
