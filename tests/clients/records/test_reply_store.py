"""Kept replies: the same bits for as long as they may be asked for, and for nobody else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flo.clients.records.reply_store import ReplyStore
from flo.errors import TrustError
from flo.keys.keystore import LocalKeyStore

VALUES = np.array([0, -1, 2**62], dtype=np.int64)
STUDY, OTHER = "a" * 64, "b" * 64


@pytest.fixture
def replies(tmp_path: Path) -> ReplyStore:
    (tmp_path / "replies").mkdir()
    return ReplyStore(tmp_path / "replies", LocalKeyStore(tmp_path / "key"))


def test_a_kept_reply_reads_back_to_the_bit(replies: ReplyStore) -> None:
    kept = replies.load(STUDY, replies.store(STUDY, VALUES), 0, 3)
    assert kept is not None
    np.testing.assert_array_equal(kept, VALUES)


@pytest.mark.parametrize("kind", [np.int32, np.int64])
def test_a_kept_reply_has_the_width_in_which_it_was_sent(replies: ReplyStore, kind: Any) -> None:
    values = np.array([5, -6, 2**31 - 1]).astype(kind)
    kept = replies.load(STUDY, replies.store(STUDY, values), 0, 3)
    assert kept is not None
    assert (kept.dtype, kept.tolist()) == (kind, values.tolist())


def test_a_reply_that_was_never_kept_is_none(replies: ReplyStore) -> None:
    assert replies.load(STUDY, "c" * 64, 0, 3) is None


def test_a_settled_studys_replies_are_gone_and_others_stay(replies: ReplyStore) -> None:
    one, two = replies.store(STUDY, VALUES), replies.store(OTHER, VALUES)
    replies.forget(STUDY)
    assert replies.load(STUDY, one, 0, 3) is None
    assert replies.load(OTHER, two, 0, 3) is not None


def test_a_changed_reply_is_refused(replies: ReplyStore, tmp_path: Path) -> None:
    digest = replies.store(STUDY, VALUES)
    (path,) = (tmp_path / "replies").iterdir()
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(TrustError):
        replies.load(STUDY, digest, 0, 3)


def test_another_studys_reply_does_not_open(replies: ReplyStore, tmp_path: Path) -> None:
    digest = replies.store(STUDY, VALUES)
    (path,) = (tmp_path / "replies").iterdir()
    path.rename(path.with_name(path.name.replace("a" * 32, "b" * 32)))
    with pytest.raises(TrustError):
        replies.load(OTHER, digest, 0, 3)
