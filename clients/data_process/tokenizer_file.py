"""What a tokenizer's file may contain: fixed rules from one text to whole numbers.

The file is ``tokenizer.json``, as the library tokenizers writes it: data and no code. Only the
kinds of parts that are listed here are taken; the library reads their settings. What the list
leaves out runs patterns of the file's own in a C library for regular expressions, reads compiled
tables, or draws random numbers. A fault there could make a note's tokens depend on another note.
Runs in a confined process.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from flo.documents.document import Document
from flo.study.encoders import MOST_TOKENS

MOST_TOKENIZER_BYTES = 1 << 26
_MOST_PARTS = 16  # of a sequence of rules
_LONGEST_WORD = 1000  # characters; the time that a word takes grows with its square
_PARTS = {
    "normalizer": {
        *("BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Strip", "StripAccents"),
    },
    "pre_tokenizer": {
        *("BertPreTokenizer", "ByteLevel", "Digits", "Metaspace", "Punctuation", "Whitespace"),
        "WhitespaceSplit",
    },
    "post_processor": {"BertProcessing", "ByteLevel", "RobertaProcessing", "TemplateProcessing"},
}
_MODELS = {"BPE", "Unigram", "WordLevel", "WordPiece"}
_WITHIN = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers"}
TRIED_NOTE = "The patient, 54 years old, has no pain."


class UnfitTokenizerError(ValueError):
    """The file is no tokenizer. Its text is about the file, never about patients."""


class TokenizerFacts(Document):
    """``kind``: of its model, such as WordPiece. ``entries``: all of its tokens are below it."""

    kind: str
    entries: Annotated[int, Field(ge=1)]


class OpenTokenizer:
    """A tokenizer that fits, ready to run."""

    def __init__(self, data: bytes) -> None:
        """Check the file and try it out. Raises UnfitTokenizerError."""
        document = checked(data)
        try:
            from tokenizers import Tokenizer

            self._tokenizer: Any = Tokenizer.from_str(json.dumps(document))
            places = self._tokenizer.get_vocab(with_added_tokens=True).values()
            tried = self._tokenizer.encode(TRIED_NOTE).ids
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - the library's errors have no base class
            raise UnfitTokenizerError(
                f"tokenizers does not run it: {type(error).__name__}: {str(error)[:300]}"
            ) from None
        if not tried:
            raise UnfitTokenizerError("an English sentence has no tokens")
        entries = max([*places, *tried]) + 1
        self._most = MOST_TOKENS
        self.facts = TokenizerFacts(kind=document["model"]["type"], entries=entries)

    def limit(self, tokens: int) -> None:
        """Return only so many tokens of each note, those that mark its ends among them."""
        self._most = tokens
        try:
            self._tokenizer.enable_truncation(tokens)
            most = max(len(self._tokenizer.encode(TRIED_NOTE * n).ids) for n in (1, tokens))
        except Exception:  # noqa: BLE001 - the library's errors have no base class
            most = tokens + 1
        if most > tokens:
            raise UnfitTokenizerError(f"it cannot keep a note to {tokens} tokens")

    def tokens(self, note: str) -> list[int]:
        """Return a note's tokens, at most as many as the limit, each below ``facts.entries``."""
        found: list[int] = self._tokenizer.encode(note).ids
        if len(found) > self._most or max(found, default=0) >= self.facts.entries:
            raise ValueError("more tokens than the limit, or one that is not in the vocabulary")
        return found


def checked(data: bytes) -> dict[str, Any]:
    """Return a tokenizer's document, without parts that FLO does not run.

    Raises UnfitTokenizerError: names what is wrong.
    """
    if len(data) > MOST_TOKENIZER_BYTES:
        raise UnfitTokenizerError(f"it has {len(data)} bytes, limit {MOST_TOKENIZER_BYTES}")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict) or not isinstance(document.get("model"), dict):
        raise UnfitTokenizerError("it is no tokenizer.json of the library tokenizers")
    model = document["model"]
    kind, longest = model.get("type"), model.get("max_input_chars_per_word", 100)
    if not isinstance(kind, str) or kind not in _MODELS:
        raise UnfitTokenizerError(
            f"its model is {_shown(kind)}; FLO runs {', '.join(sorted(_MODELS))}"
        )
    if not isinstance(longest, int) or longest > _LONGEST_WORD:
        raise UnfitTokenizerError(
            f"max_input_chars_per_word of its model is {_shown(longest)}, limit {_LONGEST_WORD}"
        )
    if model.get("dropout"):
        raise UnfitTokenizerError("its model draws random numbers (dropout); save it without")
    for place, allowed in _PARTS.items():
        _refuse_part(place, document.get(place), allowed)
    return {
        "version": document.get("version", "1.0"),
        "truncation": None,
        "padding": None,
        "added_tokens": document.get("added_tokens", []),
        "normalizer": document.get("normalizer"),
        "pre_tokenizer": document.get("pre_tokenizer"),
        "post_processor": document.get("post_processor"),
        "decoder": None,
        "model": model,
    }


def _refuse_part(place: str, part: object, allowed: set[str]) -> None:
    if part is None:
        return
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "Sequence" and isinstance(part, Mapping):
        parts = part.get(_WITHIN.get(place, "processors"))
        if not isinstance(parts, list) or len(parts) > _MOST_PARTS:
            raise UnfitTokenizerError(f"its {place} is no list of at most {_MOST_PARTS} parts")
        for one in parts:
            if isinstance(one, Mapping) and one.get("type") == "Sequence":
                raise UnfitTokenizerError(f"its {place} has a sequence within a sequence")
            _refuse_part(place, one, allowed)
    elif not isinstance(kind, str) or kind not in allowed:
        raise UnfitTokenizerError(
            f"its {place} has a part {_shown(kind)}; FLO runs {', '.join(sorted(allowed))}"
        )


def _shown(kind: object) -> str:
    return repr(kind)[:60]
