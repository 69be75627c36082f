"""Adapters to AWS services, used by configuration only; they take no decisions.

    flo.yaml    the account as one CloudFormation template; promises.guard: what it promises
    stack       plan, deploy, follow and destroy it; costs: a month's bill, by prices.toml
    study_roles a role for each study's jobs
    sleeping    the coordinator's machine and network stopped and started; awake: when
    clients     boto3 clients, and translation of their errors
    kms         keys that never leave KMS: a key store, and a signer
    s3          the artifact store in a bucket
    sagemaker   training jobs: request, start and state
    job/        the program of such a job, on this machine or in SageMaker
    registry    SageMaker's model registry; archives: its tar.gz
    serving/    doors to a hospital's own models: a Lambda function, a SageMaker endpoint

AWS libraries are imported only if a folder's configuration names AWS (extra ``aws``).
"""
