"""Labels, labels of words and answer spans: names and places in, numbers out, and back."""

from __future__ import annotations

import pytest

from anyformer.errors import ConfigError, SampleError, TokenizerError
from anyformer.testing import check_tokenizer
from anyformer.tokens import Tokens
from anyformer_tokenizers.label import ChoiceTokenizer, LabelsTokenizer, LabelTokenizer, SpanTokenizer
from anyformer_tokenizers.number import NumberTokenizer


@pytest.mark.parametrize(
    "tokenizer",
    [
        LabelTokenizer(names=["no", "yes"]),
        LabelTokenizer(),
        LabelsTokenizer(names=["noun", "verb"]),
        LabelsTokenizer(),
        SpanTokenizer(),
        ChoiceTokenizer(),
        NumberTokenizer(),
    ],
    ids=["names", "fitted", "words", "words fitted", "span", "choice", "number"],
)
def test_contract(tokenizer):
    """The public contract, as any plugin must fulfil it."""
    check_tokenizer(tokenizer)


def test_names_are_numbered_as_given():
    """Or sorted, where they are learned."""
    tokenizer = LabelTokenizer(names=["yes", "no"])
    assert tokenizer.encode("no").streams["label"].values.tolist() == [1]
    learned = LabelTokenizer()
    learned.fit(["yes", "no", "yes"])
    assert learned.encode("no").streams["label"].values.tolist() == [0]
    (spec,) = learned.streams
    assert (spec.vocab_size, spec.input) == (2, False)
    assert LabelsTokenizer(names=["a", "b"]).encode(["b", "a"]).streams["labels"].values.tolist() == [1, 0]


def test_places_may_be_none_and_numbers_have_a_scale():
    """No answer is -1 at both ends; a number stands as many deviations above the mean as it should."""
    nowhere = SpanTokenizer().encode(())
    assert [float(s.values) for s in nowhere.streams.values()] == [-1, -1] and SpanTokenizer().decode(nowhere) == ()
    assert ChoiceTokenizer().encode(3).streams["choice"].values.tolist() == [[3.0]]
    with pytest.raises(SampleError, match="takes a place as int, from 0; got -1"):
        ChoiceTokenizer().encode(-1)
    number, same = NumberTokenizer(), NumberTokenizer()
    number.fit([1, 3, 5, 3])
    assert number.encode(3 + 2**0.5).streams["number"].values.tolist() == [[pytest.approx(1.0)]]
    same.restore(number.state())
    assert same.fingerprint() == number.fingerprint() and same.decode(number.encode(4.5)) == pytest.approx(4.5)
    with pytest.raises(TokenizerError, match=r"cannot read 'scale.json'.*undamaged checkpoint"):
        same.restore({"scale.json": b"[1, 0]"})
    with pytest.raises(SampleError, match="takes a finite number; got True"):
        number.encode(True)


def test_what_is_no_label_is_refused():
    tokenizer = LabelTokenizer(names=["positive", "negative"])
    with pytest.raises(SampleError, match=r"no name 'postive'.*Did you mean 'positive'"):
        tokenizer.encode("postive")
    with pytest.raises(SampleError, match="takes a name as str; got int"):
        tokenizer.encode(1)
    with pytest.raises(ConfigError, match="expected each name once"):
        LabelTokenizer(names=["a", "a"])
    with pytest.raises(TokenizerError, match="has no names yet"):
        LabelTokenizer().encode("a")
    with pytest.raises(SampleError, match="empty list"):
        LabelsTokenizer(names=["a"]).encode([])
    for wrong in ((3, 2), (-1, 2), (1,), "ab", (1.0, 2.0), None):
        with pytest.raises(SampleError, match="takes \\(first, last\\)"):
            SpanTokenizer().encode(wrong)
    with pytest.raises(TokenizerError, match=r"decodes the stream 'answer.start'"):
        SpanTokenizer().decode(Tokens({}, 0, SpanTokenizer().encode((0, 0)).positions))
