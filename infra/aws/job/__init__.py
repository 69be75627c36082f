"""What runs inside a training job: one run of a study, aggregated far from the coordinator.

contract   the container contract: which files lie where, what an exit code means
entry      the job's own process: SuperExec, its end, SIGTERM, the failure file
app        the ServerApp that SuperExec starts in it
runner     the same job without SageMaker: it executes a recorded request unchanged
"""
