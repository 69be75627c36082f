"""Permissions on the private listener: one table; any route or action not in it is refused.

``ROUTES`` names the action behind each of FLO's own routes; ``ALLOWED`` says which role may do it.
A test checks every registered route. Only the coordinator's own process may make Flower's control
calls, so no role reaches them. Issuing tokens, inviting and revoking need the coordinator's folder.
"""

from __future__ import annotations

import re
from typing import get_args

from flo.errors import PolicyError
from flo.server.http.tokens import Role

ROLES: tuple[Role, ...] = get_args(Role)

ROUTES: dict[tuple[str, str], str] = {
    ("GET", "/v1/flo/hospitals"): "see hospitals",
    ("GET", "/v1/flo/studies"): "see studies",
    ("GET", "/v1/flo/studies/{digest}"): "see studies",
    ("POST", "/v1/flo/studies"): "launch a study",
    ("POST", "/v1/flo/studies/check"): "check a study",
    ("POST", "/v1/flo/studies/{digest}/stop"): "stop a study",
    ("GET", "/v1/flo/studies/{digest}/extracts"): "fetch extracts",
    ("GET", "/v1/flo/studies/{digest}/heads"): "fetch extracts",
    ("POST", "/v1/flo/studies/{digest}/shred"): "shred a study",
    ("GET", "/v1/flo/studies/{digest}/statistics"): "see studies",
    ("GET", "/v1/flo/studies/{digest}/gate"): "see studies",
    ("GET", "/v1/flo/studies/{digest}/monitor"): "see studies",
    ("GET", "/v1/flo/models"): "see studies",
    ("POST", "/v1/flo/studies/{digest}/model/{step}"): "decide on a model",
    ("GET", "/v1/flo/metrics"): "see metrics",
    ("GET", "/v1/flo/audit"): "export the audit log",
    ("GET", "/console"): "see studies",
    ("GET", "/console/live"): "see studies",
    ("GET", "/console/studies/{digest}"): "see studies",
    ("GET", "/console/studies/{digest}/live"): "see studies",
    ("GET", "/console/studies/{digest}/sheet"): "see studies",
    ("GET", "/console/studies/{digest}/model"): "see studies",
    ("POST", "/console/studies/{digest}/model/{step}"): "decide on a model",
    ("GET", "/console/studies/{digest}/report"): "see studies",
    ("GET", "/console/studies/{digest}/statistics"): "see studies",
    ("GET", "/console/studies/{digest}/statistics/{form}"): "see studies",
    ("GET", "/console/studies/{digest}/files/{file}"): "download a model",
    ("GET", "/console/studies/{digest}/stop"): "stop a study",
    ("POST", "/console/studies/{digest}/stop"): "stop a study",
    ("GET", "/console/studies/{digest}/shred"): "shred a study",
    ("POST", "/console/studies/{digest}/shred"): "shred a study",
    ("GET", "/console/drafts/new"): "launch a study",
    ("POST", "/console/drafts"): "launch a study",
    ("GET", "/console/drafts/{draft}"): "see studies",
    ("GET", "/console/drafts/{draft}/edit"): "launch a study",
    ("POST", "/console/drafts/{draft}/edit"): "launch a study",
    ("POST", "/console/drafts/{draft}/sign"): "launch a study",
    ("POST", "/console/drafts/{draft}/discard"): "launch a study",
    ("GET", "/console/hospitals"): "see hospitals",
    ("GET", "/console/hospitals/live"): "see hospitals",
    ("GET", "/console/audit"): "see the audit log",
    ("GET", "/console/audit/export"): "export the audit log",
    ("POST", "/v1/job/{job}/open"): "open a job",
    ("GET", "/v1/run/{run}"): "carry out a run",
    ("POST", "/v1/run/{run}/take"): "carry out a run",
    ("POST", "/v1/run/{run}/tell"): "carry out a run",
}

_ROLES_OF: dict[str, tuple[Role, ...]] = {
    "see hospitals": ("operator", "viewer", "auditor"),
    "see studies": ("operator", "viewer", "auditor"),
    "check a study": ("operator", "viewer", "auditor"),
    "see metrics": ("operator", "viewer", "auditor"),
    "launch a study": ("operator",),
    "stop a study": ("operator",),
    "shred a study": ("operator",),
    "decide on a model": ("operator",),
    "download a model": ("operator", "auditor"),
    "fetch extracts": ("operator", "auditor"),
    "see the audit log": ("operator", "auditor"),
    "export the audit log": ("operator", "auditor"),
    "carry out a run": ("aggregator",),
    "open a job": ("launch",),
}
ALLOWED: dict[tuple[Role, str], bool] = {
    (role, action): role in allowed for action, allowed in _ROLES_OF.items() for role in ROLES
}

_PATTERNS = [
    (
        method,
        re.compile(
            re.escape(path)
            .replace(r"\{digest\}", "[0-9a-f]{64}")
            .replace(r"\{draft\}", "[0-9a-f]{16}")
            .replace(r"\{file\}", "(card|tensors|report)")
            .replace(r"\{step\}", "(approve|promote|rollback|withdraw)")
            .replace(r"\{form\}", "(json|csv|report)")
            .replace(r"\{run\}", "run-[0-9a-f]{1,16}-[0-9a-f]{6}")
            .replace(r"\{job\}", "flo-run-[0-9a-f]{1,16}-[0-9a-f]{6}-[0-9]{1,6}")
        ),
        action,
    )
    for (method, path), action in ROUTES.items()
]


def refuse_forbidden(role: Role, method: str, path: str) -> None:
    """Raise PolicyError unless the table allows this role the action of this route."""
    for known, pattern, action in _PATTERNS:
        if known == method and pattern.fullmatch(path):
            if not ALLOWED.get((role, action), False):
                raise PolicyError(f"the role {role} may not {action}")
            return
    raise PolicyError("no such action")
