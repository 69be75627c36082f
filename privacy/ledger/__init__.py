"""The append-only, signed record of releases, and the rules for what may be reserved in it."""
