"""The evidence pack: requirements of HIPAA and GDPR, the mechanism, and the proof *here*.

``facts`` reads an installation; ``requirements`` is the table and decides what a fact proves;
``pack`` signs it, renders it, and verifies it. A row without evidence says "not shown". No row
claims certification.
"""
