"""Labels, labels of words and answer spans: names and places in, numbers out, and back."""

from __future__ import annotations

import pytest

from anyformer.errors import ConfigError, SampleError, TokenizerError
from anyformer.testing import check_tokenizer
from anyformer.tokens import Tokens
from anyformer_tokenizers.label import LabelsTokenizer, LabelTokenizer, SpanTokenizer


@pytest.mark.parametrize(
    "tokenizer",
    [
        LabelTokenizer(names=["no", "yes"]),
        LabelTokenizer(),
        LabelsTokenizer(names=["noun", "verb"]),
        LabelsTokenizer(),
        SpanTokenizer(),
    ],
    ids=["names", "fitted", "words", "words fitted", "span"],
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
