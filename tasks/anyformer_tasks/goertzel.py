"""A classical DTMF receiver: Goertzel filters, thresholds, debouncing. The dial-tone task's baseline."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from jaxtyping import Float, Int64

LOW = (697.0, 770.0, 852.0, 941.0)  # Hz, one for each row of the keypad (ITU-T Q.23)
HIGH = (1209.0, 1336.0, 1477.0, 1633.0)  # Hz, one for each column
KEYS = "123A456B789C*0#D"  # row by row
SILENCE = -1
SHARES = (0.07, 0.1, 0.15, 0.2)


@dataclass(frozen=True)
class Goertzel:
    """Decodes DTMF keys from a signal.

    rate: samples a second. window: seconds that one filter output looks at. hop: seconds between outputs.
    share: the part of a window's energy that its best row and column must hold to count as a tone. hold: outputs
    in a row that must agree before a key is written. release: outputs without that key before it may be written
    again.
    """

    rate: int
    window: float = 0.03
    hop: float = 0.01
    share: float = 0.4
    hold: int = 3
    release: int = 2

    @staticmethod
    def candidates(rate: int) -> Iterator[Goertzel]:
        """The settings worth trying."""
        for window, share, hold, release in product((0.025, 0.03), SHARES, (2, 3), (2, 3)):
            yield Goertzel(rate, window, share=share, hold=hold, release=release)

    def __call__(self, sound: Float[np.ndarray, " time"]) -> str:
        return self.debounce(self.heard(sound))

    def heard(self, sound: Float[np.ndarray, " time"]) -> Int64[np.ndarray, " windows"]:
        """For each window the number of the key that sounds, or SILENCE."""
        width, hop = round(self.window * self.rate), round(self.hop * self.rate)
        if len(sound) < width:
            return np.zeros(0, dtype=np.int64)
        windows = np.lib.stride_tricks.sliding_window_view(sound, width)[::hop]
        power = goertzel(windows, np.array(LOW + HIGH), self.rate)
        low, high = power[:, :4], power[:, 4:]
        # A pure sine of energy E over n samples has Goertzel power E * n / 2.
        tone = (low.max(1) + high.max(1)) / (width / 2)
        key = low.argmax(1) * len(HIGH) + high.argmax(1)
        return np.where(tone > self.share * np.square(windows).sum(1), key, SILENCE)

    def debounce(self, heard: Int64[np.ndarray, " windows"]) -> str:
        """Each key once for each time it is pressed."""
        written, candidate, run, absent, down = "", SILENCE, 0, 0, SILENCE
        for key in heard:
            run = run + 1 if key == candidate else 1
            candidate = key
            absent = 0 if key == down else absent + 1
            if absent >= self.release:
                down = SILENCE
            if key != SILENCE and key != down and run >= self.hold:
                written, down, absent = written + KEYS[key], key, 0
        return written


def goertzel(
    windows: Float[np.ndarray, "windows time"], frequencies: Float[np.ndarray, " tones"], rate: int
) -> Float[np.ndarray, "windows tones"]:
    """Signal power |X(ω)|² at single frequencies, as by the recursion of G. Goertzel, "An Algorithm for the
    Evaluation of Finite Trigonometric Series", American Mathematical Monthly 65, 1958; numpy is faster with the
    sum that the recursion evaluates, X(ω) = Σ x[t] exp(-iωt).
    """
    time = np.arange(windows.shape[1])
    waves = np.exp(-2j * np.pi * np.outer(time, frequencies) / rate)
    return np.square(windows @ waves.real) + np.square(windows @ waves.imag)
