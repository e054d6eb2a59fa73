"""The text tokenizer: lossless for every string, whatever the corpus, and clear about what is no text."""

from __future__ import annotations

import io
import pickle
from pydoc_data.topics import topics

import numpy as np
import pytest
import sentencepiece
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from anyformer.errors import ConfigError, LimitError, SampleError, TokenizerError
from anyformer.testing import check_tokenizer
from anyformer.tokens import Tokens
from anyformer_tokenizers.text import MODEL_FILE, TextTokenizer

CORPUS = [*topics.values(), *["seven", "zero", "1 5 9 #"] * 20]

# What sentencepiece treats specially, what text tools strip or fold, and what spells its control pieces.
AWKWARD = st.sampled_from(
    "\0\t\n\r \u2581\u2585\u2047\ufffd\ufeff\u200d\u202e\u0301\x85\u2028\u3000\ufb01<s>/unk0x41é🙂"
)
TEXTS = st.one_of(st.text(max_size=60), st.text(AWKWARD, max_size=30))


@pytest.fixture(scope="module")
def text() -> TextTokenizer:
    tokenizer = TextTokenizer()
    tokenizer.fit(CORPUS)
    return tokenizer


def pieces(tokenizer: TextTokenizer, raw: str) -> list[str]:
    """Each piece of a text as it decodes by itself, without <s> and </s>."""
    ids = tokenizer.encode(raw).streams[tokenizer.name].values[1:-1]
    return [tokenizer.decode(Tokens.of(tokenizer.name, i[None])) for i in ids]


def test_contract() -> None:
    """The public contract, as any plugin must fulfil it, fitted on its own examples."""
    check_tokenizer(TextTokenizer())


@settings(max_examples=500, deadline=None)
@given(TEXTS)
@example("")
@example("\u2581\u2581 \u2581")
@example("<s>a</s><unk><0x41>")
@example("  leading\r\n\n\n\ttrailing  ")
def test_every_text_comes_back(text: TextTokenizer, raw: str) -> None:
    """Lossless, and as long as announced."""
    tokens = text.encode(raw)
    assert text.decode(tokens) == raw
    assert text.length(raw) == tokens.length


def test_every_character_comes_back(text: TextTokenizer) -> None:
    """All of Unicode but the surrogates, which are no characters."""
    characters = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    for start in range(0, len(characters), 50_000):
        run = "".join(characters[start : start + 50_000])
        assert text.decode(text.encode(run)) == run


@settings(max_examples=50, deadline=None)
@given(st.lists(TEXTS, max_size=5), TEXTS)
def test_lossless_whatever_the_corpus(corpus: list[str], raw: str) -> None:
    """A corpus of nothing but awkward characters, or without a space, still gives a lossless vocabulary."""
    tokenizer = TextTokenizer(vocab_size=600)
    tokenizer.fit([*corpus, "x"])
    assert tokenizer.decode(tokenizer.encode(raw)) == raw
    assert all(tokenizer.decode(tokenizer.encode(part)) == part for part in corpus)


def test_encoding_is_enclosed(text: TextTokenizer) -> None:
    """<s> pieces </s>, and the spec's end closes a generated run."""
    (spec,) = text.streams
    values = text.encode("seven").streams["text"].values
    assert spec.vocab_size == 1024
    assert values[0] == 1 and values[-1] == spec.end == 2
    assert values.dtype == torch.int64
    assert len(text.encode("").streams["text"].values) == 2


def test_blanks_are_cheap(text: TextTokenizer) -> None:
    """Indentation and a blank line are one piece each; code would otherwise be mostly spaces."""
    assert pieces(text, "\n\n    x")[:2] == ["\n\n", "    "]
    assert pieces(text, "\t\n") == ["\t", "\n"]
    assert len("".join(CORPUS)) / sum(map(text.length, CORPUS)) > 2.5


def test_decoding_stops_at_the_end(text: TextTokenizer) -> None:
    """A model goes on after </s>; what it says there is not the answer. <s> may be missing."""
    seven, zero = (text.encode(raw).streams["text"].values for raw in ("seven", "zero"))
    assert text.decode(Tokens.of("text", torch.cat([seven, zero]))) == "seven"
    assert text.decode(Tokens.of("text", seven[1:-1])) == "seven"


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 1023), max_size=40))
def test_whatever_a_model_says_decodes(text: TextTokenizer, ids: list[int]) -> None:
    """Broken UTF-8 and <unk> become replacement characters; the result can always be encoded again."""
    said = text.decode(Tokens.of("text", torch.tensor(ids, dtype=torch.int64)))
    assert text.decode(text.encode(said)) == said


def test_half_a_character_is_replaced(text: TextTokenizer) -> None:
    """The first bytes of an emoji alone are not UTF-8."""
    values = text.encode("🙂").streams["text"].values
    assert len(values) == 6, "spelled in four bytes"
    assert text.decode(Tokens.of("text", values[:3])) == "\ufffd"


@pytest.mark.parametrize("strange", [-1, 1024, 10**12])
def test_foreign_ids_are_refused(text: TextTokenizer, strange: int) -> None:
    with pytest.raises(TokenizerError, match=f"no value {strange}.*0 to 1023"):
        text.decode(Tokens.of("text", torch.tensor([1, strange])))


def test_foreign_stream_is_refused(text: TextTokenizer) -> None:
    with pytest.raises(TokenizerError, match=r"'text'.*\['notes'\]"):
        text.decode(Tokens.of("notes", torch.tensor([1])))


@pytest.mark.parametrize("method", ["encode", "length"])
@pytest.mark.parametrize("raw", [None, b"seven", 7, ["seven"]])
def test_what_is_no_text_is_refused(text: TextTokenizer, method: str, raw: object) -> None:
    with pytest.raises(SampleError, match=rf"{type(raw).__name__}; expected a str"):
        getattr(text, method)(raw)


@pytest.mark.parametrize("method", ["encode", "length"])
def test_lone_surrogate_is_refused(text: TextTokenizer, method: str) -> None:
    """It cannot be written as UTF-8; the error says where it is, and the cure it names works."""
    broken = "ab\ud800c"
    with pytest.raises(SampleError, match=r"surrogate '\\ud800' at character 2"):
        getattr(text, method)(broken)
    assert text.length(broken.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


def test_long_text_is_refused_before_it_is_encoded() -> None:
    tokenizer = TextTokenizer(max_chars=10)
    tokenizer.fit(["seven"])
    assert tokenizer.decode(tokenizer.encode("x" * 10)) == "x" * 10
    with pytest.raises(LimitError, match=r"11 characters.*max_chars=10"):
        tokenizer.encode("x" * 11)


def test_a_word_of_a_million_characters(text: TextTokenizer) -> None:
    """The longest text allowed, and in the trainer one that its 16-bit indices could not hold."""
    word = "ab" * 500_000
    assert text.decode(text.encode(word)) == word
    TextTokenizer().fit([word])


def test_unfitted_says_so() -> None:
    tokenizer = TextTokenizer()
    assert not tokenizer.fitted and tokenizer.state() == {}
    for use in (
        lambda: tokenizer.streams,
        lambda: tokenizer.encode("x"),
        lambda: tokenizer.length("x"),
        lambda: tokenizer.decode(Tokens.of("text", torch.tensor([1]))),
    ):
        with pytest.raises(TokenizerError, match="call fit"):
            use()


def test_fit_is_deterministic_and_silent(text: TextTokenizer, capfd: pytest.CaptureFixture[str]) -> None:
    """Equal corpora give equal bytes, from any iterable; the trainer's log stays out of ours."""
    again = TextTokenizer()
    again.fit(iter(CORPUS))
    assert again.state() == text.state()
    assert again.fingerprint() == text.fingerprint()
    assert capfd.readouterr() == ("", "")


def test_small_corpus_gives_a_small_vocabulary() -> None:
    tokenizer = TextTokenizer(vocab_size=5000)
    tokenizer.fit(["seven"])
    (spec,) = tokenizer.streams
    assert 262 < spec.vocab_size < 300
    assert tokenizer.length("seven") <= 4


@pytest.mark.parametrize("corpus", [[], [""], ["\n", "\t\0"]])
def test_nothing_to_fit_on(corpus: list[str]) -> None:
    with pytest.raises(TokenizerError, match="no text to fit on"):
        TextTokenizer().fit(corpus)


def test_too_many_characters_for_the_vocabulary() -> None:
    with pytest.raises(TokenizerError, match="Raise vocab_size"):
        TextTokenizer(vocab_size=270).fit(CORPUS)


@pytest.mark.parametrize("corpus", [["fine", 7], ["fine", "\ud800"], "one string"])
def test_fit_refuses_what_is_no_text(corpus: object) -> None:
    """The error stays typed although the samples are read by a foreign trainer."""
    with pytest.raises(SampleError):
        TextTokenizer().fit(corpus)


@pytest.mark.parametrize("setting", [{"vocab_size": 262}, {"character_coverage": 0.5}])
def test_settings_are_checked(setting: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(setting))):
        TextTokenizer(**setting)


def test_model_file(text: TextTokenizer, tmp_path) -> None:
    """What was trained elsewhere is loaded; what is missing or no model is named."""
    path = tmp_path / "english.model"
    path.write_bytes(text.state()[MODEL_FILE])
    loaded = TextTokenizer.from_file(path, name="english")
    assert loaded.fidelity == "exact"
    assert loaded.streams[0].name == "english"
    assert loaded.decode(loaded.encode("seven ▁\n")) == "seven ▁\n"
    path.write_bytes(b"not a model")
    with pytest.raises(TokenizerError, match=r"english\.model"):
        TextTokenizer.from_file(path)
    with pytest.raises(TokenizerError, match=r"absent\.model"):
        TextTokenizer.from_file(tmp_path / "absent.model")


def test_model_that_alters_text_says_approximate(tmp_path) -> None:
    """A foreign model with NFKC, an added space, unknown characters and no <s> keeps its own ids."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(topics.values()), model_writer=model, vocab_size=300, bos_id=-1, minloglevel=2
    )
    (tmp_path / "t5.model").write_bytes(model.getvalue())
    foreign = TextTokenizer.from_file(tmp_path / "t5.model")
    own = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    ids = foreign.encode("the \ufb01rst  word").streams["text"].values.tolist()
    assert ids == [*own.encode("the \ufb01rst  word"), own.eos_id()]
    assert foreign.fidelity == "approximate"
    assert foreign.decode(foreign.encode("the \ufb01rst  word")) == "the first word"
    check_tokenizer(foreign)


@pytest.mark.parametrize("state", [{}, {"vocab.txt": b""}, {MODEL_FILE: b""}, {MODEL_FILE: b"\0" * 99}])
def test_bad_state_is_refused(state: dict[str, bytes]) -> None:
    with pytest.raises(TokenizerError, match=r"sentencepiece\.model"):
        TextTokenizer().restore(state)


def test_damaged_models_never_crash(text: TextTokenizer) -> None:
    """Flipped, cut and doubled bytes: refused, or a tokenizer whose every call still ends well."""
    rng = np.random.default_rng(0)
    model, refused = text.state()[MODEL_FILE], 0
    for _ in range(200):
        damaged, at = bytearray(model), int(rng.integers(len(model)))
        match rng.integers(3):
            case 0:
                damaged[at] ^= 1 << int(rng.integers(8))
            case 1:
                del damaged[at:]
            case 2:
                damaged[at:at] = damaged[at : at + 40]
        tokenizer = TextTokenizer()
        try:
            tokenizer.restore({MODEL_FILE: bytes(damaged)})
        except TokenizerError:
            refused += 1
            continue
        raw = text.example(rng)
        back = tokenizer.decode(tokenizer.encode(raw))
        assert tokenizer.fidelity == "approximate" or back == raw
    assert 0 < refused < 200


def test_fingerprint_follows_settings_and_vocabulary(text: TextTokenizer) -> None:
    """A checkpoint tells two tokenizers apart by it."""
    other = TextTokenizer()
    other.fit(["another corpus"])
    longer = TextTokenizer(max_chars=5)
    longer.restore(text.state())
    assert len({each.fingerprint() for each in (text, other, longer, TextTokenizer())}) == 4


def test_pickles_small_and_whole(text: TextTokenizer) -> None:
    """A worker receives the model's bytes once and encodes as the parent does."""
    sent = pickle.dumps(text)
    received = pickle.loads(sent)
    assert len(sent) < len(text.state()[MODEL_FILE]) + 1000
    assert received == text and received.fingerprint() == text.fingerprint()
    assert pieces(received, "def f(x):\n    return x") == pieces(text, "def f(x):\n    return x")
