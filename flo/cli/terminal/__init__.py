"""Shared parts of commands: options, output, progress, results."""
