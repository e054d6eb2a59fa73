"""Architectures are told apart in words: everything that differs is said, and nothing that is the same."""

from __future__ import annotations

import inspect
from dataclasses import fields, replace
from itertools import pairwise
from typing import Any

import pytest

from anyformer.architecture import (
    Architecture,
    BackboneConfig,
    HeadConfig,
    RecurrentConfig,
    StreamConfig,
    differences,
    names,
    parameters,
    preset,
    reduced,
    words,
)
from anyformer.cli import main
from anyformer.model.embedders import EMBEDDERS
from anyformer.sublayers import ACTIVATIONS, SUBLAYERS, normalisation, positions


def told(before: Architecture, after: Architecture) -> list[str]:
    return [f"{difference.group}, {difference}" for difference in differences(before, after)]


# Every switch has words


@pytest.mark.parametrize(
    ("config", "table"),
    [
        (BackboneConfig, words.BACKBONE),
        (RecurrentConfig, words.RECURRENT),
        (HeadConfig, words.HEAD),
        (StreamConfig, words.STREAM),
        (Architecture, words.MODEL),
    ],
)
def test_every_field_is_in_a_table_of_words(config, table):
    """A new switch is added to `architecture/words.py`, or to what changes nothing there."""
    apart = {"backbone", "encoder", "source", "heads", "streams"} if config is Architecture else set()
    silent = words.SILENT.get(config.__name__, set())
    assert {field.name for field in fields(config)} == set(table) | silent | apart
    assert not silent & set(table)


def test_every_name_has_a_word():
    assert set(words.ACTIVATIONS) == set(ACTIVATIONS)
    assert set(words.NORMS) == set(normalisation.NORMS)
    assert set(words.ITEM_NORMS) == set(normalisation.ITEM_NORMS)
    assert set(words.SUBLAYERS) == set(SUBLAYERS)


@pytest.mark.parametrize(
    ("kinds", "makers", "given"),
    [(words.POSITIONS, positions.SCHEMES, 1), (words.EMBEDDERS, EMBEDDERS, 2)],
    ids=["positions", "embedders"],
)
def test_settings_of_what_is_made_by_type_have_words_and_the_same_defaults(kinds, makers, given):
    assert set(kinds) == set(makers)
    for name, maker in makers.items():
        parameters = list(inspect.signature(maker).parameters.values())[given:]
        defaults = {p.name: words.REQUIRED if p.default is p.empty else p.default for p in parameters}
        assert {key: default for key, (default, _) in kinds[name].settings.items()} == defaults, name


RICH: dict[str, Any] = {
    "dim": 24, "heads": 4, "depth": 2, "kv_heads": 2, "experts": 3, "embed_norm": True, "positions": {"type": "alibi"},
    "recipe": ("half feed_forward", "attention", "cross_attention", "convolution"),
    "causal_convolution": True,
}  # fmt: skip
"""A stack in which no switch is without effect."""

CHANGES: dict[str, Any] = {
    "dim": 32, "heads": 8, "depth": 3, "kv_heads": 1, "head_dim": 10, "hidden": 5, "memory_dim": 7,
    "recipe": ("attention", "cross_attention", "convolution", "feed_forward"), "norm": "rms", "norm_eps": 1e-6,
    "norm_placement": "post", "end_norm": True, "final_norm": False, "final_norm_eps": 1e-7, "causal": False,
    "attention_bias": "q", "score_scale": 0.7, "score_scale_by_depth": True, "window": (None, 3),
    "chunk": (4, 1), "activation": "silu",
    "gated": True, "feed_forward_bias": False, "experts": 4, "top_k": 1, "balance": 0.5, "kernel": 7,
    "convolution_norm": "batch", "convolution_bias": False, "causal_convolution": False, "positions": {"type": "none"},
    "rank": 3, "embed_dim": 9, "embed_norm": False, "embed_norm_eps": 1e-3, "embed_shift": True, "dropout": 0.3,
    "attention_dropout": 0.4, "init_std": 0.05,
}  # fmt: skip
WITH_IT = {"heads": {"key and value heads", "width of a head"}, "dim": {"width of a head", "width of the feed-forward"}}
"""What changes along, because it follows from it."""


def test_a_change_is_listed_for_every_switch():
    assert set(CHANGES) == {field.name for field in fields(BackboneConfig)}


@pytest.mark.parametrize("field", CHANGES)
def test_a_switch_that_differs_is_told_and_no_other(field):
    stack = BackboneConfig(**RICH)
    before, after = (Architecture(backbone=s) for s in (stack, replace(stack, **{field: CHANGES[field]})))
    found = [difference for difference in differences(before, after) if difference.group != "cost"]
    switch = words.BACKBONE[field]
    assert {(d.group, d.label) for d in found if d.label not in WITH_IT.get(field, set())} == {
        (switch.group, switch.label)
    }
    assert all(difference.before != difference.after for difference in found)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("vocab_size", 12), ("rank", 2), ("overlay", True), ("input", False)),
        ("embedder", {"type": "linear", "norm_eps": 1e-6}),
    ],
)
def test_every_setting_of_a_stream_is_told(field, value):
    before = StreamConfig(vocab_size=11)
    after = replace(before, **{field: value})
    assert told(*(Architecture(backbone={"dim": 8, "heads": 2}, streams={"x": s}) for s in (before, after)))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("tie", True), ("tie", "y"), ("bias", True), ("dense", 9), ("activation", "relu"), ("norm", False)),
        *(("norm_eps", 1e-7), ("scaled", True), ("squash", "tanh"), ("offset", True)),
    ],
)
def test_every_setting_of_a_head_is_told(field, value):
    before = HeadConfig(norm=True)
    after = replace(before, **{field: value})
    own = {"streams": {"x": {"vocab_size": 5}}, "backbone": {"dim": 8, "heads": 2}}
    before, after = (Architecture(heads={"x": head}, **own) for head in (before, after))
    (difference,) = [d for d in differences(before, after) if d.group == "heads"]
    assert difference.label == "x"


@pytest.mark.parametrize(
    ("field", "value"), [("scale", True), ("context", (9,)), ("source", ("x",)), ("encoder", None), ("family", "bert")]
)
def test_every_setting_of_a_model_is_told_but_for_its_family(field, value):
    stack = {"dim": 8, "heads": 2}
    before = Architecture(backbone=stack, encoder=stack, streams={"x": {"features": 2}}, context=(5, 5))
    assert bool(told(before, replace(before, **{field: value}))) == (field != "family")


@pytest.mark.parametrize("field", ["dim", "hidden", "align", "maxout", "memory_dim", "dropout", "init_std", "rank"])
def test_every_setting_of_a_recurrent_stack_is_told(field):
    before = RecurrentConfig("recurrent_decoder", 4, 4, 4, 4, memory_dim=8)
    after = replace(before, **{field: {"dropout": 0.1, "init_std": None}.get(field, 6)})
    assert told(Architecture(backbone=before), Architecture(backbone=after))


# What is told reads well


def test_from_bert_to_roberta_to_electra():
    bert, roberta, electra = map(preset, ("bert-base", "roberta-base", "electra-base-discriminator"))
    assert told(bert, roberta) == [
        "block, epsilon of the norms: 1e-12 -> 1e-5",
        "positions, positions: 512 rows -> 514 rows, the first 2 rows unused",
        "embeddings, text: a table of 30,522 -> a table of 50,265",
        "embeddings, text.segment: a table of 2 -> a table of 1",
        "heads, text: a norm of epsilon 1e-12 -> a norm of epsilon 1e-5",
        "heads, next_sentence: a layer of 768, tanh, a matrix of its own, a bias, 2 outputs -> none",
        "cost, parameters: 110.1M -> 124.7M",
        "cost, training FLOPs per token: 714.0M -> 801.4M",
    ]
    assert "heads, replaced: none -> a layer of 768, GELU (exact), a matrix of its own, a bias, 1 output" in told(
        roberta, electra
    )


def test_from_many_keys_to_one():
    models = map(preset, ("llama-mha", "llama-gqa", "llama-mqa"))
    first, second = (told(before, after) for before, after in pairwise(models))
    assert first == [
        "attention, key and value heads: one for each head (multi-head) -> 8, each for 4 heads (grouped-query)",
        "cost, parameters: 1.205B -> 1.104B",
        "cost, training FLOPs per token: 7.641B -> 7.037B",
        "cost, keys and values per token: 131.1kB -> 32.77kB",
    ]
    assert second[0].endswith("(grouped-query) -> one for all 32 heads (multi-query)")
    assert second[-1] == "cost, keys and values per token: 32.77kB -> 4.096kB"


def test_what_both_stacks_change_is_told_once_and_what_one_does_of_that_one():
    small, base, bart = map(preset, ("t5-v1.1-small", "t5-v1.1-base", "bart-base"))
    sizes = [line for line in told(small, base) if line.startswith("size")]
    assert sizes == [
        "size, width: 512 -> 768",
        "size, blocks: 8 -> 12",
        "size, heads: 6 -> 12",
        "size, width of the feed-forward: 1,024 -> 2,048",
    ]
    schemes = [line for line in told(base, bart) if line.startswith("positions")]
    assert [line.partition(":")[0] for line in schemes] == [
        "positions, in the encoder, positions",
        "positions, in the decoder, positions",
    ]


def test_costs_that_round_alike_are_told_in_full():
    lines = told(preset("whisper-large-v2"), preset("whisper-large-v3"))
    assert "cost, parameters: 1,543,304,960 -> 1,543,490,560" in lines


@pytest.mark.parametrize("name", names())
def test_a_model_does_not_differ_from_itself_but_from_its_small_twin(name):
    model = preset(name)
    assert not told(model, preset(name))
    assert any(line.startswith("size") for line in told(model, reduced(model)))


def test_models_of_equal_parameters_may_differ_and_others_always_do():
    """Among neighbours in the list: whoever has other parameters is told apart."""
    for one, other in pairwise(names()):
        before, after = preset(one), preset(other)
        assert told(before, after) or parameters(before) == parameters(after)


# The command


def diff(capsys: pytest.CaptureFixture, *models: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as end:
        main(["diff", *models])
    return int(end.value.code or 0), capsys.readouterr().out


def test_three_models_are_two_differences(capsys):
    status, page = diff(capsys, "bert-base", "roberta-base", "electra-base-discriminator")
    assert status == 0
    assert [line for line in page.splitlines() if line and not line.startswith(" ")] == [
        "bert-base -> roberta-base",
        "roberta-base -> electra-base-discriminator",
    ]
    assert "\n  block\n    epsilon of the norms: 1e-12 -> 1e-5\n" in page
    assert max(map(len, page.splitlines())) <= 120


def test_models_without_a_difference_say_so(capsys):
    assert diff(capsys, "whisper-large-v1", "whisper-large-v2") == (
        0,
        "whisper-large-v1 -> whisper-large-v2\n\n  no switch differs\n",
    )


def test_a_file_of_ones_own_is_compared_too(capsys, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("like: gpt2\nbackbone: {activation: relu}\n")
    assert diff(capsys, "gpt2", str(file)) == (
        0,
        f"gpt2 -> {file}\n\n  feed-forward\n    activation: GELU (by tanh) -> ReLU\n",
    )


@pytest.mark.parametrize(
    ("models", "sentence"),
    [
        (["gpt2", "gtp3-xl"], "Did you mean 'gpt3-xl'?"),
        (["gpt2"], "required"),
        (["gpt2", "none.yaml"], "cannot be read"),
    ],
)
def test_what_cannot_be_compared_is_a_wrong_command(capsys, models, sentence):
    with pytest.raises(SystemExit) as end:
        main(["diff", *models])
    assert end.value.code == 2 and sentence in capsys.readouterr().err
