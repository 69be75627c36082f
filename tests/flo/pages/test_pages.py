"""What both rooms' pages rest on: plots, live parts, forms, and a log that is checked."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import StreamingResponse

from flo.audit.chain_check import IncrementalVerifier
from flo.audit.log import AuditLog
from flo.errors import MessageError
from flo.keys.identity import Identity
from flo.pages import plots
from flo.pages.forms import form_of, read_form
from flo.pages.live import LiveUpdates
from flo.pages.templates import Pages

FULL = "event: full\ndata: \n\n"

# -- plots -----------------------------------------------------------------------------------------

values = st.floats(min_value=0, max_value=1e9, allow_nan=False)


@given(st.lists(values, min_size=1, max_size=50), st.one_of(st.none(), values))
def test_every_point_and_the_limit_lie_inside_the_axes(
    heights: list[float], limit: float | None
) -> None:
    points = [(float(n), height) for n, height in enumerate(heights)]
    drawn = plots.plane([("a", points)], most_across=len(heights), least_top=0.1, limit=limit)
    for pair in drawn.lines[0].points.split():
        x, y = map(float, pair.split(","))
        assert drawn.left <= x <= drawn.right
        assert drawn.top <= y <= drawn.bottom
    if limit is not None:
        assert drawn.limit is not None
        assert drawn.top <= drawn.limit <= drawn.bottom


@given(values)
def test_ticks_are_few_round_and_reach_the_top(highest: float) -> None:
    drawn = plots.plane([("a", [(0, highest)])], most_across=1, least_top=1)
    assert 2 <= len(drawn.up) <= 6
    heights = [float(tick.label) for tick in drawn.up]
    assert heights[0] == 0
    assert heights[-1] >= highest * (1 - 1e-5)


def test_a_larger_number_is_higher() -> None:
    drawn = plots.plane([("a", [(0, 1), (1, 2)])], most_across=1, least_top=2)
    low, high = (float(pair.split(",")[1]) for pair in drawn.lines[0].points.split())
    assert high < low


def test_steps_hold_a_value_until_the_next() -> None:
    drawn = plots.plane([("a", [(0, 0), (1, 5)])], most_across=1, least_top=5, steps=True)
    first, corner, last = (tuple(map(float, p.split(","))) for p in drawn.lines[0].points.split())
    assert corner == (last[0], first[1])


def test_an_interval_keeps_its_order_and_its_axis() -> None:
    rows = [("all", 0.2, 0.5, 0.9), ("some", -1, 0, 2), ("unknown", 0, None, 1)]
    drawn = plots.intervals(rows, 0, 1)
    assert drawn.rows[2].middle is None
    for row in drawn.rows[:2]:
        assert row.middle is not None
        assert drawn.left <= row.low <= row.middle <= row.high <= drawn.right


# -- forms -----------------------------------------------------------------------------------------


@given(st.dictionaries(st.text(min_size=1, max_size=9), st.text(max_size=99), max_size=9))
def test_a_form_is_read_as_a_browser_sends_it(fields: dict[str, str]) -> None:
    from urllib.parse import urlencode

    unchanged = {name: value.replace("\r\n", "\n") for name, value in fields.items()}
    assert form_of(urlencode(fields).encode()) == unchanged


def test_a_form_that_is_cut_off_is_not_taken_for_a_whole_one() -> None:
    messages: list[dict[str, Any]] = [
        {"type": "http.request", "body": b"patient=12", "more_body": True},
        {"type": "http.disconnect"},
    ]
    parts = iter(messages)

    async def receive() -> dict[str, Any]:
        return next(parts)

    with pytest.raises(MessageError, match="interrupted"):
        asyncio.run(read_form(receive, 100))


def test_what_reorders_a_line_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "page.j2").write_text("{{ said }}")
    shown = Pages(tmp_path, base="").page("page.j2", said="a\u202eb\x1b[2J<b>")
    assert bytes(shown.body).decode() == "a\ufffdb\ufffd[2J&lt;b&gt;"


@pytest.mark.parametrize("body", [b"a", b"\xff", b"a=%ff", b"a=1&a=2", b"&".join([b"a=1"] * 99)])
def test_what_is_no_form_is_refused(body: bytes) -> None:
    with pytest.raises(MessageError):
        form_of(body)


# -- live ------------------------------------------------------------------------------------------


async def said(stream: AsyncIterator[Any], count: int) -> list[str]:
    found: list[str] = []
    async for text in stream:
        found.append(str(text))
        if len(found) == count:
            break
    return found


def events(live: LiveUpdates, **given: Any) -> AsyncIterator[Any]:
    answer = live.stream(**({"shown": "page"} | given))
    assert isinstance(answer, StreamingResponse)
    return aiter(answer.body_iterator)


def test_only_parts_that_changed_are_sent_again() -> None:
    async def scene() -> list[str]:
        numbers = itertools.count()
        parts = iter([{"a": "1", "b": "1"}, {"a": "1", "b": "2"}])
        stream = events(LiveUpdates(), version=lambda: next(numbers), parts=lambda: next(parts))
        return await said(stream, 4)

    hello, first, second, third = asyncio.run(scene())
    assert hello.startswith("event: hello")
    assert ('"a"' in first, '"b"' in second) == (True, True)
    assert '"html": "2"' in third


def test_pages_that_show_the_same_share_what_is_made_for_them() -> None:
    made = itertools.count()

    async def scene() -> None:
        live = LiveUpdates()
        streams = [
            events(live, version=int, parts=lambda: {"a": str(next(made))}) for _ in range(5)
        ]
        for stream in streams:
            assert [text.split("\n")[0] for text in await said(stream, 2)][1] == "event: part"

    asyncio.run(scene())
    assert next(made) == 1


@pytest.mark.slow
def test_a_page_that_cannot_be_kept_up_to_date_says_so_and_goes_on_when_it_can(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scene() -> list[str]:
        looks = itertools.count()

        def parts() -> dict[str, str]:
            if next(looks) in (1, 2):
                raise OSError("busy")
            return {"a": "shown"}

        return await said(events(LiveUpdates(), version=object, parts=parts), 4)

    kinds = [text.split("\n")[0] for text in asyncio.run(scene())]
    assert kinds == ["event: hello", "event: part", "event: failed", "event: hello"]
    assert [one.getMessage() for one in caplog.records if one.name == "flo.pages"] == [
        "a page cannot be updated; FLO keeps trying"
    ]


def test_a_stream_ends_with_the_session_and_says_so() -> None:
    async def scene() -> list[str]:
        return await said(events(LiveUpdates(), version=int, parts=dict, until=0.0), 9)

    assert [text.split("\n")[0] for text in asyncio.run(scene())] == ["event: hello", "event: over"]


def test_a_stream_ends_when_the_process_does() -> None:
    async def scene() -> list[str]:
        live = LiveUpdates()
        stream = events(live, version=int, parts=dict)
        first = await said(stream, 1)
        live.closing.set()
        return first + await said(stream, 9)

    assert len(asyncio.run(scene())) == 1


def test_pages_that_are_open_are_limited_also_for_one_person_and_a_closed_one_makes_room() -> None:
    async def scene() -> None:
        live = LiveUpdates()
        streams = [
            events(live, version=int, parts=dict, owner=str(number // 8)) for number in range(64)
        ]
        for stream in streams:
            await anext(stream)
        assert await said(events(live, version=int, parts=dict, owner="late"), 1) == [FULL]
        await streams[0].aclose()  # type: ignore[attr-defined]
        assert await said(events(live, version=int, parts=dict, owner="1"), 1) == [FULL]
        assert await said(events(live, version=int, parts=dict, owner="0"), 1) != [FULL]
        for stream in streams[1:]:
            await stream.aclose()  # type: ignore[attr-defined]

    asyncio.run(scene())


# -- the record ------------------------------------------------------------------------------------


def test_a_log_is_checked_further_at_every_look_and_an_edited_entry_is_named(
    tmp_path: Path,
) -> None:
    path = tmp_path / "audit.sqlite"
    with closing(AuditLog(path, Identity.new())) as log:
        check = IncrementalVerifier(log)
        for number in range(5):
            log.append("reviewed", number=number)
        assert (check.verify_next().number, check.verify_next().broken) == (5, None)
        log.append("reviewed")
        assert check.verify_next().number == 6
        with closing(sqlite3.connect(path)) as db:
            db.execute("UPDATE entries SET facts = '{}' WHERE number = 3")
            db.commit()
        assert "entry 3 was edited" in str(check.verify_next().broken)  # though it held before


@pytest.mark.parametrize("kind", ["not a kind", ""])
def test_an_entry_that_cannot_be_read_is_one_that_was_edited(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "audit.sqlite"
    with closing(AuditLog(path, Identity.new())) as log:
        log.append("reviewed")
        with closing(sqlite3.connect(path)) as db:
            db.execute("UPDATE entries SET kind = ?", (kind,))
            db.commit()
        assert "entry 1 was edited" in str(IncrementalVerifier(log).verify_next().broken)


def test_a_log_that_was_cut_is_not_said_to_hold(tmp_path: Path) -> None:
    path, other = tmp_path / "audit.sqlite", Identity.new()
    with (
        closing(AuditLog(path, Identity.new())) as log,
        closing(AuditLog(tmp_path / "other.sqlite", other)) as theirs,
    ):
        for _ in range(5):
            log.append("reviewed")
        growth = log.growth({other.fingerprint})
        assert growth is not None
        log.keep_receipt(theirs.cosign(growth), other.fingerprint)
        check = IncrementalVerifier(log)
        assert check.verify_next().broken is None
        with closing(sqlite3.connect(path)) as db:
            db.execute("DELETE FROM entries WHERE number > 3")
            db.commit()
        assert "entry 5 was countersigned" in str(check.verify_next().broken)
