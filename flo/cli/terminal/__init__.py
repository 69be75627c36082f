"""How commands read options, print, follow progress and return results."""
