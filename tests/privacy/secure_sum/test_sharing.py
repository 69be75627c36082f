"""Any ``threshold`` shares give the secret, and fewer fit every secret equally well."""

from __future__ import annotations

import itertools
import secrets

import pytest

from flo.privacy.secure_sum.sharing import PRIME, combine, split


def test_the_modulus_is_a_prime_below_which_every_number_has_32_bytes() -> None:
    assert PRIME < 2**256
    for base in (2, 3, 5, 7, 11, 13):
        assert pow(base, PRIME - 1, PRIME) == 1


@pytest.mark.parametrize(("holders", "threshold"), [(3, 2), (4, 3), (6, 4), (5, 5), (2, 1)])
def test_any_threshold_of_shares_gives_the_secret(holders: int, threshold: int) -> None:
    secret = secrets.randbelow(PRIME)
    shares = split(secret, threshold, range(1, holders + 1))
    for some in itertools.combinations(shares, threshold):
        assert combine({holder: shares[holder] for holder in some}) == secret
    assert combine(shares) == secret


@pytest.mark.parametrize("secret", [0, 1, PRIME - 1])
def test_the_ends_of_the_range_are_secrets_like_others(secret: int) -> None:
    shares = split(secret, 3, [1, 7, 50, PRIME - 1])
    assert combine({holder: shares[holder] for holder in (7, 50, PRIME - 1)}) == secret


def test_one_share_too_few_fits_every_secret() -> None:
    """For each other secret there is exactly one further share, so these tell nothing."""
    shares = split(5, 4, range(1, 8))
    three = {holder: shares[holder] for holder in (2, 3, 6)}
    found = {combine(three | {7: share}) for share in range(200)}
    assert len(found) == 200
    assert combine(three) != 5


def test_shares_of_one_secret_are_new_each_time() -> None:
    assert len({split(5, 2, [1])[1] for _ in range(100)}) == 100


@pytest.mark.parametrize(
    ("secret", "threshold", "holders"),
    [(PRIME, 2, [1, 2]), (-1, 2, [1, 2]), (5, 0, [1]), (5, 1, [0]), (5, 1, [PRIME])],
)
def test_what_would_give_a_secret_away_or_not_give_it_back_is_refused(
    secret: int, threshold: int, holders: list[int]
) -> None:
    with pytest.raises(ValueError, match="must"):
        split(secret, threshold, holders)
