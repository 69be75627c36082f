"""Gradients per patient, clipped and summed, with patients kept independent."""
