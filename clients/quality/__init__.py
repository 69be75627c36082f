"""The quality gate: do these records fit the study, and do they look like what they should be.

Cells come from ``flo.clients.sources``; here they become numbers and codes, and are judged. All of
it runs before approval, on the hospital's machine, and is shown on its own screen only: a finding
names column, rule, rows and their number, never a value. Nothing here reads files or sends.
"""
