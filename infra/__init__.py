"""Compliance evidence, units for systemd, and adapters to AWS.

``evidence`` lists legal requirements and what proves each of them in one installation. ``aws`` has
one adapter for each service, the template, and the program of a training job. ``images`` has the
Dockerfiles, ``systemd`` hardened units for an agent or coordinator. One machine is the default and
needs no AWS.
"""
