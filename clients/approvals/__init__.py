"""Decisions on a study: approved, declined, withdrawn; approvers, fingerprints, yearly limit."""
