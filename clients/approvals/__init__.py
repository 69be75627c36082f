"""Decisions on a study: approve, refuse, withdraw; approvers, fingerprints, yearly limit."""
