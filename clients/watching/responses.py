"""What is done about new alarms, as the hospital's plan says."""

from __future__ import annotations

from collections.abc import Sequence

from flo.clients.home.site_home import SiteHome
from flo.clients.prediction import version_decisions, versions
from flo.clients.watching.alarm import Alarm
from flo.clients.watching.kept import Watched
from flo.clients.watching.plan import Action, WatchPlan
from flo.errors import StudyError, UsageError

_ALARM = "watch-alarm"


def respond(
    home: SiteHome, name: str, watched: Watched, alarms: Sequence[Alarm], plan: WatchPlan | None
) -> Action:
    """Do what the plan says, and enter the alarms with it in the audit log; return what was done.

    An entry names what an alarm is about, and neither a count nor a ward. Of a finished model
    nothing is entered, because no audit log may say that there is one, and its alarms only tell.
    """
    if watched.finished:
        return "tell"
    action: Action = "tell"
    if plan is not None:
        action = _done(home, watched, alarms, plan)
    study = watched.study
    for alarm in alarms:
        facts = {"name": name, "version": study.version, "alarm": alarm.number}
        home.record(_ALARM, study.digest, **facts, **alarm.key.public, action=action)
    return action


def _done(home: SiteHome, watched: Watched, alarms: Sequence[Alarm], plan: WatchPlan) -> Action:
    """Do what the plan says about these alarms, unless the version is out of use already."""
    action, study = plan.action([one.key for one in alarms]), watched.study
    if action in ("tell", "finish"):
        return action
    more = f" and {len(alarms) - 1} more" if len(alarms) > 1 else ""
    why = f"health below 85, alarm {alarms[0].number}{more}; as planned on {plan.time[:10]}"
    if versions.read(home).withdrawal(study.name, study.digest) is not None:
        return action
    if action == "fall back":
        try:
            version_decisions.rollback(home, study.digest, why)
            return action
        except (StudyError, UsageError):  # no version was before it, or its files are gone
            action = "stop"
    version_decisions.withdraw(home, study.digest, why)
    return action
