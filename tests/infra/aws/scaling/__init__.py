"""Advice on serving: traces, forecasts, ways, settings."""
