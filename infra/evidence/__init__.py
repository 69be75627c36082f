"""The evidence pack: what HIPAA and GDPR ask for, the mechanism, and what proves it *here*.

``facts`` reads an installation; ``rows`` is the table and decides what a fact proves; ``pack``
signs it, draws it, and verifies it. A row without evidence says "not shown". No row claims
certification.
"""
