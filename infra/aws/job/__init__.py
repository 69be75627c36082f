"""The program of a training job: one run of a study, aggregated away from the coordinator.

    entry      the job's own process: SuperExec, its end, SIGTERM, the failure file
    app        the ServerApp that SuperExec starts in it
    runner     the same job without SageMaker: it executes a recorded request unchanged

``flo.infra.aws.job_contract`` is the container contract: file locations and exit codes.
"""
