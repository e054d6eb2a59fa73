"""Rules and cuts weigh logits as transformers' processors do; draws depend on (seed, row) alone; text comes whole."""

import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_beam_search import made, prompts_of, reading, text

from anyformer.batch import Example
from anyformer.errors import ConfigError, NonFiniteError
from anyformer.model import Allowed, Banned, Beams, Contrastive, NoRepeat, RepetitionPenalty, Said, Sampling, spoken
from anyformer.tokens import StreamSpec, Tokens


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    size=st.integers(1, 4),
    penalty=st.floats(0.5, 3),
    top_k=st.integers(1, 12),
    share=st.floats(0.05, 0.95),
    length=st.integers(1, 14),
)
def test_logits_are_weighed_as_in_transformers(seed, size, penalty, top_k, share, length):
    """Each step alone and all of them in their order."""
    transformers = pytest.importorskip("transformers")
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 11, generator=generator) * 3
    said = torch.randint(0, 4, (3, length), generator=generator)
    pairs = [
        ({"rules": (RepetitionPenalty(penalty),)}, transformers.RepetitionPenaltyLogitsProcessor(penalty)),
        ({"rules": (NoRepeat(size),)}, transformers.NoRepeatNGramLogitsProcessor(size)),
        ({"rules": (Banned((2, 5)),)}, transformers.SuppressTokensLogitsProcessor([2, 5])),
        ({"temperature": 0.7}, transformers.TemperatureLogitsWarper(0.7)),
        ({"top_k": top_k}, transformers.TopKLogitsWarper(top_k)),
        ({"top_p": share}, transformers.TopPLogitsWarper(share)),
        ({"min_p": share}, transformers.MinPLogitsWarper(share)),
    ]
    together = logits
    for settings_, theirs in pairs:
        assert torch.equal(Sampling(**settings_).weigh(logits, said.tolist()), theirs(said, logits.clone()))
        together = theirs(said, together.clone())
    rules = tuple(rule for settings_, _ in pairs for rule in settings_.get("rules", ()))
    every = Sampling(0.7, top_k, share, min_p=share, rules=rules)
    assert torch.equal(every.weigh(logits, said.tolist()), together)


def test_a_draw_does_not_depend_on_its_neighbours():
    """The same row and seed say the same in any company, whatever the others are, and when they end."""
    model, prompts = made("rotary, grouped", 0), prompts_of("rotary, grouped", 0, count=4)
    sampling = Sampling(temperature=2.0, seed=5)
    together = [one.streams["text"].values.tolist() for one in model.generate(prompts, "text", 9, sampling)]
    (alone,) = model.generate(prompts[:1], "text", 9, sampling)
    assert alone.streams["text"].values.tolist() == together[0]
    others = model.generate([prompts[3], prompts[1], prompts[0]], "text", 9, sampling)
    assert others[1].streams["text"].values.tolist() == together[1]
    streamed = [one.value for one in model.stream(prompts[0], "text", 9, sampling)]
    assert streamed == together[0]


def test_log_probabilities_are_the_models_own():
    """Before rules and temperature: those that one pass without a cache gives."""
    from test_beam_search import probability

    model, prompt = made("rotary, grouped", 1), prompts_of("rotary, grouped", 1)[0]
    said = list(model.stream(prompt, "text", 6, Sampling(0.3, top_k=2, rules=(NoRepeat(2),)), None))
    total = sum(one.log_probability for one in said)
    assert total == pytest.approx(probability(model, prompt, tuple(one.value for one in said)), abs=1e-5)


def test_rules_see_the_prompt_and_hold():
    """A value of the prompt is not repeated; a constraint chooses; what is banned is never said, by beams neither."""
    model, prompt = made("rotary, grouped", 2), Example(text(2, 3, 4), {})

    def values(sampling: Sampling) -> list[int]:
        return [one.value for one in model.stream(prompt, "text", 3, sampling, None)]

    assert not {2, 3, 4} & set(values(Sampling(0, rules=(NoRepeat(1),))))

    def follows(said) -> torch.Tensor:
        return torch.arange(7)[None] == (torch.tensor([each[-1] for each in said])[:, None] + 1) % 7

    assert values(Sampling(rules=(Allowed(follows),))) == [5, 6, 0]
    banned = (Banned((0, 1, 2, 3, 5, 6)),)
    assert values(Sampling(rules=banned)) == [4, 4, 4]
    (found,) = model.beam_search([prompt], "text", Beams(2, 3, rules=banned))
    assert found[0].tokens.streams["text"].values.tolist() == [4, 4, 4]
    session = model.session(1)
    session.append([prompt.tokens])
    assert session.sample("text", Sampling(rules=(Allowed(follows),))).tolist() == [5]
    with pytest.raises(ConfigError, match="leave no value of stream 'text'"):
        values(Sampling(rules=(Banned(tuple(range(7))),)))


@pytest.mark.parametrize("strategy", [Sampling(), Sampling(0), Contrastive()])
def test_damaged_weights_are_an_error(strategy):
    model, prompt = made("rotary, grouped", 2), Example(text(2, 3), {})
    with torch.no_grad():
        model.heads["text"].weight[3, 0] = math.nan
    with pytest.raises(NonFiniteError, match="stream 'text'"):
        model.generate([prompt], "text", 3, strategy)
    with pytest.raises(NonFiniteError):
        model.beam_search([prompt], "text", Beams(2, 3))


class Bytes:
    """A tokenizer whose values are bytes."""

    streams = (StreamSpec.discrete("text", 256),)

    def decode(self, tokens: Tokens) -> str:
        return bytes(tokens.streams["text"].values.tolist()).decode(errors="replace")


def heard(written: bytes, log: list[int]) -> Iterator[Said]:
    for value in written:
        log.append(value)
        yield Said(value, 0.0)


@settings(max_examples=60, deadline=None)
@given(st.text("aé\n🙂b", max_size=12), st.lists(st.sampled_from(["\n\n", "ab", "🙂", "aab"]), max_size=2))
def test_text_comes_in_whole_characters_and_ends_before_a_stop(written, stop):
    """The pieces are the text up to the first stop, none is half a character, and no value is asked for in vain."""
    log: list[int] = []
    pieces = list(spoken(heard(written.encode(), log), Bytes(), stop))
    ends = [written.find(one) for one in stop if one in written]
    assert "".join(pieces) == written[: min(ends, default=len(written))]
    assert all(piece and "\ufffd" not in piece for piece in pieces)
    first = min((written.find(one) + len(one) for one in stop if one in written), default=len(written))
    assert len(log) <= len(written[:first].encode())


def test_bytes_that_never_become_a_character_are_told_at_the_end():
    assert list(spoken(heard(b"a\xf0\x9f", []), Bytes())) == ["a", "\ufffd"]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Sampling(min_p=0.0),
        lambda: RepetitionPenalty(0.0),
        lambda: NoRepeat(0),
        lambda: Contrastive(top_k=0),
        lambda: Beams(4, 3, groups=3),
        lambda: Beams(4, 3, diversity=-1.0),
        lambda: list(spoken([], Bytes(), [""])),
    ],
)
def test_wrong_settings_are_errors(wrong):
    with pytest.raises(ConfigError):
        wrong()


def test_a_translator_reads_its_source_in_every_strategy():
    """Sources differ and the start is one: answers follow the source."""
    model = made("translator", 0)
    prompts = [Example(text(0), {}, source=reading(*values)) for values in ([1, 2], [7, 8, 3])]
    for strategy in (Sampling(0), Contrastive(3, 0.4)):
        together = [one.streams["text"].values.tolist() for one in model.generate(prompts, "text", 6, strategy)]
        alone = [model.generate([one], "text", 6, strategy)[0].streams["text"].values.tolist() for one in prompts]
        assert together == alone
