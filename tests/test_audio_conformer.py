"""The audio embedder: its slots follow the rule, and no clip touches another."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anyformer.errors import ConfigError
from anyformer.tokens import Stream
from anyformer_tokenizers.audio import AudioTokenizer

SPEC = AudioTokenizer().streams[0]


def packed(clips: list[torch.Tensor]) -> Stream:
    items = torch.tensor([[len(clip), SPEC.slots(len(clip))] for clip in clips])
    return Stream(torch.cat(clips), torch.arange(int(items[:, 1].sum())), items)


@pytest.mark.parametrize("subsampling", [1, 2, 4, 8])
def test_slots_follow_the_rule(subsampling):
    """The embedder makes exactly spec.slots(m) rows of m frames, for every m."""
    spec = AudioTokenizer(mels=8, subsampling=subsampling).streams[0]
    embedder = spec.embedder(16)
    for frames in range(1, 51):
        items = torch.tensor([[frames, spec.slots(frames)]])
        assert embedder(torch.randn(frames, 8), items).shape == (spec.slots(frames), 16)


@settings(max_examples=15, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    layers=st.integers(1, 2),
    seed=st.integers(0, 2**16),
)
def test_a_clip_is_the_same_alone_or_beside_others(lengths, layers, seed):
    """Output and input gradient, in eval and train mode, in any order: no convolution, attention or norm
    crosses from one clip to the next."""
    torch.manual_seed(seed)
    embedder = AudioTokenizer(layers=layers, heads=2, kernel=7).streams[0].embedder(16)
    clips = [torch.randn(length, 80) for length in lengths]
    order = torch.randperm(len(clips)).tolist()
    for mode in (True, False):
        embedder.train(mode)
        alone = [embedded(embedder, [clip]) for clip in clips]
        together, gradients = embedded(embedder, [clips[i] for i in order])
        sizes = [SPEC.slots(len(clips[i])) for i in order]
        frames = [len(clips[i]) for i in order]
        for i, out, gradient in zip(order, together.split(sizes), gradients.split(frames), strict=True):
            assert torch.allclose(out, alone[i][0], atol=1e-5)
            assert torch.allclose(gradient, alone[i][1], atol=1e-5)


def embedded(embedder, clips):
    """The embedder's rows, and the gradient of a fixed function of them at its input."""
    stream = packed(clips)
    values = stream.values.clone().requires_grad_()
    out = embedder(values, stream.items)
    (out**3).sum().backward()
    return out.detach(), values.grad


def test_slots_of_a_clip_see_each_other():
    """The last frame reaches the first slot (attention is bidirectional), and order matters (rotary)."""
    torch.manual_seed(0)
    embedder = SPEC.embedder(32).eval()
    clip = torch.randn(400, 80)
    changed = clip.clone()
    changed[-1] += 1
    first = embedder(clip, packed([clip]).items)[0]
    assert (embedder(changed, packed([clip]).items)[0] - first).abs().max() > 1e-7


def test_a_width_that_the_heads_do_not_divide_is_named():
    """When the model is built."""
    with pytest.raises(ConfigError, match="heads=4"):
        SPEC.embedder(30)
