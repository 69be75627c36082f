"""The sheet: all that a steward asks before saying yes, on a terminal and on a page to print."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from flo.cli.terminal.output import show_sheet
from flo.clients.approvals.fingerprints import AddressBook
from flo.clients.inbox.review import differences, page, review
from flo.documents import canonical
from flo.errors import FloError, UsageError
from flo.host.environment import code_digest
from flo.keys.identity import format_fingerprint
from flo.study.document import Study, from_document
from flo.study.loading import from_canonical
from tests.builders import small_study, surveyed
from tests.clients.approving_site import Site, enrolled_site
from tests.flo.continued import CARD, ancestor, continuing
from tests.flo.study.test_statistics_terms import CURVE, TABLE, asked
from tests.partners import partner
from tests.privacy.ledgers import study_of

BEFORE = study_of(0.3, name="heart")
STUDY = small_study(
    **{
        **BEFORE.model_dump(mode="json", exclude_none=True),
        "version": 2,
        "purpose": "Find heart failure early.",
        "legal_basis": "Article 9(2)(j) GDPR; ethics vote 12/2031.",
        "expires": "2031-05-06",
    }
).with_mechanism(epsilon=0.5)
HOSTILE = "<script>alert(1)</script> & [red]no risk[/] [link=https://e.example]'\"\\"


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return enrolled_site(tmp_path)


# -- how it is read -------------------------------------------------------------------------------


class Words(HTMLParser):
    """What a person reads of a page, and what a browser would do beyond showing it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attributes

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def on_the_page(site: Site, study: Study) -> str:
    html = page(site.home, site.offer(study).study, site.home.read_config().population(None))
    return _one_line(" ".join(Words(html).text))


def on_the_terminal(site: Site, study: Study, width: int = 400) -> str:
    out = io.StringIO()
    parts = review(site.home, site.offer(study).study, site.home.read_config().population(None))
    show_sheet(parts, Console(file=out, width=width))
    return _one_line(out.getvalue())


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text)


READ = pytest.mark.parametrize("read", [on_the_terminal, on_the_page], ids=["terminal", "page"])

# -- what it says ---------------------------------------------------------------------------------

SAYS: dict[str, list[str]] = {
    "study": ["heart, version 2"],
    "purpose": ["Find heart failure early."],
    "legal basis": ["Article 9(2)(j) GDPR; ethics vote 12/2031."],
    "partners": ["north about 40 patients", "south about 40 patients", "west about 40 patients"],
    "fingerprints": [format_fingerprint(partner(name).fingerprint) for name in ("south", "west")],
    "who was not compared": [
        f"{format_fingerprint(partner('south').fingerprint)}; NOT confirmed yet"
    ],
    "columns": ["age", "0 to 100 years; missing refused", "ward", "a, b, c; missing allowed"],
    "label": ["ill", "(0 or 1)"],
    "what leaves": [
        "3 noisy sums of 6 numbers",
        "one noisy release of 65 sums that describe how scores are distributed for each class",
        "never records, exact counts, losses, batch sizes, error details",
    ],
    "its protection": [
        "clipped to 0.5; noise of σ = 17.35",
        "local noise: every hospital adds enough noise for its own guarantee",
        "off: the coordinator sees the noisy sums of each hospital",
    ],
    "what it costs": [
        "0.5000 at δ = 1e-06",
        "one patient within one hospital; add or remove one patient",
        "training 3 + 1 retries, evaluation 1 + 0 retries",
        "a patient known to two of them has ε = 0.7",
        "share of life ε = 0.9 training 33.2%, evaluation 12.7%",
    ],
    "code": [f"code to be run {code_digest()} (installed here; other code is refused)"],
    "expiry": ["valid until 2031-05-06 (UTC)"],
    "what changed": [
        "What changed since version 1, approved here",
        "purpose Test the machinery. → Find heart failure early.",
        "mechanism.epsilon 0.3 → 0.5",
        "expires 2099-12-31 → 2031-05-06",
    ],
    "our decision": ["our decision waiting for you"],
    "whose patients": ["population main, patients.csv"],
    "our policy": ["our policy allows it"],
    "what is not covered": ["duplicates are not detected", "the honesty of the installed software"],
}


@READ
@pytest.mark.parametrize("what", SAYS)
def test_the_sheet_says_all_that_a_steward_asks(site: Site, what: str, read: Any) -> None:
    if what == "what changed":
        site.approve(site.offer(BEFORE))
    text = read(site, STUDY)
    assert [said for said in SAYS[what] if said not in text] == []


@READ
def test_it_names_our_own_fingerprint_and_the_digest_that_a_yes_is_bound_to(
    site: Site, read: Any
) -> None:
    text = read(site, STUDY)
    assert format_fingerprint(site.home.open_identity().fingerprint) in text
    assert f"digest {site.offer(STUDY).study.digest}" in text


@READ
def test_the_sheet_says_what_remains_of_the_budget(site: Site, read: Any) -> None:
    assert re.search(
        r"training 100\.0% free; the largest study ε that would fit is 0\.[89]", read(site, STUDY)
    )
    site.approve(site.offer(study_of(0.5, "earlier")))
    (remains,) = re.findall(r"training ([\d.]+)% free; the largest study ε", read(site, STUDY))
    assert 0 < float(remains) < 75


@READ
def test_the_share_is_that_of_our_own_budget(site: Site, read: Any) -> None:
    assert read(site, STUDY).count("share of life") == 1


@READ
def test_a_partner_who_was_compared_is_not_called_a_stranger(site: Site, read: Any) -> None:
    south = partner("south").fingerprint
    AddressBook.confirm(site.home, {"south": south})
    text = read(site, STUDY)
    assert f"{format_fingerprint(south)}; NOT" not in text
    assert f"{format_fingerprint(partner('west').fingerprint)}; NOT confirmed yet" in text


@READ
def test_every_rule_of_ours_that_it_breaks_is_on_it(site: Site, read: Any) -> None:
    rules = {"largest_study_epsilon": 0.4, "forbidden_columns": ["ward"], "partners": ["south"]}
    site.allow(**rules)
    text = read(site, STUDY)
    for broken in (
        "largest_study_epsilon = 0.4: the study takes ε = 0.5",
        "forbidden_columns: the study uses ward",
        "partners: the study names west",
    ):
        assert f"OUR POLICY FORBIDS {broken}" in text
    assert "our policy allows it" not in text


@READ
def test_the_people_who_must_say_yes_are_on_it(site: Site, read: Any) -> None:
    key = partner("Ada").public.hex()
    site.allow(people=[{"name": "Ada", "role": "data protection officer", "public": key}])
    assert "who approves 1 of Ada (data protection officer)" in read(site, STUDY)


@READ
def test_a_survey_says_that_nobody_carries_it_out(site: Site, read: Any) -> None:
    text = read(site, surveyed(STUDY, epsilon=0.3, columns=["ward"]))
    assert "noisy counts of all patients by each of ill, ward; FLO carries out no" in text
    assert "every patient is counted, so both halves of the budget are charged" in text


@READ
def test_statistics_say_what_they_count_and_what_their_noise_is_worth(
    site: Site, read: Any
) -> None:
    text = read(site, asked(TABLE, CURVE))
    assert "1 noisy sum of" in text
    assert "numbers about all patients" in text
    assert "no model is trained" in text
    assert "one (50% of the cost)" in text
    assert "survival by age and ill, 2 intervals by ward" in text
    assert "every patient is counted, so both halves of the budget are charged" in text


@READ
def test_distributed_noise_says_what_it_rests_on(site: Site, read: Any) -> None:
    text = read(site, study_of(0.5, noise="distributed", masking="on"))
    assert "up to b = 1 colluding hospitals" in text
    assert re.search(r"each hospital.s upload separately, ε = \d\.\d{4}", text)


# -- what changed ---------------------------------------------------------------------------------


def changed(**changes: Any) -> list[tuple[str, str]]:
    document = {**BEFORE.model_dump(mode="json", exclude_none=True), "version": 2, **changes}
    return differences(BEFORE, small_study(**document))


def test_a_change_stands_with_what_was_and_what_is() -> None:
    assert changed(name="lung") == [("name", "heart → lung")]
    assert changed(limits={"deadline_seconds": 20, "minimum_cohort": 2}) == [
        ("limits.deadline_seconds", "10.0 → 20.0")
    ]


def test_what_a_model_continues_is_one_change() -> None:
    alone, other = continuing(ancestor()), continuing(ancestor(2), ancestor())
    plain = from_document(alone.model_dump(mode="json") | {"continues": None})
    first = f"tiny, version 1 (ε = 0.7500), card {CARD}"
    assert differences(plain, alone) == [("continues", f"not there → {first}")]
    ((place, words),) = differences(alone, other)
    assert place == "continues"
    assert words.startswith(f"{first} → tiny, version 2 (ε = 0.7500), card c1")


def test_hospitals_and_columns_are_told_apart_by_name_not_by_place() -> None:
    north, south, west = ({"id": n, "declared_size": 40} for n in ("north", "south", "west"))
    assert changed(hospitals=[north, {"id": "east", "declared_size": 60}, west, south]) == [
        ("hospitals.east.id", "not there → east"),
        ("hospitals.east.declared_size", "not there → 60"),
        ("hospitals.east.fingerprint", "not there → "),
    ]
    (place, values), *_ = changed(hospitals=[north, {**south, "fingerprint": "ab" * 32}, west])
    assert place == "hospitals.south.fingerprint"
    assert values.endswith(f"→ {'ab' * 32}")


def test_nothing_but_a_version_number_is_said_to_be_nothing(site: Site) -> None:
    site.approve(site.offer(BEFORE))
    same = BEFORE.model_copy(update={"version": 2})
    assert "nothing only the version number" in on_the_terminal(site, same)
    assert changed() == []


def test_a_first_version_and_another_study_have_no_list_of_changes(site: Site) -> None:
    assert "What changed" not in on_the_terminal(site, STUDY)
    site.approve(site.offer(study_of(0.3, name="lung")))
    assert "What changed" not in on_the_terminal(site, STUDY)


# -- what a coordinator might write ---------------------------------------------------------------


def hostile() -> Study:
    document = BEFORE.model_dump(mode="json", exclude_none=True)
    document["data"] |= {"record": HOSTILE}
    document["data"]["columns"][0] |= {"unit": HOSTILE}
    document["data"]["columns"][1] |= {"codes": ["a", HOSTILE[:99]]}
    return small_study(**{**document, "version": 2, "purpose": HOSTILE, "legal_basis": HOSTILE})


@READ
def test_a_hostile_text_is_shown_as_it_was_written(site: Site, read: Any) -> None:
    site.approve(site.offer(BEFORE))
    text = read(site, hostile())
    # purpose twice (it changed), legal basis twice, record twice, unit twice, a code twice
    assert text.count("<script>alert(1)</script> & [red]no risk[/] [link=https://e.example]") == 10


def test_no_text_of_a_study_becomes_part_of_the_page(site: Site) -> None:
    def tags(study: Study) -> set[str]:
        offer = site.offer(study)
        shown = Words(page(site.home, offer.study, site.home.read_config().population(None)))
        names = {name for name, _ in shown.attributes}
        assert not names & {"src", "href", "action", "style"}
        assert not [name for name in names if name.startswith("on")]
        return set(shown.tags)

    assert tags(hostile()) == tags(BEFORE)
    assert not tags(BEFORE) & {"script", "link", "img", "iframe", "object", "form", "a"}


@pytest.mark.parametrize(
    "text", ["\x1b[2Jgone", "\x1b]0;title\x07", "\x9b31m", "a\rb", "a\nb", "\u202ebackwards", "\0"]
)
@pytest.mark.parametrize("field", ["purpose", "legal_basis"])
def test_a_study_that_would_move_the_terminal_is_never_read(field: str, text: str) -> None:
    with pytest.raises(UsageError, match=field):
        small_study(**{field: text})
    document = BEFORE.model_dump(mode="json", exclude_none=True) | {field: text}
    with pytest.raises(FloError):
        from_canonical(canonical.encode(document))
