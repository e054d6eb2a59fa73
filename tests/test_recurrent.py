"""RNNsearch: its equations written out again, documents that never meet, and sessions that go on where they were."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from anyformer.architecture import RecurrentConfig
from anyformer.batch import Batch, Example, pack
from anyformer.errors import ConfigError, MaskError
from anyformer.mask import Mask
from anyformer.model import ForwardPass, Model
from anyformer.recurrent import RecurrentDecoder, RecurrentEncoder, recurrent_stack
from anyformer.tokens import Stream, Tokens

VOCAB, END = 11, 0
ENCODER = {"type": "recurrent_encoder", "dim": 5, "hidden": 6}
DECODER = {"type": "recurrent_decoder", "dim": 4, "hidden": 7, "align": 3, "maxout": 8}
TRANSFORMER = {"dim": 8, "heads": 2, "hidden": 8}


def translator(encoder: dict = ENCODER, backbone: dict = DECODER) -> Model:
    """From `source` to `target`, as the model is at its start."""
    streams = {"source": {"vocab_size": VOCAB}, "target": {"vocab_size": VOCAB, "end": END}}
    torch.manual_seed(0)
    made = Model({}, backbone, {"target": {}}, scale=False, encoder=encoder, source=["source"], streams=streams)
    return made.eval()


def shaken(model: Model) -> Model:
    """Large random weights: every output depends on every token it may see."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.6)
    return model


@pytest.fixture(scope="module")
def model() -> Model:
    return shaken(translator())


@pytest.fixture(scope="module")
def exact() -> Model:
    """The same in double precision."""
    return shaken(translator()).double()


def pair(source: Sequence[int], target: Sequence[int]) -> Example:
    read = Tokens.of("source", torch.tensor(source, dtype=torch.int64))
    said = Tokens.of("target", torch.tensor(target, dtype=torch.int64))
    return Example(said, {}, source=Example(read, {}, read.length))


def cut(example: Example, start: int, end: int) -> Tokens | None:
    """Target tokens start … end-1; None if there are none."""
    values = example.tokens.streams["target"].values[start:end]
    return (
        Tokens({"target": Stream.whole(values)}, len(values), example.tokens.positions[start:end])
        if end > start
        else None
    )


def taught(source: Sequence[int], said: Sequence[int]) -> Example:
    """An example that is to say `said`, from a start token on."""
    example = pair(source, [VOCAB - 1, *said[:-1]])
    return replace(example, targets={"target": Stream.whole(torch.tensor(said))})


values = st.integers(0, VOCAB - 1)
pairs = st.builds(pair, st.lists(values, min_size=1, max_size=6), st.lists(values, max_size=5))


# The equations


class Paper:
    """Appendix A token by token, with the paper's letters, from a model's weights."""

    def __init__(self, model: Model) -> None:
        self.w = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def annotations(self, source: list[int]) -> Tensor:
        x = self.w["embedders.source.table.weight"][source]
        n = ENCODER["hidden"]
        sides = {}
        for side, order in (("forward", range(len(x))), ("backward", reversed(range(len(x))))):
            W, Wz, Wr = self.w[f"encoder.{side}_unit.input.weight"].split(n)
            Uz, Ur = self.w[f"encoder.{side}_unit.gates.weight"].split(n)
            U = self.w[f"encoder.{side}_unit.candidate.weight"]
            h, states = x.new_zeros(n), {}
            for i in order:
                z = torch.sigmoid(Wz @ x[i] + Uz @ h)
                r = torch.sigmoid(Wr @ x[i] + Ur @ h)
                h = (1 - z) * h + z * torch.tanh(W @ x[i] + U @ (r * h))
                states[i] = h
            sides[side] = torch.stack([states[i] for i in range(len(x))])
        return torch.cat([sides["forward"], sides["backward"]], dim=1)

    def alignment(self, s: Tensor, h: Tensor) -> Tensor:
        Wa, Ua = self.w["backbone.attention.state.weight"], self.w["backbone.attention.annotation.weight"]
        e = [self.w["backbone.attention.score"] @ torch.tanh(Wa @ s + Ua @ one) for one in h]
        total = sum(torch.exp(one) for one in e)
        return torch.stack([torch.exp(one) / total for one in e])

    def deep_output(self, s: Tensor, y: Tensor, c: Tensor) -> Tensor:
        Uo, Vo, Co = (self.w[f"backbone.output.{name}.weight"] for name in ("state", "word", "context"))
        t = Uo @ s + Vo @ y + Co @ c
        return torch.stack([max(t[2 * j], t[2 * j + 1]) for j in range(len(t) // 2)])

    def decode(self, h: Tensor, target: list[int]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Logits and alignments of each token, and the states s_0 … s_n."""
        n = DECODER["hidden"]
        W, Wz, Wr = self.w["backbone.unit.input.weight"].split(n)
        C, Cz, Cr = self.w["backbone.context.weight"].split(n)
        Uz, Ur = self.w["backbone.unit.gates.weight"].split(n)
        U = self.w["backbone.unit.candidate.weight"]
        states = [torch.tanh(self.w["backbone.initial.weight"] @ h[0, ENCODER["hidden"] :])]
        logits, alignments = [], []
        for y in self.w["embedders.target.table.weight"][target]:
            s = states[-1]
            alignments.append(self.alignment(s, h))
            c = sum(a * one for a, one in zip(alignments[-1], h, strict=True))
            logits.append(self.w["heads.target.weight"] @ self.deep_output(s, y, c))
            z = torch.sigmoid(Wz @ y + Uz @ s + Cz @ c)
            r = torch.sigmoid(Wr @ y + Ur @ s + Cr @ c)
            states.append((1 - z) * s + z * torch.tanh(W @ y + U @ (r * s) + C @ c))
        return logits, alignments, states


def seen(model: Model, batch: Batch, *sites: str) -> tuple[Tensor, dict]:
    """A pass's hidden states, and what stood at these sites."""
    found = {}
    probe = {site: lambda layer, value, site=site: found.__setitem__((site, layer), value) for site in sites}
    with torch.no_grad():
        hidden = model(batch, probe=probe)
    return hidden, {site: value for (site, layer), value in found.items() if layer == 0}


@settings(max_examples=20)
@given(st.lists(pairs, min_size=1, max_size=4).filter(lambda made: any(e.tokens.length for e in made)))
def test_a_ragged_batch_is_the_papers_equations(exact, examples):
    """Annotations, alignments, states and logits of every document, to 1e-9."""
    hidden, found = seen(exact, pack(examples), "encoder.block", "cross_attention.weights", "block")
    logits = exact.read("target", hidden).split([e.tokens.length for e in examples])
    states = found["block"].split([e.tokens.length for e in examples])
    annotations = found["encoder.block"].split([e.source.tokens.length for e in examples])
    for number, example in enumerate(examples):
        paper = Paper(exact)
        h = paper.annotations(example.source.tokens.streams["source"].values.tolist())
        torch.testing.assert_close(annotations[number], h, atol=1e-9, rtol=0)
        target = example.tokens.streams["target"].values.tolist()
        for i, (said, alignment, state) in enumerate(zip(*paper.decode(h, target), strict=False)):
            torch.testing.assert_close(logits[number][i], said, atol=1e-9, rtol=0)
            torch.testing.assert_close(found["cross_attention.weights"][number][0, i], alignment, atol=1e-9, rtol=0)
            torch.testing.assert_close(states[number][i], state, atol=1e-9, rtol=0)


def test_the_reset_gate_acts_before_the_matrix(exact):
    """torch.nn.GRU's comes behind it: with the same weights and no biases it says something else."""
    unit = exact.encoder.forward_unit
    gru = nn.GRU(5, 6, bias=False).double()
    (candidate, update, reset), (opened_z, opened_r) = unit.input.weight.split(6), unit.gates.weight.split(6)
    with torch.no_grad():
        gru.weight_ih_l0.copy_(torch.cat([reset, -update, candidate]))  # its update gate keeps, ours renews
        gru.weight_hh_l0.copy_(torch.cat([opened_r, -opened_z, unit.candidate.weight]))
        x = torch.randn(2, 1, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        first = unit(unit.input(x[0]), torch.zeros(1, 6, dtype=torch.float64))
        second = unit(unit.input(x[1]), first)
        theirs = gru(x)[0]
    torch.testing.assert_close(first, theirs[0])  # from zeros there is nothing to reset
    assert (second - theirs[1]).abs().max() > 1e-2


# Documents


@settings(max_examples=20)
@given(st.lists(pairs, min_size=2, max_size=5), st.randoms(use_true_random=False), st.integers(0, 3))
def test_a_document_is_the_same_alone_and_in_any_company(exact, examples, random, padding):
    """Hidden states and the gradients of its words, whatever it is packed with and however far that is padded."""
    order = random.sample(range(len(examples)), len(examples))
    slots = sum(example.tokens.length for example in examples)
    batch = pack([examples[one] for one in order], pad_to=slots + padding)
    together = exact(batch)[:slots].split([examples[one].tokens.length for one in order])
    for place, one in enumerate(order):
        alone = exact(pack([examples[one]]))
        torch.testing.assert_close(together[place], alone, atol=1e-12, rtol=0)
        if len(alone):
            for name in ("source", "target"):
                table = exact.embedders[name].table.weight
                ours, theirs = (
                    torch.autograd.grad(rows.square().sum(), table, retain_graph=True)[0]
                    for rows in (together[place], alone)
                )
                torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=0)


def test_a_document_without_a_source_reads_zeros(exact):
    """It harms neither itself nor the one beside it, and with nothing to read anywhere either."""
    other, silent = pair([3, 1, 4], [1, 5]), Example(Tokens.of("target", torch.tensor([2, 6, 5])), {})
    empty = replace(silent, source=Example(Tokens.of("source", torch.zeros(0, dtype=torch.int64)), {}))
    with torch.no_grad():
        beside, alone = exact(pack([other, silent])), exact(pack([empty]))
        torch.testing.assert_close(beside[:2], exact(pack([other])))
    torch.testing.assert_close(beside[2:], alone)
    assert alone.isfinite().all() and (alone[1:] != alone[:-1]).any()


def test_an_encoder_is_a_backbone_too():
    """Labels for each token of a sequence that is read from both ends, without any decoder."""
    made = shaken(Model({}, ENCODER, {"word": {}}, streams={"word": {"vocab_size": VOCAB}}).eval())
    words = Tokens.of("word", torch.tensor([3, 1, 4, 1]))
    assert made.read("word", made(pack([Example(words, {}, 4)]))).shape == (4, VOCAB)
    with pytest.raises(MaskError, match="both directions"):
        made(pack([Example(words, {})]))
    with pytest.raises(ConfigError, match="cannot go on"):
        made.session(1)


@pytest.mark.parametrize(
    ("encoder", "backbone"),
    [
        (ENCODER, TRANSFORMER | {"recipe": ["attention", "cross_attention", "feed_forward"]}),
        (TRANSFORMER | {"causal": False}, DECODER),
    ],
    ids=["recurrent to transformer", "transformer to recurrent"],
)
def test_recurrent_stacks_and_transformers_read_each_other(encoder, backbone):
    """Either half may be of the other kind; a session still says what the whole pass says."""
    mixed = shaken(translator(encoder, backbone))
    examples = [pair([1, 2, 3], [4, 5]), pair([6], [7, 8])]
    with torch.no_grad():
        whole = mixed(pack(examples))
    session = mixed.session(2, source=[example.source for example in examples])
    for i in range(2):
        session.append([cut(example, i, i + 1) for example in examples])
    torch.testing.assert_close(session.last, whole[1::2], atol=1e-5, rtol=0)


# Sessions


@settings(max_examples=20)
@given(st.data())
def test_a_session_in_chunks_is_one_forward_pass(model, data):
    """Unequal lengths, appends that bring a document nothing, and beams: what is behind each sequence is what one
    pass over its tokens ends with."""
    examples = data.draw(st.lists(pairs, min_size=1, max_size=4))
    session = model.session(len(examples), source=[example.source for example in examples])
    told = [0] * len(examples)
    for _ in range(data.draw(st.integers(1, 4))):
        more = [data.draw(st.integers(have, e.tokens.length)) for have, e in zip(told, examples, strict=True)]
        session.append([cut(e, have, end) for e, have, end in zip(examples, told, more, strict=True)])
        rows = data.draw(st.lists(st.integers(0, len(examples) - 1), min_size=1, max_size=4))
        session.select(rows)
        examples, told = [examples[row] for row in rows], [more[row] for row in rows]
        assert session.lengths == told
        for number, (example, length) in enumerate(zip(examples, told, strict=True)):
            if length:
                with torch.no_grad():
                    whole = model(pack([replace(example, tokens=cut(example, 0, length))]))
                torch.testing.assert_close(session.last[number], whole[-1], atol=1e-6, rtol=0)


def test_the_source_is_projected_once(model):
    """U_a h_j does not depend on the target: a session computes it on its first append, and keeps it."""
    calls = []
    handle = model.backbone.attention.annotation.register_forward_hook(lambda *_: calls.append(1))
    session = model.session(2, source=[pair([1, 2], []).source, pair([3], []).source])
    for _ in range(3):
        session.append([Tokens.of("target", torch.tensor([4]))] * 2)
    session.select([1, 1, 0])
    session.append([Tokens.of("target", torch.tensor([4]))] * 3)
    handle.remove()
    assert len(calls) == 1


def test_nobody_speaking_changes_nothing(model):
    """An append of None to everybody, on an empty session and on one under way."""
    example = pair([1, 2, 3], [4, 5])
    session = model.session(1, source=[example.source])
    session.append([None])
    session.append([cut(example, 0, 1)])
    session.append([None])
    session.append([cut(example, 1, 2)])
    with torch.no_grad():
        torch.testing.assert_close(session.last, model(pack([example]))[-1:], atol=1e-6, rtol=0)


def test_a_session_runs_under_autocast(model):
    """In bfloat16 the answer stays near, and is another."""
    examples = [pair([1, 2, 3], [4, 5]), pair([6], [7, 8])]
    last = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            session = model.session(2, source=[example.source for example in examples])
            for i in range(2):
                session.append([cut(example, i, i + 1) for example in examples])
        last.append(session.last.float())
    assert 0 < (last[0] - last[1]).abs().max() < 0.1 * last[0].abs().max()


# Looking inside


def test_hooks_see_and_change_every_site(model):
    """What a hook returns takes its place behind it; the encoder's sites stand behind "encoder."."""
    example = pair([1, 2, 3], [4, 5])
    batch = pack([example])
    sites = {"entry": (2, 4), "block": (2, 7), "hidden": (2, 8)}
    sites |= {"encoder.entry": (3, 5), "encoder.block": (3, 12), "encoder.hidden": (3, 12)}
    hidden, found = seen(model, batch, *sites)
    assert {site: tuple(value.shape) for site, value in found.items()} == sites
    with torch.no_grad():
        for site in sites:
            changed = model(batch, probe={site: lambda layer, value: value + 1})
            assert (changed - hidden).abs().max() > 1e-3, site


# Training


def test_gradients_reach_every_parameter(exact):
    batch = pack([taught([1, 2, 3], [4, 5, 6]), taught([7], [8])])
    forward = ForwardPass(exact, batch)
    target = batch.targets[""]["target"]
    loss = F.cross_entropy(forward.read("target", target), target.values)
    names, parameters = zip(*exact.named_parameters(), strict=True)
    for name, gradient in zip(names, torch.autograd.grad(loss, parameters), strict=True):
        assert gradient.abs().max() > 1e-6, name


def test_weights_start_as_the_paper_says():
    """Appendix B.1: recurrent matrices orthogonal, the alignment's small, v_a zero, all others at 0.01."""
    made = translator(ENCODER | {"dim": 40, "hidden": 50}, DECODER | {"dim": 40, "hidden": 50, "align": 60})
    for name, parameter in made.named_parameters():
        weight = parameter.detach()
        if name.endswith((".candidate.weight", ".gates.weight")):
            for square in weight.split(50):
                torch.testing.assert_close(square @ square.T, torch.eye(50), atol=1e-5, rtol=0)
        elif name.endswith("attention.score"):
            assert not weight.any()
        else:
            wanted = 0.001 if ".attention." in name else 0.01
            assert math.isclose(float(weight.std()), wanted, rel_tol=0.15), name


def test_without_a_size_weights_keep_the_variance():
    made = recurrent_stack(RecurrentConfig(**ENCODER | {"dim": 100, "hidden": 50}, init_std=None))
    assert math.isclose(float(made.forward_unit.input.weight.detach().std()), 0.1, rel_tol=0.1)


def test_dropout_acts_in_training_only():
    """On what enters each stack and on what leaves it."""
    made = shaken(translator(ENCODER | {"dropout": 0.5}, DECODER | {"dropout": 0.5}))
    batch = pack([pair(range(8), range(8))])
    sites = ("encoder.entry", "encoder.hidden", "entry", "hidden")
    for training in (False, True):
        _, found = seen(made.train(training), batch, *sites)
        assert {site: bool((found[site] == 0).any()) for site in sites} == dict.fromkeys(sites, training)


def test_it_learns_to_copy():
    """From one to three letters to the same and an end; generated from their sources alone."""
    made = translator(
        ENCODER | {"dim": 16, "hidden": 24, "init_std": None},
        DECODER | {"dim": 16, "hidden": 24, "align": 16, "maxout": 16, "init_std": None},
    ).train()
    optimiser = torch.optim.Adam(made.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(140):
        batch = pack([taught(one, [*one, END]) for one in words(24, generator)])
        target = batch.targets[""]["target"]
        loss = F.cross_entropy(ForwardPass(made, batch).read("target", target), target.values)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    unseen = words(20, generator)
    said = made.eval().generate([pair(one, [VOCAB - 1]) for one in unseen], "target", max_new=6)
    right = sum(s.streams["target"].values.tolist() == [*one, END] for s, one in zip(said, unseen, strict=True))
    assert right >= 18


def words(count: int, generator: torch.Generator) -> list[list[int]]:
    """One to three letters each."""
    lengths = torch.randint(1, 4, (count,), generator=generator).tolist()
    return [torch.randint(1, 6, (length,), generator=generator).tolist() for length in lengths]


# Errors


def test_a_decoder_without_a_source_says_so(model):
    with pytest.raises(
        ConfigError, match=r"^A recurrent decoder has no source to read; give each example a `source`\.$"
    ):
        model(pack([Example(Tokens.of("target", torch.tensor([1, 2])), {})]))


def test_a_decoder_refuses_to_look_ahead(model):
    """What it cannot honour it does not ignore: a context in both directions, a window."""
    example = pair([1, 2], [3, 4, 5])
    with pytest.raises(MaskError, match="document 0 has prefix=2 and window=None"):
        model(pack([replace(example, prefix=2)]))
    batch = pack([example])
    with pytest.raises(MaskError, match="window=2"):
        model(replace(batch, mask=Mask.causal((3,)).windowed(2)))


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (ENCODER | {"type": "recurent_encoder"}, "Unknown stack 'recurent_encoder'.*Did you mean 'recurrent_encoder'"),
        (ENCODER | {"hidden": 0}, "hidden=0; a recurrent_encoder needs a width of at least 1"),
        (DECODER | {"align": 0, "memory_dim": 12}, "align=0; a recurrent_decoder needs a width"),
        (DECODER | {"maxout": 0, "memory_dim": 12}, "maxout=0; a recurrent_decoder needs a width"),
        (DECODER, "memory_dim=None; a recurrent_decoder needs a width"),
        (DECODER | {"memory_dim": 5}, "memory_dim=5; expected an even number"),
    ],
)
def test_bad_settings_are_one_sentence(config, sentence):
    with pytest.raises(ConfigError, match=sentence) as caught:
        recurrent_stack(RecurrentConfig(**config))
    assert "\n" not in str(caught.value)


def test_stacks_are_made_by_their_type():
    assert isinstance(recurrent_stack(RecurrentConfig(**ENCODER)), RecurrentEncoder)
    assert isinstance(recurrent_stack(RecurrentConfig(**DECODER, memory_dim=12)), RecurrentDecoder)
