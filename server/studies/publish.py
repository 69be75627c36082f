"""Publishing a model: tensors when the run ends, the signed card after the hospitals' extracts.

Statistics, gates and monitors are published in the same way, as one signed result. The card
contains the digest of a privacy report, made here from the hospitals' signed extracts. It names the
hospitals whose extract did not arrive in time; an auditor can make the report again when it
arrives.
"""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from safetensors.numpy import save as save_tensors

from flo.documents import canonical
from flo.errors import FloError, MessageError
from flo.keys.claims import LedgerHead
from flo.privacy.report.facts import largest_life
from flo.privacy.report.report import MAX_REPORT_BYTES, MOST_VALUES, build
from flo.privacy.report.wording import trust
from flo.published.gate_passed import GATE
from flo.published.gate_result import GateResult, GateSums
from flo.published.model_card import ModelCard, PublishedModel, paths_of, schema_of
from flo.published.monitor_result import MONITOR, MonitorResult, MonitorSums
from flo.published.signed_result import SignedResult
from flo.published.statistics_result import RoundSum, StatisticsResult
from flo.server.home.coordinator_home import CoordinatorHome
from flo.server.rounds.state import RunState
from flo.server.store.store import Offer, Store
from flo.storage.files import write_public
from flo.study.document import Study
from flo.study.features import input_names
from flo.study.lineage import Life
from flo.study.models import named

log = logging.getLogger("flo.server.studies.publish")

STATISTICS = ".statistics.json"  # ending of signed statistics
_RESULTS = (STATISTICS, GATE, MONITOR)
WAIT_SECONDS = 5.0  # for missing extracts
_QUALITY = ("auc", "low", "high", "level")


def tensors_path(home: CoordinatorHome, study: Study, run: str) -> Path:
    """Return the path of a run's model in the coordinator's folder."""
    return home.directory / "models" / tensors_name(study, run)


def tensors_name(study: Study, run: str) -> str:
    """Return the name of a run's model file, unique to the run."""
    return f"{study.name}-{run}.safetensors"


def write_tensors(home: CoordinatorHome, study: Study, run: str, state: RunState) -> Path:
    """Write the model of a state atomically; ``write_card`` follows later."""
    path = tensors_path(home, study, run)
    write_public(path, tensors_of(study, run, state))
    return path


def tensors_of(study: Study, run: str, state: RunState) -> bytes:
    """Return the model as safetensors, with study digest and input names in the header."""
    facts = {
        "schema_version": "2",
        "study": study.digest,
        "run": run,
        "model": study.model.kind,
        "inputs": "\n".join(input_names(study.data)),
    }
    return save_tensors(named(study, state.model), metadata=facts)


def is_due(study: Study, extracts: dict[str, bytes], tensors: Path) -> bool:
    """Return whether to sign the card: all extracts arrived, or ``WAIT_SECONDS`` are over."""
    waited = abs(time.time() - tensors.stat().st_mtime)  # the clock may have been set back
    return len(extracts) == len(study.hospitals) or waited > WAIT_SECONDS


def write_card(
    home: CoordinatorHome,
    offer: Offer,
    run: str,
    result: dict[str, Any],
    extracts: dict[str, bytes],
    heads: dict[str, LedgerHead],
) -> Path:
    """Make the report, sign the card with its digest, store both next to the tensors."""
    study, path = offer.study, Path(result["model"])
    tensors, (card_path, _) = path.read_bytes(), paths_of(path)
    report, without = _write_report(report_path(card_path), study, extracts, heads)
    identity = home.open_identity()
    card = ModelCard(
        schema_version=_card_schema(study),
        study=study.canonical_bytes.decode(),
        study_signature=offer.signature,
        run=run,
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        file=canonical.digest(tensors),
        rounds=result["rounds"],
        epsilon=result["epsilon"],
        delta=result["delta"],
        trust_model=trust(study),
        evaluation=_quality(result["estimate"]),
        subgroups={  # absent in results of FLO 0.1
            name: _quality(found) for name, found in result.get("subgroups", {}).items()
        },
        # Absent in results of older versions.
        calibration=result.get("calibration") if result["estimate"] else None,
        earlier_horizons=result.get("earlier_horizons", ()) if result["estimate"] else (),
        steps=result.get("steps", ()) if result["estimate"] else (),
        by_class=result.get("by_class", ()) if result["estimate"] else (),
        gate=GateSums(**result["gate"]) if "gate" in result else None,
        evaluated=result.get("evaluated"),
        golden=result.get("golden"),
        noise=result.get("noise"),
        average=result.get("average"),
        average_deviation=result.get("average_deviation"),
        life=_life(study, report) if report is not None and not without else None,
        report=canonical.digest(report) if report is not None else None,
        without_extract=without,
        coordinator=identity.public.hex(),
    ).signed(identity)
    PublishedModel.of(card, tensors, identity.fingerprint)
    write_public(card_path, card.to_bytes())
    return card_path


def _card_schema(study: Study) -> Literal[2, 5, 6, 7, 8]:
    if study.data.outcome is not None:
        return schema_of(study.data.outcome)
    return 5 if study.schema_version >= 4 else 2


def result_path(home: CoordinatorHome, study: Study, run: str) -> Path:
    """Return the path of a run's signed result in the coordinator's folder."""
    ending = MONITOR if study.monitor else GATE if study.compares else STATISTICS
    return home.directory / "models" / f"{study.name}-{run}{ending}"


def report_path(published: Path) -> Path:
    """Return the path of the report beside a card or a signed result."""
    stem = published.name
    for ending in (".card.json", *_RESULTS):
        stem = stem.removesuffix(ending)
    return published.with_name(f"{stem}.report.json")


def has_result(result: dict[str, Any]) -> bool:
    """Return whether a run ended with sums that are published as a signed result."""
    return "model" not in result and not result.keys().isdisjoint({"statistics", "gate", "monitor"})


def write_result(
    home: CoordinatorHome,
    offer: Offer,
    run: str,
    result: dict[str, Any],
    extracts: dict[str, bytes],
    heads: dict[str, LedgerHead],
) -> Path:
    """Make the report, sign the result with its digest, and store both."""
    study, path = offer.study, result_path(home, offer.study, run)
    report, without = _write_report(report_path(path), study, extracts, heads)
    identity = home.open_identity()
    about: dict[str, Any] = {
        "study": study.canonical_bytes.decode(),
        "study_signature": offer.signature,
        "run": run,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "report": canonical.digest(report) if report is not None else None,
        "without_extract": without,
        "coordinator": identity.public.hex(),
    }
    unsigned: SignedResult
    if study.compares:
        unsigned = GateResult(sums=GateSums(**result["gate"]), **about)
    elif study.monitor:
        unsigned = MonitorResult(sums=MonitorSums(**result["monitor"]), **about)
    else:
        rounds = tuple(RoundSum(**one) for one in result["statistics"].get("rounds", ()))
        unsigned = StatisticsResult(**result["statistics"] | {"rounds": rounds}, **about)
    signed = unsigned.signed(identity)
    signed.check(identity.fingerprint)
    write_public(path, signed.to_bytes())
    return path


def _write_report(
    path: Path, study: Study, extracts: dict[str, bytes], heads: dict[str, LedgerHead]
) -> tuple[bytes | None, tuple[str, ...]]:
    """Write the report of valid extracts. Return it, and the hospitals that are not in it."""
    report, used = _report(study, extracts, heads)
    if report is not None:
        write_public(path, report)
    return report, tuple(sorted({h.id for h in study.hospitals} - set(used)))


def _report(
    study: Study, extracts: dict[str, bytes], heads: dict[str, LedgerHead]
) -> tuple[bytes | None, dict[str, bytes]]:
    """Build the report from valid extracts that agree with each other and the stored ``heads``.

    Returns the report and its extracts. An invalid extract is left out. If the others disagree, one
    is left out if it is the only one whose removal resolves this; otherwise there is no report, and
    the result is (None, {}).
    """
    sound = {h: document for h, document in extracts.items() if _built(study, [document], heads)}
    report = _built(study, list(sound.values()), heads)
    if report is not None:
        return report, sound
    without_one = [{h: d for h, d in sound.items() if h != out} for out in sound]
    holding = [chosen for chosen in without_one if _built(study, list(chosen.values()), heads)]
    if len(holding) != 1:
        return None, {}
    return _built(study, list(holding[0].values()), heads), holding[0]


def _facts(report: bytes) -> dict[str, Any]:
    whole = canonical.decode(report, limit=MAX_REPORT_BYTES, what="report", values=MOST_VALUES)
    facts: dict[str, Any] = whole["facts"]
    return facts


def _life(study: Study, report: bytes) -> Life | None:
    """Return the largest life budget in a report; None for an older study's card."""
    return Life(**largest_life(_facts(report))) if study.schema_version >= 4 else None


def _built(study: Study, documents: list[bytes], heads: dict[str, LedgerHead]) -> bytes | None:
    """Return the extracts' report; None if they are invalid or of another study."""
    if not documents:
        return None
    try:
        report = build(documents, heads)
        facts = _facts(report)
    except FloError as error:
        log.warning("an extract is invalid", extra={"fields": {"why": str(error)}})
        return None
    except Exception:  # untrusted document: any error means that it is invalid
        log.exception("an extract is invalid")
        return None
    return report if facts["study"]["digest"] == study.digest else None


def refuse_unsound(extract: bytes) -> None:
    """Raise MessageError, with the reason, if no report can be made from this extract."""
    try:
        build([extract])
    except FloError as error:
        raise MessageError(f"this extract is invalid: {error}") from error
    except Exception as error:  # untrusted document: any error means that it is invalid
        log.exception("an extract is invalid")
        raise MessageError("this extract is invalid") from error


def published(store: Store, study: str) -> tuple[Path, Path] | None:
    """Return the paths of a published model's card and tensors; None until both exist."""
    record = store.last_run(study)
    model = (record.result or {}).get("model") if record else None
    if not model:
        return None
    card, tensors = paths_of(Path(model))
    return (card, tensors) if card.is_file() and tensors.is_file() else None


def published_result(store: Store, study: str) -> Path | None:
    """Return the path of a study's signed result; None until it exists."""
    told = store.last_event(study, "published") or {}
    path = Path(told.get("card", ""))
    return path if path.name.endswith(_RESULTS) and path.is_file() else None


def _quality(estimate: dict[str, Any] | None) -> Any:
    return None if estimate is None else {name: estimate[name] for name in _QUALITY}
