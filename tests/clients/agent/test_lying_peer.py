"""A hospital that lies, alone or with the coordinator, learns no other hospital's numbers."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from scipy import stats

from flo.errors import MessageError
from flo.keys.claims import HeadAttestation, RunKey
from flo.keys.identity import Identity
from flo.privacy.accounting.plan import Plan, noise_shares
from flo.privacy.mechanisms.discrete_gaussian import SystemNoise
from flo.privacy.secure_sum.masking import Attempt, cohort_digest, masked, new_run_key, pair_secret
from flo.privacy.secure_sum.ring import from_ring
from flo.protocol.messages import RequestHeader, Values
from flo.server.rounds.state import RunState, check_reply
from tests.builders import CountingReleaser, small_study
from tests.clients.approved_site import Site, approved_site
from tests.clients.real_partners import RealCompany
from tests.partners import handler_of, partner, run_key, signed
from tests.secure_sums import advance

SHARES: dict[str, Any] = {"noise": "distributed", "masking": "on"}
LIAR = Identity.new()
SHARE = np.arange(1, 7) * 1000


class Fixed(CountingReleaser):
    """Every hospital's share is the same vector, so that it is known when it is seen."""

    def warm_up(self, *_: Any) -> None:
        """Ready."""

    def unload(self, study: str) -> None:
        """Nothing is kept."""

    def release(self, *_: Any) -> np.ndarray:
        self.calls += 1
        return SHARE.copy()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    yield from approved_site(tmp_path, **SHARES)


@pytest.fixture
def two(tmp_path: Path) -> Iterator[RealCompany]:
    """North and south are real; the third hospital is the liar."""
    yield from RealCompany.of(tmp_path, ("north", "south"), lambda *_: Fixed(6), liars=(LIAR,))


def answered_with(private: X25519PrivateKey, header: RequestHeader) -> Values:
    """What the liar adds to a sum: zeros under the pads that it shares with the others."""
    others = {name: key for name, key in header.keys.items() if name != "liar-0"}
    secrets = {key.fingerprint: pair_secret(private, key) for key in others.values()}
    attempt = Attempt(
        **header.model_dump(include={"study", "run", "purpose", "round", "attempt", "model"}),
        cohort=cohort_digest(header.members()),
        ring=32,
        length=6,
    )
    return masked(np.zeros(6, dtype=np.int64), LIAR.fingerprint, secrets, attempt)


def shows_a_share(values: Values) -> bool:
    """Whether the vector is one hospital's share, or the sum of two."""
    plain = from_ring(values, 8 * values.itemsize)
    return any(np.array_equal(sign * plain, n * SHARE) for sign in (1, -1) for n in (1, 2))


# -- two keys --------------------------------------------------------------------------------------


def test_two_keys_of_one_epoch_for_two_hospitals_spoil_the_sum_and_show_nothing(
    two: RealCompany,
) -> None:
    made = [new_run_key(LIAR, two.study.digest, "run-1", 1) for _ in range(2)]
    two.heads["liar-0"] = signed(LIAR, 1)
    headers = [
        two.header(keys={**two.keys, "liar-0": public}, heads=two.heads) for _, public in made
    ]
    north, south = two.ask("north", headers[0]), two.say("south", headers[1])
    with pytest.raises(MessageError, match="for another cohort"):
        check_reply(two.study, headers[0], "south", south)
    seen = [north, south.values] + [
        answered_with(private, header) for (private, _), header in zip(made, headers, strict=True)
    ]
    state = RunState.start(two.study)
    for liar in seen[2:]:
        with pytest.raises(
            MessageError, match="the limit for honest hospitals"
        ):  # by chance: 1e-11
            advance(two.study, state, {"north": north, "south": south.values, "liar-0": liar})
    for coefficients in itertools.product((-1, 0, 1), repeat=4):
        total = np.zeros_like(north)
        for coefficient, values in zip(coefficients, seen, strict=True):
            total += values * np.array(coefficient).astype(total.dtype)
        assert not shows_a_share(total)


def test_pads_that_a_partner_gives_away_show_the_sum_of_the_others_and_neither_of_them(
    two: RealCompany,
) -> None:
    private, public = new_run_key(LIAR, two.study.digest, "run-1", 1)
    two.keys["liar-0"], two.heads["liar-0"] = public, signed(LIAR, 1)
    header = two.header()
    sent = two.ask_all(header)
    given_away = answered_with(private, header)
    assert (
        from_ring(sent["north"] + sent["south"] + given_away, 32).tolist() == (2 * SHARE).tolist()
    )
    for values in sent.values():
        assert not shows_a_share(values)
        assert not shows_a_share(values + given_away)
        assert not shows_a_share(values - given_away)


# -- keys that are no good -------------------------------------------------------------------------

P = 2**255 - 19
LOW_ORDER = {  # every point of small order, and other ways to write them (RFC 7748, section 7)
    "0": 0,
    "1": 1,
    "order 8": 325606250916557431795983626356110631294008115727848805560023387167927233504,
    "order 8, the other": (
        39382357235489614581723060781553021112529911719440698176882885853963445705823
    ),
    "p - 1": P - 1,
    "p": P,
    "p + 1": P + 1,
}


@pytest.mark.parametrize("point", LOW_ORDER.values(), ids=LOW_ORDER.keys())
def test_a_key_of_low_order_is_refused_and_the_site_stays_alive(site: Site, point: int) -> None:
    low = point.to_bytes(32, "little").hex()
    key = RunKey.signed(partner("south"), site.study.digest, "run-1", 1, low)
    before = site.charged(), site.kinds(), site.replies()
    reply = site.ask(keys={"south": key})
    assert (reply.header.kind, reply.values.size) == ("refused", 0)
    assert (site.charged(), site.kinds(), site.replies()) == before
    _, better = run_key(partner("south"), site.study.digest, epoch=2)
    assert site.ask(keys={"south": better}).header.kind == "release"


def between(folder: Path) -> Iterator[tuple[Site, str, str]]:
    """A site whose fingerprint lies between those of two partners, an honest one and a liar."""
    for number in itertools.count():
        for site in approved_site(
            folder / str(number), partners=("east", "south", "west"), **SHARES
        ):
            prints = {h.id: h.fingerprint for h in site.study.hospitals}
            below = [name for name in prints if prints[name] < prints["north"]]
            above = [name for name in prints if prints[name] > prints["north"]]
            if below and above:
                yield site, below[0], above[0]
                return


@pytest.mark.parametrize("written", ["in the same bytes", "in other bytes"])
def test_a_partner_that_shows_anothers_key_as_its_own_takes_no_mask_away(
    tmp_path: Path, written: str
) -> None:
    for site, honest, liar in between(tmp_path):
        site.releaser = site.handler._releaser = Fixed(6)
        raw = bytearray(bytes.fromhex(run_key(partner(honest), site.study.digest)[1].key))
        if written == "in other bytes":
            raw[31] |= 0x80  # RFC 7748: the highest bit is ignored
        copied = RunKey.signed(partner(liar), site.study.digest, "run-1", 9, raw.hex())
        reply = site.ask(cohort=tuple(sorted(["north", honest, liar])), keys={liar: copied})
        assert (reply.header.kind, reply.values.size) == ("release", 6)
        assert not shows_a_share(reply.values)


# -- claims about us -------------------------------------------------------------------------------


@pytest.mark.parametrize("sequence", [1, 2, 3, 2**53])
def test_a_partner_cannot_vouch_for_rows_that_we_never_signed(site: Site, sequence: int) -> None:
    request = site.request()
    for _ in range(2):
        made_up = HeadAttestation.given(
            partner("south"),
            site.study.digest,
            "run-1",
            site.handler._partners._run_keys.join(site.study.digest, "run-1", None, {}).public,
            signed(partner("south"), sequence),
        )
        site.refuses("malformed", vouchers={"north": made_up})
    assert site.say(request).header.kind == "release"  # south, or west, says what is true


def test_a_partner_cannot_speak_of_our_ledger_by_a_head(site: Site) -> None:
    site.refuses("malformed", heads={"north": signed(partner("south"), 99)})
    assert site.ask().header.kind == "release"


@pytest.fixture
def four(tmp_path: Path) -> Iterator[RealCompany]:
    names = ("east", "north", "south", "west")
    yield from RealCompany.of(tmp_path, names, lambda *_: Fixed(6))


def test_an_honest_partner_stops_a_ledger_that_was_rolled_back(four: RealCompany) -> None:
    """Partners saw north's first release when they were asked for the second round."""
    before = four.heads["north"]
    with rolled_back_north(four):
        for round_ in (1, 2):
            four.ask_all(four.header(round=round_))
    heads = four.heads | {"north": before}  # what the coordinator says
    for name in ("east", "south", "west"):
        four.vouchers["north"] = four.said[name, "north"]
        reply = four.say("north", four.header(round=3, heads=heads))
        assert (reply.header.code, reply.values.size) == ("rolled-back", 0)
    assert four.members["north"].charged() == 0


def test_partners_that_saw_more_stop_a_rolled_back_ledger_that_another_vouched_for(
    four: RealCompany,
) -> None:
    before = four.heads["north"]
    with rolled_back_north(four):
        for round_ in (1, 2):
            four.ask_all(four.header("east", "north", "south", round=round_))
    four.vouchers["north"] = four.said["west", "north"]
    heads = four.heads | {"north": before}
    header = four.header("east", "north", "west", round=3, heads=heads)
    answers = {name: four.say(name, header).header.kind for name in header.cohort}
    assert "refused" in answers.values()


@contextmanager
def rolled_back_north(company: RealCompany) -> Iterator[None]:
    """What north does in here, its ledger forgets; then its agent starts anew and all join."""
    member = company.members["north"]
    path = member.home.directory / "ledger.sqlite"
    old = path.with_name("old.sqlite")
    member.ledger.close()
    shutil.copy(path, old)
    member.ledger = member.home.open_ledger()
    member.handler = handler_of(member.home, member.ledger, Fixed(6))
    company.join()
    yield
    member.ledger.close()
    for rest in ("-wal", "-shm"):
        path.with_name(path.name + rest).unlink(missing_ok=True)
    shutil.copy(old, path)
    member.ledger = member.home.open_ledger()
    member.handler = handler_of(member.home, member.ledger, Fixed(6))
    company.join()


# -- noise -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("hospitals", range(2, 12))
def test_without_the_noise_of_all_colluders_a_sum_still_has_all_that_is_charged(
    hospitals: int,
) -> None:
    named = [{"id": f"h{i}", "declared_size": 40} for i in range(hospitals)]
    least = {"minimum_cohort": 2}
    study = small_study(hospitals=named, limits=least).with_mechanism(**SHARES)
    assert study.cohort_floor > study.colluders
    for part in Plan.of(study).purposes.values():
        deviation = part.mechanism.noise_multiplier * part.mechanism.sensitivity_steps
        for cohort in range(study.cohort_floor, hospitals + 1):
            shares = noise_shares(study, cohort)
            honest = cohort - study.colluders
            assert honest * part.mechanism.variance_steps(shares) >= deviation**2
            assert (honest - 1) * part.mechanism.variance_steps(shares) < deviation**2


def test_what_colluders_leave_of_the_noise_is_as_wide_as_the_plan_says() -> None:
    """Four hospitals, one of which gave its noise away; false alarm 1e-6."""
    named = [{"id": f"h{i}", "declared_size": 40} for i in range(4)]
    study = small_study(hospitals=named).with_mechanism(**SHARES)
    mechanism, draws = Plan.of(study).purpose("training").mechanism, 50_000
    share = mechanism.variance_steps(noise_shares(study, 4))
    left = sum(SystemNoise().sample(share, draws) for _ in range(4 - study.colluders))
    deviation = mechanism.noise_multiplier * mechanism.sensitivity_steps
    squares = float(np.square(left / deviation).sum())
    assert 5e-7 < stats.chi2.cdf(squares, draws) < 1 - 5e-7
