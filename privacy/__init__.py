"""Private learning: mechanisms, accounting, the ledger, the report.

Unit: one patient within one hospital. Adjacency: add or remove one patient.
This room knows no network, no Flower and no files but the ledger's own database.
"""
