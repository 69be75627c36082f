"""`flo aws`: a coordinator in an AWS account, awake only when it is needed."""

from __future__ import annotations

from flo.cli.aws import advise, roles, sleeping, stack

PARTS = (stack.app, sleeping.app, roles.app, advise.app)
"""In the order of ``flo aws --help``."""
