"""Quality gate: check that records fit the study and look plausible.

``flo.clients.sources`` supplies cells. This package converts them to numbers and codes, and checks
them before approval, on the hospital's machine. Findings are shown on the hospital's own screen
only. A finding names the column, the rule, the rows and their number, and no value except that of a
label that is the same in every record. No module here opens a data file or sends data.
"""
