"""Transcripts: in the vocabulary of any text tokenizer, with the marks and by the rules of Whisper."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from anyformer.errors import ConfigError, SampleError, TokenizerError
from anyformer.model.transcribing import Transcribing
from anyformer.registry import tokenizers
from anyformer.testing import check_tokenizer
from anyformer.tokens import StreamSpec, Tokens
from anyformer.transcript import SILENCE, START, STEP, TRANSLATE, UNTIMED, Segment, Transcript, moment
from anyformer_tokenizers.transcript import TranscriptTokenizer

LETTERS = {"type": "characters"}


def fitted(**settings) -> TranscriptTokenizer:
    made = TranscriptTokenizer(**{"text": LETTERS, "languages": ["en", "de"], "longest": 4.0, **settings})
    made.fit([Transcript([Segment(" seven foxes")])])
    return made


TOLD = fitted()


def spelled(tokenizer: TranscriptTokenizer, raw: Transcript) -> list[str]:
    """Each value by its mark, or by its letter."""
    spec = tokenizer.streams[0]
    names = {spec.end: "END", **{value: role for role, value in spec.special.items()}}
    values = tokenizer.encode(raw).streams["transcript"].values
    letters = lambda v: str(tokenizer._text.decode(Tokens.of("transcript", torch.tensor([v]))))  # noqa: E731
    return [names[v] if v in names else letters(v) for v in values.tolist()]


# ── The tokenizer ──


@pytest.mark.parametrize("text", [{"type": "text", "vocab_size": 400}, LETTERS, {"type": "pretrained_text"}])
def test_the_contract_holds(text):
    check_tokenizer(TranscriptTokenizer(text=text, longest=2.0))


def test_a_transcript_is_laid_as_whisper_lays_it():
    """Marks, then each text between its moments; without moments; silence; and what goes on behind the window."""
    opening = ["start", "<|en|>", "<|transcribe|>"]
    timed = Transcript([Segment(" on", 0.2, 0.501), Segment("e", 0.5, 1.0)])
    assert spelled(TOLD, timed) == [*opening, "<|0.20|>", *" on", "<|0.50|>", "<|0.50|>", "e", "<|1.00|>", "END"]
    bare = Transcript([Segment(" on"), Segment(" e")], "de", TRANSLATE)
    assert spelled(TOLD, bare) == ["start", "<|de|>", "<|translate|>", UNTIMED, *" on e", "END"]
    assert spelled(TOLD, Transcript()) == ["start", SILENCE, "END"]
    beyond = Transcript([Segment(" on", 3.0, 3.5), Segment("e", 3.6, 4.2), Segment("n", 4.5, 5.0)])
    assert spelled(TOLD, beyond) == [*opening, "<|3.00|>", *" on", "<|3.50|>", "<|3.60|>", "END"]
    back = TOLD.decode(TOLD.encode(beyond))
    assert back.segments == [Segment(" on", 3.0, 3.5), Segment("", 3.6, None)] and str(back) == "on"


times = st.lists(st.integers(0, 200), min_size=2, max_size=8, unique=True).map(sorted)


@settings(max_examples=50, deadline=None)
@given(times, st.text("sevnfox ", min_size=1, max_size=4), st.sampled_from(["en", "de"]))
def test_a_transcript_comes_back(steps, text, language):
    """To the moment, what has moments of whole steps."""
    pairs = zip(steps[::2], steps[1::2], strict=False)
    told = [Segment(text, round(start * STEP, 2), round(end * STEP, 2)) for start, end in pairs]
    assert TOLD.decode(TOLD.encode(raw := Transcript(told, language))) == raw
    assert TOLD.length(raw) == TOLD.encode(raw).length


def test_a_published_vocabulary_keeps_its_marks(tmp_path):
    """The values of marks are its own; what it lacks stands behind; a text that spells a mark cannot say it."""
    library = pytest.importorskip("tokenizers")
    bytes_alone = library.Tokenizer(library.models.BPE())
    alphabet = library.pre_tokenizers.ByteLevel.alphabet()
    trainer = library.trainers.BpeTrainer(vocab_size=256, initial_alphabet=alphabet, show_progress=False)
    bytes_alone.train_from_iterator(["seven"], trainer)
    bytes_alone.model.save(str(tmp_path))
    names = ["<|endoftext|>", START, "<|en|>", "<|transcribe|>", UNTIMED, *map(moment, range(101))]
    (tmp_path / "added_tokens.json").write_text(json.dumps({name: 256 + i for i, name in enumerate(names)}))
    roles = {"eos_token": names[0], "additional_special_tokens": names[:5]}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(roles))
    text = {"type": "pretrained_text", "directory": str(tmp_path), "special_in_text": True}
    ours = TranscriptTokenizer(text=text, longest=2.0)
    spec = ours.streams[0]
    assert spec.end == 256 and spec.special["start"] == 257 and spec.special["<|1.14|>"] == 261 + 57
    assert spec.special["<|translate|>"] >= 256 + len(names) and spec.width > spec.special["<|translate|>"]
    raw = Transcript([Segment(" a<|0.50|>b<|endoftext|>", 0.0, 1.0)])
    assert ours.decode(ours.encode(raw)).segments == [Segment(" ab", 0.0, 1.0)]
    twin = TranscriptTokenizer(**json.loads(json.dumps(ours.config())))
    assert str(tmp_path) not in json.dumps(ours.config())
    twin.restore(ours.state())
    assert twin.fingerprint() == ours.fingerprint() and twin.streams == ours.streams


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ("seven", "expected a Transcript"),
        (Transcript("seven"), "expected a Transcript"),  # ty: ignore[invalid-argument-type]
        (Transcript([Segment("e")], "fr"), r"'fr'.*en, de"),
        (Transcript([Segment("e")], task="sing"), r"'sing'.*translate"),
        (Transcript([Segment("e", 1.0, 0.5)]), r"from 1.0 to 0.5.*never decrease"),
        (Transcript([Segment("e", 0.0, 1.0), Segment("e", 0.5, 2.0)]), "behind one that ends at 1.0"),
        (Transcript([Segment("e", 0.0), Segment("e", 0.5, 2.0)]), "an end of each but the last"),
        (Transcript([Segment("e", None, 2.0)]), "from None"),
        (Transcript([Segment("e", float("nan"), 2.0)]), "from nan"),
    ],
)
def test_what_is_no_transcript_is_named(raw, says):
    for door in (TOLD.encode, TOLD.length):
        with pytest.raises(SampleError, match=says):
            door(raw)


def test_settings_are_checked():
    for wrong in ({"longest": 0.0}, {"languages": []}, {"languages": ["en", "en"]}, {"text": {"type": "audio"}}):
        with pytest.raises(ConfigError):
            TranscriptTokenizer(**wrong).streams  # noqa: B018
    with pytest.raises(TokenizerError):
        TOLD.decode(Tokens.of("transcript", torch.tensor([10**6])))


# ── The rules ──

MOMENTS = 70
SPEC = StreamSpec.discrete(
    "text",
    17 + MOMENTS,
    end=10,
    special={
        **{"start": 11, "<|en|>": 12, "<|de|>": 13, "<|transcribe|>": 14, SILENCE: 15, UNTIMED: 16},
        **{moment(step): 17 + step for step in range(MOMENTS)},
    },
)
OPENING = [11, 12, 14]


def walked(rule: Transcribing, rng: np.random.Generator, opening: list[int], steps: int) -> list[int]:
    """Values that are drawn from what the rule leaves."""
    said = list(opening)
    for _ in range(steps):
        logits = torch.from_numpy(rng.normal(0, 2, rule.spec.width))[None]
        said.append(int(torch.multinomial(rule(logits, [said])[0].softmax(-1), 1)))
        if said[-1] == rule.spec.end:
            break
    return said


@pytest.mark.parametrize("first", [1.0, None])
def test_moments_follow_the_published_rules(first):
    """As transformers' processor has them, behind every beginning of many transcripts, row by row."""
    process = pytest.importorskip("transformers.generation.logits_process").WhisperTimeStampLogitsProcessor
    config = type("Config", (), {"eos_token_id": 10, "bos_token_id": 10, "no_timestamps_token_id": 16})()
    config.max_initial_timestamp_index = None if first is None else round(first / STEP)
    theirs, rule = process(config, begin_index=3), Transcribing(SPEC, "en", first=first)
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    for length in range(9):
        rows = [row for _ in range(30) if len(row := walked(rule, rng, OPENING, length)) == 3 + length]
        logits = torch.from_numpy(rng.normal(0, 3, (len(rows), SPEC.width)))
        logits[:, 11:17] = -torch.inf  # marks that theirs leaves to others
        assert rows
        torch.testing.assert_close(rule(logits, rows), theirs(torch.tensor(rows), logits.clone()))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.booleans(), st.sampled_from([None, "de"]))
@example(999_999, True, None)  # something begins at the very end of what can be told
def test_whatever_is_said_is_a_transcript(seed, timed, language):
    """From the start to the end; behind a prompt of what was said before, too. It comes back as it was said."""
    torch.manual_seed(seed)
    spec = TOLD.streams[0]
    rule = Transcribing(spec, language, timed=timed, first=None)
    before = [spec.special["<|startofprev|>"], 3, 4] if seed % 2 else []
    said = walked(rule, np.random.default_rng(seed), [*before, spec.special["start"]], 60)[len(before) :]
    heard = TOLD.decode(Tokens.of("transcript", torch.tensor(said)))
    assert heard.language == language or (language is None and heard.language in ("en", "de", ""))
    if said[-1] == spec.end and heard.segments:
        assert heard.timed == timed
        last = heard.segments[-1]
        if last.end is not None or not (timed and last.text):  # of what goes on, the start alone is told
            assert TOLD.encode(heard).streams["transcript"].values.tolist() == said


def test_silence_is_said_where_it_is_likely():
    """And only there: below the threshold a language is."""
    logits = torch.zeros(1, SPEC.width)
    for height, silence in ((0.0, False), (9.0, True)):
        logits[0, 15] = height
        left = Transcribing(SPEC)(logits, [[11]])[0].isfinite().nonzero().flatten().tolist()
        assert left == ([15] if silence else [12, 13])
    assert Transcribing(SPEC)(logits, [[11, 15]])[0].isfinite().nonzero().flatten().tolist() == [10]


def test_unknown_marks_are_named():
    with pytest.raises(ConfigError, match=r"<\|fr\|>"):
        Transcribing(SPEC, "fr")
    with pytest.raises(ConfigError, match="translate"):
        Transcribing(SPEC, task="translate")


def test_it_is_registered():
    assert isinstance(tokenizers.create("transcript"), TranscriptTokenizer)
