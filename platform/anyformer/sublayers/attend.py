"""Scaled dot-product attention over packed documents: one call, several back ends, one definition.

Every back end receives packed `q [queries, heads, head_dim]`, `k, v [keys, kv_heads, head_dim]` and a `Mask`
and must agree with `eager`, which follows the mask's definition word by word. One that cannot honour a mask
raises MaskError; none attends to something else in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from anyformer.errors import MaskError, unknown
from anyformer.mask import Mask
from anyformer.sublayers.cache import packed
from anyformer.sublayers.calls import Call, Plan
from anyformer.sublayers.positions import Bias

Backend = Callable[[Tensor, Tensor, Tensor, Mask, float, "Bias | None", float], Tensor]


def attend(
    q: Float[Tensor, "queries heads head_dim"],
    k: Float[Tensor, "keys kv_heads head_dim"] | Float[Tensor, "documents kv_heads longest head_dim"],
    v: Float[Tensor, "keys kv_heads head_dim"] | Float[Tensor, "documents kv_heads longest head_dim"],
    mask: Mask,
    *,
    scale: float | None = None,
    bias: Bias | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "queries heads head_dim"]:
    """softmax(scale · q kᵀ + bias) v within each document, masked (arXiv:1706.03762 eq. 1).

    Query head h reads key head h // (heads / kv_heads) (grouped queries, arXiv:2305.13245). A query of a document
    with nothing to see gets zeros. scale: head_dim ** -0.5 by default. dropout: of attention weights. The back end is
    chosen by device, or by `set_backend`. k and v may also be as a cache keeps them, of each document its first.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if k.dim() == 4:
        if bias is None and not dropout and not _forced and mask.is_step:
            return _stepped(q, k, v, mask, scale)
        k, v = packed(k, mask), packed(v, mask)
    if sum(mask.queries) != len(q) or sum(mask.keys) != len(k):
        raise MaskError(
            f"The mask covers {sum(mask.queries)} queries and {sum(mask.keys)} keys, "
            f"but attention got {len(q)} and {len(k)}. Build the mask from the same batch."
        )
    if not len(q):
        return q  # nobody asks: no kernel needs to cope with that
    if not len(k):
        return torch.zeros_like(q)  # nor with nothing to see
    backend = _forced[-1] if _forced else _default_backend(q, bias, dropout)
    return backends[backend](q, k, v, mask, scale, bias, dropout)


def _default_backend(q: Tensor, bias: Bias | None, dropout: float) -> str:
    return "flex" if q.is_cuda and bias is None and not dropout else "documents"


def _stepped(q: Tensor, k: Tensor, v: Tensor, mask: Mask, scale: float) -> Tensor:
    """All documents in one call, from where their keys and values are kept. Query heads that share keys are so many
    queries of them."""
    grouped = q.reshape(k.shape[0], k.shape[1], -1, q.shape[-1])
    seen = mask.last_sees(k.shape[2], q.device)
    return F.scaled_dot_product_attention(grouped, k, v, attn_mask=seen, scale=scale).reshape(q.shape)


_forced: list[str] = []


def is_backend_set() -> bool:
    """Whether the attention back end is a choice of `set_backend`."""
    return bool(_forced)


@contextmanager
def set_backend(name: str) -> Generator[None]:
    """Use one back end inside a `with` block, on every device."""
    if name not in backends:
        raise unknown("attention back end", name, backends)
    _forced.append(name)
    try:
        yield
    finally:
        _forced.pop()


def attention_weights(
    q: Float[Tensor, "queries heads head_dim"],
    k: Float[Tensor, "keys kv_heads head_dim"],
    mask: Mask,
    scale: float,
    bias: Bias | None = None,
) -> list[Float[Tensor, "heads queries keys"]]:
    """What each query attends to, document by document, in float32 or better: the definition of `attend`."""
    groups = q.shape[1] // k.shape[1]
    q, k = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (q, k))
    weights = []
    for document, (queries, keys) in enumerate(zip(q.split(mask.queries), k.split(mask.keys), strict=True)):
        scores = torch.einsum("qhd,khd->hqk", queries, keys.repeat_interleave(groups, 1)) * scale
        if bias is not None:
            scores = scores + bias(document, queries, keys)
        hidden = ~mask.visible(document).to(q.device)
        some = hidden & ~hidden.all(-1, keepdim=True)  # a row of nothing but -inf would be NaN
        weights.append(scores.masked_fill(some, -torch.inf).softmax(-1).masked_fill(hidden, 0.0))
    return weights


def eager(q, k, v, mask, scale, bias, dropout):
    """The reference: each document's scores written out."""
    groups = q.shape[1] // k.shape[1]
    weights = attention_weights(q, k, mask, scale, bias)
    values = v.to(weights[0].dtype).repeat_interleave(groups, 1).split(mask.keys)
    mixed = [torch.einsum("hqk,khd->qhd", F.dropout(w, dropout), of) for w, of in zip(weights, values, strict=True)]
    return torch.cat(mixed).to(q.dtype)


def documents(q, k, v, mask, scale, bias, dropout):
    """SDPA, in which documents of similar shape share a call (see `Plan`)."""
    plan = Plan.of(mask, q[0].numel(), q.device)
    if not plan.calls:
        return torch.zeros_like(q)
    queries = plan.laid(q, plan.queries).split([len(call.documents) * call.queries for call in plan.calls])
    sizes = [len(call.documents) * call.keys for call in plan.calls]
    keys, values = (plan.laid(x, plan.keys).split(sizes) for x in (k, v))
    parts = zip(plan.calls, queries, keys, values, strict=True)
    return plan.packed([_sdpa(*qkv, mask, call, scale, bias, dropout) for call, *qkv in parts])


def _sdpa(q, k, v, mask: Mask, call: Call, scale: float, bias: Bias | None, dropout: float):
    q, k, v = (x.unflatten(0, (len(call.documents), -1)) for x in (q, k, v))
    allowed = call.visible if bias is None else _biased(q, k, mask, call, bias)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    if allowed is None and _as_products(q, k, call):
        return _products(q, k, v, mask, call, scale, dropout).transpose(1, 2).flatten(0, 1)
    out = F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=allowed,
        dropout_p=dropout,
        is_causal=call.causal and allowed is None,
        scale=scale,
        enable_gqa=q.shape[1] != k.shape[1],
    )
    return out.transpose(1, 2).flatten(0, 1)


SHORT = 384
"""Up to so many keys, attention in bfloat16 is trained faster on a CPU as products of matrices, whose hardware the
backward of the fused kernel does not use: 5 times at 16 keys, 2.5 times at 64, 1.5 times at 256. Forward alone the
fused kernel is faster at any length: 1.4 times at 64 keys, 2 times at 256."""


def _as_products(q: Tensor, k: Tensor, call: Call) -> bool:
    narrow = q.dtype == torch.bfloat16 and q.device.type == "cpu"
    trained = q.requires_grad or k.requires_grad
    return narrow and trained and 1 < call.queries and call.keys <= SHORT and q.shape[1] == k.shape[1]


def _products(q: Tensor, k: Tensor, v: Tensor, mask: Mask, call: Call, scale: float, dropout: float) -> Tensor:
    """eq. 1 as it is written, for documents of one shape that are causal or see everything."""
    later = mask.kept(("later", call.queries, q.dtype), lambda: _later(call.queries, q.dtype)) if call.causal else None
    documents, (q, k, v) = len(q), (x.flatten(0, 1) for x in (q, k, v))
    with torch.autocast("cpu", enabled=False):  # which would widen the weights
        if later is None:
            scores = torch.bmm(q * scale, k.mT)
        else:
            scores = torch.baddbmm(later, q, k.mT, alpha=scale)
        return torch.bmm(F.dropout(scores.softmax(-1), dropout), v).unflatten(0, (documents, -1))


def _later(size: int, dtype: torch.dtype) -> Float[Tensor, "queries keys"]:
    return torch.full((size, size), -torch.inf, dtype=dtype).triu(1)


def _biased(q, k, mask: Mask, call: Call, bias: Bias) -> Float[Tensor, "documents heads queries keys"]:
    """Each document's own bias, and minus infinity where it does not see, or is padding."""
    added = []
    for document, queries, keys in zip(call.documents, q, k, strict=True):
        queries, keys = queries[: mask.queries[document]], keys[: mask.keys[document]]
        room = (0, call.keys - len(keys), 0, call.queries - len(queries))
        added.append(F.pad(bias(document, queries, keys), room))
    hidden = ~mask.visible_together(call.documents)[:, None].to(q.device)
    return torch.stack(added).masked_fill(hidden, -torch.inf).to(q.dtype)


def flex(q, k, v, mask, scale, bias, dropout):
    """FlexAttention with a block mask: one fused kernel for any mix of documents (CUDA; forward only on CPU)."""
    if bias is not None or dropout:
        raise MaskError("The `flex` attention back end has no score bias and no dropout; use `documents` or `eager`.")
    if not q.is_cuda and any(x.requires_grad for x in (q, k, v)):
        raise MaskError("FlexAttention has no backward on CPU; use `documents` there.")
    from torch.nn.attention.flex_attention import flex_attention

    run = _compiled(flex_attention) if q.is_cuda else flex_attention
    blocks = mask.kept(("blocks", q.device), lambda: _block_mask(mask, q.device))
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    out = run(q, k, v, block_mask=blocks, scale=scale, enable_gqa=q.shape[1] != k.shape[1])
    return out[0].transpose(0, 1)


def _block_mask(mask: Mask, device: torch.device):
    """The mask as FlexAttention's predicate over packed indices. It holds tensors and what all masks of a model have in
    common, never a length, for which it would be compiled anew."""
    from torch.nn.attention.flex_attention import create_block_mask

    query_document, key_document = (mask.document_of(lengths).to(device) for lengths in (mask.queries, mask.keys))
    cu_queries, cu_keys = mask.cu_queries.to(device), mask.cu_keys.to(device)
    # one more than there are documents, for a graph for many of something never serves for one
    prefix = torch.tensor((*mask.prefix, 0), device=device)
    behind = torch.tensor((*mask.keys, 0), device=device) - torch.tensor((*mask.queries, 0), device=device)
    causal, window, chunk = mask.autoregressive, mask.window, mask.chunk

    def sees(b, h, query, key):
        document = query_document[query]
        i = query - cu_queries[document] + behind[document]
        j = key - cu_keys[document]
        seen = (document == key_document[key]) & ((causal & (j <= i)) | (j < prefix[document]))
        if chunk is not None:
            back = i // chunk[0] - j // chunk[0]
            seen = seen & (back >= 0) & (back <= chunk[1])
        return seen if window is None else seen & ((i - j).abs() < window)

    make = _compiled(create_block_mask) if device.type == "cuda" else create_block_mask
    return make(sees, None, None, sum(mask.queries), sum(mask.keys), device=device)


@cache
def _compiled(function: Callable) -> Callable:
    """For any number of tokens and documents."""
    return torch.compile(function, dynamic=True)


backends: dict[str, Backend] = {"eager": eager, "documents": documents, "flex": flex}
