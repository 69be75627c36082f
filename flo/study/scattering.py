"""The wavelet scattering transform: fixed features of an image, not learnt from data.

An image passes up to two times through Morlet wavelets of J scales and L = 4 orientations and a
modulus, then through a low-pass (Bruna & Mallat 2013, doi:10.1109/TPAMI.2012.230, equations 2-7).
With such features a linear model often beats a network that is trained under differential privacy
(Tramèr & Boneh 2021, arXiv:2011.11660): it has fewer parameters to learn, and noise grows with
their number. The features of an image depend on no other patient, and images are transformed one at
a time.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from flo.arrays import Floats

Complex = npt.NDArray[np.complex128]
ORIENTATIONS = 4  # L
_WIDTH, _FREQUENCY = 0.8, 3 * np.pi / 4  # of the finest wavelet, in pixels and radians a pixel
_PERIODS = 2  # of the image to either side, over which a wavelet is wrapped


def count(height: int, width: int, scales: int) -> int:
    """Return the number of coefficients of one channel."""
    pairs = scales * (scales - 1) // 2
    kinds = 1 + ORIENTATIONS * scales + ORIENTATIONS**2 * pairs
    return kinds * (height >> scales) * (width >> scales)


def scatter(images: Floats, scales: int) -> Floats:
    """Return coefficients of orders 0, 1 and 2, shape (n, count), of images (n, height, width).

    Height and width are multiples of 2^``scales``; coefficients are 2^``scales`` pixels apart.
    """
    _, height, width = images.shape
    out = np.empty((len(images), count(height, width, scales)))
    for row, image in zip(out, images, strict=True):  # one by one: bits depend on no other image
        row[:] = _one(image, scales)
    return out


def _one(image: Floats, scales: int) -> Floats:
    wavelets, low = _bank(*image.shape, scales)
    parts = [_lowered(image[None], low, scales)]
    first = np.abs(np.fft.ifft2(np.fft.fft2(image) * wavelets))  # (J, L, h, w)
    parts.append(_lowered(first.reshape(-1, *image.shape), low, scales))
    spectra = np.fft.fft2(first)
    for fine in range(scales - 1):  # order 2: each finer scale at all coarser ones
        second = spectra[fine][:, None, None] * wavelets[fine + 1 :]
        moduli = np.abs(np.fft.ifft2(second)).reshape(-1, *image.shape)
        parts.append(_lowered(moduli, low, scales))
    return np.concatenate([part.ravel() for part in parts])


def _lowered(maps: Floats, low: Floats, scales: int) -> Floats:
    """Smooth the maps and take every 2^J-th point."""
    step = 1 << scales
    smooth = np.fft.ifft2(np.fft.fft2(maps) * low).real
    return np.asarray(smooth[:, step // 2 :: step, step // 2 :: step])


@lru_cache(maxsize=8)
def _bank(height: int, width: int, scales: int) -> tuple[Complex, Floats]:
    """Return spectra of the wavelets, (J, L, height, width), and the low-pass, (height, width)."""
    wavelets = [
        [
            np.fft.fft2(
                _morlet((height, width), _WIDTH * 2**j, np.pi * turn / ORIENTATIONS, 2.0**-j)
            )
            for turn in range(ORIENTATIONS)
        ]
        for j in range(scales)
    ]
    low = np.fft.fft2(_gabor((height, width), _WIDTH * 2 ** (scales - 1), 0.0, 0.0, 1.0)).real
    return np.array(wavelets), np.asarray(low / low[0, 0])  # preserves a constant


def _morlet(shape: tuple[int, int], width: float, angle: float, finer: float) -> Complex:
    """Return a wave under a bell, minus a multiple of the bell, so that a constant gives zero."""
    slant = 4 / ORIENTATIONS
    wave = _gabor(shape, width, angle, _FREQUENCY * finer, slant)
    bell = _gabor(shape, width, angle, 0.0, slant)
    return np.asarray(wave - bell * (wave.sum() / bell.sum()))


def _gabor(
    shape: tuple[int, int], width: float, angle: float, frequency: float, slant: float
) -> Complex:
    """Return a wave in one direction under a bell of ``width`` pixels, wrapped round the image."""
    total = np.zeros(shape, dtype=np.complex128)
    height, wide = shape
    rows, columns = np.arange(height) - height // 2, np.arange(wide) - wide // 2
    for up in range(-_PERIODS, _PERIODS + 1):
        for along in range(-_PERIODS, _PERIODS + 1):
            y, x = np.meshgrid(rows + up * height, columns + along * wide, indexing="ij")
            ahead = y * np.cos(angle) + x * np.sin(angle)
            aside = -y * np.sin(angle) + x * np.cos(angle)
            bell = -(ahead**2 + (slant * aside) ** 2) / (2 * width**2)
            total += np.exp(bell + 1j * frequency * ahead)
    return np.asarray(np.fft.ifftshift(total) * slant / (2 * np.pi * width**2))
