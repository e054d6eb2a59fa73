"""The model around the backbone: settings, initialisation, streams by name, heads, precision, likelihoods."""

import copy
import json
import math
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from anyformer.architecture import Architecture, BackboneConfig, HeadConfig
from anyformer.backbone import Backbone
from anyformer.batch import Example, pack
from anyformer.contracts import Sample, Task, Tokenizer
from anyformer.errors import ConfigError, TokenizerError
from anyformer.mask import Mask
from anyformer.model import ForwardPass, Model, Network, network
from anyformer.objectives import Prefix
from anyformer.tokens import Stream, StreamSpec, Tokens

BACKBONE = {"dim": 16, "heads": 2, "depth": 2, "hidden": 24}


@dataclass
class Digits(Tokenizer):
    """A number as its digits, ended by a 10."""

    name: str = "digits"
    vocab_size: int = 11
    ready: bool = field(default=True)

    @property
    def streams(self) -> tuple[StreamSpec, ...]:
        return (StreamSpec.discrete(self.name, self.vocab_size, end=10),)

    @property
    def fitted(self) -> bool:
        return self.ready

    def encode(self, raw: int) -> Tokens:
        return Tokens.of(self.name, torch.tensor([*map(int, str(raw)), 10]))

    def decode(self, tokens: Tokens) -> int:
        return int("".join(str(v) for v in tokens.streams[self.name].values.tolist() if v < 10) or 0)

    def length(self, raw: int) -> int:
        return len(str(raw)) + 1

    def example(self, rng: np.random.Generator) -> int:
        return int(rng.integers(1000))


@dataclass
class Points(Tokenizer):
    """Points of a plane, one slot each."""

    name: str = "points"

    @property
    def streams(self) -> tuple[StreamSpec, ...]:
        return (StreamSpec.continuous(f"{self.name}.xy", 2, rank=2),)

    def encode(self, raw: list) -> Tokens:
        grid = torch.arange(len(raw))[:, None].expand(-1, 2)
        return Tokens({f"{self.name}.xy": Stream.whole(torch.tensor(raw))}, len(raw), grid)

    def decode(self, tokens: Tokens) -> list:
        return tokens.streams[f"{self.name}.xy"].values.tolist()

    def length(self, raw: list) -> int:
        return len(raw)

    def example(self, rng: np.random.Generator) -> list:
        return rng.normal(size=(3, 2)).tolist()


def make_model(heads=("digits", "points.xy"), tie: bool = True, **backbone) -> Model:
    torch.manual_seed(0)
    return Model({"digits": Digits(), "points": Points()}, {**BACKBONE, **backbone}, heads, tie)


def a_batch(model: Model):
    """A number behind two points, and a number alone; digits and one point are to be said."""
    points, number = Points().encode([[0.5, -1.0], [2.0, 0.1]]), Digits().encode(42)
    mixed = Tokens.laid_end_to_end([points, number])
    says = Stream.whole(torch.tensor([4, 2, 10]), torch.tensor([1, 2, 3]))
    draws = Stream.whole(torch.tensor([[1.0, 1.0]]), torch.tensor([0]))
    examples = [
        Example(mixed, {"digits": says, "points.xy": draws}, prefix=2, task="read", key="a"),
        Example(number, {"digits": says.shifted(-1)}, task="count", key="b"),
    ]
    return pack(examples, model.rank)


# Settings


def test_settings_go_to_json_and_back():
    """What a checkpoint stores makes an equal configuration, recipe and rank included."""
    positions = {"type": "learned", "size": 4}
    config = BackboneConfig(8, 2, recipe=["attention"], depth=3, positions=positions, window=[None, 4])
    assert BackboneConfig.of(json.loads(json.dumps(config.as_json())), "backbone") == config
    assert BackboneConfig.of(config, "backbone") is config
    model = make_model()
    again = Model(model.tokenizers, **json.loads(json.dumps(model.config())))
    assert again.config() == model.config()
    again.load_state_dict(model.state_dict())


def test_a_misspelt_setting_is_named():
    """With the setting that was meant; a missing one too."""
    with pytest.raises(ConfigError, match=r"backbone has no setting 'detph'. Did you mean 'depth'"):
        make_model(detph=2)
    with pytest.raises(ConfigError, match="backbone needs 'heads'"):
        Model({"digits": Digits()}, {"dim": 8}, ["digits"])
    with pytest.raises(ConfigError, match=r"head 'digits' has no setting 'tied'. Did you mean 'tie'"):
        make_model(heads={"digits": {"tied": True}})
    with pytest.raises(ConfigError, match="dim=8 is not a multiple of heads=3"):
        Backbone(BackboneConfig(8, 3))


def test_the_backbone_takes_the_rank_its_streams_need():
    """A model of points has two axes; one may ask for more."""
    assert make_model().rank == 2
    assert make_model(rank=3).rank == 3
    assert Model({"digits": Digits()}, BACKBONE, ["digits"]).rank == 1


def test_added_positions_stand_before_the_first_block():
    """And in no other: with blocks that add nothing, the output is the input and one row of the table."""
    positions = {"type": "learned", "size": 3}
    backbone = Backbone(BackboneConfig(4, 1, depth=2, positions=positions, final_norm=False))
    for name, parameter in backbone.named_parameters():
        if name.endswith(("out.weight", "down.weight")):
            nn.init.zeros_(parameter)
    x = torch.randn(2, 4)
    out = backbone(x, torch.tensor([[2], [0]]), Mask.causal((2,)))
    assert torch.allclose(out, x + backbone.positions.tables[0][[2, 0]], atol=1e-6)


def test_the_entry_adds_normalises_shifts_and_widens():
    """In this order: positions, norm, constant, linear map; each is there only if its setting says so."""
    settings_ = {"embed_dim": 6, "embed_norm": True, "embed_shift": True, "norm_eps": 0.1}
    backbone = Backbone(BackboneConfig(4, 1, depth=0, positions={"type": "sinusoidal"}, final_norm=False, **settings_))
    torch.manual_seed(0)
    for parameter in backbone.parameters():
        nn.init.normal_(parameter)
    x, where = torch.randn(3, 6), torch.tensor([[4], [0], [7]])
    entry = backbone.entry
    normed = nn.functional.layer_norm(
        x + backbone.positions.embed(where), (6,), entry.norm.weight, entry.norm.bias, eps=0.1
    )
    wanted = (normed + entry.shift) @ entry.project.weight.T + entry.project.bias
    assert torch.allclose(backbone(x, where, Mask.causal((3,))), wanted, atol=1e-5)
    bare = Backbone(BackboneConfig(4, 1, depth=0, final_norm=False))
    assert not list(bare.parameters())
    given = torch.randn(3, 4)
    assert torch.equal(bare(given, where, Mask.causal((3,))), given)


def test_the_final_norm_may_have_an_epsilon_of_its_own():
    """Blocks and the norm behind them (wav2vec2-conformer: 1e-5 inside whatever stands in the settings)."""
    backbone = Backbone(BackboneConfig(8, 2, norm_eps=1e-12, final_norm_eps=0.5))
    assert backbone.final_norm.eps == 0.5
    assert backbone.blocks[0].attention.norm.eps == 1e-12
    assert Backbone(BackboneConfig(8, 2, norm_eps=1e-12)).final_norm.eps == 1e-12


@pytest.mark.parametrize("final_norm", [True, False])
def test_a_stack_ends_in_a_norm_if_it_shall(final_norm):
    """With it, every slot has mean 0 and variance 1."""
    torch.manual_seed(0)
    backbone = Backbone(BackboneConfig(32, 2, depth=2, final_norm=final_norm))
    out = backbone(5 * torch.randn(6, 32) + 3, torch.arange(6)[:, None], Mask.causal((6,)))
    assert torch.allclose(out.var(-1, unbiased=False), torch.ones(6), atol=1e-3) == final_norm


def test_a_seed_makes_a_model():
    """Same seed, same weights."""
    first, second = make_model().state_dict(), make_model().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


# Streams, embedders and heads


def test_a_tied_head_shares_one_tensor():
    """One parameter with both gradients; untied, there are two."""
    tied, untied = make_model(), make_model(tie=False)
    assert tied.heads["digits"].weight is tied.embedders["digits"].table.weight
    assert untied.heads["digits"].weight is not untied.embedders["digits"].table.weight
    sizes = [sum(p.numel() for p in model.parameters()) for model in (tied, untied)]
    assert sizes[1] - sizes[0] == 11 * 16
    moved = copy.deepcopy(tied)
    assert moved.heads["digits"].weight is moved.embedders["digits"].table.weight


def test_streams_are_scattered_to_their_slots():
    """Each slot holds its own value's embedding, in whatever order streams come."""
    model = make_model()
    batch = a_batch(model)
    x = model.embed(batch, model.backbone.config)
    digits, points = batch.streams["digits"], batch.streams["points.xy"]
    table = model.embedders["digits"].table
    assert torch.allclose(x[digits.slots], table(digits.values) * 16**0.5)  # times √dim
    linear = model.embedders["points/xy"].linear
    assert torch.allclose(x[points.slots], points.values @ linear.weight.T + linear.bias, atol=1e-6)
    turned = replace(batch, streams=dict(reversed(batch.streams.items())))
    assert torch.equal(model.embed(turned, model.backbone.config), x)


@pytest.mark.parametrize("name", ["values", "keys", "items", "type", "training", "a.b", "forward", "pop.x"])
def test_a_stream_may_have_any_name(name):
    """Dots, and words that a module uses itself; the weights can be stored and found again."""
    specs = [StreamSpec.discrete(name, 5), StreamSpec.discrete("other", 4)]
    architecture = Architecture(BackboneConfig(8, 2), {name: HeadConfig(tie=True), "other": HeadConfig()})
    made = Network(specs, architecture)
    hidden = made(pack([Example(Tokens.of(name, torch.tensor([1, 2])), {})]))
    assert made.read(name, hidden).shape == (2, 5)
    Network(specs, architecture).load_state_dict(made.state_dict())


def test_an_embedder_and_a_head_may_be_the_plugins():
    """Factories are called with the width; a head of one's own is not tied."""

    class Doubled(nn.Module):
        def __init__(self, dim: int) -> None:
            super().__init__()
            self.dim = dim

        def forward(self, values: Tensor, items: Tensor) -> Tensor:
            assert items.tolist() == [[2, 2]]
            return 2.0 * values[:, None].expand(-1, self.dim)

    spec = StreamSpec.discrete("text", 5, embedder=Doubled, head=lambda dim: nn.Linear(dim, 5))
    made = Network([spec], Architecture(BackboneConfig(8, 2), {"text": HeadConfig()}))
    batch = pack([Example(Tokens.of("text", torch.tensor([1, 3])), {})])
    assert made.embed(batch, made.backbone.config)[:, 0].tolist() == [2.0, 6.0]
    assert isinstance(made.heads["text"], nn.Linear)


def test_unknown_streams_and_heads_are_named():
    """With what is there, and with what was probably meant."""
    with pytest.raises(ConfigError, match=r"stream 'digit'.*points\.xy.*Did you mean 'digits'"):
        make_model(heads=["digit"])
    model = make_model(heads=["digits"])
    with pytest.raises(ConfigError, match=r"head 'points\.xy'; expected one of: digits\."):
        model.read("points.xy", torch.zeros(1, 16))
    other = pack([Example(Tokens.of("diggits", torch.tensor([1])), {})], model.rank)
    with pytest.raises(ConfigError, match=r"stream 'diggits'.*Did you mean 'digits'"):
        model(other)


def test_an_architecture_alone_makes_a_model():
    """Without tokenizers, from its own streams: what it is made of goes to JSON and comes back with equal weights'
    names; a stream that is only predicted has no embedder and cannot come in."""
    architecture = Architecture(
        backbone=BackboneConfig(8, 2),
        heads={"label": HeadConfig(bias=True), "text": HeadConfig(tie=True)},
        streams={"text": {"vocab_size": 7, "end": 0}, "kind": {"vocab_size": 2, "overlay": True},
                 "label": {"vocab_size": 3, "input": False}, "frame": {"features": 5, "rank": 2}},
    )  # fmt: skip
    model = Model.of(architecture)
    assert sorted(model.embedders) == ["frame", "kind", "text"]
    assert (model.rank, model.specs["text"].end) == (2, 0)
    again = Model.of(Architecture.of(json.loads(json.dumps(model.config())), "model"))
    again.load_state_dict(model.state_dict())
    assert again.config() == model.config()
    with pytest.raises(ConfigError, match="stream 'label'; expected one of: frame, kind, text"):
        model(pack([Example(Tokens.of("label", torch.tensor([1])), {})], model.rank))


def test_an_overlay_is_added_to_what_stands_in_its_slots():
    """Token types: two streams, one slot each; the order in which they come does not matter."""
    streams = {"text": {"vocab_size": 7}, "kind": {"vocab_size": 2, "overlay": True}}
    model = Model.of(Architecture(BackboneConfig(8, 2), streams=streams))
    words, kinds = torch.tensor([3, 1, 4]), torch.tensor([1, 0])
    both = {"text": Stream.whole(words), "kind": Stream.whole(kinds, torch.tensor([2, 0]))}
    wanted = model.embedders["text"].table.weight[words].clone()
    wanted[[2, 0]] += model.embedders["kind"].table.weight[kinds]
    for ordered in (both, dict(reversed(both.items()))):
        batch = pack([Example(Tokens(ordered, 3, torch.arange(3)[:, None]), {})])
        assert torch.allclose(model.embed(batch, model.backbone.config), wanted, atol=1e-6)


def test_one_stream_name_for_two_tokenizers_is_refused():
    """Two vocabularies may not share a table."""
    with pytest.raises(ConfigError, match="Two different streams are named 'digits'"):
        Model({"one": Digits(), "two": Digits(vocab_size=12)}, BACKBONE, ["digits"])


def test_a_model_wants_fitted_tokenizers_and_at_least_one():
    """Told when the model is made, with the cure."""
    with pytest.raises(TokenizerError, match=r"'digits' is not fitted; call its fit\(samples\)"):
        Model({"digits": Digits(ready=False)}, BACKBONE, ["digits"])
    with pytest.raises(ConfigError, match="at least one stream"):
        Model({}, BACKBONE, [])


def test_hidden_states_are_computed_once():
    """Several tasks and heads of one batch share one pass, and each head reads only its target's slots."""
    model = make_model()
    batch, passes, read = a_batch(model), [], []
    model.backbone.register_forward_hook(lambda *_: passes.append(1))
    model.heads["digits"].register_forward_hook(lambda module, inputs, out: read.append(len(inputs[0])))
    forward = ForwardPass(model, batch)
    assert not passes
    for targets in batch.targets.values():
        for name, target in targets.items():
            said = forward.read(name, target)
            assert torch.equal(said, model.read(name, forward.hidden[target.slots]))
    assert len(passes) == 1
    assert set(read) == {3}


def test_every_rank_runs_every_module(monkeypatch):
    """Under distributed training, modules that a batch does not use still get a gradient, of zero, and change
    no output: otherwise the ranks would wait for each other for ever."""
    model = make_model(tie=False)
    words = Tokens.of("digits", torch.tensor([1, 2]))
    batch = pack([Example(words, {"digits": Stream.whole(torch.tensor([2]), torch.tensor([0]))})], model.rank)
    alone = model(batch)
    monkeypatch.setattr(network, "_is_distributed", lambda: True)
    together = ForwardPass(model, batch)
    assert torch.equal(together.hidden, alone)
    together.read("digits", batch.targets[""]["digits"]).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert not model.embedders["points/xy"].linear.weight.grad.any()
    assert not model.heads["points/xy"].weight.grad.any()
    assert model.embedders["digits"].table.weight.grad.any()


# Precision


@pytest.mark.parametrize("settings_", [{}, {"norm": "rms", "kv_heads": 1, "gated": True}], ids=["gpt", "llama"])
def test_autocast_stays_near_float32(settings_):
    """Forward and backward in bfloat16: a loose tolerance, master weights and gradients in float32."""
    model = make_model(**settings_)
    batch, losses, gradients = a_batch(model), [], []
    for enabled in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            forward = ForwardPass(model, batch)
            said = [
                forward.read(name, target).float().square().mean()
                for targets in batch.targets.values()
                for name, target in targets.items()
            ]
            torch.stack(said).sum().backward()
        losses.append(float(torch.stack(said).sum()))
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert gradients[1].dtype == torch.float32
    assert losses[0] != losses[1]  # bfloat16 was in use
    assert math.isclose(*losses, rel_tol=0.05)
    assert float((gradients[1] - gradients[0]).norm()) < 0.1 * float(gradients[0].norm())


# Answers and likelihoods


class Doubling(Task):
    """A number from points and another number."""

    fields = {"points": "points", "number": "digits", "answer": "digits"}  # noqa: RUF012
    modality = "numbers"
    metrics = ()

    def default_objective(self) -> Prefix:
        return Prefix("answer")

    def examples(self, split):
        return [Sample(str(n), {"points": [[0.1 * n, 1.0]], "number": n, "answer": 2 * n}) for n in range(60, 130)]

    def score(self, model, samples):
        yield from ()


def test_a_field_is_completed_from_the_others():
    """The sample's own answer is not looked at; samples are answered in order, more than one chunk of them."""
    model, task = make_model(tie=False).eval(), Doubling()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.5)
    samples = task.examples("test")
    said = model.complete("doubling", task, samples, "answer", max_new=3)
    blind = [replace(s, values={**s.values, "answer": 0}) for s in samples]
    assert model.complete("doubling", task, blind, "answer", max_new=3) == said
    for sample, answer in list(zip(samples, said, strict=True))[::23]:
        given = [Points().encode(sample.values["points"]), Digits().encode(sample.values["number"])]
        together = Tokens.laid_end_to_end(given)
        (wanted,) = model.generate([Example(together, {}, together.length)], "digits", 3)
        assert answer == Digits().decode(wanted)
    assert len(set(said)) > 1


def test_a_field_that_cannot_be_completed_is_named():
    """An unknown one, with the nearest."""
    with pytest.raises(ConfigError, match=r"field 'anser'.*Did you mean 'answer'"):
        make_model().complete("doubling", Doubling(), [], "anser", 3)


def test_log_likelihoods_are_sums_of_log_probabilities():
    """Nats and counts of each example, by hand from uncached logits, whatever else is in the batch."""
    model = make_model().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    number = Digits().encode(1234)
    examples = [
        Example(number, {"digits": Stream.whole(torch.tensor([2, 3]), torch.tensor([0, 1]))}, key="a"),
        Example(number, {}, key="b"),
        Example(number, {"digits": Stream.whole(torch.tensor([10]), torch.tensor([4]))}, prefix=5, key="c"),
    ]
    wanted = []
    for example in examples:
        with torch.no_grad():
            logs = model.read("digits", model(pack([example], model.rank))).log_softmax(-1)
        target = example.targets.get("digits")
        pairs = [] if target is None else zip(target.slots.tolist(), target.values.tolist(), strict=True)
        wanted.append([float(logs[slot, value]) for slot, value in pairs])
    for budget in (1, 8, 100):
        found = model.log_likelihoods(examples, token_budget=budget)
        assert [count for _, count in found] == [2, 0, 1]
        assert np.allclose([nats for nats, _ in found], [sum(terms) for terms in wanted], atol=1e-4)


def test_features_have_no_probability():
    """A continuous target is refused by name."""
    model = make_model()
    target = {"points.xy": Stream.whole(torch.zeros(1, 2), torch.tensor([0]))}
    with pytest.raises(ConfigError, match=r"'points\.xy' is continuous"):
        model.log_likelihoods([Example(Digits().encode(5), target)])
