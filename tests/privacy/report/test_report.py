"""The budget report: it recomputes from two hospitals' own signed ledgers, or it is refused."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)

from flo.documents import canonical
from flo.errors import FloError, MessageError, TrustError
from flo.keys.claims import LedgerHead, row_statement
from flo.keys.identity import fingerprint
from flo.privacy.ledger.balance import Balance
from flo.privacy.ledger.rows import LedgerRow
from flo.privacy.report import extract
from flo.privacy.report.page import render
from flo.privacy.report.report import build, heads_document, read_heads, verify
from flo.protocol.decisions import read_approval
from flo.study.document import Study
from tests.builders import small_study, study_document
from tests.privacy.hospitals import World, finish, head_of

TRAINING_RELEASES = 2
P384_ORDER = 2**384 - 1388124618062372383947042015309946732620727252194336364173


def cheap_study(name: str) -> Study:
    """A study that leaves room for another one in a life of 0.9."""
    document = study_document(name=name)
    document["mechanism"]["epsilon"] = document["evaluation"]["epsilon"] = 0.3
    return small_study(**document)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Two hospitals after two studies, of which the second is nobody else's business."""
    studies = [cheap_study(name) for name in ("tiny", "secret-name")]
    folder = tmp_path_factory.mktemp("world")
    return World.of(folder, studies, TRAINING_RELEASES, ("north", "south"), 0.9)


@pytest.fixture(scope="module")
def report(world: World) -> bytes:
    return build([world.extract(0), world.extract(1)])


@pytest.mark.slow
def test_a_report_of_two_hospitals_verifies(report: bytes, world: World) -> None:
    facts = verify(report)
    assert [site["hospital"] for site in facts["hospitals"]] == ["north", "south"]
    assert facts["without_extract"] == ["west"]
    assert facts["study"]["digest"] == world.studies[0].digest
    for site in facts["hospitals"]:
        assert (site["releases_training"], site["releases_evaluation"]) == (TRAINING_RELEASES, 1)
        assert len(site["releases"]) == TRAINING_RELEASES + 1
        assert site["other_studies"] == 1
        assert not site["settled"]


def test_the_order_of_the_extracts_does_not_matter(world: World) -> None:
    north, south = world.extract(0), world.extract(1)
    assert build([north, south]) == build([south, north])


@pytest.mark.slow
def test_a_changed_byte_anywhere_is_found(report: bytes) -> None:
    chosen = random.Random(20)
    positions = chosen.sample(range(len(report)), 200)
    for position in positions:
        changed = bytearray(report)
        changed[position] ^= 1 << chosen.randrange(7)
        with pytest.raises(FloError):
            verify(bytes(changed))


def signatures_in(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where signatures stand in a document, those in signed documents of text aside."""
    inner: Any = value.items() if isinstance(value, dict) else enumerate(value)
    for key, found in inner:
        if isinstance(found, str) and "signature" in str(key) and found:
            yield (*path, key)
        elif isinstance(found, dict | list):
            yield from signatures_in(found, (*path, key))


def test_no_signature_can_be_written_in_its_other_form(report: bytes) -> None:
    """(r, n - s) is as good a signature as (r, s): the bytes would change and the meaning not."""
    document = json.loads(report)
    places = list(signatures_in(document["evidence"]))
    assert len(places) > 20
    for *way, last in places:
        changed = json.loads(report)
        place = changed["evidence"]
        for step in way:
            place = place[step]
        r, s = decode_dss_signature(bytes.fromhex(place[last]))
        place[last] = encode_dss_signature(r, P384_ORDER - s).hex()
        with pytest.raises(TrustError):
            verify(canonical.encode(changed))


def test_a_hospitals_own_form_of_its_signature_does_not_matter(world: World) -> None:
    """An earlier release signs in either form; the report holds one of them."""
    one = json.loads(world.extract(0))
    r, s = decode_dss_signature(bytes.fromhex(one["signature"]))
    other = one | {"signature": encode_dss_signature(r, P384_ORDER - s).hex()}
    assert build([canonical.encode(other)]) == build([canonical.encode(one)])


@pytest.mark.parametrize("position", [0, 1, -1])
def test_a_lost_byte_is_found(report: bytes, position: int) -> None:
    lost = bytearray(report)
    del lost[position]
    with pytest.raises(FloError):
        verify(bytes(lost))


@pytest.mark.parametrize("gone", ["schema_version", "study", "hospital", "decision"])
def test_an_extract_whose_decision_lacks_a_field_is_refused_as_any_other(
    report: bytes, world: World, gone: str
) -> None:
    """It is signed by its hospital, so nobody else may fall over it."""
    evidence = json.loads(report)["evidence"]
    keys = {home.read_config().hospital: home.open_identity() for home in world.homes}
    body = evidence[0]["body"]
    decision = json.loads(body["decision"])
    del decision[gone]
    text = canonical.encode(decision)
    key = keys[body["hospital"]]
    body |= {"decision": text.decode(), "decision_signature": key.sign("approval", text)}
    extract = {"body": body, "signature": key.sign("extract", canonical.encode(body))}
    with pytest.raises(FloError):
        build([canonical.encode(extract)])


def test_a_swapped_number_in_the_facts_is_found(report: bytes) -> None:
    document = json.loads(report)
    first, second = document["facts"]["hospitals"]
    for name in ("epsilon_released", "releases_training", "ledger_rows", "epsilon_designed"):
        kept = first[name]
        first[name] = kept + 1
        with pytest.raises(TrustError, match="do not follow from its evidence"):
            verify(canonical.encode(document))
        first[name] = kept
    document["facts"]["hospitals"] = [second, first]
    with pytest.raises(TrustError, match="do not follow from its evidence"):
        verify(canonical.encode(document))


def test_evidence_taken_out_or_put_in_another_order_is_found(report: bytes) -> None:
    for kept in (slice(1), slice(None, None, -1)):
        document = json.loads(report)
        document["evidence"] = document["evidence"][kept]
        with pytest.raises(TrustError):
            verify(canonical.encode(document))


def own_release(body: dict[str, Any]) -> dict[str, Any]:
    return next(
        row for row in body["rows"] if row["public"]["kind"] == "release" and row["private"]
    )


def hide_a_release(body: dict[str, Any]) -> None:
    own_release(body).update(private=None, salt=None)


def relabel_a_release(body: dict[str, Any]) -> None:
    own_release(body)["private"]["round"] = 9


def cheapen_a_release(body: dict[str, Any]) -> None:
    own_release(body)["public"]["mechanism"]["noise_multiplier"] = 1e6


def drop_a_release(body: dict[str, Any]) -> None:
    body["rows"].remove(own_release(body))


def drop_the_birth(body: dict[str, Any]) -> None:
    del body["rows"][0]


def name_another_reservation(body: dict[str, Any]) -> None:
    body["reservation"] = next(
        row["sequence"]
        for row in body["rows"]
        if row["public"]["kind"] == "reserve" and row["private"] is None
    )


def name_another_population(body: dict[str, Any]) -> None:
    body["population"] = "other"


def name_another_hospital(body: dict[str, Any]) -> None:
    body["hospital"] = "west"


def refuse_after_all(body: dict[str, Any]) -> None:
    body["decision"] = body["decision"].replace("approve", "refuse")


@pytest.mark.parametrize(
    "lie",
    [
        hide_a_release,
        relabel_a_release,
        cheapen_a_release,
        drop_a_release,
        drop_the_birth,
        name_another_reservation,
        name_another_population,
        name_another_hospital,
        refuse_after_all,
    ],
    ids=lambda lie: lie.__name__,
)
def test_a_hospital_that_lies_about_its_ledger_is_refused(
    world: World, lie: Callable[[dict[str, Any]], None]
) -> None:
    with pytest.raises(TrustError):
        build([world.forged(lie), world.extract(1)])


def test_a_release_that_a_partner_witnessed_cannot_be_cut_off_the_end(world: World) -> None:
    with closing(world.homes[0].open_ledger()) as ledger:
        head = ledger.head().model_dump(mode="json")

    def cut(body: dict[str, Any]) -> None:
        body["rows"] = body["rows"][: body["rows"].index(own_release(body))]

    def saw(body: dict[str, Any]) -> None:
        body["witnessed"]["north"] = head

    build([world.extract(0), world.forged(saw, site=1)])  # the whole ledger agrees with it
    with pytest.raises(TrustError):
        build([world.forged(cut), world.forged(saw, site=1)])


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Two hospitals after a run that ended: each was shown the other's head."""
    made = World.of(
        tmp_path_factory.mktemp("ended"), [cheap_study("tiny")], 2, ("north", "south"), 0.9
    )
    heads = {home.read_config().hospital: head_of(home) for home in made.homes}
    for home in made.homes:
        finish(home, made.studies[0], heads)
    return made


def test_no_suffix_of_a_ledger_can_be_cut_off_by_its_hospital_alone(ended: World) -> None:
    """From its first release of the study to the last row that partners saw when the run ended."""
    whole = json.loads(ended.extract(0))["body"]
    seen = json.loads(ended.extract(1))["body"]["witnessed"][whole_key(whole)]["sequence"]
    first = next(row["sequence"] for row in whole["rows"] if row["public"]["kind"] == "release")
    assert seen > first
    build([ended.extract(0), ended.extract(1)])
    for last in range(first, seen):

        def cut(body: dict[str, Any], last: int = last) -> None:
            body["rows"] = [row for row in body["rows"] if row["sequence"] <= last]

        with pytest.raises(TrustError, match=f"south recorded ledger row {seen}|hides"):
            build([ended.forged(cut), ended.extract(1)])


def whole_key(body: dict[str, Any]) -> str:
    return fingerprint(bytes.fromhex(body["public"]))


def test_a_report_says_up_to_which_row_others_saw_a_ledger(ended: World) -> None:
    north, south = verify(build([ended.extract(0), ended.extract(1)]))["hospitals"]
    for site in (north, south):
        assert 0 < site["witnessed_up_to"] <= site["ledger_rows"]
        assert site["rows_after_that"] == site["ledger_rows"] - site["witnessed_up_to"]
    (alone,) = verify(build([ended.extract(0)]))["hospitals"]
    assert (alone["witnessed_up_to"], alone["rows_after_that"]) == (0, alone["ledger_rows"])
    text = " ".join(render(build([ended.extract(0)])).split())
    assert "What the model's scores mean" not in text
    assert "no other party saw a row" in text
    assert ", the code that was approved" in text


def kept_heads(ended: World) -> dict[str, LedgerHead]:
    """What the coordinator keeps: of each hospital's last reply, in which it settled."""
    return {home.read_config().hospital: head_of(home) for home in ended.homes}


def test_with_the_coordinators_heads_not_even_the_last_row_can_be_cut_off(ended: World) -> None:
    """Nobody else need be in the report."""
    heads = kept_heads(ended)
    whole = json.loads(ended.extract(0))["body"]["rows"]
    (alone,) = verify(build([ended.extract(0)], heads))["hospitals"]
    assert alone["kept_by_coordinator"] == alone["witnessed_up_to"] == len(whole)
    assert alone["rows_after_that"] == 0
    first = next(row["sequence"] for row in whole if row["public"]["kind"] == "release")
    for last in range(first, len(whole)):

        def cut(body: dict[str, Any], last: int = last) -> None:
            body["rows"] = [row for row in body["rows"] if row["sequence"] <= last]

        with pytest.raises(TrustError, match=r"north: the coordinator recorded ledger row|hides"):
            build([ended.forged(cut)], heads)


@pytest.mark.parametrize("version", [1, 2, 3, 4, 5])
def test_a_report_of_a_new_study_cannot_pass_for_an_earlier_one(ended: World, version: int) -> None:
    """Which would be spared the rules and the heads."""
    document = json.loads(build([ended.extract(0), ended.extract(1)], kept_heads(ended)))
    del document["heads"]
    with pytest.raises(TrustError, match="which needs version 6"):
        verify(canonical.encode(document | {"schema_version": version}))


def test_without_them_a_report_says_that_rows_may_be_missing(ended: World) -> None:
    said = "rows at the end of the ledger may be missing"
    assert said in render(build([ended.extract(0), ended.extract(1)]))
    assert said not in render(build([ended.extract(0), ended.extract(1)], kept_heads(ended)))


def test_kept_heads_that_are_forged_or_of_somebody_else_are_refused(ended: World) -> None:
    heads = kept_heads(ended)
    swapped = {"north": heads["south"]}
    with pytest.raises(TrustError):
        build([ended.extract(0)], swapped)
    document = json.loads(build([ended.extract(0)], heads))
    for change in ({"south": document["heads"]["north"]}, {}):
        with pytest.raises(TrustError):
            verify(canonical.encode(document | {"heads": change}))
    shapes: list[Any] = [[], {"north": {}}, {"north": 1}]
    for wrong in shapes:
        with pytest.raises(MessageError):
            verify(canonical.encode(document | {"heads": wrong}))


def test_the_file_of_kept_heads_reads_back_and_is_no_extract(ended: World) -> None:
    heads = kept_heads(ended)
    assert read_heads(heads_document(heads)) == heads
    assert read_heads(ended.extract(0)) is None
    for text in (b'{"heads":{},"schema_version":2}', b'{"heads":[],"schema_version":1}'):
        with pytest.raises(MessageError):
            read_heads(text)


def decides(**changes: Any) -> Callable[[dict[str, Any]], None]:
    """The hospital's decision as it would have had to be refused, signed by itself."""

    def change(body: dict[str, Any]) -> None:
        decision = json.loads(body["decision"]) | changes
        body["decision"] = canonical.encode(decision).decode()

    return change


def test_an_extract_by_other_code_than_was_approved_is_refused(world: World) -> None:
    def other(body: dict[str, Any]) -> None:
        body["software"]["code_digest"] = "0" * 64

    with pytest.raises(TrustError, match="north: the approval is for code"):
        build([world.forged(other)])


def test_an_approval_that_names_another_ledger_is_refused(world: World) -> None:
    elsewhere = head_of(world.homes[0]).model_dump(mode="json")
    beyond = world.homes[0].open_identity().sign("ledger-row", row_statement(900, "0" * 64))
    head = elsewhere | {"sequence": 900, "hash": "0" * 64, "signature": beyond}
    with pytest.raises(TrustError, match="its own approval recorded ledger row 900, which"):
        build([world.forged(decides(head=head), decision=True)])


def test_strangers_beyond_the_colluders_are_refused_unless_charged_for(world: World) -> None:
    study = world.studies[0].with_mechanism(masking="on", noise="distributed", dropouts=0)
    approved = read_approval(json.loads(world.extract(0))["body"]["decision"])
    many = approved.model_copy(update={"unconfirmed": ("south", "west")})
    rows = [LedgerRow(**row) for row in json.loads(world.extract(0))["body"]["rows"]]
    body = json.loads(world.extract(0))["body"]
    signer = whole_key(body)
    with pytest.raises(TrustError, match="2 partners were not confirmed, more than the 1 "):
        extract._repeat_own_rules(study, many, signer, rows, Balance(), body)
    paid = many.model_copy(update={"charged": "if-broken"})
    extract._repeat_own_rules(study, paid, signer, rows, Balance(), body)


def test_rows_of_another_study_carry_no_names(world: World) -> None:
    extract = world.extract()
    assert b"secret-name" not in extract
    assert world.studies[1].digest.encode() not in extract
    assert b"patient_id" not in extract.replace(world.studies[0].canonical_bytes, b"")
    rows = json.loads(extract)["body"]["rows"]
    shown = {row["private"]["study"] for row in rows if row["private"] is not None}
    assert shown == {world.studies[0].digest}
    assert sum(row["public"]["kind"] == "reserve" for row in rows) == 2


def test_extracts_of_different_studies_are_refused(world: World) -> None:
    with pytest.raises(TrustError, match="not of one study"):
        build([world.extract(0), world.extract(1, 1)])


def test_two_extracts_of_one_hospital_are_refused(world: World) -> None:
    with pytest.raises(TrustError, match="same hospital"):
        build([world.extract(0), world.extract(0)])


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"null", b'{"body":{}}', b"{", b"\xff\xfe"])
def test_what_is_no_extract_and_no_report_is_refused(data: bytes) -> None:
    with pytest.raises(MessageError):
        build([data])
    with pytest.raises(MessageError):
        verify(data)


def test_no_extract_is_no_report() -> None:
    with pytest.raises(MessageError, match="at least one"):
        build([])


def test_an_extract_with_a_part_missing_is_refused_as_a_message(world: World) -> None:
    for part in ("signature", "body"):
        document = json.loads(world.extract())
        document[part] = {"hospital": "north"} if part == "body" else None
        with pytest.raises(MessageError):
            build([canonical.encode(document)])


@pytest.mark.parametrize("value", [b"1e999", b'"\\ud800"'])
def test_what_has_no_canonical_form_is_refused_as_a_message(value: bytes) -> None:
    with pytest.raises(MessageError):
        verify(b'{"evidence":' + value + b',"facts":{},"schema_version":1}')


def test_what_the_coordinator_estimates_is_shown_as_no_part_of_the_proof(report: bytes) -> None:
    assert "Electricity" not in render(report)
    page = render(report, electricity="12 Wh, 5.8 g of CO2")
    assert "12 Wh, 5.8 g of CO2, which the coordinator estimates" in page
    assert "this is not proved" in page
    assert b"Electricity" not in report


def test_the_page_shows_both_hospitals_and_loads_nothing(report: bytes) -> None:
    page = render(report)
    assert "north" in page
    assert "south" in page
    assert canonical.digest(report) in page
    for outside in ("<script", "src=", "@import", "url("):
        assert outside not in page


@pytest.mark.processes
def test_an_auditor_needs_neither_torch_nor_flower(tmp_path: Path, report: bytes) -> None:
    file = tmp_path / "report.json"
    file.write_bytes(report)
    program = (
        "import sys; from pathlib import Path; from flo.privacy.report.report import verify;"
        "before = [m for m in ('torch', 'flwr', 'opacus') if m in sys.modules];"
        f"verify(Path({str(file)!r}).read_bytes());"
        "print(before, [m for m in ('torch', 'flwr', 'opacus') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=100
    )
    assert done.stdout.strip() == "[] []"
