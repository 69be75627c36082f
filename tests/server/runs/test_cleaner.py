"""A run waits for cleaner electricity, no longer than its study says, whatever is wrong."""

from __future__ import annotations

import logging
from datetime import UTC, date, datetime, timedelta

import pytest
import tomli_w

from flo.carbon.readers import read_intensity
from flo.errors import UsageError
from flo.server.runs import cleaner
from flo.server.runs.cleaner import CleanerElectricity
from flo.study.document import Study, from_document
from tests.builders import HOSPITALS, small_study
from tests.server.runs.test_scheduler import Scene, scene

__all__ = ["scene"]
TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def patient(window: str = "24h", **changes: object) -> Study:
    document = small_study().model_dump(mode="json") | changes
    document["limits"]["start_within"] = window
    return from_document(document)


def config(scene: Scene, **carbon: object) -> None:
    path = scene.home.config_path
    path.write_text(path.read_text() + tomli_w.dumps({"carbon": carbon}))


def grid(scene: Scene, clean: int) -> None:
    """300 g a kWh, but 100 in one hour of each day, UTC, for the ten days before now."""
    rows = ["time,grams"]
    for back in range(240):
        at = TODAY - timedelta(hours=back)
        rows.append(f"{at.isoformat()},{100 if at.hour == clean else 300}")
    (scene.home.directory / "grid.csv").write_text("\n".join(rows))


def approved(scene: Scene, study: Study) -> CleanerElectricity:
    scene.offers(study)
    return CleanerElectricity(scene.home, scene.store)


def postponed(scene: Scene, study: Study) -> list[dict[str, object]]:
    return [e["facts"] for e in scene.store.events(study.digest) if e["kind"] == "postponed"]


def test_it_waits_until_the_clean_hour_and_says_so_once(scene: Scene) -> None:
    config(scene, grid={"past": "grid.csv"})
    grid(scene, clean=5)
    study, noon = patient(), TODAY + timedelta(hours=12)
    electricity = approved(scene, study)
    waited = [at for at in range(30) if electricity.waits(study, noon + timedelta(hours=at))]
    assert waited == list(range(17)), "from noon to five"
    (said,) = postponed(scene, study)
    assert said["until"] == (TODAY + timedelta(days=1, hours=5)).isoformat(timespec="minutes")
    assert said["saves"] == pytest.approx(0.67)


@pytest.mark.parametrize(("window", "waits"), [("4h", False), ("6h", True), ("168h", True)])
def test_it_waits_no_longer_than_its_study_says(scene: Scene, window: str, waits: bool) -> None:
    config(scene, grid={"past": "grid.csv"})
    grid(scene, clean=17)
    study, noon = patient(window), TODAY + timedelta(hours=12)
    assert approved(scene, study).waits(study, noon) == waits


def test_a_restart_of_the_coordinator_does_not_begin_the_window_anew(scene: Scene) -> None:
    config(scene, grid={"past": "grid.csv"})
    grid(scene, clean=5)
    study, noon = patient("20h"), TODAY + timedelta(hours=12)
    assert approved(scene, study).waits(study, noon)
    assert CleanerElectricity(scene.home, scene.store).waits(study, noon + timedelta(hours=1))
    assert len(postponed(scene, study)) == 1, "the same plan is said once"
    grid(scene, clean=10)
    again = CleanerElectricity(scene.home, scene.store)
    assert not again.waits(study, noon + timedelta(hours=16)), "at ten the window is over"


def test_after_a_refusal_the_window_begins_anew(scene: Scene) -> None:
    config(scene, grid={"past": "grid.csv"})
    grid(scene, clean=5)
    study, then = patient("6h"), datetime.now(UTC) - timedelta(days=3)
    facts = {"until": then.isoformat(), "since": then.isoformat(), "saves": 0.5}
    electricity = approved(scene, study)
    scene.store.add_event(study.digest, "postponed", **facts)
    midnight = TODAY + timedelta(days=1)
    assert not electricity.waits(study, midnight), "that window is over"
    scene.store.add_event(study.digest, "declined", hospital=HOSPITALS[0], decision="withdraw")
    assert electricity.waits(study, midnight)


def test_it_never_waits_into_the_day_after_it_expires(scene: Scene) -> None:
    config(scene, grid={"past": "grid.csv"})
    grid(scene, clean=5)
    evening = TODAY + timedelta(hours=20)
    study = patient("24h", expires=TODAY.date().isoformat())
    assert not approved(scene, study).waits(study, evening)
    lasting = patient("24h", expires=(TODAY.date() + timedelta(days=1)).isoformat())
    assert approved(scene, lasting).waits(lasting, evening)


def test_without_start_within_or_grids_a_run_starts_at_once(scene: Scene) -> None:
    usual, waiting = small_study(), patient()
    assert not approved(scene, usual).waits(usual, TODAY)
    assert not approved(scene, waiting).waits(waiting, TODAY)


def test_whatever_is_wrong_with_a_file_the_run_starts(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    config(scene, grid={"past": "grid.csv"}, grids={HOSPITALS[0]: {"past": "none.csv"}})
    (scene.home.directory / "grid.csv").write_text("time,grams\nlately,many\n")
    study = patient()
    with caplog.at_level(logging.WARNING, "flo.server"):
        assert not approved(scene, study).waits(study, TODAY)
    assert "none.csv cannot be read" in caplog.text
    assert "'lately' is not a time" in caplog.text


@pytest.mark.parametrize(
    "text",
    ["[carbon", "[carbon]\nwatts = 'many'\n", '[carbon.grid]\npast = "' + "x" * 300 + '"\n'],
)
def test_a_configuration_that_cannot_be_read_keeps_no_run_waiting(scene: Scene, text: str) -> None:
    path, study = scene.home.config_path, patient()
    usual = path.read_text()
    path.write_text(usual + text)
    digest = scene.offers(study)
    assert not CleanerElectricity(scene.home, scene.store).waits(study)
    other = scene.offers(small_study(name="other"))
    scene.runs.watch()
    assert {scene.status(one) for one in (digest, other)} == {"running"}
    path.write_text(usual)
    scene.runs.watch()
    path.write_text(usual + text)
    for one in (digest, other):
        record = scene.store.last_run(one)
        assert record is not None
        scene.store.end_run(record.id, scene.store.take_run(record.id), "stopped", {})
    scene.link.finished |= {1, 2}
    scene.runs.watch()
    assert {scene.status(one) for one in (digest, other)} == {"stopped"}


def test_a_number_that_no_float_holds_and_a_study_that_never_expires(scene: Scene) -> None:
    config(scene, grid={"past": "grid.json"})
    huge = '[{"time": "2026-01-01T00:00:00+00:00", "rating": ' + "9" * 400 + "}]"
    (scene.home.directory / "grid.json").write_text(huge)
    study = patient(expires="9999-12-31")
    assert not approved(scene, study).waits(study)
    with pytest.raises(UsageError, match="is not a number"):
        read_intensity(scene.home.directory / "grid.json")


def test_a_better_forecast_changes_the_plan(scene: Scene) -> None:
    config(scene, grid={"past": "grid.csv", "ahead": "ahead.csv"})
    grid(scene, clean=5)
    ahead = scene.home.directory / "ahead.csv"
    ahead.write_text(f"time,grams\n{(TODAY + timedelta(hours=13)).isoformat()},299\n")
    study, noon = patient(), TODAY + timedelta(hours=12)
    electricity = approved(scene, study)
    assert electricity.waits(study, noon)
    ahead.write_text(f"time,grams\n{(TODAY + timedelta(hours=15)).isoformat()},7\n")
    assert electricity.waits(study, noon + timedelta(hours=1))
    assert electricity.waits(study, noon + timedelta(hours=2, minutes=59))
    assert not electricity.waits(study, noon + timedelta(hours=3))
    assert [str(one["until"])[11:16] for one in postponed(scene, study)] == ["05:00", "15:00"]


def test_the_scheduler_starts_it_then_and_says_what_it_emitted(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    config(scene, watts=100.0, grid={"past": "grid.csv"})
    grid(scene, clean=5)
    waits = True
    monkeypatch.setattr(cleaner.CleanerElectricity, "waits", lambda *_: waits)
    digest = scene.offers(patient())
    scene.runs.watch()
    assert scene.status(digest) == "offered"
    waits = False
    scene.runs.watch()
    assert scene.status(digest) == "running"
    facts = {"phase": "training", "round": 1, "cohort": list(HOSPITALS), "seconds": 36.0}
    scene.store.add_event(digest, "round", **facts)
    record = scene.store.last_run(digest)
    assert record is not None
    scene.store.end_run(record.id, scene.store.take_run(record.id), "stopped", {})
    scene.link.finished.add(1)
    scene.runs.watch()
    found = scene.store.last_event(digest, "emitted")
    assert found is not None
    assert found["kwh"] == pytest.approx(0.001 * len(HOSPITALS))
    assert 0.099 * len(HOSPITALS) <= found["grams"] <= 0.31 * len(HOSPITALS)


def test_a_study_without_start_within_has_the_digest_that_it_had() -> None:
    document = small_study().model_dump(mode="json")
    assert b"start_within" not in from_document(document).canonical_bytes
    assert b'"start_within":"24h"' in patient().canonical_bytes
    assert patient().digest != from_document(document).digest


@pytest.mark.parametrize("window", ["0h", "169h", "24", "1d", "h", "-1h", "024h"])
def test_other_windows_are_refused(window: str) -> None:
    with pytest.raises(Exception, match="a number of hours from 1h to 168h"):
        patient(window)


def test_the_day_of_expiry_is_the_studys() -> None:
    assert cleaner._end_of(patient(expires=date(2030, 1, 31).isoformat())) == datetime(
        2030, 1, 31, 23, 59, 59, tzinfo=UTC
    )
