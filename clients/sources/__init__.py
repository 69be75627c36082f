"""Where a hospital's patients are read from: one interface, and one module for each system.

A source only reads. It hands on cells in batches, under the study's column names, and knows of the
mapping which of its fields each of them is. What a cell must be, and whether it looks right, is the
business of ``flo.clients.quality``; nothing here sends, changes or keeps anything.
"""
