"""AWS, by configuration: one adapter for each service, and nothing decided here.

    clients     boto3 clients, and what their errors mean in FLO's words
    kms         the key store whose key never leaves KMS
    s3          the artifact store in a bucket
    jobs        SageMaker training jobs: what is asked for, and how they are
    job/        what runs inside such a job, here or in SageMaker

Nothing of AWS is imported unless a folder's configuration names it (extra ``aws``).
"""
