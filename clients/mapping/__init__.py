"""Mappings from a hospital's fields to a study's columns: drafted, stored, inspected."""
