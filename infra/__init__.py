"""Compliance evidence, and growing into AWS.

``evidence`` says what law asks for and what proves it in one installation. ``aws`` has one adapter
for each service, the template and what runs in a training job; ``images`` the Dockerfiles;
``systemd`` hardened units for an agent or coordinator. One machine is the embedded default and
needs none of AWS.
"""
