"""Private learning: mechanisms, accounting, the ledger, the report.

Unit: one patient within one hospital. Adjacency: add or remove one patient.
This package uses no network, no Flower and no files except the ledger's own database.
"""
