"""Tri-modal digits: partners of one class, spectra against their formula."""

from __future__ import annotations

import numpy as np

from worldformula.data import load
from worldformula.data.digits import digits
from worldformula.data.trimodal import PEAKS, spectrum, trimodal


def test_b_is_another_digit_of_the_class_transposed_and_inverted():
    part, d = trimodal(), digits(stratified=True)
    own = {row.tobytes(): y for row, y in zip(d.train_x, d.train_y, strict=True)}
    back = 1 - part.b.reshape(-1, 8, 8).transpose(0, 2, 1).reshape(-1, 64)
    classes = [own[np.ascontiguousarray(row).tobytes()] for row in back[:2000]]
    assert (classes == part.y[:2000]).mean() > 0.999  # two digits of different classes may be equal pixel by pixel
    assert (back == part.a).all(1).mean() < 0.01


def test_the_training_digits_are_paired_ten_times_anew():
    part = trimodal()
    assert len(part.y) == 14370
    passes = part.b.reshape(10, 1437, 64)
    assert (part.a.reshape(10, 1437, 64) == part.a[:1437]).all()
    assert (passes[0] != passes[1]).any(-1).mean() > 0.95
    assert (np.sort(passes[0].sum(-1)) == np.sort(passes[9].sum(-1))).all()  # every digit is a partner once a pass
    assert len(trimodal(test=True).y) == 360


def test_the_mean_spectrum_has_its_two_peaks():
    y = np.arange(10).repeat(3000)
    c = spectrum(y, np.random.default_rng(0)).reshape(10, 3000, 24)
    k = np.arange(24)
    rng = np.random.default_rng(1)
    j, s, g = 0.45 * rng.standard_normal(20000), rng.uniform(0.8, 1.3, 20000), rng.uniform(0.7, 1.2, 20000)
    for digit in range(10):
        low, high = PEAKS[digit]
        bumps = [np.exp(-0.5 * ((k[:, None] - m) / s) ** 2) for m in (low + j, high - j)]
        assert np.abs(c[digit].mean(0) - (g * (bumps[0] + 0.8 * bumps[1])).mean(1)).max() < 0.02


def test_the_noise_of_a_spectrum_is_six_hundredths():
    far = load("trimodal").train["c"][:, 0]  # bin 0 is 3 bins or more below every peak
    quiet = far[PEAKS[load("trimodal").train["y"], 0] > 8]
    assert abs(quiet.std() - 0.06) < 0.003


def test_the_two_peaks_move_apart_or_together():
    digit = int(np.argmax(PEAKS[:, 1] - PEAKS[:, 0]))  # the class whose peaks overlap least
    c = np.clip(spectrum(np.full(2000, digit), np.random.default_rng(0)), 0.2, None) - 0.2
    k, middle = np.arange(24), int(PEAKS[digit].mean())
    low = (c[:, :middle] @ k[:middle]) / c[:, :middle].sum(1)
    high = (c[:, middle:] @ k[middle:]) / c[:, middle:].sum(1)
    assert np.corrcoef(low, high)[0, 1] < -0.8
