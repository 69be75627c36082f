"""Growing into AWS: templates, the SageMaker entry point, KMS keys, compliance evidence.

Nothing runs from here yet; one machine is the embedded default and needs none of it.
"""
