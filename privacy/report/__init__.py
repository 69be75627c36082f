"""Documents for people: review sheet, budget view, ledger extract, report."""
