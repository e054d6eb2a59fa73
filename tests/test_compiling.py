"""Compiled blocks say what they said, and batches of other lengths need no other graph."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch._dynamo.utils
from runs import learner, mixture, registered, trainer
from torch.nn.attention.flex_attention import flex_attention

import anyformer as af
from anyformer.architecture import BackboneConfig
from anyformer.backbone import Backbone
from anyformer.errors import ConfigError
from anyformer.mask import Mask
from anyformer.sublayers import Memory, backends
from anyformer.sublayers.attend import _block_mask as block_mask

LENGTHS = [
    (5, 9),
    (17,),
    (3, 11, 4),
    (20, 1),
    (16, 16),
    (2, 3, 4, 5),
    (40,),
    (7, 7, 7),
    (9, 30),
    (31, 2, 2, 2, 2),
    (64,),
]
"""More batches than torch.compile makes graphs for before it gives up."""

KINDS: dict[str, dict[str, Any]] = {
    "learned positions, GELU": {"activation": "gelu", "positions": {"type": "learned", "size": 64}},
    "rotary, gated, rms": {"positions": {"type": "rotary"}, "gated": True, "norm": "rms", "activation": "silu"},
    "window and buckets, norms behind": {"window": 5, "positions": {"type": "buckets"}, "norm_placement": "post"},
    "conformer": {
        "recipe": ["half feed_forward", "attention", "convolution", "half feed_forward"], "causal": False,
        "end_norm": True,
    },
    "decoder": {"recipe": ["attention", "cross_attention", "feed_forward"], "memory_dim": 8},
}  # fmt: skip


class Graphs:
    """A back end that runs each graph as it is, and counts them."""

    def __init__(self) -> None:
        torch._dynamo.reset()
        self.count = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: Any) -> Any:
        self.count += 1
        return graph.forward


def stack(settings: dict[str, Any]) -> Backbone:
    torch.manual_seed(0)
    return Backbone(BackboneConfig.of({"dim": 16, "depth": 3, "heads": 2, **settings}, "backbone"))


def passed(stack: Backbone, lengths: tuple[int, ...]) -> list[torch.Tensor]:
    """What comes out, and the gradient of the first weight of the last block."""
    torch.manual_seed(1)
    x, positions = (
        torch.randn(sum(lengths), 16, requires_grad=True),
        torch.cat([torch.arange(n) for n in lengths])[:, None],
    )
    mask = Mask.causal(lengths) if stack.config.causal else Mask.bidirectional(lengths)
    memory = Memory(torch.randn(2 * sum(lengths), 8), tuple(2 * n for n in lengths))
    out = stack(x, positions, mask, memory)
    weight = next(stack.blocks[-1].parameters())
    return [out, *torch.autograd.grad(out.square().sum(), weight)]


@pytest.mark.parametrize("kind", KINDS)
def test_one_graph_serves_all_lengths(kind):
    """In all blocks, for eleven batches."""
    graphs, plain, fused = Graphs(), stack(KINDS[kind]), stack(KINDS[kind])
    names = list(fused.state_dict())
    fused.compile_blocks(graphs)
    counts = []
    for lengths in LENGTHS:
        for found, wanted in zip(passed(fused, lengths), passed(plain, lengths), strict=True):
            torch.testing.assert_close(found, wanted)
        counts.append(graphs.count)
    assert counts == [1] * len(LENGTHS)
    assert list(fused.state_dict()) == names


def test_few_graphs_of_fused_attention_serve_all_documents():
    """FlexAttention, which is compiled on a GPU: one for the first batch's number of blocks, one for any, one for a
    single block; however many documents there are, and of what lengths."""
    graphs = Graphs()
    run = torch.compile(flex_attention, dynamic=True, backend=graphs)
    for lengths in [(50, 90), (170,), (30, 110, 40), (70,) * 5, (400,), (9, 9), (64,)]:
        mask = Mask.causal(lengths)
        q, k, v = (torch.randn(1, 2, sum(lengths), 4) for _ in range(3))
        found = run(q, k, v, block_mask=block_mask(mask, q.device), scale=0.5)
        wanted = backends["eager"](*(x[0].transpose(0, 1) for x in (q, k, v)), mask, 0.5, None, 0.0)
        torch.testing.assert_close(found[0].transpose(0, 1), wanted)
    assert graphs.count <= 3


def test_what_has_no_one_graph_is_left_alone():
    """Experts: which tokens each gets follows from the data."""
    graphs, settings = Graphs(), {"experts": 3, "top_k": 1}
    plain, mixed = stack(settings), stack(settings)
    mixed.compile_blocks(graphs)
    torch.testing.assert_close(passed(mixed, (5, 9)), passed(plain, (5, 9)))
    assert graphs.count == 0
    recurrent = {"type": "recurrent_encoder", "dim": 4, "hidden": 4}
    with pytest.raises(ConfigError, match="recurrent"):
        af.Model({}, recurrent, {}, streams={"letters": {"vocab_size": 5}}).compile_blocks()


def test_a_compiled_run(tmp_path):
    """Batches of other sizes, judging and writing: as few graphs as there are ways to go through a block (training,
    judging; a handful of tokens, more of them), the losses of a plain run, and a checkpoint like any other."""
    torch._dynamo.reset()
    graphs = torch._dynamo.utils.counters["stats"]
    before, found = graphs["unique_graphs"], []
    with registered():
        for compiler in (None, "eager"):
            learning = learner(compile=compiler)
            trainer(tmp_path / str(compiler), 6, limit_val_batches=2, val_check_interval=3).fit(
                learning, datamodule=mixture(epoch_steps=6)
            )
            found.append(learning.model.state_dict())
        af.load(tmp_path / "eager" / "last")
    assert before < graphs["unique_graphs"] <= before + 4
    torch.testing.assert_close(found[1], found[0])
