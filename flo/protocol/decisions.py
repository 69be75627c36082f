"""A hospital's signed decision about a study: approval (``Approve``), refusal or withdrawal.

The site's identity signs the whole document; ``people`` are those who approved, each with a key of
their own if the site's policy names them. Version 3 has no mapping, version 2 neither people nor
code, version 1 no list of partners whose keys were not confirmed.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    RootModel,
    StringConstraints,
    ValidationError,
    model_validator,
)

from flo.documents import canonical
from flo.documents.document import Document, problems, spelt
from flo.errors import TrustError
from flo.keys.claims import Claim, Digest, LedgerHead, Signature
from flo.keys.identity import Identity
from flo.study.names import only_printable
from flo.study.terms import MOST_CONNECTED, Identifier

MAX_DECISION_BYTES = 65_536

PersonName = Annotated[
    str, spelt(r"[\w.@ '-]{1,60}", "1 to 60 letters, digits, spaces and . @ ' -")
]
ApproverRole = Literal["steward", "data protection officer", "ethics committee", "physician"]
Reason = Annotated[
    str, StringConstraints(min_length=1, max_length=500), AfterValidator(only_printable)
]
Time = Annotated[str, StringConstraints(max_length=40)]


class Terms(Document):
    """Terms of an approval, besides the study.

    ``population``: whose patients. ``unconfirmed``: partners whose keys were not confirmed.
    ``charged``: whether the ledger pays for the study as designed or as if the secure sum were
    broken. ``code`` and ``policy``: digests of the installed code and of the policy in force.
    ``mapping``: keyed digest of how the hospital's fields become the study's columns, if they have
    other names there; without the key it does not reveal which findings about its patients the
    hospital accepted.
    """

    population: Identifier | None = None
    unconfirmed: Annotated[tuple[Identifier, ...], Field(max_length=MOST_CONNECTED)] = ()
    charged: Literal["as-designed", "if-broken"] = "as-designed"
    code: Digest | None = None
    policy: Digest | None = None
    mapping: Digest | None = None

    @property
    def worst_case(self) -> bool:
        """Whether the ledger pays as if the secure sum were broken."""
        return self.charged == "if-broken"

    def as_document(self) -> dict[str, Any]:
        """Return the signed form. It has ``mapping`` only if set, so that older digests hold."""
        document = self.model_dump(mode="json")
        if self.mapping is None:
            del document["mapping"]
        return document

    @property
    def digest(self) -> str:
        """SHA-256 of the terms in signed form, which people's signatures name."""
        return canonical.digest(canonical.encode(self.as_document()))


class PersonApproval(Claim):
    """ "I, in this role, have read this study and approve it, on these terms."

    Signed by the person's own key. ``terms``: their digest.
    """

    name: PersonName
    role: ApproverRole
    time: Time
    terms: Digest

    @classmethod
    def given(
        cls,
        key: Identity,
        name: str,
        role: ApproverRole,
        study: str,
        hospital: str,
        terms: str,
        time: str,
    ) -> PersonApproval:
        """Sign with the person's own key. ``terms``: digest of the ``Terms`` that were read."""
        statement = _person_statement(name, role, study, hospital, terms, time)
        return cls(
            name=name,
            role=role,
            time=time,
            terms=terms,
            public=key.public.hex(),
            signature=key.sign("person-approval", statement),
        )

    def check(self, study: str, hospital: str, terms: str, signer: str) -> None:
        """Raises TrustError unless the key of fingerprint ``signer`` signed this approval."""
        if self.terms != terms:
            raise TrustError(
                f"{self.name} approved on other terms: code, policy, population, mapping, compared "
                "partners or charge differ"
            )
        statement = _person_statement(self.name, self.role, study, hospital, terms, self.time)
        self._check(signer, "person-approval", statement)


class Approve(Terms):
    """A steward's approval, on its terms."""

    schema_version: Literal[1, 2, 3, 4] = 3  # 4 with a mapping
    decision: Literal["approve"] = "approve"
    study: Digest
    hospital: Identifier
    role: Literal["steward"] = "steward"
    time: Time
    head: LedgerHead
    people: Annotated[tuple[PersonApproval, ...], Field(max_length=8)] = ()

    @model_validator(mode="after")
    def _states_a_mapping_since_version_4(self) -> Approve:
        if (self.mapping is not None) != (self.schema_version == 4):
            raise ValueError("a mapping is stated in schema_version 4, and only there")
        return self

    @property
    def terms(self) -> Terms:
        """The terms alone, whose digest people signed."""
        return Terms.model_validate({name: getattr(self, name) for name in Terms.model_fields})


class Decline(Document):
    """A steward's refusal (``refuse``), or withdrawal of an approval (``withdraw``)."""

    schema_version: Literal[2] = 2
    decision: Literal["refuse", "withdraw"]
    study: Digest
    hospital: Identifier
    role: Literal["steward"] = "steward"
    time: Time
    head: LedgerHead
    reason: Reason


class Decision(RootModel[Approve | Decline]):
    """An approval or a decline, distinguished by ``decision``."""


def read_approval(document: str) -> Approve:
    """Read an approval from its canonical document.

    Raises:
        TrustError: it is something else. MessageError: not JSON.
    """
    text = canonical.decode(document.encode(), limit=MAX_DECISION_BYTES, what="decision")
    try:
        decision = Decision.model_validate(text).root
    except ValidationError as error:
        raise TrustError(f"the decision is not valid:\n{problems(error)}") from error
    if not isinstance(decision, Approve):
        raise TrustError("the decision is not an approval")
    return decision


class Signed(Document):
    """A decision as stored and sent: its canonical document, and the site's signature."""

    document: Annotated[str, StringConstraints(max_length=MAX_DECISION_BYTES)]
    signature: Signature

    @classmethod
    def by(cls, identity: Identity, decision: Approve | Decline) -> Signed:
        """Sign a decision with the site's identity key."""
        if isinstance(decision, Approve):
            plain = decision.as_document()
        else:
            plain = decision.model_dump(mode="json")
        document = canonical.encode(plain)
        return cls(document=document.decode(), signature=identity.sign("approval", document))


def _person_statement(
    name: str, role: str, study: str, hospital: str, terms: str, time: str
) -> bytes:
    person = {"name": name, "role": role, "time": time}
    return canonical.encode(person | {"study": study, "hospital": hospital, "terms": terms})
