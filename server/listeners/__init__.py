"""The two ports, and which calls each of them accepts."""
