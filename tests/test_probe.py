"""The probe: every site is what its documentation says, what a hook returns is what the pass goes on with, and a pass
that is looked at is the pass that is not."""

import pytest
import torch
from torch import Tensor

from anyformer.architecture import Architecture, BackboneConfig
from anyformer.batch import Batch, Example, pack
from anyformer.mask import Mask
from anyformer.model import Model
from anyformer.sublayers import Attention, Context, Placement
from anyformer.tokens import Tokens

DIM, HEADS, HEAD_DIM, HIDDEN, DEPTH = 12, 3, 4, 20, 2
SIZES = {"dim": DIM, "heads": HEADS, "hidden": HIDDEN, "depth": DEPTH}
TARGETS, SOURCES = (2, 4, 1), (3, 0, 5)


def shaken(architecture: dict) -> Model:
    """With parameters of ordinary size, norms among them."""
    torch.manual_seed(0)
    model = Model.of(Architecture.of({"streams": {"text": {"vocab_size": 9}}, **architecture}, "model"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.4)
    return model.eval()


@pytest.fixture(scope="module")
def pair() -> Model:
    """An encoder and a decoder with every kind of attention."""
    recipe = ["attention", "cross_attention", "feed_forward"]
    return shaken(
        {
            "backbone": {**SIZES, "recipe": recipe, "kv_heads": 1, "window": 3, "positions": {"type": "alibi"}},
            "encoder": {**SIZES, "depth": 1, "gated": True, "causal": False},
            "source": ["text"],
        }
    )


def words(count: int, seed: int) -> Tokens:
    return Tokens.of("text", torch.randint(0, 9, (count,), generator=torch.Generator().manual_seed(seed)))


def batch(sources: bool = True) -> Batch:
    examples = [
        Example(words(target, seed), {}, source=Example(words(source, seed + 9), {}, source) if sources else None)
        for seed, (target, source) in enumerate(zip(TARGETS, SOURCES, strict=True))
    ]
    return pack(examples)


SITES = {
    "entry": ([0], (7, DIM)),
    "block": ([0, 1], (7, DIM)),
    "hidden": ([0], (7, DIM)),
    "attention.weights": ([0, 1], [(HEADS, n, n) for n in TARGETS]),
    "attention.heads": ([0, 1], (7, HEADS, HEAD_DIM)),
    "cross_attention.weights": ([0, 1], [(HEADS, n, m) for n, m in zip(TARGETS, SOURCES, strict=True)]),
    "cross_attention.heads": ([0, 1], (7, HEADS, HEAD_DIM)),
    "feed_forward.keys": ([0, 1], (7, HIDDEN)),
    "encoder.entry": ([0], (8, DIM)),
    "encoder.block": ([0], (8, DIM)),
    "encoder.hidden": ([0], (8, DIM)),
    "encoder.attention.weights": ([0], [(HEADS, n, n) for n in SOURCES]),
    "encoder.attention.heads": ([0], (8, HEADS, HEAD_DIM)),
    "encoder.feed_forward.keys": ([0], (8, HIDDEN)),
}


@torch.no_grad()
def test_every_site_is_called_as_documented(pair):
    """Once a layer, in order, with what its documentation says; looking changes nothing."""
    seen: dict[str, list] = {site: [] for site in SITES}
    hooks = {site: lambda layer, value, at=seen[site]: at.append((layer, value)) for site in SITES}
    looked = pair(batch(), probe=hooks)
    assert torch.allclose(looked, pair(batch()), atol=1e-6)
    for site, (layers, shape) in SITES.items():
        assert [layer for layer, _ in seen[site]] == layers, site
        for _, value in seen[site]:
            found = [tuple(one.shape) for one in value] if isinstance(value, list) else tuple(value.shape)
            assert found == shape, site
    assert torch.equal(seen["hidden"][0][1], looked)


@torch.no_grad()
def test_one_probe_sees_one_stack(pair):
    """A decoder's site is not called by the encoder, nor the other way round."""
    calls = []
    pair(batch(), probe={"encoder.block": lambda layer, x: calls.append(len(x))})
    pair(batch(), probe={"block": lambda layer, x: calls.append(len(x))})
    assert calls == [8, 7, 7]


@pytest.mark.parametrize("site", [site for site in SITES if not site.endswith("weights")])
@torch.no_grad()
def test_what_a_hook_returns_takes_its_place(pair, site):
    """Something else changes the pass, from there on; the very same, and None, change nothing."""
    plain = pair(batch())
    assert torch.equal(pair(batch(), probe={site: lambda layer, x: x.clone()}), plain)
    assert torch.equal(pair(batch(), probe={site: lambda layer, x: None}), plain)
    changed = pair(batch(), probe={site: lambda layer, x: x + 0.3 * torch.arange(x.shape[-1])})
    assert not torch.allclose(changed, plain, atol=1e-3)
    if site == "hidden":
        assert torch.allclose(changed, plain + 0.3 * torch.arange(DIM), atol=1e-6)


@torch.no_grad()
def test_a_layer_is_changed_alone(pair):
    """A hook is told the layer, so it can leave the others as they are."""
    blocks: dict[bool, list[Tensor]] = {False: [], True: []}
    for changing in (False, True):
        hooks = {
            "attention.heads": lambda layer, x, on=changing: x * 0 if on and layer == 1 else None,
            "block": lambda layer, x, to=blocks[changing]: to.append(x),
        }
        pair(batch(), probe=hooks)
    first, second = zip(*blocks.values(), strict=True)
    assert torch.equal(*first)
    assert not torch.allclose(*second, atol=1e-3)


@torch.no_grad()
def test_attention_weights_are_shares(pair):
    """They sum to one for whoever sees something, are zero where the mask hides, and where there is no source there
    is nothing to share."""
    seen: dict[str, list] = {"attention.weights": [], "cross_attention.weights": []}
    pair(batch(), probe={site: lambda layer, value, at=at: at.append(value) for site, at in seen.items()})
    mask = batch().mask.windowed(3)
    for own, across in zip(*seen.values(), strict=True):
        for document, (weights, source) in enumerate(zip(own, across, strict=True)):
            assert torch.allclose(weights.sum(-1), torch.ones(weights.shape[:2]), atol=1e-5)
            assert not weights[:, ~mask.visible(document)].any()
            assert torch.allclose(source.sum(-1), torch.full(source.shape[:2], float(SOURCES[document] > 0)), atol=1e-5)


@torch.no_grad()
def test_attention_weights_are_what_attention_mixes_with(pair):
    """Weights times the values of the layer, head by head, are what stands at `attention.heads`: with a bias, a window
    and shared keys."""
    layers = [block.attention.sublayer for block in pair.backbone.blocks]
    inputs: list[Tensor] = []
    handles = [layer.register_forward_pre_hook(lambda layer, args: inputs.append(args[0])) for layer in layers]
    weights, heads = [], []
    hooks = {
        "attention.weights": lambda layer, value: weights.append(value),
        "attention.heads": lambda layer, value: heads.append(value),
    }
    pair(batch(), probe=hooks)
    for handle in handles:
        handle.remove()
    for layer, x, shares, mixed in zip(layers, inputs, weights, heads, strict=True):
        values = layer.qkv(x)[:, -HEAD_DIM:]  # one key head, shared by all
        wanted = [torch.einsum("hqk,kd->qhd", w, v) for w, v in zip(shares, values.split(TARGETS), strict=True)]
        assert torch.allclose(torch.cat(wanted), mixed, atol=1e-5)


@pytest.mark.parametrize("site", ["attention", "cross_attention"])
@pytest.mark.parametrize("head", range(HEADS))
@torch.no_grad()
def test_a_head_put_out_is_a_head_without_output_weights(pair, site, head):
    """Zeros at `heads` equal zeros in the head's columns of the output projection, in one layer."""

    def without(layer: int, heads: Tensor) -> Tensor | None:
        return None if layer else heads * (torch.arange(HEADS) != head)[:, None]

    ablated = pair(batch(), probe={f"{site}.heads": without})
    out = getattr(pair.backbone.blocks[0], site).sublayer.out.weight
    kept = out.clone()
    out[:, head * HEAD_DIM : (head + 1) * HEAD_DIM] = 0
    cut = pair(batch())
    out.copy_(kept)
    assert torch.allclose(ablated, cut, atol=1e-5)
    assert not torch.allclose(ablated, pair(batch()), atol=1e-3)


@torch.no_grad()
def test_a_key_put_out_is_a_hidden_unit_without_output_weights(pair):
    """The same for a hidden unit of the feed-forward."""
    ablated = pair(batch(), probe={"feed_forward.keys": lambda layer, keys: keys * (torch.arange(HIDDEN) != 5)})
    kept = [block.feed_forward.sublayer.down.weight.clone() for block in pair.backbone.blocks]
    for block in pair.backbone.blocks:
        block.feed_forward.sublayer.down.weight[:, 5] = 0
    cut = pair(batch())
    for block, weight in zip(pair.backbone.blocks, kept, strict=True):
        block.feed_forward.sublayer.down.weight.copy_(weight)
    assert torch.allclose(ablated, cut, atol=1e-5)


def test_experts_show_their_own_tokens_and_their_balance():
    """`feed_forward.keys` once an expert, with the tokens it was given; a hook on the balance sees each layer's."""
    model = shaken({"backbone": {**SIZES, "experts": 4, "top_k": 2}})
    keys, balance = [], []
    hooks = {
        "feed_forward.keys": lambda layer, value: keys.append((layer, len(value))),
        "feed_forward.balance": lambda layer, value: balance.append((layer, float(value.detach()))),
    }
    model(batch(sources=False), probe=hooks)
    assert [layer for layer, _ in keys] == [0] * 4 + [1] * 4
    for layer in (0, 1):
        assert sum(count for at, count in keys if at == layer) == 2 * 7
    assert [layer for layer, _ in balance] == [0, 1]


@torch.no_grad()
def test_a_site_is_seen_through_a_cache_too():
    """With one new token, the weights are of all that is cached."""
    model = shaken({"backbone": SIZES})
    whole = pack([Example(words(5, 0), {})])
    cache, seen, wanted = model.backbone.new_cache(1), [], []
    model(whole, probe={"attention.weights": lambda layer, value: wanted.append(value[0])})
    for at in range(5):
        step = pack([Example(Tokens.of("text", whole.streams["text"].values[at : at + 1]), {})])
        place = torch.tensor([[at]])
        mask = cache.mask((1,))
        cache.reserve((1,))
        x = model.embed(step, model.backbone.config)
        seen.clear()
        model.backbone(x, place, mask, None, cache, {"attention.weights": lambda layer, value: seen.append(value[0])})
        cache.advance((1,))
    for last, full in zip(seen, wanted, strict=True):
        assert last.shape == (HEADS, 1, 5)
        assert torch.allclose(last, full[:, -1:], atol=1e-5)


def test_gradients_pass_through_a_site(pair):
    """What is looked at is part of the graph: the gradient of an output by a layer's heads is the sum over the rows
    that they reach, and none reaches another sequence."""
    kept: list[Tensor] = []

    def keep(layer: int, heads: Tensor) -> None:
        if layer == 0:
            heads.retain_grad()
            kept.append(heads)

    pair(batch(), probe={"attention.heads": keep}).split(TARGETS)[1].square().sum().backward()
    moved = kept[0].grad.abs().amax((1, 2)).split(TARGETS)
    assert bool((moved[1] > 0).all())
    assert not moved[0].any()
    assert not moved[2].any()


def test_a_probe_of_the_layer_alone():
    """A layer outside any model takes a probe through its context."""
    layer, seen = Attention(BackboneConfig(8, 2), layer=5), []
    context = Context(Placement(), Mask.causal((3,)), probe={"attention.heads": lambda at, value: seen.append(at)})
    layer(torch.randn(3, 8), context)
    assert seen == [5]
