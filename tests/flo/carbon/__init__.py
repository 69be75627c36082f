"""Carbon: reading intensities, choosing the hour of a start, grams."""
