"""One encrypted file of a folder: opened by its passphrase, changed by nobody, unpacked whole."""

from __future__ import annotations

import io
import json
import sqlite3
import stat
import tarfile
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flo.documents import canonical
from flo.errors import FloError, TrustError, UsageError
from flo.keys import backup
from flo.keys.keystore import by_passphrase

SECRET = b"a long passphrase"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "home"
    (made / "approved").mkdir(parents=True)
    (made / "site.toml").write_text("a = 1\n")
    (made / "approved" / "one.json").write_text("{}")
    (made / "snapshots").mkdir()
    (made / "snapshots" / "patients.npz").write_bytes(b"patients")
    (made / "decision.lock").touch()
    (made / ".half.new").write_bytes(b"half")
    (made / "link").symlink_to("/etc/passwd")
    with closing(sqlite3.connect(made / "ledger.sqlite")) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE rows (n INTEGER)")
        database.execute("INSERT INTO rows VALUES (7)")
        database.commit()
    return made


def written(folder: Path, out: Path) -> Path:
    backup.write(out, "site", "north", folder, ("snapshots",), SECRET)
    return out


def test_a_folder_that_no_backup_can_hold_is_refused_before_anything_is_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "_LARGEST", (1 << 20) + 20_000)
    (folder / "approved" / "large").write_bytes(bytes(40_000))
    with pytest.raises(UsageError, match="is too large for a backup, limit 1 MiB"):
        written(folder, tmp_path / "north.backup")
    assert not (tmp_path / "north.backup").exists()


def test_a_folder_comes_back_without_what_is_left_out(folder: Path, tmp_path: Path) -> None:
    out = written(folder, tmp_path / "north.backup")
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    found = backup.read(out, "site", SECRET)
    assert (found.header.kind, found.header.name) == ("site", "north")
    assert set(found.files) == {"site.toml", "approved/one.json", "ledger.sqlite"}
    backup.unpack(found, tmp_path / "again", ("snapshots",))
    again = tmp_path / "again"
    assert (again / "site.toml").read_text() == "a = 1\n"
    assert stat.S_IMODE((again / "approved" / "one.json").stat().st_mode) == 0o600
    assert list((again / "snapshots").iterdir()) == []
    with closing(sqlite3.connect(again / "ledger.sqlite")) as database:
        assert database.execute("SELECT n FROM rows").fetchall() == [(7,)]


def test_a_backup_in_the_folder_is_not_backed_up(folder: Path, tmp_path: Path) -> None:
    """Each would hold all earlier ones, and be twice as large."""
    first = written(folder, folder / "monday.backup")
    second = written(folder, tmp_path / "tuesday.backup")
    assert "monday.backup" not in backup.read(second, "site", SECRET).files
    assert second.stat().st_size < first.stat().st_size + 1000


@pytest.mark.parametrize("cost", [1 << 18, 1 << 30, (1 << 16) + 1, 1])
def test_a_header_cannot_ask_for_more_memory_than_ours_do(
    folder: Path, tmp_path: Path, cost: int
) -> None:
    """A cost of 2^20 took a gigabyte before anybody had typed a passphrase that fits."""
    data = written(folder, tmp_path / "north.backup").read_bytes()
    start = data.index(b"{")
    header = json.loads(data[start : data.index(b"}") + 1]) | {"cost": cost}
    text = canonical.encode(header)
    changed = data[: start - 4] + len(text).to_bytes(4, "big") + text + data[data.index(b"}") + 1 :]
    (tmp_path / "changed.backup").write_bytes(changed)
    with pytest.raises(FloError, match="cost"):
        backup.read(tmp_path / "changed.backup", "site", SECRET)


def test_a_database_in_use_is_copied_with_all_that_was_committed(
    folder: Path, tmp_path: Path
) -> None:
    with closing(sqlite3.connect(folder / "ledger.sqlite")) as database:
        database.execute("INSERT INTO rows VALUES (8)")
        database.commit()  # in the write-ahead log, which is not copied
        database.execute("BEGIN IMMEDIATE")
        database.execute("INSERT INTO rows VALUES (9)")
        out = written(folder, tmp_path / "out")
        database.rollback()
    backup.unpack(backup.read(out, "site", SECRET), tmp_path / "again")
    with closing(sqlite3.connect(tmp_path / "again" / "ledger.sqlite")) as copy:
        assert copy.execute("SELECT n FROM rows ORDER BY n").fetchall() == [(7,), (8,)]


def test_nothing_of_it_is_in_the_clear(folder: Path, tmp_path: Path) -> None:
    data = written(folder, tmp_path / "out").read_bytes()
    assert b"site.toml" not in data
    assert b"a = 1" not in data


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup of one file."""
    place = tmp_path_factory.mktemp("small")
    (place / "home").mkdir()
    (place / "home" / "site.toml").write_text("a = 1\n")
    return written(place / "home", place / "out")


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_changed_byte_is_found(
    small: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    whole, changed = bytearray(small.read_bytes()), tmp_path_factory.mktemp("changed") / "out"
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    changed.write_bytes(whole)
    with pytest.raises(FloError):
        backup.read(changed, "site", SECRET)


def test_another_passphrase_opens_nothing(folder: Path, tmp_path: Path) -> None:
    out = written(folder, tmp_path / "out")
    with pytest.raises(TrustError, match="does not open"):
        backup.read(out, "site", b"another passphrase")


def test_a_short_passphrase_and_an_existing_file_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least 12 characters"):
        backup.write(tmp_path / "out", "site", "north", folder, (), b"short")
    assert not (tmp_path / "out").exists()
    out = written(folder, tmp_path / "out")
    with pytest.raises(UsageError, match="already exists"):
        written(folder, out)


@pytest.mark.parametrize("data", [b"", b"flo-backup-1\n", b"PK", b"flo-backup-1\n" + b"\xff" * 40])
def test_what_is_no_backup_is_said_to_be_none(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "out").write_bytes(data)
    with pytest.raises(FloError):
        backup.read(tmp_path / "out", "site", SECRET)
    with pytest.raises(UsageError, match="no backup at"):
        backup.read(tmp_path / "missing", "site", SECRET)


def test_a_backup_of_the_other_kind_names_its_command(folder: Path, tmp_path: Path) -> None:
    out = written(folder, tmp_path / "out")
    with pytest.raises(UsageError) as raised:
        backup.read(out, "coordinator", SECRET)
    assert raised.value.hint == "flo site restore"


def test_nothing_is_unpacked_over_what_is_there(folder: Path, tmp_path: Path) -> None:
    found = backup.read(written(folder, tmp_path / "out"), "site", SECRET)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "kept").touch()
    with pytest.raises(UsageError, match="is not empty"):
        backup.unpack(found, tmp_path / "full")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["kept"]


@pytest.mark.parametrize(
    "name", ["../out", "/etc/cron.d/x", "a/../../b", "a//b", ".hidden", "a\nb"]
)
def test_whoever_has_the_passphrase_writes_nowhere_else(tmp_path: Path, name: str) -> None:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.addfile(tarfile.TarInfo(name))
    _forged(tmp_path / "out", archive.getvalue())
    with pytest.raises(TrustError, match="invalid entry"):
        backup.read(tmp_path / "out", "site", SECRET)


def test_a_link_in_a_backup_is_refused(tmp_path: Path) -> None:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        link = tarfile.TarInfo("site.toml")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    _forged(tmp_path / "out", archive.getvalue())
    with pytest.raises(TrustError, match="invalid entry"):
        backup.read(tmp_path / "out", "site", SECRET)


def _forged(path: Path, archive: bytes) -> None:
    header = backup.Header(kind="site", name="north", made="now", salt="00" * 16, cost=1 << 14)
    text = canonical.encode(header.model_dump(mode="json"))
    cipher = by_passphrase(SECRET, bytes(16), 1 << 14)
    sealed = cipher.seal({"header": text.decode()}, archive)
    path.write_bytes(b"flo-backup-1\n" + len(text).to_bytes(4, "big") + text + sealed)
