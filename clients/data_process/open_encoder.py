"""An encoder's file that fits, and its run on one image at a time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from flo.arrays import Floats
from flo.clients.data_process.encoder_file import UnfitEncoderError, read_facts
from flo.scoring.network import session_of

_TRIED = 6  # made-up images


class OpenEncoder:
    """An encoder that fits, ready to run."""

    def __init__(self, data: bytes) -> None:
        """Check the file and try it out. Raises UnfitEncoderError."""
        self.facts, data = read_facts(data)
        numbers = np.arange(_TRIED * self._pixels) * math.sqrt(2) % 2 - 1
        tried = numbers.reshape(_TRIED, -1).astype(np.float32)  # spread over -1 to 1
        tried[1] = -tried[0]
        try:
            self._session: Any = session_of(data)
            (self._input,) = self._session.get_inputs()
            (self._output,) = self._session.get_outputs()
            found = self.features(tried.data.cast("B"))
            again = self.features(tried[::-1].copy().data.cast("B"))[::-1]
        except (MemoryError, UnfitEncoderError):
            raise
        except Exception as error:  # noqa: BLE001 - onnxruntime's errors have no base class
            raise UnfitEncoderError(
                f"onnxruntime does not run it: {type(error).__name__}: {str(error)[:300]}"
            ) from None
        if not np.isfinite(found).all():
            raise UnfitEncoderError("made-up images become numbers that are not finite")
        if not np.array_equal(found, again):
            raise UnfitEncoderError("the same images became other features in another order")
        if np.array_equal(found[0], found[1]):
            raise UnfitEncoderError("a made-up image and its negative become the same features")

    @property
    def _pixels(self) -> int:
        return self.facts.channels * self.facts.height * self.facts.width

    def features(self, images: memoryview) -> Floats:
        """Return features, float32 (n, features), of pixels scaled to [-1, 1], float32."""
        pixels = np.frombuffer(images, dtype=np.float32).reshape(-1, self._pixels)
        return np.concatenate([self._one(image) for image in pixels])

    def _one(self, image: Any) -> Any:
        shape = (1, self.facts.channels, self.facts.height, self.facts.width)
        (found,) = self._session.run([self._output.name], {self._input.name: image.reshape(shape)})
        if found.shape != (1, self.facts.features):  # onnxruntime does not hold a file to it
            raise UnfitEncoderError("an image became another number of features than the file says")
        return found
