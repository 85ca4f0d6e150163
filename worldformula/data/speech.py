"""Spoken digits from a formant synthesiser, heard through mel cepstra; one utterance per digit image.

A word is two vowels of 800 samples at 8 kHz. A vowel sums the harmonics of a voice up to 3800 Hz, at random phases,
under a bump of width ``80 + .05 F`` Hz at each of its two formants F; formants jitter, and white noise is added to the
signal of unit variance. What a model sees are 24 numbers: twelve cepstral coefficients (256-point Hamming frames, hop
128, 20 mel bands from 100 to 3800 Hz; Davis and Mermelstein 1980), averaged over each vowel.

Digest of ``load("speech")``: ``794bf2239d70d6e4`` with NumPy 2.4 on x86-64; elsewhere last bits may differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worldformula.data.base import Array, Arrays, DataSet, Floats, Integers, Loader, digit_levels, digit_split

RATE, VOWEL = 8000, 800
FRAME, HOP, BANDS, CEPSTRA = 256, 128, 20, 12
LOW, HIGH = 100.0, 3800.0
FORMANTS = np.array([(730, 1090), (270, 2290), (300, 870), (530, 1840), (570, 840)], np.float64)
WORDS = np.array([(i, (i + step) % 5) for step in (1, 2) for i in range(5)])  # 10 of the 20 ordered pairs of vowels
NOISE, JITTER = 2.5, 0.14
CHUNK = 250

Double = NDArray[np.float64]


@dataclass(frozen=True, repr=False)
class Recogniser(Arrays):
    """One Gaussian per word with a shared diagonal deviation, from a few labelled utterances.

    Attributes:
        mean: ``[10, 24]``.
        deviation: ``[24]``.
    """

    mean: Double
    deviation: Double

    def log_likelihood(self, x: Floats) -> Double:
        """log p(x | word) of cepstra ``[N, 24]``, in nats: ``[N, 10]``. Its argmax is the best word."""
        z = (x[:, None] - self.mean) / self.deviation
        return -0.5 * np.square(z).sum(-1) - np.log(self.deviation).sum() - 0.5 * x.shape[1] * np.log(2 * np.pi)


def synthesise(words: Integers, *, noise: float = NOISE, jitter: float = JITTER, seed: int = 0) -> Double:
    """Waveforms ``[N, 1600]`` of the words ``[N]`` (0 to 9).

    Args:
        words: which word each utterance says.
        noise: standard deviation of the white noise on a signal of variance 1.
        jitter: relative standard deviation of each formant, drawn anew for each vowel.
        seed: of voices, formants, phases and noise.
    """
    rng = np.random.default_rng(seed)
    chunks = np.array_split(np.asarray(words), max(1, len(words) // CHUNK))
    return np.concatenate([_utter(chunk, noise, jitter, rng) for chunk in chunks])


def _utter(words: Integers, noise: float, jitter: float, rng: np.random.Generator) -> Double:
    count = len(words)
    pitch = rng.uniform(90, 240, (count, 1)) * rng.uniform(0.95, 1.05, (count, 2))  # [N, vowel]
    formant = FORMANTS[WORDS[words]] * rng.normal(1.0, jitter, (count, 2, 2))  # [N, vowel, formant]
    harmonic = pitch[..., None] * np.arange(1, 1 + int(HIGH / (90 * 0.95)))  # [N, vowel, harmonic], Hz
    peak = formant[..., None, :]
    bump = np.exp(-0.5 * ((harmonic[..., None] - peak) / (80 + 0.05 * peak)) ** 2).sum(-1)
    amplitude = np.where(harmonic <= HIGH, bump, 0.0)
    phase = np.exp(1j * rng.uniform(0, 2 * np.pi, harmonic.shape)) * amplitude
    time = np.arange(VOWEL) / RATE
    fundamental = np.exp(2j * np.pi * pitch[..., None] * time)  # its powers are the harmonics
    wave = np.zeros((count, 2, VOWEL), np.complex128)
    for each in np.moveaxis(phase, -1, 0)[::-1]:  # Horner's rule in the fundamental
        wave = (wave + each[..., None]) * fundamental
    signal = wave.real.reshape(count, -1)
    signal = (signal - signal.mean(-1, keepdims=True)) / signal.std(-1, keepdims=True)
    return signal + noise * rng.standard_normal(signal.shape)


def cepstra(waves: Double) -> Floats:
    """Mel cepstra of waveforms ``[N, 1600]``, averaged over each vowel: ``[N, 24]`` float32."""
    vowels = waves.reshape(len(waves), 2, VOWEL)
    frames = np.lib.stride_tricks.sliding_window_view(vowels, FRAME, -1)[..., ::HOP, :]
    power = np.abs(np.fft.rfft(frames * np.hamming(FRAME))) ** 2
    energy = np.log(power @ _mel_bands().T + 1e-10)  # [N, 2, frames, BANDS]
    order = np.arange(1, CEPSTRA + 1)[:, None]
    cosine = np.cos(np.pi * order * (np.arange(BANDS) + 0.5) / BANDS)
    return (energy @ cosine.T).mean(-2).reshape(len(waves), -1).astype(np.float32)


def _mel_bands() -> Double:
    """Triangular filters, evenly spaced in mel, ``[BANDS, FRAME/2 + 1]``."""
    low, high = (2595 * np.log10(1 + f / 700) for f in (LOW, HIGH))
    edge = 700 * (10 ** (np.linspace(low, high, BANDS + 2) / 2595) - 1)
    bins = np.fft.rfftfreq(FRAME, 1 / RATE)
    left, middle, right = edge[:-2, None], edge[1:-1, None], edge[2:, None]
    return np.clip(np.minimum((bins - left) / (middle - left), (right - bins) / (right - middle)), 0, None)


def recogniser(x: Floats, words: Integers, *, per_word: int = 6, seed: int = 0) -> Recogniser:
    """Means of ``per_word`` labelled utterances of each word, and their pooled deviation × 1.1.

    Args:
        x: cepstra ``[N, 24]``.
        words: what they say, ``[N]``.
        per_word: labelled utterances per word.
        seed: which ones.
    """
    rng = np.random.default_rng(seed)
    chosen = np.stack([rng.permutation(np.flatnonzero(words == k))[:per_word] for k in range(len(WORDS))])
    labelled = x[chosen].astype(np.float64)  # [10, per_word, 24]
    mean = labelled.mean(1)
    return Recogniser(mean, 1.1 * (labelled - mean[:, None]).std((0, 1)))


def _load() -> DataSet:
    levels, labels = digit_levels()
    heard = cepstra(synthesise(labels))
    image = (levels >= 8).astype(np.float32)

    def part(rows: Integers) -> dict[str, Array]:
        return {"x": heard[rows], "image": image[rows], "y": labels[rows]}

    train, test = (part(rows) for rows in digit_split())
    note = "A synthetic spoken word per handwritten digit: 24 mel cepstral coefficients in noise, and the binary image."
    return DataSet("speech", train, test, (2 * CEPSTRA,), note)


DATA: Mapping[str, Loader] = {"speech": _load}
