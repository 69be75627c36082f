"""The fault bench: a federation of real processes under seeded faults, and what must hold after."""
