"""Looking inside: what the probe shows is what the model does, and the page shows it to anybody, whatever came in."""

from __future__ import annotations

import copy
import io
import json
import re
from collections import Counter
from dataclasses import dataclass, replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from toys import Letters

import anyformer as af
from anyformer import presets, registry
from anyformer.architecture import Architecture, names, preset, reduced
from anyformer.batch import Example, pack
from anyformer.cli import main
from anyformer.cli.inspect import stand_in, with_targets
from anyformer.contracts import Tokenizer
from anyformer.errors import ConfigError
from anyformer.inspection import (
    Inspection,
    ablate_heads,
    atlas,
    attention_maps,
    feed_forward_keys,
    figures,
    head_importance,
    logit_lens,
    look_inside,
    memories,
    render,
    without_heads,
)
from anyformer.mask import Mask
from anyformer.model import Model
from anyformer.sublayers import Experts, FeedForward
from anyformer.tokens import Stream, StreamSpec, Tokens
from anyformer.weights import to_pretrained

ABC = "abcdefghijklmnopqrstuvwxyz"
STACK = {"dim": 16, "heads": 4, "depth": 2, "hidden": 24, "init_std": 0.5}
CONFORMER = ("half feed_forward", "attention", "convolution", "half feed_forward")


def letters(name: str) -> Letters:
    tokenizer = Letters(name)
    tokenizer.fit([ABC])
    return tokenizer


@dataclass
class Board(Tokenizer):
    """float32[rows, columns]: every square a slot, on two axes."""

    name: str = "board"

    @property
    def streams(self) -> tuple[StreamSpec, ...]:
        return (StreamSpec.continuous(self.name, 1, rank=2),)

    def encode(self, raw: np.ndarray) -> Tokens:
        values = torch.tensor(raw, dtype=torch.float32).reshape(-1, 1)
        places = torch.cartesian_prod(*map(torch.arange, raw.shape))
        return Tokens({self.name: Stream.whole(values)}, len(values), places)

    def decode(self, tokens: Tokens) -> np.ndarray:
        raise NotImplementedError

    def length(self, raw: np.ndarray) -> int:
        return raw.size

    def example(self, rng: np.random.Generator) -> np.ndarray:
        return rng.normal(size=(2, 3))


def make(seed: int = 0, heads=("text",), tokenizers=None, encoder=None, **stack) -> Model:
    torch.manual_seed(seed)
    tokenizers = {"text": letters("text")} if tokenizers is None else tokenizers
    return Model(tokenizers, STACK | stack, heads, encoder=encoder, source=("other",) if encoder else ()).eval()


def encoder_decoder() -> Model:
    both = {name: letters(name) for name in ("text", "other")}
    recipe = ("attention", "cross_attention", "feed_forward")
    return make(tokenizers=both, recipe=recipe, encoder=STACK | {"causal": False, "heads": 2, "depth": 3})


def example(model: Model, text: str = "abacus", both_ways: bool = False) -> Example:
    tokens = model.tokenizers["text"].encode(text)
    if both_ways:
        return Example(tokens, {}, tokens.length)
    if model.encoder is None:
        return with_targets(model, Example(tokens, {}))
    source = model.tokenizers["other"].encode("sucaba" * 2)
    return with_targets(model, Example(tokens, {}, source=Example(source, {}, source.length)))


KINDS = {
    "decoder": lambda: make(),
    "gated": lambda: make(gated=True, activation="silu", kv_heads=2, norm="rms"),
    "post-norm": lambda: make(norm_placement="post", final_norm=False),
    "windows": lambda: make(window=(3, None)),
    "experts": lambda: make(experts=4, top_k=2),
    "encoder": lambda: make(causal=False),
    "conformer": lambda: make(causal=False, recipe=CONFORMER, end_norm=True, final_norm=False, kernel=3),
    "encoder-decoder": encoder_decoder,
}
BOTH_WAYS = ("encoder", "conformer")


@pytest.fixture(params=KINDS)
def looked(request) -> tuple[Model, Example]:
    model = KINDS[request.param]()
    return model, example(model, both_ways=request.param in BOTH_WAYS)


def expected_sites(model: Model) -> set[str]:
    return {"attention"} | ({"encoder.attention", "cross_attention"} if model.encoder is not None else set())


# Attention


def test_maps_are_distributions_over_what_the_mask_shows(looked):
    """Rows sum to one, with something on every visible key and nothing elsewhere."""
    model, one = looked
    maps = attention_maps(model, one)
    assert set(maps) == expected_sites(model)
    mask = pack([one]).mask
    for site, layers in maps.items():
        stack = model.encoder if site.startswith("encoder") else model.backbone
        assert len(layers) == stack.config.depth
        for layer, weights in enumerate(layers):
            own = Mask.bidirectional((one.source.tokens.length,)) if site.startswith("encoder") else mask
            seen = own.across((one.source.tokens.length,)) if site.startswith("cross") else own
            visible = seen.windowed(stack.config.window_of(layer)).visible(0).expand(seen.queries[0], -1)
            assert weights.shape == (stack.config.heads, *visible.shape)
            assert torch.allclose(weights.sum(-1), torch.ones(weights.shape[:2]), atol=1e-6)
            assert torch.equal(weights > 0, visible.expand_as(weights))


def test_looking_leaves_a_model_as_it_was():
    """Dropout is off while looking, and every module's mode is its own again."""
    model = make(dropout=0.5, attention_dropout=0.5).train()
    model.backbone.blocks[1].eval()
    modes = [module.training for module in model.modules()]
    one = example(model)
    first, second = attention_maps(model, one), attention_maps(model, one)
    assert all(map(torch.equal, first["attention"], second["attention"]))
    assert [module.training for module in model.modules()] == modes


# Feed-forwards


def test_keys_are_what_the_output_map_reads(looked):
    """Rows that enter each `down`, in the order of its slots; and those of experts only where a slot was sent."""
    model, one = looked
    read = []
    networks = [part for part in model.backbone.modules() if isinstance(part, FeedForward)]
    handles = [part.down.register_forward_pre_hook(lambda _, given: read.append(given[0])) for part in networks]
    with torch.no_grad():
        model(pack([one], model.rank))
    for handle in handles:
        handle.remove()
    keys = feed_forward_keys(model, one)
    ours = [network for layer in keys for network in layer]
    assert len(ours) == len(read) == len(networks)
    for mine, theirs in zip(ours, read, strict=True):
        assert torch.equal(mine[mine.abs().sum(-1) > 0], theirs)


def test_experts_have_keys_for_the_slots_that_the_router_sends_them():
    """Put back together with the router's weights, they make what the mixture makes."""
    model = make(experts=4, top_k=2)
    one = example(model)
    mixture = next(part for part in model.backbone.modules() if isinstance(part, Experts))
    passed = []
    handle = mixture.register_forward_hook(lambda _, given, made: passed.append((given[0], made)))
    (keys, *_) = feed_forward_keys(model, one)
    handle.remove()
    ((x, made),) = passed
    best, chosen = mixture.router(x).topk(2, dim=-1)
    total = torch.zeros_like(made)
    for slot in range(len(x)):
        for weight, index in zip(best[slot].softmax(-1), chosen[slot].tolist(), strict=True):
            total[slot] += weight * mixture.experts[index].down(keys[index, slot])
    assert torch.allclose(total, made, atol=1e-5)
    assert ((keys.abs().sum(-1) > 0).sum(0) == 2).all()


def test_an_encoder_shows_its_keys_too():
    model = encoder_decoder()
    keys = feed_forward_keys(model, example(model), "encoder.feed_forward")
    assert [tuple(layer.shape) for layer in keys] == [(1, 14, 24)] * 3
    assert feed_forward_keys(make(), example(make()), "encoder.feed_forward") == []


@pytest.mark.parametrize("kind", ["decoder", "gated", "experts", "conformer"])
def test_memories_promote_what_the_head_reads_in_their_value(kind):
    """Against keys, columns and table directly: the strongest units, where they fire, and what they push towards."""
    model = KINDS[kind]()
    one = example(model, both_ways=kind in BOTH_WAYS)
    found = memories(model, one, 1, "text", top_k=5, tokens=3)
    keys = feed_forward_keys(model, one)[1]
    networks = [part for part in model.backbone.blocks[1].modules() if isinstance(part, FeedForward)]
    columns = torch.stack([network.down.weight.detach() for network in networks])
    strengths = keys.abs().amax(1) * columns.norm(dim=1)
    assert [memory.strength for memory in found] == pytest.approx(strengths.flatten().topk(5).values.tolist())
    table = model.heads["text"].weight.detach()
    for memory in found:
        fired, column = keys[memory.network, :, memory.unit], columns[memory.network, :, memory.unit]
        assert memory.strength == pytest.approx(float(strengths[memory.network, memory.unit]))
        strongest = [slot for slot in fired.abs().argsort(descending=True).tolist() if fired[slot]]
        assert [slot for slot, _ in memory.triggers] == strongest[:3]
        assert all(value == pytest.approx(float(fired[slot])) for slot, value in memory.triggers)
        best = (table @ column * fired[memory.triggers[0][0]].sign()).topk(3)
        assert [value for value, _ in memory.promoted] == best.indices.tolist()
        assert [score for _, score in memory.promoted] == pytest.approx(best.values.tolist(), rel=1e-4)


def test_a_gated_unit_that_fires_below_zero_promotes_the_opposite_of_its_value():
    """Or the test above would hold for a sign that is never needed."""
    model = make(gated=True, activation="silu")
    found = memories(model, example(model), 0, "text", top_k=24)
    assert {memory.triggers[0][1] > 0 for memory in found} == {True, False}


def test_units_that_never_fire_are_no_memories_of_this_input():
    model = make(activation="relu")
    with torch.no_grad():
        model.backbone.blocks[0].feed_forward.sublayer.up.bias.fill_(-1000.0)
    assert memories(model, example(model), 0, "text") == []


def test_a_bias_of_the_head_is_nobodys_memory():
    """Whatever the model says anyway is not promoted by a value."""
    model = make(heads={"text": {"bias": True}})
    one = example(model)
    before = memories(model, one, 0, "text")
    with torch.no_grad():
        model.heads["text"].bias[5] = 1000.0
    after = memories(model, one, 0, "text")
    assert [m.promoted[0][0] for m in after] == [m.promoted[0][0] for m in before]


# The lens


def test_the_lens_ends_with_what_the_model_says(looked):
    """Its last row is the model's own prediction, its first the entry read by the same norm and head."""
    model, one = looked
    lens = logit_lens(model, one, "text", top_k=4)
    entered = []
    with torch.no_grad():
        probe = {"entry": lambda layer, x: entered.append(x)}
        says = model.read("text", model(pack([one], model.rank), probe=probe)).softmax(-1)
        first = model.read("text", model.backbone.final_norm(entered[0])).softmax(-1)
    assert len(lens) == model.backbone.config.depth + 1
    for row, wanted in ((-1, says), (0, first)):
        assert torch.equal(lens.values[row], wanted.topk(4).indices)
        assert torch.allclose(lens.probabilities[row], wanted.topk(4).values, atol=1e-6)


def test_the_lens_needs_a_stream_with_words():
    model = make(heads=("text", "board"), tokenizers={"text": letters("text"), "board": Board()})
    with pytest.raises(ConfigError, match=r"'board'; expected one of: text"):
        logit_lens(model, example(model), "board")


# Heads


@pytest.mark.parametrize("site", ["attention", "encoder.attention", "cross_attention"])
def test_silencing_a_head_is_zeroing_its_columns_of_the_output_map(site):
    """Hidden states and loss are those of a model without these weights; the model's own are never touched."""
    model = encoder_decoder()
    one, cut, kept = example(model), copy.deepcopy(model), copy.deepcopy(model.state_dict())
    stack = cut.encoder if site.startswith("encoder") else cut.backbone
    for layer, head in [(0, 1), (1, 0), (1, 1)]:
        attention = getattr(stack.blocks[layer], site.removeprefix("encoder.")).sublayer
        width = attention.head_dim
        attention.out.weight.data[:, head * width : (head + 1) * width] = 0
    heads = [(0, 1), (1, 0), (1, 1)]
    batch = pack([one])
    with torch.no_grad():
        hidden, whole = model(batch, probe=without_heads(heads, site)), model(batch)
        assert torch.allclose(hidden, cut(batch), atol=1e-5)
        losses = [_loss(m, x, one) for m, x in ((model, hidden), (model, whole))]
    assert not torch.allclose(hidden, whole, atol=1e-2)
    assert ablate_heads(model, one, heads, site) == pytest.approx(losses[0] - losses[1], abs=1e-5)
    assert all(torch.equal(kept[name], tensor) for name, tensor in model.state_dict().items())


def _loss(model: Model, hidden: torch.Tensor, one: Example) -> float:
    target = one.targets["text"]
    nats = -model.read("text", hidden[target.slots]).log_softmax(-1)
    return float(nats[range(len(target.values)), target.values].mean())


def test_importance_is_each_heads_ablation(looked):
    model, one = looked
    found = head_importance(model, one)
    assert set(found.changes) == expected_sites(model)
    for site, changes in found.changes.items():
        stack = model.encoder if site.startswith("encoder") else model.backbone
        assert changes.shape == (stack.config.depth, stack.config.heads)
        last = (stack.config.depth - 1, 1)
        assert float(changes[last]) == pytest.approx(ablate_heads(model, one, [last], site), abs=1e-6)
    assert found.changes["attention"].abs().max() > 1e-3


def test_without_targets_the_models_own_answers_are_the_yardstick():
    model = make(causal=False)
    one = example(model, both_ways=True)
    with torch.no_grad():
        batch = pack([one])
        best = model.read("text", model(batch)).log_softmax(-1).max(-1)
        silenced = model.read("text", model(batch, probe=without_heads([(0, 2)]))).log_softmax(-1)
        change = best.values.mean() - silenced.gather(1, best.indices[:, None]).mean()
    assert ablate_heads(model, one, [(0, 2)]) == pytest.approx(float(change), abs=1e-5)
    assert head_importance(model, one).intact == pytest.approx(-float(best.values.mean()), abs=1e-5)


def test_without_heads_to_read_hidden_states_are_the_yardstick():
    model = make(heads=(), causal=False)
    one = example(model, both_ways=True)
    with torch.no_grad():
        whole, part = model(pack([one])), model(pack([one]), probe=without_heads([(1, 3)]))
    wanted = float((part - whole).pow(2).sum() / whole.pow(2).sum())
    assert ablate_heads(model, one, [(1, 3)]) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("heads", [[(2, 0)], [(0, 4)], [(-1, 0)]])
def test_a_head_that_is_not_there_is_said(heads):
    model = make()
    with pytest.raises(ConfigError, match=r"no head .* 2 layers of 4 heads"):
        ablate_heads(model, example(model), heads)


# The page


class Elements(HTMLParser):
    """Every element of a page with its attributes, the text right inside each, and that all of them are closed."""

    VOID = ("meta", "img")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.texts: dict[str, str] = {}
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(f"{tag}#{dict(attributes).get('id', '')}")

    def handle_startendtag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop().split("#")[0] == tag

    def handle_data(self, data):
        if self.open:
            self.texts[self.open[-1]] = self.texts.get(self.open[-1], "") + data

    def all(self, tag: str, **having) -> list[dict]:
        return [a for name, a in self.found if name == tag and having.items() <= a.items()]


def test_a_page_has_every_layer_and_head_and_needs_nothing_else(looked):
    """It parses, is closed, holds a map of each head, and fetches nothing."""
    model, one = looked
    page = render(look_inside(model, one), "a model")
    elements = Elements(page)
    assert not elements.open
    maps = Counter((a["data-site"], int(a["data-layer"]), int(a["data-head"])) for a in elements.all("button"))
    assert set(maps.values()) == {1}
    assert set(maps) == {
        (site, layer, head)
        for site, layers in attention_maps(model, one).items()
        for layer, weights in enumerate(layers)
        for head in range(len(weights))
    }
    sections = {a["id"] for a in elements.all("section") if "id" in a}
    assert sections == {"input", "attention", "lens", "memories", "heads"}
    assert all(a["src"].startswith("data:") for tag, a in elements.found if "src" in a)
    assert all(a["href"].startswith("#") for tag, a in elements.found if "href" in a)
    fetching = re.search(r"https?:|[\"'(]//|url\(|@import", re.sub(r'data:[^"]+', "", page))
    assert not fetching
    columns = len(elements.all("th", scope="col")) - 4 * model.backbone.config.depth  # those of the memories' tables
    assert columns == one.tokens.length


def test_words_from_outside_are_only_words():
    """Tokens, streams, titles and notes that are markup stay text, in elements and in the script's data."""
    hostile = "<script>alert(1)</script>"

    class Nasty(Letters):
        def decode(self, tokens: Tokens) -> str:
            return f"{hostile}\"'{super().decode(tokens)}"

    name = 'x"><img src=x onerror=alert(1)>'
    nasty, board = Nasty(name), Board('y"><b onclick=alert(1)>')
    nasty.fit([ABC])
    model = make(heads=(name,), tokenizers={"text": nasty, "board": board})
    tokens = Tokens.laid_end_to_end([board.encode(np.eye(2)), nasty.encode("ab")])
    page = render(look_inside(model, with_targets(model, Example(tokens, {}, 4))), hostile, [hostile])
    elements = Elements(page)
    assert len(elements.all("script")) == 2
    assert not [a for _, a in elements.found if any(key.startswith("on") for key in a)]
    assert len(elements.all("img")) == 9 and len(elements.all("b")) == len(nasty.encode("ab").streams[name].values)
    known = json.loads(elements.texts["script#known"])
    assert known["axes"]["target"][-2] == f"{hostile}\"'b"
    assert elements.texts["h1#"] == f"Inside {hostile}"


def test_a_map_can_be_read_back_from_its_picture():
    """The page's script has no other source: hidden is transparent, else (level / LEVELS)² to half a level."""
    assert len(set(figures.PALETTE)) == len(figures.PALETTE) == figures.LEVELS + 2
    weights = torch.tensor([[1.0, 0.0, 0.0], [0.25, 0.75, 0.0], [1e-9, 0.0123, 0.9877]])
    with Image.open(io.BytesIO(figures.heat_map(weights))) as image:
        pixels = torch.from_numpy(np.array(image.convert("RGBA"))).tolist()
    for row, wanted in zip(pixels, weights.tolist(), strict=True):
        for (*colour, seen), weight in zip(row, wanted, strict=True):
            assert bool(seen) == (weight > 0)
            if seen:
                level = figures.PALETTE.index(tuple(colour)) - 1
                assert level / figures.LEVELS == pytest.approx(weight**0.5, abs=0.51 / figures.LEVELS)


def with_maps(shape: tuple[int, int, int], layers: int, seed: int = 0) -> Inspection:
    """A page's contents with maps of pure noise, which no picture format makes smaller."""
    model = make()
    generator = torch.Generator().manual_seed(seed)
    maps = {"attention": [torch.rand(*shape, generator=generator) for _ in range(layers)]}
    return replace(look_inside(model, example(model), importance=False), maps=maps)


@pytest.mark.parametrize(
    ("slots", "left_out"),
    [(128, None), (197, "layers 1, 3, 5, 6, 8, 10"), (400, "slots 256 to 399; layers")],
)
def test_a_page_of_twelve_layers_and_heads_stays_small(slots, left_out):
    """Below 5 MB at the worst, and what does not fit is named."""
    page = render(with_maps((12, slots, slots), 12), "large")
    assert len(page.encode()) < 5e6
    assert len(Elements(page).all("button")) % 12 == 0
    assert ("Left out" in page) == (left_out is not None)
    assert left_out is None or f"Left out, to keep this page small: {left_out}" in page


def test_first_and_last_layers_are_kept():
    layers = atlas.Excerpt.of({"attention": [torch.zeros(12, 256, 256)] * 24}).layers["attention"]
    assert layers[0] == 0 and layers[-1] == 23 and len(layers) == 3


def test_a_head_that_looks_at_its_neighbour_is_called_so():
    eye = torch.eye(6)
    shifted = torch.cat([eye[:1], eye[:-1]])
    assert atlas.pattern(0.7 * shifted + 0.3 * eye) == "previous 70%"
    assert atlas.pattern(eye) == "itself 100%"
    assert atlas.pattern(torch.ones(6, 6) / 6) == ""


def test_pieces_that_are_no_text_are_called_by_their_number():
    """Spaces are seen, a start token says nothing, and a stream of three others has no words alone."""
    tokenizer = Letters("text")
    tokenizer.fit(["a b\n"])
    inspection = look_inside(make(tokenizers={"text": tokenizer}), Example(tokenizer.encode("a \n"), {}))
    assert inspection.target.words == ["#0", "a", "␣", "⏎", "#1"]
    model = Model.of(reduced(preset("gpt2"))).eval()
    assert look_inside(model, Example(Tokens.of("text", torch.tensor([7])), {})).target.words == ["#7"]


def test_slots_on_two_axes_are_drawn_where_they_stand():
    """Each square's share of the picture, in a sequence that goes on with words."""
    tokenizers = {"text": letters("text"), "board": Board()}
    model = make(tokenizers=tokenizers)
    board = tokenizers["board"].encode(np.arange(6).reshape(2, 3))
    tokens = Tokens.laid_end_to_end([tokenizers["text"].encode(""), board, tokenizers["text"].encode("ab")])
    axis = look_inside(model, Example(tokens, {}), importance=False).target
    (grid,) = axis.grids
    assert list(grid.cells) == [2, 3, 4, 5, 6, 7]
    assert grid.cells[6] == pytest.approx((1 / 3, 1 / 2, 1 / 3, 1 / 2))
    assert axis.words[6] == "board 1,1" and axis.chips == [0, 1, 8, 9, 10, 11]
    with Image.open(io.BytesIO(grid.png)) as image:
        assert image.size == (3, 2)


def test_a_picture_that_patches_overhang_is_covered_to_its_edge():
    """40 x 20 pixels in patches of 16: the last column and row are narrower than the others."""
    tokenizer = registry.tokenizers.create("image", {"channels": 1})
    model = make(tokenizers={"text": letters("text"), "image": tokenizer})
    tokens = tokenizer.encode(np.arange(800, dtype=np.uint8).reshape(20, 40))
    (grid,) = look_inside(model, Example(tokens, {}, tokens.length), importance=False).target.grids
    assert grid.cells[0] == pytest.approx((0, 0, 16 / 40, 16 / 20))
    for left, top, width, height in grid.cells.values():
        assert left + width <= 1 + 1e-9 and top + height <= 1 + 1e-9
    assert grid.cells[5][0] + grid.cells[5][2] == pytest.approx(1)


def test_what_follows_on_a_line_is_drawn_as_a_strip(toys):
    dots = registry.tokenizers.create("dots", {})
    model = make(tokenizers={"text": letters("text"), "dots": dots})
    tokens = Tokens.laid_end_to_end([dots.encode(np.ones((3, 2))), dots.encode(np.eye(2)), letters("text").encode("a")])
    axis = look_inside(model, Example(tokens, {}), importance=False).target
    assert [(strip.name, strip.slots) for strip in axis.strips] == [("dots 1", [0, 1, 2]), ("dots 2", [3, 4])]
    assert axis.words[:5] == ["dots 1 0", "dots 1 1", "dots 1 2", "dots 2 0", "dots 2 1"]


@pytest.mark.parametrize("name", names())
def test_every_published_architecture_can_be_looked_into(name):
    """Small twins: whatever one lacks is absent from its page, and the page is whole."""
    torch.manual_seed(0)
    model = Model.of(reduced(preset(name))).eval()
    inspection = look_inside(model, stand_in(model, "seven words"), importance=False)
    elements = Elements(render(inspection, name))
    assert not elements.open
    assert len(elements.all("button")) == sum(len(weights) for layers in inspection.maps.values() for weights in layers)
    assert inspection.maps


def test_a_stack_without_attention_has_no_atlas():
    model = make(recipe=("feed_forward",), positions={"type": "none"})
    page = render(look_inside(model, example(model)), "plain")
    sections = {a.get("id") for a in Elements(page).all("section")}
    assert "lens" in sections and not {"attention", "heads"} & sections


def test_nothing_can_be_seen_in_nothing():
    with pytest.raises(ConfigError, match="no slots"):
        look_inside(make(), Example(Tokens.of("text", torch.zeros(0, dtype=torch.int64)), {}))


# The command


def anyformer(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return int(end.value.code or 0)


@pytest.fixture
def saved(toys, tmp_path):
    """A checkpoint that reads letters and pictures, on two axes if asked to."""

    def save(model: Model):
        af.save(model, tmp_path / "run")
        return tmp_path / "run"

    return save


def test_inspect_writes_a_page_about_a_checkpoint(saved, tmp_path, capsys):
    run, out = saved(make()), tmp_path / "pages" / "page.html"
    assert anyformer("inspect", "--checkpoint", run, "--prompt", "abba", "--out", out) == 0
    assert str(out) in capsys.readouterr().out
    page = out.read_text(encoding="utf-8")
    assert len(Elements(page).all("button")) == 8
    assert "loss per target" in page and "random" not in page


def test_inspect_reads_pictures_and_sees_them_both_ways(saved, tmp_path):
    picture = registry.tokenizers.create("image", {"channels": 1})
    run = saved(make(tokenizers={"text": letters("text"), "image": picture}))
    Image.fromarray(np.zeros((32, 48), np.uint8)).save(tmp_path / "p.png")
    where = ("--checkpoint", run, "--out", tmp_path / "page.html")
    assert anyformer("inspect", *where, "--image", tmp_path / "p.png", "--prompt", "ab", "--quick") == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "the first 6 see each other both ways" in page
    assert 'id="heads"' not in page and 'class="grid"' in page


def test_inspect_puts_inputs_on_their_axes(saved, tmp_path):
    """What an encoder reads is the source; without anything else the decoder answers by itself, or as it is told."""
    run = saved(encoder_decoder())
    where = ("inspect", "--checkpoint", run, "--out", tmp_path / "page.html", "--quick", "--input", "other=abc")
    said = {}
    for more in ((), ("--prompt", "ab"), ("--answer", "ab")):
        assert anyformer(*where, *more) == 0
        page = (tmp_path / "page.html").read_text(encoding="utf-8")
        known = json.loads(Elements(page).texts["script#known"])
        assert known["axes"]["source"] == ["#0", "a", "b", "c", "#1"]
        said[more] = known["axes"]["target"]
        assert ("own greedy answer" in page) == (more == ())
    assert said["--prompt", "ab"] == ["#0", "a", "b"]
    assert said["--answer", "ab"] == ["#0", "#0", "a", "b"]
    assert said[()][0] == "#0" and len(said[()]) > 1


def test_inspect_draws_an_architecture_by_name(tmp_path, monkeypatch):
    """A preset has no tokenizers and no training, and its page says both."""
    small = Architecture.of({"backbone": STACK, "streams": {"text": {"vocab_size": 9}}, "heads": {"text": {}}}, "model")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "tiny.yaml").write_text(yaml.safe_dump(small.as_json()))
    monkeypatch.setattr(presets, "root", lambda: tmp_path)
    out = tmp_path / "page.html"
    assert anyformer("inspect", "--model", "tiny", "--prompt", "hello", "--out", out) == 0
    page = out.read_text(encoding="utf-8")
    assert "The weights are random" in page and "no tokenizer" in page
    assert json.loads(Elements(page).texts["script#known"])["axes"]["target"] == [f"#{ord(c) % 9}" for c in "hello"]


def test_inspect_reads_published_weights(tmp_path):
    """A directory in another library's layout; without tokenizers a prompt's bytes stand for values."""
    weights = Model.of(reduced(preset("bert-base")))
    to_pretrained(weights, tmp_path / "bert")
    out = tmp_path / "page.html"
    assert anyformer("inspect", "--model", tmp_path / "bert", "--prompt", "seven", "--quick", "--out", out) == 0
    page = out.read_text(encoding="utf-8")
    assert "random" not in page and "no tokenizer" in page
    assert len(Elements(page).all("button")) == 8


@pytest.mark.parametrize("name", ["vit-b-16", "gpt2", "t5-small", "decision-transformer", "wav2vec2-conformer"])
def test_a_stand_in_keeps_within_the_context(name):
    model = Model.of(reduced(preset(name)))
    one = stand_in(model, "a long prompt " * 100)
    for axis, context in zip(
        (one.source, one), (model.architecture.context[0], model.architecture.context[-1]), strict=True
    ):
        assert axis is None or 0 < axis.tokens.length <= context


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--prompt", "a"], 2, "either --checkpoint"),
        (["--model", "gpt2", "--checkpoint", "x", "--prompt", "a"], 2, "either --checkpoint"),
        (["--model", "gtp2", "--prompt", "a"], 2, "Did you mean 'gpt2'"),
        (["--checkpoint", "nowhere", "--prompt", "a"], 1, "no such checkpoint"),
        (["--checkpoint", "RUN"], 2, "Nothing to go on"),
        (["--checkpoint", "RUN", "--image", "x.png"], 2, "Unknown tokenizer 'image'"),
        (["--checkpoint", "RUN", "--prompt", "a", "--stream", "txt"], 2, "Did you mean 'text'"),
        (["--checkpoint", "RUN", "--prompt", "a", "--out", "RUN"], 2, "cannot be written"),
    ],
)
def test_a_slip_is_one_sentence(saved, tmp_path, capsys, monkeypatch, arguments, status, said):
    monkeypatch.chdir(tmp_path)
    run = str(saved(make()))
    assert anyformer("inspect", *(run if a == "RUN" else a for a in arguments)) == status
    assert said in capsys.readouterr().err
