"""Recordings of any length, written down window by window: nothing is lost or told twice where windows meet."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import corpora
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anyformer.architecture import BackboneConfig
from anyformer.batch import Example
from anyformer.contracts import prepare
from anyformer.errors import ConfigError
from anyformer.model import Model, Said
from anyformer.model.transcribing import Transcribing
from anyformer.registry import tokenizers
from anyformer.tokens import Tokens
from anyformer.transcript import STEP, Segment, Transcript
from anyformer_tasks.sound import Transcription
from anyformer_tasks.sound.windows import Listener, Windows, transcribed

WINDOW = 3.0


def hearing(truth: list[Segment]):
    """One who hears well: what lies in a window whole, and where something begins that goes on behind it."""

    def listen(start: float, end: float) -> Transcript:
        assert not any(s.start < start - 1e-6 < s.end - 2e-6 for s in truth), "a window begins within a segment"
        inside = [s for s in truth if s.start >= start - 1e-6 and s.start < end - 1e-6]
        whole = [replace(s, start=s.start - start, end=s.end - start) for s in inside if s.end <= end + 1e-6]
        cut = [Segment("", s.start - start) for s in inside if s.end > end + 1e-6]
        return Transcript([*whole, *cut])

    return listen


spans = st.lists(st.tuples(st.integers(0, 300), st.integers(1, 149)), max_size=30)


@settings(max_examples=200, deadline=None)
@given(spans, st.integers(0, 400))
def test_nothing_is_lost_or_told_twice(drawn, tail):
    """Segments of any length up to a window, pauses of any length, clips that are no multiple of one."""
    truth, at = [], 0
    for number, (gap, size) in enumerate(drawn):
        truth.append(Segment(f" {number}", round((at + gap) * STEP, 2), round((at + gap + size) * STEP, 2)))
        at += gap + size
    found = transcribed((at + tail) * STEP, WINDOW, hearing(truth))
    assert [s.text for s in found] == [s.text for s in truth]
    times = np.array(
        [[(one.start, one.end), (other.start, other.end)] for one, other in zip(found, truth, strict=True)]
    )
    assert not len(times) or np.abs(times[:, 0] - times[:, 1]).max() < STEP


anything = st.lists(st.tuples(st.integers(0, 160), st.integers(0, 160), st.booleans()), max_size=4)


@settings(max_examples=100, deadline=None)
@given(st.lists(anything, min_size=1, max_size=9), st.floats(0.01, 20))
def test_whatever_is_heard_it_comes_to_an_end(answers, seconds):
    """Each window begins behind the one before it; segments lie in the recording, in order."""
    starts: list[float] = []

    def listen(start: float, end: float) -> Transcript:
        assert start < end <= min(seconds, start + WINDOW) + 1e-9
        starts.append(start)
        told = [Segment(" a", a * STEP, (a + b) * STEP) for a, b, _ in sorted(answers[len(starts) % len(answers)])]
        if told and answers[len(starts) % len(answers)][-1][2]:
            told[-1] = replace(told[-1], end=None)
        return Transcript(told)

    found = transcribed(seconds, WINDOW, listen)
    assert all(b - a >= STEP - 1e-6 for a, b in pairwise(starts))
    assert all(0 <= s.start <= s.end <= seconds + 0.01 for s in found)


def test_ends_of_windows():
    """A segment longer than a window is told in parts; one that breaks off is told to the end; texts without moments
    fill their window; silence is skipped; where only a beginning is heard, it is listened to again."""
    assert transcribed(7.0, 3.0, lambda a, b: Transcript([Segment(f" {a:g}", 0.0)])) == [
        *(Segment(" 0", 0.0, 3.0), Segment(" 3", 3.0, 6.0), Segment(" 6", 6.0, 7.0))
    ]
    assert transcribed(2.0, 3.0, lambda a, b: Transcript([Segment(" a", 0.5)])) == [Segment(" a", 0.5, 2.0)]
    assert transcribed(4.0, 3.0, lambda a, b: Transcript([Segment(f" {a:g}")])) == [
        *(Segment(" 0", 0.0, 3.0), Segment(" 3", 3.0, 4.0))
    ]
    assert transcribed(61.0, 30.0, lambda a, b: Transcript()) == []
    heard: list[float] = []
    begins = lambda a, b: heard.append(a) or Transcript([Segment("", 1.0)] if a == 0 else [Segment(" a", 0.0)])  # noqa: E731
    assert transcribed(2.5, 3.0, begins) == [Segment(" a", 1.0, 2.5)] and heard == [0.0, 1.0]


# ── One window: temperatures ──


TOKENIZER = tokenizers.create("transcript", {"text": {"type": "characters"}, "longest": WINDOW})
TOKENIZER.fit([Transcript([Segment(" seven foxes")])])
SPEC = TOKENIZER.streams[0]


class Scripted:
    """Says the next of these texts at each call, each value as likely as told; keeps how it was asked."""

    def __init__(self, *said: tuple[str, float]) -> None:
        self.said, self.asked = list(said), []

    def stream(self, prompt, stream, max_new, sampling):
        self.asked.append((sampling.temperature, prompt.tokens.streams[stream].values.tolist()))
        text, nats = self.said.pop(0)
        values = TOKENIZER.encode(Transcript([Segment(text, 0.0, 1.0)] if text else [])).streams[stream].values.tolist()
        return (Said(value, nats) for value in values[1:])


def listener(model, **settings) -> Listener:
    asked = Example(Tokens.of("transcript", torch.tensor([SPEC.special["start"]])), {})
    return Listener(model, TOKENIZER, lambda a, b: asked, Transcribing(SPEC, "en"), Windows.of(settings))


@pytest.mark.parametrize(
    ("said", "temperatures", "text"),
    [
        ([(" seven", -0.3)], [0.0], "seven"),
        ([(" foxes", -1.4), (" seven", -0.9)], [0.0, 0.2], "seven"),
        ([(" no" * 40, -0.1), (" seven", -0.9)], [0.0, 0.2], "seven"),
        ([(" foxes", -2.0), (" soxes", -2.0), (" x", -3.0)], [0.0, 0.2, 1.0], "x"),
        ([("", -9.0)], [0.0], ""),
    ],
)
def test_what_is_unlikely_or_goes_round_is_said_again(said, temperatures, text):
    """By the next temperature; the last one has the last word. Silence is taken as it is."""
    model = Scripted(*said)
    assert str(listener(model, temperatures=[0.0, 0.2, 1.0])(0.0, 3.0)) == text
    assert [temperature for temperature, _ in model.asked] == temperatures


def test_what_was_said_before_is_given():
    """At most so many values, before the start; none at first, none behind what was said by a high temperature."""
    model = Scripted((" seven", -0.1), (" fox", -0.1), (" no", -2.0), (" e", -2.0), (" s", -0.1))
    one = listener(model, previous=4, temperatures=[0.0, 0.8])
    for at in range(4):
        one(float(at), at + 3.0)
    start, before = SPEC.special["start"], SPEC.special["<|startofprev|>"]
    pieces = lambda text: TOKENIZER._pieces(text)  # noqa: E731
    wanted = [[start], *([before, *pieces(text), start] for text in ("even", " fox", " fox")), [start]]
    assert [values for _, values in model.asked] == wanted
    with pytest.raises(ConfigError, match="previous"):
        bare = replace(SPEC, special={k: v for k, v in SPEC.special.items() if k != "<|startofprev|>"})
        lacks = Listener(Scripted(), TOKENIZER, one.prompted, Transcribing(bare, "en"), Windows(previous=4))
        lacks.before = [3]
        lacks(0.0, 3.0)


def test_windows_are_checked():
    for wrong in ({"second": 3}, {"seconds": 0.0}, {"temperatures": []}, {"temperatures": [-1.0]}, {"most": 0}):
        with pytest.raises(ConfigError, match="indows"):
            Windows.of(wrong)


# ── The task ──


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
    """Digits in rows longer than a window, and a model that has learned nothing."""
    folder = tmp_path_factory.mktemp("sounds")
    corpora.fsdd(folder, np.random.default_rng(0))
    joined = {"least": 3, "most": 12, "train": 8, "held_out": 4}
    task = Transcription("fsdd", str(folder), text="digit", joined=joined, windows={"seconds": WINDOW, "most": 9})
    scaling = {"type": "whisper", "pad": True, "seconds": WINDOW}
    audio = {"sample_rate": 8000, "mels": 8, "window": 200, "hop": 80, "layers": 0, "scaling": scaling}
    text = {"text": {"type": "characters"}, "longest": WINDOW}
    made = {"audio": tokenizers.create("audio", audio), "transcript": tokenizers.create("transcript", text)}
    made["transcript"].fit(task.corpus("text"))
    torch.manual_seed(0)
    writes = BackboneConfig(16, 2, 1, recipe=("attention", "cross_attention", "feed_forward"))
    hears = BackboneConfig(16, 2, 1, causal=False)
    return task, Model(made, writes, ["transcript"], encoder=hears, source=["audio"]).eval()


def test_an_example_is_a_window(spoken):
    """Of the sound and of its transcript alike, from the start or from behind some clip on, to the last, behind which
    is silence; a clip's moments are those of its sound."""
    task, model = spoken
    task = replace(task, joined={**task.joined, "train": 40})
    samples = list(task.examples("train"))
    lengths = [len(sample.values["text"].segments) for sample in samples]
    assert min(lengths) == 0 and len({*lengths}) > 6
    for sample in [sample for sample in samples if sample.values["text"].segments][:8]:
        wave, rate = sample.values["audio"]
        told = sample.values["text"]
        for segment, other in zip(told.segments, [*told.segments[1:], None], strict=True):
            inside = np.abs(wave[0, round(segment.start * rate) : round(segment.end * rate)])
            pause = wave[0, round(segment.end * rate) : round(other.start * rate) if other else None]
            assert inside.mean() > 0.1 > np.abs(pause).max()
        example = prepare("it", task, model.tokenizers, sample, np.random.default_rng(0))
        assert example.source.tokens.length == 75
        heard = model.tokenizers["transcript"].decode(Tokens.of("transcript", example.targets["transcript"].values))
        whole = [s for s in told.segments if s.end <= WINDOW]
        assert [s.text for s in heard.segments if s.end is not None] == [s.text for s in whole]
        assert max(s.start for s in heard.segments) <= WINDOW


def test_a_model_is_judged(spoken):
    """However long its recordings are; alone as with others; a transcript's times lie in the recording."""
    task, model = spoken
    samples = task.examples("test")[:3]
    said = task.written(model, samples)
    assert task.written(model, samples[1:2]) == said[1:2]
    scores = list(task.score(model, samples))
    assert len(scores) == 6 and all(np.isfinite(score.value) for score in scores)
    told = task.transcribed(model, samples[0])
    wave, rate = samples[0].values["audio"]
    assert all(s.end <= wave.shape[1] / rate + 0.01 for s in told.segments)
    untimed = replace(task, timed=False)
    assert isinstance(untimed.transcribed(model, untimed.examples("test")[0]), Transcript)
    assert not untimed.examples("train")[0].values["text"].timed


def test_recordings_by_themselves_are_one_segment(spoken):
    """As long as their file says, without reading it."""
    alone = replace(spoken[0], joined=None)
    sample = alone.examples("test")[0]
    (segment,) = sample.values["text"].segments
    assert segment.start == 0 and 0.3 <= segment.end <= 0.51 and isinstance(sample.values["audio"], str)
    with pytest.raises(ConfigError, match="windows"):
        Transcription(decoding={"beams": 2})
