"""The character tokenizer: an id a character, lossless over what it was fitted on, and clear about anything else."""

from __future__ import annotations

import pickle

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from anyformer.errors import ConfigError, LimitError, SampleError, TokenizerError
from anyformer.testing import check_tokenizer
from anyformer.tokens import Tokens
from anyformer_tokenizers.text import CharacterTokenizer

VERSE = "First Citizen:\nBefore we proceed any further, hear me speak.\n"


def fitted(*texts: str, **settings) -> CharacterTokenizer:
    tokenizer = CharacterTokenizer(**settings)
    tokenizer.fit(texts or [VERSE])
    return tokenizer


def ids(tokenizer: CharacterTokenizer, text: str) -> list[int]:
    return tokenizer.encode(text).streams[tokenizer.name].values.tolist()


@pytest.mark.parametrize("ends", [True, False])
def test_contract(ends: bool) -> None:
    """The public contract, fitted on its own examples and on a verse."""
    check_tokenizer(CharacterTokenizer(ends=ends))
    check_tokenizer(fitted(ends=ends, special=["mask"], sentinels=2, segments=2, items="words"))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(max_size=30), min_size=1, max_size=4).filter(any), st.booleans())
@example(["\0\n\u2581\U0010ffff<s>", "é"], True)
def test_every_text_it_was_fitted_on_comes_back(texts: list[str], ends: bool) -> None:
    """Lossless, a slot a character, and as long as announced."""
    tokenizer = fitted(*texts, ends=ends)
    for text in filter(None, texts):
        tokens = tokenizer.encode(text)
        assert tokenizer.decode(tokens) == text
        assert tokens.length == tokenizer.length(text) == len(text) + 2 * ends


def test_without_ends_ids_are_places_among_the_sorted_characters() -> None:
    """What nanoGPT's preparation of Shakespeare makes of a text; a window of a text begins and ends anywhere."""
    tokenizer = fitted(ends=False)
    places = {character: i for i, character in enumerate(sorted(set(VERSE)))}
    assert ids(tokenizer, "speak") == [places[character] for character in "speak"]
    (spec,) = tokenizer.streams
    assert (spec.width, spec.end, dict(spec.special)) == (len(places), None, {})


def test_roles_are_reserved_before_the_characters() -> None:
    """An objective finds them by role; no text spells them; decoding says nothing for them."""
    tokenizer = fitted("ba", special=["mask", "class"], sentinels=2)
    (spec,) = tokenizer.streams
    assert spec.special == {"start": 0, "mask": 2, "class": 3, "sentinel_0": 4, "sentinel_1": 5} and spec.end == 1
    assert spec.width == 8 and ids(tokenizer, "ab") == [0, 6, 7, 1]
    said = torch.tensor([0, 2, 6, 4, 7, 1, 6])
    assert tokenizer.decode(Tokens.of("characters", said)) == "ab", "up to the end, without special values"


def test_items_are_words() -> None:
    stream = fitted(items="words").encode("hear me").streams["characters"]
    assert stream.items.tolist() == [[1, 1], [4, 4], [3, 3], [1, 1]]


def test_the_order_of_the_texts_does_not_matter() -> None:
    assert fitted("ab", "cd").fingerprint() == fitted("dc", "ba").fingerprint() != fitted("abcde").fingerprint()


def test_a_data_worker_gets_an_equal_one() -> None:
    tokenizer = fitted()
    assert ids(pickle.loads(pickle.dumps(tokenizer)), VERSE) == ids(tokenizer, VERSE)


def test_an_unknown_character_is_refused() -> None:
    with pytest.raises(SampleError, match=r"'!' at character 4; expected one of the \d+ characters.*Fit on texts"):
        fitted().encode("hear!")


def test_an_empty_text_needs_ends() -> None:
    assert fitted().length("") == 2
    with pytest.raises(SampleError, match="is empty; expected a character"):
        fitted(ends=False).encode("")


def test_a_long_text_is_refused() -> None:
    with pytest.raises(LimitError, match=r"5 characters.*max_chars=4"):
        fitted(max_chars=4).encode("speak")


@pytest.mark.parametrize(
    "wrong", [{"special": ["end"]}, {"special": ["mask", "mask"]}, {"sentinels": -1}, {"items": "letters"}]
)
def test_wrong_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError, match="expected"):
        CharacterTokenizer(**wrong)


def test_fitting_needs_texts() -> None:
    with pytest.raises(TokenizerError, match="got no text"):
        CharacterTokenizer().fit([""])
    with pytest.raises(SampleError, match="Put it in a list"):
        CharacterTokenizer().fit("a text")


@pytest.mark.parametrize("content", [b'"ba"', b'"aa"', b'""', b"7", b"\xff"])
def test_a_damaged_state_is_refused(content: bytes) -> None:
    with pytest.raises(TokenizerError, match=r"characters\.json"):
        CharacterTokenizer().restore({"characters.json": content})
