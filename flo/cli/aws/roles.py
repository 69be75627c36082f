"""``flo aws role``, ``roles``; and what a launch and an erasure do with a study's role."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Protocol

import typer

from flo.cli.aws import results
from flo.cli.aws.stack import Name, RegionName
from flo.cli.terminal.command import command
from flo.cli.terminal.options import Yes

if TYPE_CHECKING:
    from flo.documents.aws_names import StackPlace
    from flo.infra.aws.study_roles import StudyRoles


class Operator(Protocol):
    """A client of a coordinator: the stack to act on, and the stack to name."""

    stack: StackPlace | None
    place: StackPlace | None


app = typer.Typer()
StudyDigest = Annotated[str, typer.Argument(help="The study's whole digest, 64 characters.")]


@command(app)
def role(
    study: StudyDigest,
    region: RegionName,
    name: Name = "flo",
    remove: Annotated[bool, typer.Option("--remove", help="Remove it: no job can start.")] = False,
    yes: Yes = False,
) -> results.StudyRoleResult:
    """Make the IAM role of a study's training jobs, which reach this study's objects only."""
    from flo.cli.terminal.output import confirmed, say
    from flo.errors import RefusedError
    from flo.infra.aws.stack import Stack

    _refuse_no_digest(study)
    roles = Stack(name, region).study_roles()
    if not remove:
        made = roles.make(study)
        say("made: jobs of this study can start" if made else "it was there; nothing was changed")
        return results.StudyRoleResult(study, "made" if made else "there")
    if not confirmed("Remove the study's role? Its jobs cannot go on.", yes):
        raise RefusedError("nothing was changed", hint="--yes removes it without asking")
    removed = roles.remove(study)
    say("removed" if removed else "the study has no role; nothing was changed")
    return results.StudyRoleResult(study, "removed" if removed else "none")


@command(app, "roles")
def roles_(region: RegionName, name: Name = "flo") -> results.StudyRolesResult:
    """List the roles of this stack's studies."""
    from rich.table import Table

    from flo.cli.terminal.output import console
    from flo.infra.aws.stack import Stack

    found = [
        results.StudyRoleRow(one.study, one.made.isoformat(timespec="seconds"))
        for one in Stack(name, region).study_roles().all()
    ]
    table = Table("study", "made")
    for row in found:
        table.add_row(row.study, row.made)
    console().print(table)
    return results.StudyRolesResult(found)


def give_role(operator: Operator, study: str) -> None:
    """Make the role of a launched study, if an access file names the stack and AWS allows it."""
    from flo.cli.terminal.output import plain, say
    from flo.errors import FloError

    if operator.stack is not None:
        try:
            _roles(operator.stack).make(study)
        except FloError as error:
            say(plain(f"its jobs have no role yet: {error}"))
        else:
            say("its jobs have a role in AWS, which reaches this study's objects only")
            return
    say(f"next: whoever deploys the stack makes the role of its jobs: {_command(operator, study)}")


def take_role(operator: Operator, study: str) -> None:
    """Remove the role of an erased study, if an access file names the stack and AWS allows it."""
    from flo.cli.terminal.output import plain, say
    from flo.errors import FloError

    if operator.stack is not None:
        try:
            removed = _roles(operator.stack).remove(study)
        except FloError as error:
            say(plain(f"its role in AWS remains: {error}"))
        else:
            say("its role in AWS is removed" if removed else "it had no role in AWS")
            return
    say(f"next: whoever deploys the stack removes its role: {_command(operator, study)} --remove")


def _roles(place: StackPlace) -> StudyRoles:
    """Return the roles of the coordinator's stack.

    Raises:
        RefusedError: the credentials are of another account, which has a stack of this name.
    """
    from flo.errors import RefusedError
    from flo.infra.aws.stack import Stack

    found = Stack(place.name, place.region).study_roles()
    if found.arn != place.study_roles:
        raise RefusedError(
            f"the credentials lead to a stack whose roles are {found.arn}, and the coordinator's "
            f"are {place.study_roles}",
            hint="use credentials of the coordinator's account",
        )
    return found


def _command(operator: Operator, study: str) -> str:
    at = operator.place
    return f"flo aws role {study}" + (f" --name {at.name} --region {at.region}" if at else "")


def _refuse_no_digest(study: str) -> None:
    import re

    from flo.errors import UsageError

    if not re.fullmatch("[0-9a-f]{64}", study):
        raise UsageError(
            f"{study!r} is not the digest of a study, 64 characters of 0-9 and a-f",
            hint="the coordinator shows it: flo study list --json -",
        )
