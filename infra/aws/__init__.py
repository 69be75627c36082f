"""AWS, by configuration: one adapter for each service, and nothing decided here.

    flo.yaml    the account as one CloudFormation template; promises.guard: what it promises
    stack       plan, deploy, follow and destroy it; costs: what a month of it costs
    clients     boto3 clients, and what their errors mean in FLO's words
    kms         keys that never leave KMS: a key store, and a signer
    s3          the artifact store in a bucket
    sagemaker   training jobs: what is asked for, and how they are; submit sends the request
    job/        what runs inside such a job, here or in SageMaker
    registry    SageMaker's model registry

Nothing of AWS is imported unless a folder's configuration names it (extra ``aws``).
"""
