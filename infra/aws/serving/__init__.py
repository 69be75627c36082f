"""Doors to a hospital's own models in its own AWS account: a Lambda function, a SageMaker endpoint.

Patients' records go there, so the account is the hospital's, never the coordinator's. Rules of what
may be deployed are in ``flo.clients.cloud``.
"""
