"""What is done about new alarms, as the hospital's plan says."""

from __future__ import annotations

from collections.abc import Sequence

from flo.clients.home.site_home import SiteHome
from flo.clients.prediction import version_decisions, versions
from flo.clients.watching.kept import Watched
from flo.clients.watching.plan import Action, WatchPlan
from flo.clients.watching.watch import Alarm
from flo.errors import StudyError, UsageError

_ALARM = "watch-alarm"


def respond(
    home: SiteHome, name: str, watched: Watched, alarms: Sequence[Alarm], plan: WatchPlan | None
) -> Action:
    """Enter alarms in the audit log, and do what the plan says; return what was done.

    An entry names what an alarm is about, and no count. Of a finished model nothing is entered,
    because no audit log may say that there is one, and its alarms only tell.
    """
    if watched.finished:
        return "tell"
    action: Action = "tell" if plan is None else plan.action([one.key for one in alarms])
    study = watched.study
    for alarm in alarms:
        facts = {"name": name, "version": study.version, "alarm": alarm.number}
        about = {"about": alarm.key.kind, "of": alarm.key.name}
        home.record(_ALARM, study.digest, **facts, **about, action=action)
    if plan is None or action in ("tell", "finish"):
        return action
    wanted = f"{study.name}:{study.version}"
    numbers = ", ".join(str(one.number) for one in alarms)
    why = f"health below 85, alarm {numbers}; as planned by {plan.by} on {plan.time[:10]}"
    if action == "fall back":
        try:
            version_decisions.rollback(home, wanted, why)
            return action
        except (StudyError, UsageError):  # no version was before it, or its files are gone
            action = "stop"
    if versions.read(home).withdrawal(study.name, study.digest) is None:
        version_decisions.withdraw(home, wanted, why)
    return action
