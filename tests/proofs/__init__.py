"""Statistical promises, each compared with the exact truth: ``python -m tests.proofs``.

Every coverage, size, power or false-alarm rate that FLO states anywhere is a row here. Patients are
real and models are trained by FLO itself; the data sets of ``hospitals.GENERAL`` had no part in any
choice. Whether a function computes what it should is for the other tests.
"""
