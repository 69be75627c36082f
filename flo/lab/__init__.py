"""Trying studies before anyone is asked: on one machine, on data that may be seen.

What it decides: how a whole federation is played in one process, and what is said of the outcome:
AUC, interval, noise, what each hospital has of it, advice, an attack.
What it leaves to others: everything that is played. Rounds (``flo.server``), sites
(``flo.clients``) and noise (``flo.privacy``) are the very ones of a run.
"""
