"""Compliance evidence, and growing into AWS: templates, the SageMaker entry point, KMS keys.

``evidence`` says what law asks for and what proves it in one installation. The rest is not here
yet; one machine is the embedded default and needs none of it.
"""
