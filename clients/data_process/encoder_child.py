"""Child process: one encoder, which turns images into features, one at a time.

Started by ``flo.clients.data_process.encoding`` as ``encoder_child FORBIDDEN``. It confines itself
before it imports other code, and reports which layers hold. It gets the encoder's file over the
pipe, so that it needs to read no file of the hospital; the file is parsed only in here. It says why
it refuses an encoder, and of images only that they cannot be encoded.
"""

from __future__ import annotations

import logging
import signal
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from flo.clients.data_process.confinement import confine
from flo.clients.data_process.helpers import end_with_parent

if TYPE_CHECKING:
    from flo.arrays import Floats
    from flo.clients.data_process.encoder_file import EncoderFacts

log = logging.getLogger("flo.clients.data_process.encoder_child")


def main() -> None:
    """Confine this process, then serve frames."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    reader, writer = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # printed text must not reach the pipe
    serve(reader, writer, confine([], Path(sys.argv[1]), gpu=False))


def serve(reader: IO[bytes], writer: IO[bytes], layers: dict[str, bool]) -> None:
    """Answer until the other side closes the pipe. The first request holds the encoder."""
    from flo.clients.data_process.child_process import read_frame, write_frame
    from flo.clients.data_process.encoder_file import UnfitEncoderError
    from flo.host.logs import JsonFormatter

    screen = logging.StreamHandler()
    screen.setFormatter(JsonFormatter())  # logs type and place of an error, never its text
    logging.getLogger().addHandler(screen)
    write_frame(writer, {"status": "ok", "layers": layers})
    first = read_frame(reader)
    if first is None:
        return
    try:
        encoder = OpenEncoder(bytes(first[1]))
    except UnfitEncoderError as error:
        write_frame(writer, {"status": "refused", "why": str(error)})
        return
    del first
    write_frame(writer, {"status": "ok", "facts": encoder.facts.model_dump(mode="json")})
    while (frame := read_frame(reader)) is not None:
        try:
            write_frame(writer, {"status": "ok"}, encoder.features(frame[1]).tobytes())
        except Exception:  # of any kind: reply one code, log the place
            log.exception("the images could not be encoded")
            write_frame(writer, {"status": "failed"})


class OpenEncoder:
    """An encoder that fits, ready to run."""

    def __init__(self, data: bytes) -> None:
        """Check the file and try it out. Raises UnfitEncoderError."""
        import numpy as np

        from flo.clients.data_process.encoder_file import UnfitEncoderError, read_facts
        from flo.scoring.network import session_of

        self.facts: EncoderFacts = read_facts(data)
        try:
            self._session: Any = session_of(data)
            (self._input,), (self._output,) = (
                self._session.get_inputs(),
                self._session.get_outputs(),
            )
            shades = np.linspace(-1, 1, self._pixels, dtype=np.float32)
            tried = [self._one(shades), self._one(-shades), self._one(shades)]
        except Exception as error:  # noqa: BLE001 - onnxruntime's errors have no base class
            raise UnfitEncoderError(
                f"onnxruntime does not run it: {type(error).__name__}: {str(error)[:300]}"
            ) from None
        if tried[0].shape != (1, self.facts.features) or not np.isfinite(tried).all():
            raise UnfitEncoderError(
                f"a made-up image becomes {tried[0].shape}, not {self.facts.features} finite "
                "numbers"
            )
        if not np.array_equal(tried[0], tried[2]):
            raise UnfitEncoderError("the same image became other features the second time")
        if np.array_equal(tried[0], tried[1]):
            raise UnfitEncoderError("a made-up image and its negative become the same features")

    @property
    def _pixels(self) -> int:
        return self.facts.channels * self.facts.height * self.facts.width

    def features(self, images: memoryview) -> Floats:
        """Return features, float32 (n, features), of pixels scaled to [-1, 1], float32."""
        import numpy as np

        pixels = np.frombuffer(images, dtype=np.float32).reshape(-1, self._pixels)
        return np.concatenate([self._one(image) for image in pixels])

    def _one(self, image: Any) -> Any:
        shape = (1, self.facts.channels, self.facts.height, self.facts.width)
        (found,) = self._session.run([self._output.name], {self._input.name: image.reshape(shape)})
        return found


if __name__ == "__main__":
    main()
