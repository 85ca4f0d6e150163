"""Spoken digits: pitch and formants in the spectrum, the cepstra against scipy, and how many words are recognised."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.fft import dct
from scipy.stats import norm

from worldformula.data import speech
from worldformula.data.base import digit_levels


def test_without_noise_and_jitter_a_vowel_peaks_at_its_formants():
    waves = speech.synthesise(np.arange(10).repeat(40), noise=0, jitter=0)
    assert np.allclose(waves.mean(-1), 0)
    assert np.allclose(waves.std(-1), 1)
    spectrum = np.abs(np.fft.rfft(waves.reshape(10, 40, 2, 800))) ** 2
    hertz = np.fft.rfftfreq(800, 1 / 8000)
    power = spectrum.mean(1)  # over voices: the harmonics smear out, the formants stay
    for word in range(10):
        for vowel in range(2):
            near = np.abs(hertz[:, None] - speech.FORMANTS[speech.WORDS[word, vowel]]).min(1) < 250
            assert power[word, vowel][near].sum() > 0.9 * power[word, vowel].sum()


def test_a_voice_has_harmonics_of_its_pitch_only():
    (wave,) = speech.synthesise(np.array([3]), noise=0, jitter=0, seed=4)
    pitch = np.random.default_rng(4)
    f0 = pitch.uniform(90, 240, (1, 1)) * pitch.uniform(0.95, 1.05, (1, 2))
    time = np.arange(800) / 8000
    harmonics = np.arange(1, 45)[:, None] * f0[0, 0] * time
    basis = np.concatenate([np.cos(2 * np.pi * harmonics), np.sin(2 * np.pi * harmonics), np.ones((1, 800))]).T
    residual = wave[:800] - basis @ np.linalg.lstsq(basis, wave[:800], rcond=None)[0]
    assert np.abs(residual).max() < 1e-8


def test_cepstra_against_scipy():
    (wave,) = speech.synthesise(np.array([0]))
    for vowel in range(2):
        frames = [wave[800 * vowel + 128 * k :][:256] for k in range(5)]
        power = [np.abs(np.fft.rfft(frame * np.hamming(256))) ** 2 for frame in frames]
        each = [dct(np.log(speech._mel_bands() @ p + 1e-10), type=2)[1:13] / 2 for p in power]
        assert np.allclose(speech.cepstra(wave[None])[0, 12 * vowel :][:12], np.mean(each, 0), atol=1e-4)


def test_mel_bands_overlap_halfway_and_cover_the_range():
    bands = speech._mel_bands()
    assert bands.shape == (20, 129)
    assert (bands >= 0).all()
    hertz = np.fft.rfftfreq(256, 1 / 8000)
    assert (bands[:, (hertz < 100) | (hertz > 3800)] == 0).all()
    inside = (hertz > 200) & (hertz < 3400)
    assert np.allclose(bands[:, inside].sum(0), 1)


@pytest.mark.parametrize(("noise", "jitter", "published"), [(1.6, 0.09, 0.96), (2.5, 0.14, 0.683), (4.0, 0.15, 0.316)])
def test_words_are_recognised_as_often_as_the_noise_lets(noise, jitter, published):
    y = digit_levels()[1]
    x = speech.cepstra(speech.synthesise(y, noise=noise, jitter=jitter))
    rate = np.mean([(speech.recogniser(x, y, seed=s).log_likelihood(x).argmax(1) == y).mean() for s in range(4)])
    assert rate == pytest.approx(published, abs=0.07)
    shuffled = np.random.default_rng(0).permutation(y)
    assert (speech.recogniser(x, shuffled).log_likelihood(x).argmax(1) == y).mean() < 0.25


def test_log_likelihood_against_scipy():
    rng = np.random.default_rng(0)
    y = np.arange(10).repeat(8)
    x = rng.standard_normal((80, 24)).astype(np.float32) + y[:, None]
    heard = speech.recogniser(x, y)
    expected = norm(heard.mean[4], heard.deviation).logpdf(x[7]).sum()
    assert heard.log_likelihood(x)[7, 4] == pytest.approx(expected)
