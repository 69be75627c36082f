"""Check that a population has the settings and keys with which it was registered."""

from __future__ import annotations

from flo.clients.home.site_config import Population
from flo.clients.home.site_home import SiteHome
from flo.errors import PolicyError, TrustError
from flo.privacy.ledger.ledger import Ledger


def refuse_changed_birth(home: SiteHome, ledger: Ledger, population: Population) -> None:
    """Refuse if what was fixed at registration changed: site.toml, split key, patients key."""
    commitments = home.read_key_commitments()
    for row in ledger.rows():
        public, private = row.public, row.private or {}
        if public["kind"] == "birth" and public["population"] == population.name:
            for name, born, now in (
                ("epsilon", public["epsilon"], population.epsilon),
                ("hold_out", public["hold_out"], population.hold_out),
                ("declared_size", public["declared_size"], population.declared_size),
                ("id_column", private.get("id_column"), population.id_column),
            ):
                if born != now:
                    raise PolicyError(
                        f"population {population.name!r}: {name} is {now!r} in site.toml but was "
                        f"fixed as {born!r} when the population was registered",
                        hint=f"set {name} in site.toml to {born!r} again",
                    )
            for name, commitment in commitments.items():
                if private.get(name) != commitment:
                    raise TrustError(
                        f"{name} is not the key with which population {population.name!r} was "
                        "registered: patients would move between training and evaluation",
                        hint="restore the key from the site's backup",
                    )
