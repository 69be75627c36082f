"""Sources of a hospital's patient records: one interface, and one module for each system.

A source only reads. It yields cells in batches, under the study's column names; the mapping says
which field is which column. ``flo.clients.quality`` checks what a cell must be and whether it looks
right. No source sends, changes or stores data.
"""
