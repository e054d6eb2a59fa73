"""Beam search decides as transformers' does, finds what there is to find, and forgets no one's cache or source."""

import math
import random
from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Tensor

from anyformer.batch import Example, pack
from anyformer.errors import ConfigError, SampleError
from anyformer.model import GREEDY, Beams, Model
from anyformer.model.beam import Run, Search
from anyformer.tokens import Tokens

END = 1
SIZE = {"dim": 16, "heads": 4, "depth": 1, "hidden": 16}
ACROSS = ["attention", "cross_attention", "feed_forward"]
KINDS = {
    "rotary, grouped": {"backbone": {**SIZE, "depth": 2, "kv_heads": 1, "norm": "rms"}},
    "learned, windowed": {"backbone": {**SIZE, "positions": {"type": "learned", "size": 64}, "window": 4}},
    "translator": {"backbone": {**SIZE, "recipe": ACROSS}, "encoder": {**SIZE, "causal": False}},
    "recurrent": {
        "backbone": {"type": "recurrent_decoder", "dim": 8, "hidden": 8, "align": 6, "maxout": 8},
        "encoder": {"type": "recurrent_encoder", "dim": 8, "hidden": 8},
    },
}
PENALTIES, STOPPING = (0.6, 1.0, 2.0), ("heuristic", "first", "never")


def made(kind: str, seed: int, letters: int = 7) -> Model:
    """Loud random weights, so that every logit depends on all that is seen, with an end that is likely enough to come;
    float64, so that only the search's own arithmetic rounds."""
    streams = {"text": {"vocab_size": letters, "end": END}}
    if "encoder" in KINDS[kind]:
        streams["source"] = {"vocab_size": 9}
    source = ["source"] if "encoder" in KINDS[kind] else []
    model = Model({}, heads={"text": {"bias": True}}, streams=streams, source=source, **KINDS[kind]).double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                loudness = 0.25 if name.startswith("heads") else 0.6
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * loudness)
        bias = model.heads["text"].bias
        bias.copy_(torch.randn(letters, generator=generator) * 0.25)
        bias[END] += 1.5
    return model


def text(*values: int) -> Tokens:
    return Tokens.of("text", torch.tensor(values, dtype=torch.int64))


def reading(*values: int) -> Example:
    """A source, read in both directions."""
    return Example(Tokens.of("source", torch.tensor(values)), {}, prefix=len(values))


def prompts_of(kind: str, seed: int, count: int = 3, letters: int = 7) -> list[Example]:
    """Unequal prompts; a translator's all start in the same way, and only the sources differ."""
    generator = torch.Generator().manual_seed(1000 + seed)
    lengths = torch.randint(1, 6, (count,), generator=generator).tolist()
    if "encoder" in KINDS[kind]:
        sources = [torch.randint(0, 9, (length,), generator=generator).tolist() for length in lengths]
        return [Example(text(0), {}, source=reading(*source)) for source in sources]
    return [
        Example(text(*torch.randint(2, letters, (length,), generator=generator).tolist()), {}) for length in lengths
    ]


def reference(model: Model):
    """Our model as one of transformers': the whole sequence through the network at every step, without a cache."""
    transformers = pytest.importorskip("transformers")
    from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput

    class Encoder(torch.nn.Module):
        """Hands the source on as it is: `forward` reads it anew at every step."""

        main_input_name = "input_ids"

        def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **more) -> BaseModelOutput:
            return BaseModelOutput(last_hidden_state=input_ids[..., None].double())

    class Mirror(transformers.PreTrainedModel, transformers.GenerationMixin):
        main_input_name = "input_ids"

        def __init__(self) -> None:
            two = model.encoder is not None
            super().__init__(transformers.PretrainedConfig(is_encoder_decoder=two, vocab_size=7))
            self.encoder, self.anchor = Encoder(), torch.nn.Parameter(torch.zeros(()))

        def prepare_inputs_for_generation(self, ids: Tensor, attention_mask=None, encoder_outputs=None, **more):
            return {"ids": ids, "mask": attention_mask, "sources": encoder_outputs}

        def forward(self, ids, mask=None, sources=None, **more) -> Seq2SeqLMOutput:
            if sources is None:
                examples = [Example(text(*row[kept.bool()].tolist()), {}) for row, kept in zip(ids, mask, strict=True)]
            else:
                whole = sources.last_hidden_state[..., 0].long()
                read = [reading(*row[kept.bool()].tolist()) for row, kept in zip(whole, mask, strict=True)]
                examples = [Example(text(*row.tolist()), {}, source=one) for row, one in zip(ids, read, strict=True)]
            batch = pack(examples, model.rank)
            last = model(batch)[batch.mask.cu_queries[1:].long() - 1]
            return Seq2SeqLMOutput(logits=model.read("text", last)[:, None])

    return Mirror()


def padded(rows: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Rows of unequal length behind padding, and where they are."""
    width = max(map(len, rows))
    ids, mask = torch.zeros(len(rows), width, dtype=torch.int64), torch.zeros(len(rows), width, dtype=torch.int64)
    for number, row in enumerate(rows):
        ids[number, width - len(row) :], mask[number, width - len(row) :] = row, 1
    return ids, mask


@torch.no_grad()
def theirs(model: Model, prompts: list[Example], settings: Beams, end: int | None) -> list[list[tuple[list, float]]]:
    """What transformers' own search returns: values cut behind the end, and scores."""
    from transformers import GenerationConfig

    mirror = reference(model)
    axis = [prompt.source or prompt for prompt in prompts]
    ids, mask = padded([next(iter(one.tokens.streams.values())).values for one in axis])
    config = GenerationConfig(
        num_beams=settings.beams,
        num_return_sequences=settings.returns,
        max_new_tokens=settings.max_new,
        length_penalty=settings.length_penalty,
        early_stopping={"heuristic": False, "first": True, "never": "never"}[settings.stopping],
        eos_token_id=end,
        pad_token_id=0,
        decoder_start_token_id=0,
        do_sample=False,
        use_cache=False,
        return_dict_in_generate=True,
        output_scores=True,
    )
    found = mirror.generate(ids, attention_mask=mask, generation_config=config)
    start = 1 if model.encoder is not None else ids.shape[1]
    rows = [cut_at(end, row) for row in found.sequences[:, start:].tolist()]
    scores = found.get("sequences_scores")
    pairs = list(zip(rows, [math.nan] * len(rows) if scores is None else scores.tolist(), strict=True))
    return [pairs[at : at + settings.returns] for at in range(0, len(pairs), settings.returns)]


def cut_at(end: int | None, values: list[int]) -> list[int]:
    return values[: values.index(end) + 1] if end in values else values


def ours(model: Model, prompts: list[Example], settings: Beams, end: int | None) -> list[list[tuple[list, float]]]:
    found = model.beam_search(prompts, "text", settings, end)
    return [[(one.tokens.streams["text"].values.tolist(), one.score) for one in each] for each in found]


EVERY_SETTING = list(product(STOPPING, PENALTIES, (1, 2, 3, 4, 5), (END, None)))
SEEDS = 23
random.Random(0).shuffle(EVERY_SETTING)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_values_and_scores_are_those_of_transformers(seed):
    """Every stopping rule with every penalty and width, with and without an end, dealt out to the seeds and to the
    kinds of model."""
    for number, (stopping, penalty, beams, end) in enumerate(EVERY_SETTING[seed::SEEDS]):
        kind = list(KINDS)[(seed + number) % len(KINDS)]
        model, prompts = made(kind, seed), prompts_of(kind, seed)
        settings = Beams(beams, 7, returns=beams, length_penalty=penalty, stopping=stopping)
        same(ours(model, prompts, settings, end), theirs(model, prompts, settings, end))


def same(found: list[list[tuple[list, float]]], wanted: list[list[tuple[list, float]]]) -> None:
    assert [[values for values, _ in each] for each in found] == [[values for values, _ in each] for each in wanted]
    for one, other in zip(found, wanted, strict=True):
        for (_, score), (_, expected) in zip(one, other, strict=True):
            assert math.isnan(expected) or abs(score - expected) <= 1e-5  # a greedy search has no scores there


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", [END, None])
def test_ties_fall_as_they_do_in_transformers(kind, end):
    """Values 2 … 5 are one and the same to the model, so that most candidates tie and only their order decides.

    Prompt by prompt: there, one that is done has its ties shuffled for as long as its neighbours go on.
    """
    model, prompts = made(kind, 5), prompts_of(kind, 5)
    with torch.no_grad():
        for table in (model.embedders["text"].table.weight, model.heads["text"].weight, model.heads["text"].bias):
            table[3:6] = table[2].clone()
    for stopping in STOPPING:
        settings = Beams(4, 6, returns=4, stopping=stopping)
        for prompt in prompts:
            same(ours(model, [prompt], settings, end), theirs(model, [prompt], settings, end))


@pytest.mark.parametrize("kind", KINDS)
def test_one_beam_is_greedy_search(kind):
    """With every stopping rule and penalty, and with a prompt that is read in both directions."""
    for seed in range(2):
        model, prompts = made(kind, seed), prompts_of(kind, seed, count=4)
        if kind != "recurrent":
            prompts = [replace(prompt, prefix=prompt.tokens.length) for prompt in prompts]
        wanted = [each.streams["text"].values.tolist() for each in model.generate(prompts, "text", 8, GREEDY)]
        for stopping, penalty in product(STOPPING, PENALTIES):
            found = model.beam_search(prompts, "text", Beams(1, 8, length_penalty=penalty, stopping=stopping))
            assert [one.tokens.streams["text"].values.tolist() for (one,) in found] == wanted


def complete(end: int | None, depth: int, letters: int = 4) -> list[tuple[int, ...]]:
    """Every continuation of at most `depth` values: those that end, and those that reach it."""
    cut = {tuple(cut_at(end, list(values))) for values in product(range(letters), repeat=depth)}
    return sorted(cut)


@torch.no_grad()
def probability(model: Model, prompt: Example, values: tuple[int, ...]) -> float:
    """The log probability of these values behind the prompt, in one pass without a cache."""
    told = Tokens.laid_end_to_end([prompt.tokens, text(*values)])
    hidden = model(pack([replace(prompt, tokens=told)], model.rank))
    said = model.read("text", hidden[prompt.tokens.length - 1 : -1]).log_softmax(-1)
    return float(said.gather(1, torch.tensor(values)[:, None]).sum())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", [END, None])
@pytest.mark.parametrize("form", ["power", "gnmt"])
def test_with_room_for_all_every_continuation_is_found(kind, end, form):
    """As many beams as there are sequences: all of them come back, in the order of their scores, each once, and
    nothing else."""
    model, prompts, depth = made(kind, 3, letters=4), prompts_of(kind, 3, count=2, letters=4), 3
    settings = Beams(4**depth, depth, 4**depth, length_penalty=0.7, penalty_form=form, stopping="never")
    for prompt, found in zip(prompts, ours(model, prompts, settings, end), strict=True):
        weigh = {"power": lambda n: n**0.7, "gnmt": lambda n: ((5 + n) / 6) ** 0.7}[form]
        wanted = {one: probability(model, prompt, one) / weigh(len(one)) for one in complete(end, depth)}
        assert [tuple(values) for values, _ in found] == sorted(wanted, key=lambda one: -wanted[one])
        assert all(abs(score - wanted[tuple(values)]) < 1e-5 for values, score in found)


def searched(**settings) -> Search:
    """Two steps of two beams: value 2 for certain, then the end at once (-1 in all) or 2 and the end (-1.2 in all)."""
    search = Search(Beams(beams=2, max_new=9, returns=2, **settings), END)
    first, other = Run((2,), (0.0,)), Run((3,), (-9.0,))
    search.advance([first, other], torch.tensor([0.0, -9.0]))
    short, longer = first.then(END, -1.0), first.then(2, -1.0)
    search.advance([short, longer, other.then(2, -1.0)], torch.tensor([-1.0, -1.0, -10.0]))
    ended, more = longer.then(END, -0.2), longer.then(2, -2.0)
    search.advance([ended, more, more, more], torch.tensor([-1.2, -3.0, -3.0, -3.0]))
    return search


@pytest.mark.parametrize(
    ("settings", "scores", "lengths"),
    [
        ({"length_penalty": 0.0}, [-1.0, -1.2], [2, 3]),
        ({"length_penalty": 1.0}, [-0.4, -0.5], [3, 2]),
        ({"length_penalty": 1.0, "penalty_form": "gnmt"}, [-0.857143, -0.9], [2, 3]),
        ({"length_penalty": 0.6, "penalty_form": "gnmt"}, [-0.911658, -1.009760], [2, 3]),
        ({"length_penalty": 2.0, "penalty_form": "gnmt"}, [-0.675, -0.734694], [3, 2]),
    ],
)
def test_penalties_by_hand(settings, scores, lengths):
    """-1 over 2 values against -1.2 over 3: divided by 2ᵖ and 3ᵖ, or by (7/6)ᵖ and (8/6)ᵖ."""
    found = searched(**settings).hypotheses("text")
    assert [one.score for one in found] == pytest.approx(scores, abs=1e-6)
    assert [one.tokens.length for one in found] == lengths
    assert all(float(one.log_probabilities.sum()) == pytest.approx({2: -1.0, 3: -1.2}[len(one.log_probabilities)])
               for one in found)  # fmt: skip


@pytest.mark.parametrize(("stopping", "done"), [("first", True), ("heuristic", True), ("never", False)])
def test_when_a_prompt_is_done(stopping, done):
    """Two runs are finished, the worse at -1 over 2 values, and the best running one has -3 over 3: enough to give up,
    unless all that may come is held to be certain, to -3 over 9."""
    assert searched(stopping=stopping).done is done


@pytest.mark.parametrize("kind", KINDS)
def test_the_best_come_first_and_add_up(kind):
    """Scores fall; each is the sum of its log probabilities over its length to the penalty; the n best are the first
    n of more."""
    model, prompts = made(kind, 1), prompts_of(kind, 1)
    settings = Beams(5, 8, returns=5, length_penalty=0.6)
    many = model.beam_search(prompts, "text", settings)
    for each in many:
        scores = [one.score for one in each]
        assert len(each) == 5 and scores == sorted(scores, reverse=True)
        for one in each:
            assert len(one.log_probabilities) == one.tokens.length
            assert one.score == pytest.approx(float(one.log_probabilities.sum()) / one.tokens.length**0.6, abs=1e-5)
    two = ours(model, prompts, replace(settings, returns=2), END)
    assert two == [each[:2] for each in ours(model, prompts, settings, END)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_is_searched_alike_alone_and_in_company(kind):
    """Prompts that are done leave the session; those that stay keep their own beams, caches and sources."""
    model, prompts = made(kind, 2), prompts_of(kind, 2, count=6)
    settings = Beams(3, 10, returns=3, stopping="first")
    together = ours(model, prompts, settings, END)
    assert len({len(values) for each in together for values, _ in each}) > 1  # they do leave at different times
    same(together, [found for prompt in prompts for found in ours(model, [prompt], settings, END)])


def test_the_end_is_the_streams_unless_another_is_given():
    model, prompts = made("translator", 0), prompts_of("translator", 0)
    own, other = Beams(3, 8, returns=3), 4
    found = model.beam_search(prompts, "text", own)
    assert [[one.score for one in each] for each in found] == [
        [score for _, score in each] for each in ours(model, prompts, own, END)
    ]
    runs = [values for each in ours(model, prompts, own, other) for values, _ in each]
    assert any(values[-1] == other for values in runs) and any(END in values for values in runs)
    assert all(other not in values[:-1] for values in runs)


def test_no_prompts_find_nothing():
    assert made("translator", 0).beam_search([], "text", Beams(2, 4)) == []


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"beams": 0}, "beams=0"),
        ({"max_new": 0}, "max_new=0"),
        ({"returns": 3}, "returns=3"),
        ({"returns": 0}, "returns=0"),
        ({"length_penalty": math.nan}, "length_penalty=nan"),
        ({"length_penalty": 11.0}, "length_penalty=11"),
        ({"penalty_form": "gmnt"}, "gnmt"),
        ({"stopping": "early"}, "heuristic"),
    ],
)
def test_wrong_settings_are_named(wrong, named):
    with pytest.raises(ConfigError, match=named):
        Beams(**{"beams": 2, "max_new": 4, **wrong})


def test_wrong_prompts_are_named():
    """What cannot be gone on with, or read."""
    model, settings = made("translator", 0), Beams(2, 4)
    whole, bare = Example(text(0), {}, source=reading(3, 4)), Example(text(0), {})
    with pytest.raises(ConfigError, match=r"discrete stream 'txet'.*text"):
        model.beam_search([whole], "txet", settings)
    with pytest.raises(ConfigError, match=r"end=7.*from 0 to 6"):
        model.beam_search([whole], "text", settings, end=7)
    with pytest.raises(SampleError, match="empty"):
        model.beam_search([whole, Example(text(), {}, source=reading(3))], "text", settings)
    with pytest.raises(SampleError, match="1 of 2 prompts have a source"):
        model.beam_search([bare, whole], "text", settings)
