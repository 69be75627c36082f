"""Files of carbon intensity, as Electricity Maps, ENTSO-E and the Carbon Aware SDK write them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from flo.carbon.readers import read_intensity
from flo.errors import UsageError
from tests.proofs.green import real_year

HOUR = int(datetime(2022, 1, 1, tzinfo=UTC).timestamp()) // 3600
MAPS = (
    "Datetime (UTC),Country,Zone Name,Zone Id,Carbon Intensity gCO₂eq/kWh (direct),"
    "Carbon Intensity gCO₂eq/kWh (LCA),Low Carbon Percentage\n"
    "2022-01-01 00:00:00,Spain,Spain,ES,133.64,175.54,76.35\n"
    "2022-01-01 01:00:00,Spain,Spain,ES,,,\n"
    "2022-01-01 02:00:00,Spain,Spain,ES,120.0,160.5,76.35\n"
)
WIDE = (
    '"Area","MTU","Fossil Gas  - Actual Aggregated [MW]","Solar  - Actual Aggregated [MW]",'
    '"Nuclear  - Actual Aggregated [MW]","Hydro Pumped Storage  - Actual Consumption [MW]"\n'
    '"ES","01.01.2022 00:00 - 01.01.2022 01:00 (UTC)","1000","0","3000","500"\n'
    '"ES","01.01.2022 01:00 - 01.01.2022 02:00 (UTC)","n/e","-","2000","500"\n'
)
LONG = (
    "MTU (CET/CEST),Area,Production Type,Generation (MW)\n"
    "01/07/2022 00:00:00 - 01/07/2022 00:15:00,ES,Fossil Gas,1000\n"
    "01/07/2022 00:00:00 - 01/07/2022 00:15:00,ES,Wind Onshore,1000\n"
    "01/07/2022 00:15:00 - 01/07/2022 00:30:00,ES,Wind Onshore,500\n"
)
MEASURED = [
    {"location": "es", "time": "2022-01-01T00:45:11.6092741+00:00", "rating": 65, "duration": "1"},
    {"location": "es", "time": "2022-01-01T02:30:00+01:00", "rating": 75, "duration": "1"},
]
FORESEEN = [
    {
        "generatedAt": "2022-01-01T00:00:00+00:00",
        "forecastData": [
            {"location": "es", "timestamp": f"2022-01-01T00:{at:02}:00+00:00", "duration": 5}
            | {"value": float(at)}
            for at in range(0, 60, 5)
        ],
    }
]


def read(folder: Path, text: str, zone: str = "UTC") -> dict[int, float]:
    path = folder / "grid"
    path.write_text(text, encoding="utf-8")
    return {hour - HOUR: grams for hour, grams in read_intensity(path, zone).grams.items()}


def test_electricity_maps_life_cycle_and_no_hour_that_is_not_stated(tmp_path: Path) -> None:
    assert read(tmp_path, MAPS) == {0: 175.54, 2: 160.5}
    newer = MAPS.replace("Carbon Intensity", "Carbon intensity").replace("(LCA)", "(Life cycle)")
    assert read(tmp_path, newer) == {0: 175.54, 2: 160.5}


def test_entso_e_by_the_mean_of_its_generation(tmp_path: Path) -> None:
    found = read(tmp_path, WIDE)
    assert found[0] == pytest.approx((1000 * 490 + 3000 * 12) / 4000)
    assert found[1] == pytest.approx(12)


def test_entso_e_in_quarters_of_an_hour_and_local_time(tmp_path: Path) -> None:
    summer = int(datetime(2022, 6, 30, 22, tzinfo=UTC).timestamp()) // 3600 - HOUR
    assert read(tmp_path, LONG) == {summer: pytest.approx(((490 + 11) / 2 + 11) / 2)}


def test_carbon_aware_sdk_measured_and_foreseen(tmp_path: Path) -> None:
    assert read(tmp_path, json.dumps(MEASURED)) == {0: 65, 1: 75}
    assert read(tmp_path, json.dumps(FORESEEN)) == {0: pytest.approx(27.5)}
    assert read(tmp_path, json.dumps(FORESEEN[0])) == {0: pytest.approx(27.5)}


def test_a_plain_file_is_read_in_the_zone_that_the_settings_name(tmp_path: Path) -> None:
    text = "time,grams\n2022-01-01T01:00,300\n2022-01-01T01:00+00:00,100\n"
    assert read(tmp_path, text, "Europe/Madrid") == {0: 300, 1: 100}


def test_a_year_in_local_time_is_the_year_in_utc(tmp_path: Path) -> None:
    """California's real hours, written as its clocks show them: over the hour that is skipped, and
    up to the one that is shown twice."""
    year, zone = real_year("US-CAL-CISO"), ZoneInfo("America/Los_Angeles")
    lines, expected = ["time,grams"], dict[int, float]()
    for hour, grams in year.grams.items():
        local = datetime.fromtimestamp(hour * 3600, UTC).astimezone(zone).replace(tzinfo=None)
        if local.isoformat() < "2022-11-06":
            lines.append(f"{local.isoformat()},{grams}")
            expected[hour - HOUR] = grams
    assert read(tmp_path, "\n".join(lines), "America/Los_Angeles") == expected
    assert read(tmp_path, "\n".join(lines), "UTC") != expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no file of a known form"),
        ("a,b\n1,2\n", "its columns are a, b"),
        ("time,grams\n", "has no intensity"),
        ("time,grams\nyesterday,5\n", "'yesterday' is not a time"),
        ("time,grams\n2022-01-01,much\n", "'much' is not a number"),
        ("time,grams\n2022-01-01,nan\n", "'nan' is not a number"),
        ("time,grams\n2022-01-01,90000\n", "an intensity of 90000 g a kWh, not 0 to 5,000"),
        ("time,grams\n2022-01-01,-1\n", "an intensity of -1 g"),
        ("time,grams\n2022-01-01\n", "row 2 has fewer fields"),
        (MAPS.replace("Carbon Intensity", "Intensity"), "no column of a carbon intensity"),
        (WIDE.replace("Solar ", "Fusion "), "generation 'Fusion' is not known"),
        (WIDE.replace("(UTC)", "(local)"), "the time zone of .* is not known; export it in UTC"),
        (WIDE.replace("01.01.2022 00:00 -", "2022 -"), "is not a time of ENTSO-E"),
        (LONG.replace("Generation (MW)", "Power"), "no column `Generation"),
        ("[1]", "an entry is not an object"),
        ('[{"time": "2022-01-01T00:00:00", "rating": 1}]', "has no offset"),
        ('[{"time": "2022-01-01T00:00:00Z", "rating": true}]', "no `time` and `rating`"),
        ("[{]", "not valid JSON|is not JSON"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read(tmp_path, text)


def test_a_file_that_is_missing_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_intensity(tmp_path / "none")
    (tmp_path / "grid").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="is not a text in UTF-8"):
        read_intensity(tmp_path / "grid")
