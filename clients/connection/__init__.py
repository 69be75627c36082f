"""Everything that calls the coordinator."""
