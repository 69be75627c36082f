"""Use of a published model, offline."""
