"""The audio tokenizer: exact lengths, clips that never touch each other, and every bad input named."""

import io
import json
import pickle

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anyformer.errors import ConfigError, LimitError, SampleError, TokenizerError
from anyformer.registry import tokenizers
from anyformer.testing import check_tokenizer
from anyformer.tokens import Tokens, spec_table
from anyformer_tokenizers.audio import AudioTokenizer


def fixed(**settings) -> AudioTokenizer:
    """One scale for all bands, on which frames can be compared: silence is -2, full scale about +3."""
    audio = AudioTokenizer(**settings)
    learned = {"mean": [-6.0] * audio.mels, "deviation": [4.0] * audio.mels}
    audio.restore({"statistics.json": json.dumps(learned).encode()})
    return audio


AUDIO = fixed()
SPEC = AUDIO.streams[0]


def noise(samples: int, rate: int = 16_000, channels: int = 1, seed: int = 0):
    rng = np.random.default_rng(seed)
    return 0.1 * rng.standard_normal((channels, samples), dtype=np.float32), rate


def tone(hertz: float, rate: int, seconds: float = 0.5):
    time = np.arange(int(seconds * rate)) / rate
    return 0.5 * np.sin(2 * np.pi * hertz * time).astype(np.float32), rate


def frames_of(raw) -> torch.Tensor:
    return AUDIO.encode(raw).streams["audio"].values


@settings(max_examples=60, deadline=None)
@given(
    samples=st.integers(1, 6000),
    rate=st.sampled_from([1, 8000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000, 768_000]),
    channels=st.integers(1, 9),
)
def test_length_is_exact_for_any_clip(samples, rate, channels):
    """`length` plans batches without encoding, so it must agree to the slot, resampling included."""
    samples = min(samples, 50) if rate == 1 else samples
    clip = noise(samples, rate, channels)
    tokens = AUDIO.encode(clip)
    stream = tokens.streams["audio"]
    assert AUDIO.length(clip) == tokens.length == len(stream.slots) == len(tokens.positions)
    assert stream.items.tolist() == [[len(stream.values), tokens.length]]
    assert SPEC.slots(len(stream.values)) == tokens.length
    assert stream.values.isfinite().all() and stream.values.dtype == torch.float32


@settings(max_examples=20, deadline=None)
@given(
    sample_rate=st.sampled_from([8000, 16_000]),
    window=st.integers(32, 250).map(lambda half: 2 * half),
    overlap=st.floats(0.5, 0.85),
    subsampling=st.sampled_from([1, 2, 4, 8]),
    samples=st.integers(1, 3000),
)
def test_length_is_exact_for_any_settings(sample_rate, window, overlap, subsampling, samples):
    """The same, whatever the window, hop, rate and subsampling; and decode gives as many frames again."""
    hop = int(window * (1 - overlap))
    audio = fixed(sample_rate=sample_rate, window=window, hop=hop, mels=8, subsampling=subsampling)
    clip = noise(samples, 11_025)
    tokens = audio.encode(clip)
    assert audio.length(clip) == tokens.length
    again = audio.encode(audio.decode(tokens))
    assert again.streams["audio"].values.shape == tokens.streams["audio"].values.shape


def test_resampled_lengths_do_not_round():
    """ceil(samples · 16000 / rate) in whole numbers, where float32 (torchaudio's own count) is one short."""
    samples = 13_998_991  # 5 079 000 and 1/441 at 16 kHz: a fraction that float32 does not keep
    clip = np.broadcast_to(np.zeros((1, 1), dtype=np.float32), (1, samples)), 44_100
    audio = AudioTokenizer(window=4, hop=2, mels=1, subsampling=1)
    assert len(audio.wave(clip)) == -(-samples * 160 // 441)
    assert audio.length(clip) == 1 + len(audio.wave(clip)) // 2


@settings(max_examples=30, deadline=None)
@given(samples=st.integers(1, 1000), place=st.floats(0, 1))
def test_every_sample_counts(samples, place):
    """A click at any sample is heard, the very first and last too: nothing is cut off or windowed away."""
    silent = np.zeros((1, samples), dtype=np.float32)
    click = silent.copy()
    click[0, round(place * (samples - 1))] = 1.0
    assert (frames_of((click, 16_000)) - frames_of((silent, 16_000))).abs().max() > 0.1


def test_a_tone_is_the_same_at_every_rate_and_in_stereo():
    """Resampling keeps the sound, and equal channels average to one of them."""
    reference = frames_of(tone(1000, 16_000))
    for rate in (8000, 22_050, 44_100, 48_000):
        other = frames_of(tone(1000, rate))
        assert other.argmax(1)[2:-3].tolist() == reference.argmax(1)[2:-3].tolist()
        assert (other.amax(1) - reference.amax(1))[2:-3].abs().max() < 0.1
    mono, rate = tone(1000, 16_000)
    assert torch.allclose(frames_of((np.stack([mono] * 3), rate)), reference, atol=1e-4)
    assert torch.equal(frames_of((torch.from_numpy(mono), rate)), reference)


def test_a_higher_tone_is_in_a_higher_band():
    """Bands are ordered by frequency; each of these tones has one of its own."""
    peaks = [int(frames_of(tone(hertz, 16_000)).mean(0).argmax()) for hertz in (200, 400, 1000, 3000, 7000)]
    assert peaks == sorted(set(peaks))


def test_decoding_sounds_alike():
    """A tone keeps its pitch and level through frames and back, the same at every call."""
    decoded, rate = AUDIO.decode(AUDIO.encode(tone(1000, 16_000)))
    middle = decoded[0, 1600:-1600]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert abs(spectrum.argmax() * rate / len(middle) - 1000) < 25
    assert 0.25 < np.abs(middle).max() < 1.0
    again, _ = AUDIO.decode(AUDIO.encode(tone(1000, 16_000)))
    assert np.array_equal(decoded, again)


def test_decoding_keeps_time():
    """A click decodes to where it was: frames are centred on multiples of the hop, both ways."""
    click = np.zeros(8000, dtype=np.float32)
    click[5000:5040] = 0.9
    decoded, _ = AUDIO.decode(AUDIO.encode((click, 16_000)))
    assert abs(int(np.abs(decoded[0]).argmax()) - 5020) < AUDIO.hop


@pytest.mark.parametrize(
    "tokens",
    [
        Tokens.of("text", torch.tensor([1])),
        Tokens.of("audio", torch.zeros(3, 79)),
        Tokens.of("audio", torch.zeros(0, 80)),
        Tokens.of("audio", torch.full((3, 80), torch.nan)),
    ],
)
def test_what_cannot_be_decoded_is_named(tokens):
    """Another stream, another width, nothing, and NaN."""
    with pytest.raises(TokenizerError, match="audio"):
        AUDIO.decode(tokens)


ZEROS = np.zeros((1, 1600), dtype=np.float32)
BAD = {
    "no samples": ((ZEROS[:, :0], 16_000), SampleError, "empty"),
    "no channels": ((ZEROS[:0], 16_000), SampleError, "empty"),
    "NaN": ((np.where(np.arange(1600) == 800, np.nan, ZEROS), 16_000), SampleError, "NaN"),
    "infinite": ((np.where(np.arange(1600) == 1599, np.inf, ZEROS), 16_000), SampleError, "infinite"),
    "beyond float32": ((np.full(100, 1e300), 16_000), SampleError, "infinite"),
    "unscaled": ((np.full(100, 1e9), 16_000), SampleError, "full scale"),
    "rate 0": ((ZEROS, 0), SampleError, "0 samples a second"),
    "rate below 0": ((ZEROS, -8000), SampleError, "-8000"),
    "rate 4e9": ((ZEROS, 4_000_000_000), SampleError, "4000000000"),
    "rate NaN": ((ZEROS, float("nan")), SampleError, "whole number"),
    "rate fractional": ((ZEROS, 16_000.5), SampleError, "16000.5"),
    "rate text": ((ZEROS, "16k"), SampleError, "16k"),
    "rate coprime": ((ZEROS, 44_099), LimitError, "44099"),
    "integers": ((np.zeros(100, dtype=np.int16), 16_000), SampleError, "int16"),
    "transposed": ((np.zeros((1600, 2), dtype=np.float32), 16_000), SampleError, "Transpose"),
    "three axes": ((np.zeros((1, 1, 100), dtype=np.float32), 16_000), SampleError, "expected float"),
    "no rate": (ZEROS, SampleError, "sample_rate"),
    "a number": (7, SampleError, "int"),
    "10 hours": ((np.broadcast_to(ZEROS[:, :1], (1, 36_000 * 16_000)), 16_000), LimitError, "36000.0 s"),
    "no file": ("missing.wav", SampleError, "missing.wav"),
    "a folder": (".", SampleError, "cannot be read"),
}


@pytest.mark.parametrize("raw, error, says", BAD.values(), ids=BAD)
def test_bad_audio_is_one_typed_error(raw, error, says):
    """Each names what is wrong; `length` may answer, but `encode` and `render` must refuse."""
    for door in (AUDIO.encode, AUDIO.render):
        with pytest.raises(error, match=says):
            door(raw)


@pytest.mark.parametrize("samples, frames", [(1, 1), (159, 1), (160, 2), (400, 3)])
def test_short_clips_have_a_frame(samples, frames):
    """1 sample and 0.01 s (less than a window) are silent beyond their ends, as documented, and decode."""
    tokens = AUDIO.encode(noise(samples))
    assert tokens.length == 1 and tokens.streams["audio"].values.shape == (frames, 80)
    assert np.isfinite(AUDIO.decode(tokens)[0]).all()


@pytest.mark.parametrize("level", [0.0, 1e-30, 1.0, 100.0, 32_768.0])
def test_any_level_gives_finite_values(level):
    """Silence, clipping and unscaled 16-bit sound."""
    assert frames_of((np.full((9, 5000), level, dtype=np.float32), 48_000)).abs().max() < 50


# What is learned, and what travels.


def test_fit_standardises_each_band_and_travels():
    """Fitted frames have mean 0 and deviation 1; the state restores them; the fingerprint tells."""
    clips = [(noise(4000, seed=seed)[0] * 10.0**-seed, 16_000) for seed in range(4)]
    audio = AudioTokenizer()
    assert not audio.fitted and audio.state() == {}
    before = audio.fingerprint()
    audio.fit(iter(clips))
    assert audio.fitted and audio.fingerprint() != before
    frames = torch.cat([audio.encode(clip).streams["audio"].values for clip in clips])
    assert frames.mean(0).abs().max() < 1e-3
    assert (frames.std(0, correction=0) - 1).abs().max() < 1e-3
    state = audio.state()
    json.loads(state["statistics.json"])
    other = AudioTokenizer()
    other.restore(state)
    assert other.fingerprint() == audio.fingerprint()
    assert torch.equal(other.encode(clips[0]).streams["audio"].values, audio.encode(clips[0]).streams["audio"].values)


def test_a_band_silent_in_training_does_not_explode():
    """Fitted on silence, a loud clip still gives moderate values."""
    audio = AudioTokenizer()
    audio.fit([(ZEROS, 16_000)])
    assert audio.encode(tone(1000, 16_000)).streams["audio"].values.abs().max() < 50


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"mean": [0]}',
        b'{"mean": [0], "deviation": [1]}',
        b'{"mean": "x", "deviation": [1]}',
    ]
    + [json.dumps({"mean": [0.0] * 80, "deviation": [bad] * 80}).encode() for bad in (0.0, -1.0, float("nan"))],
)
def test_unreadable_state_is_refused(content):
    """Missing, malformed, of another width, or not usable as a scale."""
    with pytest.raises(TokenizerError, match="statistics"):
        AudioTokenizer().restore({"statistics.json": content})
    with pytest.raises(TokenizerError, match="statistics"):
        AudioTokenizer().restore({"other": content})


def test_it_must_be_fitted():
    """Before `fit` nothing is encoded or decoded; lengths and streams need no statistics."""
    audio = AudioTokenizer()
    for door in (lambda: audio.encode(noise(500)), lambda: audio.decode(AUDIO.encode(noise(500)))):
        with pytest.raises(TokenizerError, match="not fitted; call fit"):
            door()
    assert audio.length(noise(500)) == 1 and audio.streams == AUDIO.streams
    with pytest.raises(TokenizerError, match="at least one"):
        audio.fit([])


def test_it_travels_into_workers():
    """The tokenizer and its embedder factory pickle after use, and equal tokenizers have equal specs."""
    AUDIO.encode(noise(2000))
    again = pickle.loads(pickle.dumps(AUDIO))
    assert again == AUDIO and torch.equal(again.encode(noise(2000)).streams["audio"].values, frames_of(noise(2000)))
    spec_table([*AUDIO.streams, *again.streams])
    assert pickle.loads(pickle.dumps(SPEC)) == SPEC


def test_it_is_made_by_name_from_plain_settings():
    """The entry point resolves, and settings are JSON both ways."""
    made = tokenizers.create("audio", {"name": "sound", "mels": 40, "subsampling": 2})
    assert made.streams[0].name == "sound" and made.streams[0].features == 40
    assert AudioTokenizer(**json.loads(json.dumps(made.config()))) == made


@pytest.mark.parametrize("changed", [{}, {"subsampling": 1, "mels": 8}, {"sample_rate": 8000, "layers": 2}], ids=str)
def test_the_contract_holds(changed):
    """With the default settings and with others."""
    check_tokenizer(AudioTokenizer(**changed))


@pytest.mark.parametrize(
    "wrong",
    [
        {"subsampling": 3},
        {"subsampling": 0},
        {"hop": 0},
        {"hop": 201},
        {"window": 401},
        {"mels": 0},
        {"low": 9000.0},
        {"high": 8001.0},
        {"kernel": 4},
        {"sample_rate": 0},
        {"layers": -1},
        {"max_seconds": 0.0},
    ],
    ids=str,
)
def test_wrong_settings_are_named(wrong):
    """At construction, not at the first clip."""
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        AudioTokenizer(**wrong)


def test_render_is_sound_and_picture():
    """A 16-bit WAV of the resampled clip, and a PNG."""
    shown = AUDIO.render(noise(4800, 48_000, channels=2))
    sound, rate = soundfile.read(io.BytesIO(shown["audio/wav"]))
    assert (len(sound), rate) == (1600, 16_000)
    assert shown["image/png"].startswith(b"\x89PNG")
