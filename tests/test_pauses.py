"""Recordings cut up at their pauses: each part is where its word is, and what cannot be told apart is left out."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from anyformer.errors import ConfigError
from anyformer_tasks.sound import SpeechRecognition
from anyformer_tasks.sound.clip import Clip
from anyformer_tasks.sound.dataset import SoundSet
from anyformer_tasks.sound.pauses import words_of

RATE = 8000
PITCH = {"no": 400, "yes": 1200}


def recording(words, pauses, seed: int = 0) -> np.ndarray:
    """A tone for each word, of 0.25 to 0.4 s, in faint noise; a pause before each and one at the end."""
    rng = np.random.default_rng(seed)
    parts = [np.zeros(int(pauses[0] * RATE))]
    for word, pause in zip(words, pauses[1:], strict=True):
        time = np.arange(int(rng.uniform(0.25, 0.4) * RATE)) / RATE
        parts += [0.3 * np.sin(2 * np.pi * PITCH[word] * time), np.zeros(int(pause * RATE))]
    wave = np.concatenate(parts)
    return wave + 0.003 * rng.standard_normal(len(wave))


def clip_of(folder: Path, words, wave: np.ndarray) -> Clip:
    path = folder / "it.wav"
    soundfile.write(path, wave, RATE)
    return Clip("it", str(path), {}, {"text": list(words)})


def heard(clip: Clip) -> str:
    """The word whose tone is the loudest."""
    samples, rate = clip.wave()
    peak = np.abs(np.fft.rfft(samples[0])).argmax() * rate / samples.shape[1]
    return min(PITCH, key=lambda word: abs(PITCH[word] - peak))


answers = st.lists(st.sampled_from(sorted(PITCH)), min_size=1, max_size=8)


@settings(max_examples=25, deadline=None)
@given(words=answers, seed=st.integers(0, 999))
def test_each_part_is_its_word(words, seed, tmp_path_factory):
    """Nothing is lost: the parts follow each other from end to end, each has its word alone, and what is around them is
    silent and says nothing."""
    pauses = np.random.default_rng(seed).uniform(0.13, 0.4, len(words) + 1)
    wave = recording(words, pauses, seed)
    parts = words_of(clip_of(tmp_path_factory.mktemp("one"), words, wave), "text")
    spoken = [part for part in parts if part.told("text")]
    assert [part.told("text") for part in spoken] == words == [heard(part) for part in spoken]
    assert all(np.abs(part.wave()[0]).max() < 0.05 for part in parts if part not in spoken)
    assert all(one.span[1] == other.span[0] for one, other in itertools.pairwise(parts))
    assert (parts[0].span[0], parts[-1].span[1]) == (0, len(wave))
    assert len({part.name for part in parts}) == len(parts)
    assert all(not isinstance(part.sound, str) for part in parts), "a part of a file is not the file"


def test_a_click_is_no_word(tmp_path):
    wave = recording(["no", "yes"], [0.3, 0.3, 0.5])
    wave[-2000:-1900] += 0.3
    _, no, yes, _ = words_of(clip_of(tmp_path, ["no", "yes"], wave), "text")
    assert (heard(no), heard(yes)) == ("no", "yes")


def test_what_cannot_be_told_apart_is_left_out(tmp_path):
    """Words without a pause between them, and a recording of nothing."""
    assert words_of(clip_of(tmp_path, ["no", "no"], recording(["no", "no"], [0.2, 0.0, 0.2])), "text") == []
    assert words_of(clip_of(tmp_path, ["no"], np.zeros(0)), "text") == []
    with pytest.raises(ConfigError, match=r"'text' is 'no'; expected a list"):
        words_of(Clip("it", "", {}, {"text": "no"}), "text")


def test_words_are_laid_anew(tmp_path):
    """Out of recordings that all begin with no, strings that begin with either; what is judged is not cut."""
    rng = np.random.default_rng(0)
    (tmp_path / "yesno" / "waves_yesno").mkdir(parents=True)
    for number in range(14):
        words = ["yes" if number > 11 else "no", *rng.choice(sorted(PITCH), 7)]
        name = "_".join("1" if word == "yes" else "0" for word in words) + ".wav"
        wave = recording(words, [0.5, *[0.2] * 7, 0.5], number)
        soundfile.write(tmp_path / "yesno" / "waves_yesno" / name, wave, RATE)
    whole, cut = (SoundSet.named(name, str(tmp_path)) for name in ("yesno", "yesno-words"))
    for split in ("train", "validation", "test"):
        words = [clip.told("text") for clip in cut.clips(split)]
        assert [word for word in words if word] == " ".join(c.told("text") for c in whole.clips(split)).split()
    task = SpeechRecognition("yesno-words", str(tmp_path), joined={"by": "set", "least": 1, "most": 4, "train": 40})
    assert {text.split()[0] for text in task.corpus("text")} == {"no", "yes"}
    recordings = task.examples("train")
    for sample in (recordings[0], recordings[1]):
        assert sample.values["audio"][0].shape[1] > 2000 * len(sample.values["text"].split()) > 0
    pause = recordings._pause((0.5, 0.5), RATE, np.random.default_rng(0))
    silences = np.concatenate([clip.wave()[0][0] for clip in recordings.silent])
    assert len(pause) == RATE // 2 and np.isin(pause, silences).all(), "a pause is a piece of what says nothing"
