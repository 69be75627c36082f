"""Child process: one encoder, which turns images or notes into features, one at a time.

Started by ``flo.clients.data_process.encoding`` as ``encoder_child FORBIDDEN``. It confines itself
before it imports other code, and reports which layers hold. It gets the encoder's file over the
pipe, so that it needs to read no file of the hospital; the file is parsed only in here. It says why
it refuses an encoder, and of records only that they cannot be encoded. Whatever libraries print on
their own is dropped, because it may quote a note.
"""

from __future__ import annotations

import logging
import os
import resource
import signal
import sys
from pathlib import Path
from typing import IO

from flo.clients.data_process.confinement import confine
from flo.clients.data_process.helpers import end_with_parent

_OF_RECORDS, _TIMES_THE_FILE = 3 << 29, 10  # bytes: for what lies between a record and its features

log = logging.getLogger("flo.clients.data_process.encoder_child")


def main() -> None:
    """Confine this process, then serve frames."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    reader, writer = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # printed text must not reach the pipe
    screen = _own_screen()
    serve(reader, writer, confine([], Path(sys.argv[1]), gpu=False), screen)


def _own_screen() -> IO[str]:
    """Return what this process's own log is written to; drop all else that is printed."""
    screen = os.fdopen(os.dup(sys.stderr.fileno()), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, sys.stderr.fileno())
    os.close(nothing)
    return screen


def serve(
    reader: IO[bytes], writer: IO[bytes], layers: dict[str, bool], own: IO[str] = sys.stderr
) -> None:
    """Answer until the other side closes the pipe.

    The first request holds the files: of the tokenizer, whose size is in the header, and of the
    network; or only one of them. ``own``: what the log is written to.
    """
    from flo.clients.data_process.child_process import read_frame, write_frame
    from flo.clients.data_process.encoder_file import UnfitEncoderError
    from flo.clients.data_process.open_encoder import opened
    from flo.clients.data_process.tokenizer_file import OpenTokenizer, UnfitTokenizerError
    from flo.host.logs import JsonFormatter

    screen = logging.StreamHandler(own)
    screen.setFormatter(JsonFormatter())  # logs type and place of an error, never its text
    logging.getLogger().addHandler(screen)
    write_frame(writer, {"status": "ok", "layers": layers})
    first = read_frame(reader)
    if first is None:
        return
    limit_memory(len(first[1]))
    size = first[0]["tokenizer"]
    tokenizer, network = bytes(first[1][:size]), bytes(first[1][size:])
    try:
        if not network:
            facts = OpenTokenizer(tokenizer).facts.model_dump(mode="json")
            write_frame(writer, {"status": "ok", "facts": facts})
            return
        encoder = opened(network, tokenizer)
    except UnfitEncoderError as error:
        write_frame(writer, {"status": "refused", "why": str(error)})
        return
    except UnfitTokenizerError as error:
        write_frame(writer, {"status": "refused", "why": f"of the tokenizer, {error}"})
        return
    except MemoryError:
        why = "it takes more memory than a file of its size should"
        write_frame(writer, {"status": "refused", "why": why})
        return
    except BaseException as error:  # a panic of a library in Rust is no Exception
        log.exception("the encoder could not be opened")
        why = f"a library failed on it ({type(error).__name__})"
        write_frame(writer, {"status": "refused", "why": why})
        return
    del first, tokenizer, network
    write_frame(writer, {"status": "ok", "facts": encoder.facts.model_dump(mode="json")})
    while (frame := read_frame(reader)) is not None:
        try:
            write_frame(writer, {"status": "ok"}, encoder.features(frame[1]).tobytes())
        except BaseException:  # of any kind, also a panic of a library in Rust: log the place
            log.exception("the records could not be encoded")
            write_frame(writer, {"status": "failed"})


def limit_memory(size: int) -> None:
    """Let this process hold, beside what it holds now, a few times an encoder's file, no more."""
    most = _OF_RECORDS + _TIMES_THE_FILE * size
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


if __name__ == "__main__":
    main()
