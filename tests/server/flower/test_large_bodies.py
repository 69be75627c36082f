"""Large bodies past Flower: for whom they are, one at a time, and what becomes of who goes away."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from pathlib import Path
from typing import Any

import pytest

from flo.errors import MessageError
from flo.host.shared_memory import SharedBytes, opened
from flo.http.asgi import Refused
from flo.server.flower import large_bodies
from flo.server.flower.large_bodies import LargeBodyRelay, name_in, number_in, numbers_in

NORTH, SOUTH, STRANGER = 11, 22, 33
ONE, TWO = "1" * 32, "2" * 32
BODY = os.urandom(3 << 20)
Message = MutableMapping[str, Any]


class Answered:
    """Who asks: keeps the answer."""

    def __init__(self) -> None:
        self.headers: dict[bytes, bytes] = {}
        self.body = b""
        self.whole = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.headers = dict(message["headers"])
        else:
            self.body += message["body"]
            self.whole = not message["more_body"]
        await asyncio.sleep(0)


def sends(*pieces: bytes, then: str = "http.disconnect") -> Callable[[], Awaitable[Message]]:
    """A request's body as it comes; after it the client is gone, or nothing comes any more."""
    left = list(pieces)

    async def receive() -> Message:
        await asyncio.sleep(0)
        if left:
            return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}
        if then != "http.disconnect":
            await asyncio.Event().wait()
        return {"type": then}

    return receive


MINE = 7  # the run


def offer_of(
    held: LargeBodyRelay,
    node: int,
    name: str,
    size: int,
    receive: Callable[[], Awaitable[Message]],
    *,
    answers: str | None = "question",
    is_over: bool = False,
) -> Coroutine[Any, Any, bool]:
    """A hospital's offer of a reply to a run that goes on."""
    return held.hold_reply(node, MINE, answers, name, size, receive, lambda flower_run: is_over)


def run(deed: Callable[[LargeBodyRelay], Awaitable[Any]]) -> Any:
    async def inside() -> Any:
        async with asyncio.timeout(10):
            return await deed(LargeBodyRelay())

    return asyncio.run(inside())


# -- down ------------------------------------------------------------------------------------------


def test_a_request_is_fetched_by_every_hospital_that_it_is_for_and_by_no_other() -> None:
    async def deed(held: LargeBodyRelay) -> list[Answered]:
        held.store_request(1, ONE, {NORTH, SOUTH}, BODY)
        asked = [Answered(), Answered()]
        for node, one in zip((NORTH, SOUTH), asked, strict=True):
            await held.serve_request(node, ONE, one)
        for node, name in ((STRANGER, ONE), (NORTH, TWO)):
            with pytest.raises(Refused, match="no such body"):
                await held.serve_request(node, name, Answered())
        return asked

    for one in run(deed):
        assert one.body == BODY
        assert one.whole
        assert one.headers[b"content-length"] == str(len(BODY)).encode()


def test_of_a_run_the_last_request_is_kept_and_of_one_that_is_over_none() -> None:
    async def deed(held: LargeBodyRelay) -> None:
        held.store_request(1, ONE, {NORTH}, BODY)
        held.store_request(1, TWO, {NORTH}, BODY)
        held.store_request(2, "a" * 32, {NORTH}, BODY)
        with pytest.raises(Refused):
            await held.serve_request(NORTH, ONE, Answered())
        for name in (TWO, "a" * 32):
            await held.serve_request(NORTH, name, Answered())
        held.forget(lambda flower_run: flower_run == 1)
        await held.serve_request(NORTH, "a" * 32, Answered())
        with pytest.raises(Refused):
            await held.serve_request(NORTH, TWO, Answered())

    run(deed)


# -- up --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offered_first", [True, False])
def test_what_a_hospital_offers_runs_through_when_it_is_taken(offered_first: bool) -> None:
    async def deed(held: LargeBodyRelay) -> tuple[bool, bytes]:
        half = len(BODY) // 2
        receive = sends(BODY[:half], b"", BODY[half:])
        offer = asyncio.create_task(offer_of(held, NORTH, ONE, len(BODY), receive))
        if offered_first:
            await asyncio.sleep(0.01)
        answered = Answered()
        await held.stream_reply(NORTH, ONE, len(BODY), answered)
        assert answered.whole
        return await offer, answered.body

    assert run(deed) == (True, BODY)


def test_on_this_machine_it_is_taken_from_memory_that_no_other_run_writes_to() -> None:
    async def deed(held: LargeBodyRelay) -> None:
        seen: dict[int, memoryview] = {}
        for number, node in enumerate((NORTH, SOUTH, NORTH, SOUTH)):
            body = bytes([number]) * 100_000
            offer = asyncio.create_task(offer_of(held, node, ONE, len(body), sends(body)))
            seen[node] = opened(
                await held.share_reply(node, node, ONE, len(body)), len(body)
            )  # a run each
            assert await offer
            for other, view in seen.items():
                assert bytes(view[:1]) == bytes([number - (other != node)])
        assert set(held._shared) == {NORTH, SOUTH}
        held.forget(lambda flower_run: flower_run == NORTH)
        assert set(held._shared) == {SOUTH}

    run(deed)


def test_what_a_run_gave_up_does_not_keep_it_from_taking_the_next() -> None:
    async def deed(held: LargeBodyRelay) -> None:
        slow = sends(BODY[:1], then="nothing")
        stalled = asyncio.create_task(offer_of(held, NORTH, ONE, len(BODY), slow))
        offer = asyncio.create_task(offer_of(held, SOUTH, TWO, 4, sends(b"four")))
        first = asyncio.create_task(held.share_reply(1, NORTH, ONE, len(BODY)))
        await asyncio.sleep(0.01)
        assert bytes(opened(await held.share_reply(1, SOUTH, TWO, 4), 4)) == b"four"
        with pytest.raises(Refused, match="hospital disconnected"):
            await first
        assert await offer
        assert not await stalled

    run(deed)


def test_a_take_that_was_given_up_before_the_offer_came_writes_over_nothing() -> None:
    async def deed(held: LargeBodyRelay) -> None:
        first = asyncio.create_task(held.share_reply(1, NORTH, ONE, 4))
        await asyncio.sleep(0.01)
        offer = asyncio.create_task(offer_of(held, SOUTH, TWO, 4, sends(b"good")))
        view = opened(await held.share_reply(1, SOUTH, TWO, 4), 4)
        assert await offer
        late = asyncio.create_task(offer_of(held, NORTH, ONE, 4, sends(b"evil")))
        with pytest.raises(Refused, match="no longer waits"):
            await first
        assert bytes(view) == b"good"
        late.cancel()

    run(deed)


def test_a_fetch_of_what_was_replaced_meanwhile_is_cut_short() -> None:
    async def deed(held: LargeBodyRelay) -> None:
        held.store_request(1, ONE, {NORTH}, BODY)
        answered, resume = Answered(), asyncio.Event()

        async def slow(message: Message) -> None:
            await answered(message)
            await resume.wait()

        fetching = asyncio.create_task(held.serve_request(NORTH, ONE, slow))
        await asyncio.sleep(0.01)
        held.store_request(1, TWO, {NORTH}, BODY)
        resume.set()
        await fetching
        assert len(answered.body) < len(BODY)

    run(deed)


def test_a_hospital_that_sends_nothing_any_more_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(large_bodies, "_STALLED_SECONDS", 0.05)

    async def deed(held: LargeBodyRelay) -> None:
        slow = sends(BODY[:1], then="nothing")
        offer = asyncio.create_task(offer_of(held, NORTH, ONE, len(BODY), slow))
        with pytest.raises(Refused, match="hospital disconnected"):
            await held.share_reply(1, NORTH, ONE, len(BODY))
        assert not await offer
        assert held._filling == {}

    run(deed)


def test_nobody_takes_what_another_hospital_offers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_bodies, "_TAKE_SECONDS", 0.05)

    async def deed(held: LargeBodyRelay) -> None:
        offer = asyncio.create_task(offer_of(held, NORTH, ONE, 4, sends(b"four")))
        await asyncio.sleep(0)
        for node, name, size in ((SOUTH, ONE, 4), (NORTH, TWO, 4), (NORTH, ONE, 5)):
            with pytest.raises(Refused, match="did not offer this"):
                await held.stream_reply(node, name, size, Answered())
        assert not offer.done()
        offer.cancel()

    run(deed)


@pytest.mark.parametrize(
    "pieces", [(BODY[:100],), (), (BODY, b"more")], ids=["cut short", "nothing", "too much"]
)
def test_a_hospital_that_goes_away_half_way_or_sends_more_than_it_said_gives_nothing_whole(
    pieces: tuple[bytes, ...],
) -> None:
    size = len(BODY) if len(pieces) < 2 else len(BODY) + 1

    async def deed(held: LargeBodyRelay) -> None:
        for here in (True, False):
            offer = asyncio.create_task(offer_of(held, NORTH, ONE, size, sends(*pieces)))
            answered = Answered()
            if here:
                with pytest.raises(Refused, match="hospital disconnected"):
                    await held.share_reply(1, NORTH, ONE, size)
            else:
                await held.stream_reply(NORTH, ONE, size, answered)
                assert not answered.whole
            assert not await offer

    run(deed)


def test_whose_run_is_over_or_who_offers_another_waits_no_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(large_bodies, "_LOOK_SECONDS", 0.01)

    async def deed(held: LargeBodyRelay) -> None:
        assert not await offer_of(held, NORTH, ONE, 4, sends(b"four"), is_over=True)
        first = asyncio.create_task(offer_of(held, NORTH, ONE, 4, sends(b"four")))
        await asyncio.sleep(0.02)
        assert not first.done()
        second = asyncio.create_task(offer_of(held, NORTH, TWO, 4, sends(b"four")))
        assert not await first
        await held.stream_reply(NORTH, TWO, 4, Answered())
        assert await second
        assert held._up == {}

    run(deed)


def test_an_offer_waits_as_long_as_its_run_asks_for_it_and_not_after() -> None:
    async def deed(held: LargeBodyRelay) -> None:
        offer = asyncio.create_task(offer_of(held, NORTH, ONE, 4, sends(b"four"), answers="a"))
        earlier = asyncio.create_task(offer_of(held, SOUTH, TWO, 4, sends(b"four"), answers=None))
        await asyncio.sleep(0.01)
        held.end_unawaited(MINE, {"a", "b"})
        held.end_unawaited(MINE + 1, {"of another run"})
        await asyncio.sleep(0.01)
        assert not offer.done()
        held.end_unawaited(MINE, {"b"})
        assert not await offer
        assert not earlier.done(), "what it answers is not known: it waits for the end of the run"
        earlier.cancel()

    run(deed)


def test_an_offer_that_is_being_read_is_read_to_its_end() -> None:
    async def deed(held: LargeBodyRelay) -> bytes:
        half, resume = len(BODY) // 2, asyncio.Event()
        pieces = sends(BODY[:half], BODY[half:])

        async def slow() -> Message:
            message = await pieces()
            if not message["more_body"]:
                await resume.wait()
            return message

        offer = asyncio.create_task(offer_of(held, NORTH, ONE, len(BODY), slow))
        answered = Answered()
        taken = asyncio.create_task(held.stream_reply(NORTH, ONE, len(BODY), answered))
        await asyncio.sleep(0.01)
        held.end_unawaited(MINE, ())
        resume.set()
        await taken
        assert await offer
        return answered.body

    assert run(deed) == BODY


def test_only_what_is_taken_is_read() -> None:
    """A thousand hospitals that offer cost no memory: their bodies stay with them."""

    async def untouched() -> Message:
        raise AssertionError("a body was read that nobody asked for")

    async def deed(held: LargeBodyRelay) -> None:
        offers = [
            asyncio.create_task(offer_of(held, node, ONE, 1 << 29, untouched))
            for node in range(1000)
        ]
        await asyncio.sleep(0.05)
        assert not any(offer.done() for offer in offers)
        for offer in offers:
            offer.cancel()

    run(deed)


# -- headers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "1" * 31, "1" * 33, "G" * 32, "../" + "1" * 29])
def test_a_name_is_thirty_two_hexadecimal_digits(name: str) -> None:
    assert name_in({b"x-flo-parcel": ONE.encode()}) == ONE
    with pytest.raises(Refused, match="missing or invalid"):
        name_in({b"x-flo-parcel": name.encode()})


@pytest.mark.parametrize("text", ["", "-1", "1.5", "1e3", "٣", "1" * 21, "1,", ",1", "1,x"])
def test_numbers_are_decimal_digits(text: str) -> None:
    headers = {b"x-flo-nodes": text.encode("utf-8")}
    with pytest.raises(Refused):
        numbers_in(headers, "x-flo-nodes")
    with pytest.raises(Refused):
        number_in(headers, "x-flo-nodes", 1 << 64)
    assert numbers_in({b"x-flo-nodes": b"11,22"}, "x-flo-nodes") == {11, 22}


def test_a_number_has_a_limit() -> None:
    assert number_in({b"content-length": b"100"}, "content-length", 100) == 100
    with pytest.raises(Refused) as refused:
        number_in({b"content-length": b"101"}, "content-length", 100)
    assert refused.value.status == 413


# -- shared memory ---------------------------------------------------------------------------------


def test_bytes_in_memory_are_seen_by_whoever_opens_their_place() -> None:
    shared = SharedBytes()
    shared.write(b"first and long")
    assert bytes(opened(shared.place, 14)) == b"first and long"
    shared.write(b"again")
    shared.write(b"!", 5)
    kept = opened(shared.place, 6)
    shared.close()
    assert bytes(kept) == b"again!"


def test_no_other_place_is_opened(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"four")
    shared = SharedBytes()
    shared.write(b"four")
    with file.open("rb") as handle:
        link = f"/proc/{os.getpid()}/fd/{handle.fileno()}"
        assert bytes(opened(link, 4)) == b"four"  # a file of ours, whoever holds it
    for place in (str(file), "/proc/self/mem", f"{shared.place}/../0", "/proc/1/root", ""):
        with pytest.raises(MessageError, match="not a path of shared memory"):
            opened(place, 4)
    for size in (5, 0):
        with pytest.raises(MessageError, match="not ours, or has not"):
            opened(shared.place, size)
    with pytest.raises(MessageError, match="no longer exists"):
        opened(f"/proc/{os.getpid()}/fd/99999", 4)
    reading, writing = os.pipe()
    try:
        with pytest.raises(MessageError):
            opened(f"/proc/{os.getpid()}/fd/{writing}", 4)
    finally:
        os.close(reading)
        os.close(writing)
    shared.close()
