"""How many of a hospital's own patients a study uses, by generation, for its steward's screen.

Counts are in wide bands: a decision that depended on an exact count would tell others about it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from flo.errors import FloError
from flo.privacy.accounting.life_budget import SUB_LEDGERS
from flo.privacy.ledger.generations import Participants
from flo.privacy.ledger.ledger import Ledger
from flo.privacy.report.budget_view import NEW, band, opened
from flo.study.document import Study


def known_lines(ledger: Ledger, study: Study, population: str) -> list[tuple[str, str]]:
    """Return ``lines`` of a study before it is approved, without reading the data.

    Empty for an older study, which needs room in the budget of all patients.
    """
    if not study.by_generation:
        return []
    try:
        return lines(ledger, study, ledger.check_reservation(study, population))
    except FloError as error:
        return [("does not fit", str(error))]


def lines(
    ledger: Ledger,
    study: Study,
    participants: Participants,
    present: Collection[str] | None = None,
) -> list[tuple[str, str]]:
    """Return (generation, how many of its patients take part) for a study's reservation.

    ``present``: keyed hashes of the patients in the data; None counts all whom the ledger knows,
    and says nothing about new ones.
    """
    names, known = opened(ledger.rows()), ledger.balance().generations(participants.population)
    numbers = participants.generations
    count = Counter(
        numbers[one] for one in (numbers if present is None else present) if one in numbers
    )
    found = []
    for number in known:
        room = [s for s in SUB_LEDGERS if number in participants.charged[s]]
        if study.monitor:
            text = "those held out are counted"
            if "evaluation" not in room:
                text = (
                    "none is counted: they came before the series, or are counted, or out of budget"
                )
        elif len(room) == len(SUB_LEDGERS):
            text = "all take part"
        elif room:
            text = f"only those for {room[0]} take part; the other budget has no room"
        else:
            text = "none takes part: the budget has no room"
        found.append((names[number], f"{band(count[number])} patients; {text}"))
    text = "a generation of their own, with the whole budget"
    if present is not None:
        new = sum(count[number] for number in count if number not in known)
        part = "those held out are counted" if study.monitor else "all take part"
        text = f"{band(new)} patients; {part}, in {text}"
    return [*found, (NEW, text)]
