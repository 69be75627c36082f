"""The table: a requirement, FLO's mechanism, the tests of the mechanism, and its proof here.

Requirements are named and paraphrased in a few words, to be read with the law's own text: HIPAA
Security Rule, 45 CFR 164.312 (technical safeguards), and Regulation (EU) 2016/679. A row is *shown*
if its function finds evidence in this installation; the row lists that evidence. "Not shown" is no
finding of a violation: people do much of what the law requires, outside any software.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flo.infra.evidence.facts import Facts

Proof = Callable[[Facts], list[str]]


@dataclass(frozen=True)
class Requirement:
    """``tests``: path::name of FLO's tests of the mechanism. By default it cannot be shown."""

    reference: str
    asks: str
    mechanism: str
    tests: tuple[str, ...] = ()
    proof: Proof = lambda facts: []


def _entries(facts: Facts, what: str, *kinds: str) -> list[str]:
    """Return a line with the numbers of these kinds' audit entries, or no line."""
    numbers = facts.numbers(*kinds)
    if not numbers:
        return []
    shown = ", ".join(map(str, numbers[:5]))
    more = f" and {len(numbers) - 5} more" if len(numbers) > 5 else ""
    return [f"{what}: audit entries {shown}{more}"]


def _logged(what: str, *kinds: str) -> Proof:
    """Return a proof by audit entries of these kinds alone."""
    return lambda facts: _entries(facts, what, *kinds)


def _access(facts: Facts) -> list[str]:
    found = _entries(facts, "access decided", "enrolled", "approved", "token-issued", "invited")
    found += _entries(facts, "refused", "denied", "refused-request", "refused-call", "revoked")
    return found


def _accurate(facts: Facts) -> list[str]:
    found = _entries(facts, "data checked against the study before approval", "budget-reserved")
    if facts.policy.get("gate_required"):
        found.append("the policy in force lets only models be used that passed a release gate")
    return found


def _people(facts: Facts) -> list[str]:
    found = _entries(facts, "named people", "token-issued", "person-approved")
    if facts.policy.get("people"):
        names = ", ".join(person["name"] for person in facts.policy["people"])
        found.append(f"policy names who approves, each with a key of their own: {names}")
    return found


def _sealed(facts: Facts) -> list[str]:
    if not facts.keys or not all(facts.keys.values()):
        return []
    names = ", ".join(facts.keys)
    return [
        f"{names}: opened by the key store just now, AES-256-GCM, mode 0600; key store: "
        f"{facts.keystore}"
    ]


def _audit(facts: Facts) -> list[str]:
    if facts.problems or not facts.entries:
        return []
    found = [f"the log's chain and signatures hold over all {len(facts.entries)} entries"]
    if facts.countersigned:
        found.append(f"the other side countersigned it up to entry {facts.countersigned}")
    return found


def _answers(facts: Facts) -> list[str]:
    found = _entries(facts, "the log of what models answered, noted", "answers-anchored")
    found += _entries(facts, "versions of a model, compared", "versions-compared")
    return found + _entries(facts, "versions put where they answer in the cloud", "deployed")


def _integrity(facts: Facts) -> list[str]:
    if facts.problems:
        return []
    found = [f"study {study.digest[:12]}: its signature holds" for study in facts.studies[:5]]
    if facts.lives:
        found.append("the ledger's chain holds from its birth on")
    return found


def _authentication(facts: Facts) -> list[str]:
    found = _entries(facts, "keys enrolled or compared", "enrolled", "partner-confirmed")
    if facts.certificate_ends:
        found.append(f"own certificate, valid to {facts.certificate_ends}")
    return found


def _transmission(facts: Facts) -> list[str]:
    if not facts.certificate_ends:
        return []
    return [f"mutual TLS 1.3 only; own certificate valid to {facts.certificate_ends}"]


def _legal_bases(facts: Facts) -> list[str]:
    return [f"{study.name} v{study.version}: {study.legal_basis}" for study in facts.studies[:5]]


def _purposes(facts: Facts) -> list[str]:
    found = [f"{study.name} v{study.version}: {study.purpose}" for study in facts.studies[:5]]
    if facts.policy.get("purposes"):
        phrases = ", ".join(facts.policy["purposes"])
        found.append(f"the policy allows only purposes that contain one of: {phrases}")
    return found


def _minimal(facts: Facts) -> list[str]:
    return [
        f"{study.name} v{study.version}: {len(study.data.columns)} columns and a label are used; "
        f"noisy numbers leave, ε = {study.largest_epsilon:g}, δ = {study.mechanism.delta:g}"
        for study in facts.studies[:5]
    ]


def _storage(facts: Facts) -> list[str]:
    if facts.side != "site":
        return []
    ended = {study.digest for study in facts.studies} - facts.open_studies
    if not ended or facts.kept:
        return []
    return [f"frozen copies and kept replies of {len(ended)} ended studies are deleted"]


def _confined(facts: Facts) -> list[str]:
    started = facts.last("agent-started")
    layers = started.facts.get("confinement") if started else None
    if not started or not layers:
        return []
    return [f"data process locked in by {', '.join(layers)}: audit entry {started.number}"]


def _accountable(facts: Facts) -> list[str]:
    found = _entries(facts, "decisions", "approved", "refused", "withdrawn", "policy-signed")
    return found + _entries(facts, "signed extracts of the ledger", "extract-signed", "extract")


def _erasure(facts: Facts) -> list[str]:
    """List erasures that found records; an erasure of a mistyped id does not count."""
    numbers = [n for n in facts.numbers("erasure") if facts.entries[n - 1].facts["studies"]]
    return (
        [f"requests carried out: audit entries {', '.join(map(str, numbers))}"] if numbers else []
    )


def _by_design(facts: Facts) -> list[str]:
    found = [f"life budget of {name}: {life}" for name, life in facts.lives.items()]
    masked = [study for study in facts.studies if study.masked]
    if masked:
        found.append(f"{len(masked)} studies whose coordinator reads only sums over hospitals")
    return found


def _records(facts: Facts) -> list[str]:
    if not facts.studies:
        return []
    return [f"record of processing with {len(facts.studies)} studies, in this pack"]


def _assessed(facts: Facts) -> list[str]:
    if not facts.studies:
        return []
    return [f"annex for {len(facts.studies)} studies, in this pack, to be completed by people"]


_ATTACKS = "tests/attacks/test_attacks.py::test_an_attack_is_refused_logged_and_survived"
_LISTENER = "tests/server/listeners/test_hospital_listener.py"

ROWS: tuple[Requirement, ...] = (
    Requirement(
        "HIPAA 164.312(a)(1)",
        "access control: only persons and programs with rights get in",
        "client certificates for hospitals, signed tokens with roles for people, a steward's "
        "signed approval for every study, a data process without network",
        (
            _ATTACKS,
            "tests/server/http/test_roles.py::test_every_route_is_in_the_table",
            "tests/clients/data_process/test_confinement.py::test_every_layer_holds_on_this_machine",
        ),
        lambda facts: _access(facts) + _confined(facts),
    ),
    Requirement(
        "HIPAA 164.312(a)(2)(i)",
        "unique user identification",
        "tokens and approvals name a person; the policy can name people with keys of their own",
        ("tests/clients/approvals/test_approvers.py::test_two_people_must_say_yes",),
        _people,
    ),
    Requirement(
        "HIPAA 164.312(a)(2)(ii)",
        "emergency access procedure",
        "none: FLO is not a source of care records",
    ),
    Requirement(
        "HIPAA 164.312(a)(2)(iii)",
        "automatic logoff",
        "tokens end by themselves",
        ("tests/server/http/test_tokens.py::test_a_token_ends_by_itself",),
        _logged("tokens that end by themselves, 24 hours at most", "token-issued"),
    ),
    Requirement(
        "HIPAA 164.312(a)(2)(iv)",
        "encryption and decryption at rest",
        "keys, lists of members and kept replies are sealed by the key store; the hospital's file "
        "and frozen copies rest on the hospital's own disk encryption",
        ("tests/flo/keys/test_keystore.py::test_a_secret_is_sealed_and_reads_back",),
        _sealed,
    ),
    Requirement(
        "HIPAA 164.312(b)",
        "audit controls: record and examine activity",
        "append-only, chained, signed log on both sides, heads countersigned by the other side; "
        "where models answer the record system, every answer is in a signed log of its own",
        (
            "tests/clients/serving/test_hooks.py::"
            "test_every_answer_is_in_the_log_by_its_id_before_it_is_sent",
            "tests/flo/audit/test_chain.py::test_what_was_done_to_a_log_is_named",
            "tests/end_to_end/test_markers.py::test_no_planted_value_is_found_anywhere",
        ),
        lambda facts: _audit(facts) + _answers(facts),
    ),
    Requirement(
        "HIPAA 164.312(c)(1)",
        "integrity: no improper alteration or destruction",
        "ledger and log are chained and signed; studies, approvals, policy and models are signed",
        (
            "tests/privacy/ledger/test_ledger_tampering.py::test_a_ledger_that_was_touched_does_not_open",
        ),
        _integrity,
    ),
    Requirement(
        "HIPAA 164.312(d)",
        "person or entity authentication",
        "P-384 keys made where they are used; fingerprints compared by people, named in the study",
        (_ATTACKS,),
        _authentication,
    ),
    Requirement(
        "HIPAA 164.312(e)(1)",
        "transmission security: integrity and encryption",
        "mutual TLS 1.3 and nothing older; only noisy, masked numbers are sent",
        (_LISTENER + "::test_tls_1_2_is_not_spoken", _ATTACKS),
        _transmission,
    ),
    Requirement(
        "GDPR Art. 5(1)(a)",
        "lawfulness, fairness, transparency",
        "the study states its legal basis; the steward reads it in plain language before a yes",
        ("tests/clients/inbox/test_review.py::test_the_sheet_says_all_that_a_steward_asks",),
        _legal_bases,
    ),
    Requirement(
        "GDPR Art. 5(1)(b)",
        "purpose limitation",
        "the purpose is part of the signed study; another purpose is another study; the policy can "
        "name those allowed",
        ("tests/clients/home/test_policy.py::test_a_broken_rule_is_named",),
        _purposes,
    ),
    Requirement(
        "GDPR Art. 5(1)(c)",
        "data minimisation",
        "a file with a column that is not the study's is refused unless the site lists it to be "
        "ignored, and then it is dropped; only noisy sums under a budget leave",
        (
            "tests/clients/agent/test_what_a_site_sends.py::test_every_field_that_a_site_sends_is_accounted_for",
        ),
        _minimal,
    ),
    Requirement(
        "GDPR Art. 5(1)(d)",
        "accuracy",
        "types, bounds, codes, missing codes, duplicates and the number of patients are checked at "
        "the site before approval; a model can be compared with the one in use on held-out "
        "patients before it replaces it, a wrong one is taken out of use everywhere, and monitors "
        "at the hospital and across hospitals compare outcomes with stated risks",
        (
            "tests/end_to_end/test_monitor.py::"
            "test_three_periods_count_each_patient_once_and_each_pays_for_one",
            "tests/clients/serving/test_watched.py::"
            "test_an_alarm_does_what_the_plan_says_within_a_second",
            "tests/clients/watching/test_watch.py::"
            "test_other_units_are_found_on_the_same_day_and_named",
            "tests/clients/prediction/test_gate_rule.py::"
            "test_a_model_is_used_only_if_its_own_gate_was_passed",
            "tests/clients/prediction/test_versions.py::"
            "test_what_the_coordinator_withdraws_answers_no_more",
            "tests/flo/published/test_fairness.py::test_the_command_and_the_page_say_the_same",
            "tests/clients/quality/test_placeholders.py::test_a_missing_code_within_the_bounds_is_asked_about",
            "tests/clients/quality/test_sizes.py::test_half_and_twice_are_asked_about",
            "tests/clients/quality/test_check.py::test_a_table_that_fits_is_encoded",
            "tests/clients/sources/test_identifiers.py::test_in_a_column_of_the_study",
            "tests/clients/sources/test_neighbours.py::test_a_hostile_patient_changes_nobody_else",
        ),
        _accurate,
    ),
    Requirement(
        "GDPR Art. 5(1)(e)",
        "storage limitation",
        "frozen copies and kept replies are deleted when a study ends or is withdrawn, and answers "
        "that monitors wait for once their outcomes were counted",
        (
            "tests/clients/watching/test_kept.py::test_rows_are_deleted_once_they_were_counted",
            "tests/clients/agent/test_handler.py::test_the_end_of_a_run_deletes_the_frozen_patients",
        ),
        _storage,
    ),
    Requirement(
        "GDPR Art. 5(1)(f)",
        "integrity and confidentiality",
        "differential privacy for whatever leaves; the process that holds patients has no "
        "network, and neither has one that runs an encoder on their images or notes",
        (
            "tests/clients/data_process/test_confinement.py::test_every_layer_holds_on_this_machine",
            "tests/clients/data_process/test_helpers.py::"
            "test_helpers_are_confined_and_cannot_reach_the_agents_pipe",
            "tests/clients/data_process/test_encoding.py::"
            "test_no_image_changes_the_features_of_another_by_one_bit",
            "tests/clients/data_process/test_notes.py::"
            "test_no_note_changes_the_features_of_another_by_one_bit",
            "tests/clients/data_process/test_encoder_file.py::"
            "test_what_makes_a_file_unfit_is_named",
        ),
        _confined,
    ),
    Requirement(
        "GDPR Art. 5(2)",
        "accountability",
        "every decision is signed and logged; anyone can recompute every ε offline",
        ("tests/privacy/report/test_report.py::test_a_changed_byte_anywhere_is_found",),
        _accountable,
    ),
    Requirement(
        "GDPR Art. 17",
        "right to erasure",
        "records leave every frozen copy and take part in nothing later; models that this hospital "
        "finished with them are deleted; the bound of what they changed in published ones is "
        "recorded; those are not retrained",
        (
            "tests/clients/patients/test_opt_outs.py::test_an_opt_out_holds_from_the_next_round",
            "tests/clients/prediction/test_finish.py::"
            "test_an_opt_out_or_erasure_of_a_member_withdraws_it",
        ),
        _erasure,
    ),
    Requirement(
        "GDPR Art. 25",
        "data protection by design and by default",
        "a life budget for each population fixed at birth; secure sums and ε < 1 by default",
        (
            "tests/clients/home/test_home.py::test_epsilon_of_one_or_more_needs_consent_and_writes_nothing",
        ),
        _by_design,
    ),
    Requirement(
        "GDPR Art. 30",
        "records of processing activities",
        "filled from signed studies; the controller's own particulars are left to people",
        ("tests/infra/test_evidence.py::test_the_record_names_purposes_categories_and_recipients",),
        _records,
    ),
    Requirement(
        "GDPR Art. 32(1)(a)",
        "pseudonymisation and encryption",
        "FLO keeps patient ids only as keyed hashes; keys are sealed; TLS 1.3",
        ("tests/flo/keys/test_keystore.py::test_a_secret_is_sealed_and_reads_back",),
        _sealed,
    ),
    Requirement(
        "GDPR Art. 32(1)(b)",
        "ongoing confidentiality, integrity, availability and resilience",
        "runs go on after a crash of either side; a second agent on one ledger is refused",
        (
            "tests/end_to_end/test_kill.py::test_a_site_killed_at_random_instants_never_under_counts",
        ),
        _logged("starts, and runs taken up again", "agent-started", "resumed"),
    ),
    Requirement(
        "GDPR Art. 32(1)(c)",
        "restoring availability in time",
        "site and coordinator are backed up encrypted under a passphrase; a restored site charges "
        "all that it may have released since, and a restored coordinator continues its runs",
        (
            "tests/end_to_end/test_backup.py::test_a_site_that_lost_its_machine_goes_on_and_counts_"
            "all_that_it_may_have_released",
            "tests/end_to_end/test_backup.py::test_a_coordinator_that_lost_its_machine_goes_on_from"
            "_its_backup",
        ),
        _logged("backups and restores", "backed-up", "restored", "ledger-recovered"),
    ),
    Requirement(
        "GDPR Art. 32(1)(d)",
        "regular testing of the measures",
        "the agent tries its locks at every start; `flo audit attack` attacks the trainer and "
        "checks its noise and clip",
        (
            "tests/lab/test_attack.py::test_a_broken_trainer_of_the_heart_study_is_found",
            "tests/lab/test_release_checks.py::test_a_broken_trainer_is_caught",
        ),
        _logged("locks tried at every start of the agent", "agent-started"),
    ),
    Requirement(
        "GDPR Art. 33",
        "notification of a breach",
        "forks and disagreements of logs and ledgers are entered when seen; whether something is "
        "a breach, and notifying it, is for people",
        ("tests/flo/audit/test_chain.py::test_what_was_done_to_a_log_is_named",),
        _logged(
            "incidents that software can see",
            *("forked-ledger", "forked-audit-log", "audit-disagreement"),
        ),
    ),
    Requirement(
        "GDPR Art. 35",
        "data protection impact assessment",
        "an annex with numbers from the studies; necessity and acceptance are judged by people",
        ("tests/infra/test_evidence.py::test_the_annex_bounds_the_risk_in_numbers",),
        _assessed,
    ),
)
