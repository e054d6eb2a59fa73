"""Audio files: measured by their headers, and never read short, damaged or too long without a word."""

import io
import json
import random
import wave

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anyformer.errors import LimitError, SampleError
from anyformer_tokenizers.audio import AudioTokenizer

AUDIO = AudioTokenizer()
AUDIO.restore({"statistics.json": json.dumps({"mean": [-6.0] * 80, "deviation": [4.0] * 80}).encode()})


def noise(samples: int, rate: int = 16_000, channels: int = 1):
    rng = np.random.default_rng(0)
    return 0.1 * rng.standard_normal((channels, samples), dtype=np.float32), rate


def frames_of(raw) -> torch.Tensor:
    return AUDIO.encode(raw).streams["audio"].values


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_files_are_read_and_measured(tmp_path, suffix):
    """A file gives what its samples give (closely, where the format is lossy), and its header the length."""
    clip, rate = noise(30_000, 44_100, channels=2)
    path = tmp_path / f"clip.{suffix}"
    soundfile.write(path, clip.T, rate)
    held = soundfile.read(path, dtype="float32", always_2d=True)[0].T
    assert torch.allclose(frames_of(str(path)), frames_of((held, rate)), atol=1e-4)
    assert AUDIO.length(path) == AUDIO.encode(path).length


@pytest.mark.parametrize("endian, kind", [("LITTLE", "WAV"), ("BIG", "WAV"), ("LITTLE", "RF64"), ("LITTLE", "WAVEX")])
def test_a_cut_wav_is_refused(tmp_path, endian, kind):
    """libsndfile reads it as a shorter clip without a word; here the header is held against the size."""
    whole, cut = tmp_path / "whole.wav", tmp_path / "cut.wav"
    soundfile.write(whole, noise(4000)[0].T, 16_000, format=kind, endian=endian, subtype="PCM_16")
    AUDIO.encode(whole)
    cut.write_bytes(whole.read_bytes()[:-2000])
    for door in (AUDIO.length, AUDIO.encode):
        with pytest.raises(SampleError, match=r"cut\.wav claims 8000 bytes .* holds 6000"):
            door(cut)


def test_a_wav_that_claims_four_gigabytes_is_refused(tmp_path):
    """The header of a stream that was never finished."""
    path = tmp_path / "clip.wav"
    soundfile.write(path, noise(4000)[0].T, 16_000, subtype="PCM_16")
    content = path.read_bytes()
    at = content.index(b"data") + 4
    path.write_bytes(content[:at] + b"\xff" * 4 + content[at + 4 :])
    with pytest.raises(SampleError, match="claims 4294967295 bytes"):
        AUDIO.encode(path)


def test_a_wav_rate_of_zero_is_refused(tmp_path):
    """Wrong metadata in a file, not only in a pair."""
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(b"\0\0" * 1000)
    path = tmp_path / "clip.wav"
    for rate in (0, 4_000_000_000):
        path.write_bytes(content.getvalue()[:24] + rate.to_bytes(4, "little") + content.getvalue()[28:])
        with pytest.raises(SampleError, match=r"clip\.wav"):
            AUDIO.encode(path)


def flac_claiming(samples: int) -> bytes:
    """One second of FLAC whose STREAMINFO claims another number of samples (36 bits, RFC 9639 §8.2)."""
    content = io.BytesIO()
    soundfile.write(content, noise(16_000)[0].T, 16_000, format="FLAC")
    raw = bytearray(content.getvalue())
    raw[21] = (raw[21] & 0xF0) | samples >> 32
    raw[22:26] = (samples & 0xFFFFFFFF).to_bytes(4, "big")
    return bytes(raw)


def test_ten_hours_in_a_header_are_refused_unread(tmp_path):
    """The limit is checked before anything is read; a smaller lie is found on reading."""
    path = tmp_path / "clip.flac"
    path.write_bytes(flac_claiming(36_000 * 16_000))
    for door in (AUDIO.length, AUDIO.encode):
        with pytest.raises(LimitError, match=r"clip\.flac lasts 36000\.0 s"):
            door(path)
    path.write_bytes(flac_claiming(20_000))
    with pytest.raises(SampleError, match=r"clip\.flac"):
        AUDIO.encode(path)


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(["WAV", "FLAC", "OGG", "MP3"]), st.integers(0, 2**32 - 1))
def test_damaged_files_are_typed_errors_or_finite(tmp_path_factory, kind, seed):
    """Flipped and missing bytes never crash, hang or make NaN; no cut file is read as a shorter clip."""
    content = io.BytesIO()
    soundfile.write(content, noise(4000)[0].T, 16_000, format=kind)
    damaged, rng = bytearray(content.getvalue()), random.Random(seed)
    is_cut = rng.random() < 0.5
    if is_cut:
        damaged = damaged[: rng.randrange(len(damaged))]
    else:
        for _ in range(rng.randint(1, 8)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
    path = tmp_path_factory.mktemp("damaged") / f"clip.{kind.lower()}"
    path.write_bytes(damaged)
    try:
        values = frames_of(path)
    except SampleError as error:
        assert "clip." in str(error)
    else:
        assert values.isfinite().all()
        assert not is_cut


def test_a_format_whose_truncation_cannot_be_told_is_refused(tmp_path):
    """AIFF is cut as silently as WAV; the message names the formats that serve."""
    path = tmp_path / "clip.aiff"
    soundfile.write(path, noise(1000)[0].T, 16_000)
    with pytest.raises(SampleError, match=r"AIFF; expected one of WAV"):
        AUDIO.encode(path)
