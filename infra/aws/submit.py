"""Send one ``CreateTrainingJob`` request through the SageMaker SDK: ``python -m ... REGION``.

The request comes on standard input. This is a separate process because the SDK takes seconds and
200 MB to load, which a coordinator that serves hospitals cannot spare.
"""

from __future__ import annotations

import json
import sys
import warnings
from typing import Any

from flo.errors import FloError, UsageError
from flo.infra.aws.clients import translate_errors

_LIMIT = 1 << 20


def submit(request: dict[str, Any], region: str) -> None:
    """Send the request. Raises FloError with SageMaker's error."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import boto3
            from sagemaker.core.resources import TrainingJob
            from sagemaker.core.utils.utils import pascal_to_snake
    except ImportError as error:
        raise UsageError(
            "the SageMaker SDK is not installed", hint="pip install 'flo-federated[aws]'"
        ) from error

    def snake(value: Any) -> Any:
        if isinstance(value, dict):
            return {pascal_to_snake(name): snake(found) for name, found in value.items()}
        return [snake(found) for found in value] if isinstance(value, list) else value

    asked = {
        pascal_to_snake(name): found if name == "HyperParameters" else snake(found)
        for name, found in request.items()
    }
    with translate_errors(f"creating job {request['TrainingJobName']}"):
        TrainingJob.create(**asked, session=boto3.Session(region_name=region), region=region)


def main() -> int:
    """Return 0, or the exit code of the error, which is written to standard error."""
    try:
        submit(json.loads(sys.stdin.read(_LIMIT)), sys.argv[1])
    except FloError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
