"""The same small GPT by five hands: learned or rotary positions, norms before, exact GELU, biases, no dropout.

Each is a function from sizes (`vocab`, `dim`, `depth`, `heads`, `context`) to a module. transformers' and ours have the
same weights, and the `activation` that settings may name; the others have weights of their own, of the same shapes.
"""

from __future__ import annotations

from collections.abc import Callable
from tempfile import TemporaryDirectory

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anyformer.bench import Work


def transformers_gpt(s) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=s.vocab, n_positions=s.context, n_embd=s.dim, n_layer=s.depth, n_head=s.heads,
        activation_function=getattr(s, "activation", "gelu"), resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def our_gpt(s) -> nn.Module:
    """With transformers' weights."""
    import anyformer as af

    with TemporaryDirectory() as folder:
        transformers_gpt(s).save_pretrained(folder)
        return af.from_pretrained(folder)


def litgpt_gpt(s) -> nn.Module:
    from litgpt.model import GPT, Config

    torch.manual_seed(0)
    return GPT(
        Config(
            block_size=s.context, vocab_size=s.vocab, padded_vocab_size=s.vocab, n_layer=s.depth, n_head=s.heads,
            n_embd=s.dim, rotary_percentage=1.0, parallel_residual=False, bias=True, norm_class_name="LayerNorm",
            mlp_class_name="GptNeoxMLP", intermediate_size=4 * s.dim,
        )
    )  # fmt: skip


def x_transformers_gpt(s) -> nn.Module:
    from x_transformers import Decoder, TransformerWrapper

    torch.manual_seed(0)
    layers = Decoder(dim=s.dim, depth=s.depth, heads=s.heads, attn_dim_head=s.dim // s.heads, attn_flash=True)
    return TransformerWrapper(num_tokens=s.vocab, max_seq_len=s.context, attn_layers=layers, tie_embedding=True)


class TorchGPT(nn.Module):
    """torch.nn's own encoder, with a causal mask, between a table and itself."""

    def __init__(self, s) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.places = nn.Embedding(s.vocab, s.dim), nn.Embedding(s.context, s.dim)
        layer = nn.TransformerEncoderLayer(
            s.dim, s.heads, 4 * s.dim, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, s.depth, nn.LayerNorm(s.dim), enable_nested_tensor=False)

    def forward(self, ids: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(ids.shape[1], device=ids.device)
        x = self.table(ids) + self.places.weight[: ids.shape[1]]
        return F.linear(self.encoder(x, mask=mask, is_causal=True), self.table.weight)


def next_token_loss(logits: Tensor, ids: Tensor) -> Tensor:
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten())


def documents(ids, stream: str = "text"):
    """A packed batch of these documents, each value to be predicted from the slot before it."""
    import numpy as np

    import anyformer as af
    from anyformer.objectives import NextToken

    objective, rng = NextToken(), np.random.default_rng(0)
    return af.pack([objective.prepare({stream: af.Tokens.of(stream, one)}, rng) for one in ids])


def our_loss(model, batch) -> Tensor:
    import anyformer as af
    from anyformer.objectives import NextToken

    targets = batch.targets[""]
    return NextToken().loss(af.ForwardPass(model, batch), targets).mean()


def stepped(model: nn.Module, loss: Callable[[], Tensor], s, tokens: float) -> Work:
    """Forward, backward, AdamW; the answer is the loss before the first step."""
    model.to(s.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def run() -> float:
        with torch.autocast(s.device, torch.bfloat16, enabled=s.precision == "bf16"):
            value = loss()
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        return tokens

    with torch.no_grad(), torch.autocast(s.device, torch.bfloat16, enabled=s.precision == "bf16"):
        first = float(loss())
    return Work(run, [first])


def compiler(s) -> str:
    """torch.compile's back end: at toy size one that compiles nothing. What it makes is made anew, in this process, so
    that its CPU seconds are told."""
    if s.toy:
        return "eager"
    import torch._inductor.config as inductor

    inductor.force_disable_caches, inductor.compile_threads = True, 1
    return "inductor"
