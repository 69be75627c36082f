"""Errors that FLO raises on purpose, by who must act, each with its exit code.

A message names the object, the value and the limit; ``hint`` states the next step. Errors about
patients' data name column, rule, rows and count, never a value, and stay on the site's screen.
"""

from __future__ import annotations

EXIT_OK, EXIT_USAGE, EXIT_REFUSED, EXIT_TRUST, EXIT_NETWORK, EXIT_BUG = 0, 2, 3, 4, 5, 70


class FloError(Exception):
    """Base class of all expected failures.

    Attributes:
        hint: the next step, one sentence, or "" if the message already states it.
    """

    exit_code = EXIT_BUG

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(FloError):
    """The command, a file or a setting is wrong; the person who supplied it must act."""

    exit_code = EXIT_USAGE


class StudyError(UsageError):
    """A study document breaks a rule; the coordinator must correct it."""


class RefusedError(FloError):
    """A rule of the site forbids the action; the steward decides. No budget was spent."""

    exit_code = EXIT_REFUSED


class DataError(RefusedError):
    """The site's own data do not fit the study (column, rule, rows; never values)."""


class PolicyError(RefusedError):
    """The site's policy forbids the action."""


class BudgetError(RefusedError):
    """The life budget or a study's reservation does not cover the cost."""


class TrustError(FloError):
    """A key, signature, certificate, digest or chain is not what was agreed."""

    exit_code = EXIT_TRUST


class NetworkError(FloError):
    """The other side cannot be reached, or a port is not available."""

    exit_code = EXIT_NETWORK


class MessageError(FloError):
    """Something parsed from another party has the wrong shape, size or place."""

    exit_code = EXIT_TRUST
