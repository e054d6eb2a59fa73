"""RNNsearch, Bahdanau et al. 2014, arXiv:1409.0473, from the equations of appendix A; biases are left out as there."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from references.reference import Reference, Tensors
from references.setting import Setting

SIDES = ("f", "b")
GATES = ("", "_z", "_r")
"""A gated unit's candidate, its update gate and its reset gate."""


class RNNsearch(nn.Module):
    """V words, m features of a word, n of a state, n_align in the alignment model, l in the deep output."""

    E_x: Tensor
    E_y: Tensor
    W_s: Tensor
    v_a: Tensor

    def __init__(self, V: int = 99, m: int = 24, n: int = 20, n_align: int = 18, l: int = 16) -> None:  # noqa: E741
        super().__init__()
        shapes: dict[str, tuple[int, ...]] = {"E_x": (V, m), "E_y": (V, m)}
        for gate in GATES:
            for side in SIDES:
                shapes |= {f"W{gate}_{side}": (n, m), f"U{gate}_{side}": (n, n)}
            shapes |= {f"W{gate}": (n, m), f"U{gate}": (n, n), f"C{gate}": (n, 2 * n)}
        shapes |= {"W_s": (n, n), "W_a": (n_align, n), "U_a": (n_align, 2 * n), "v_a": (n_align,)}
        shapes |= {"U_o": (2 * l, n), "V_o": (2 * l, m), "C_o": (2 * l, 2 * n), "W_o": (V, l)}
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.zeros(shape)))

    def times(self, name: str, x: Tensor) -> Tensor:
        """`name` · x over the last axis."""
        return x @ getattr(self, name).T

    def forward(self, src: Tensor, src_mask: Tensor, tgt_in: Tensor) -> Tensors:
        """`src`, `src_mask`: int64[batch, source]; `tgt_in`: int64[batch, target], the words before those predicted."""
        words = self.E_x[src]
        sides = [self.annotate(words, src_mask, side) for side in SIDES]
        h = torch.cat(sides, -1)
        s = torch.tanh(self.times("W_s", sides[1][:, 0]))  # A.2.2: s_0 from the backward state of the first word
        logits, attention = [], []
        for y in self.E_y[tgt_in].unbind(1):
            a = self.align(s, h, src_mask)
            c = (a[..., None] * h).sum(1)  # eq. 5
            logits.append(self.read(s, y, c))
            attention.append(a)
            s = self.step(s, y, c)
        stacked = {"logits": torch.stack(logits, 1), "attention": torch.stack(attention, 1)}
        return {**stacked, "annotations": h, "final_state": s}

    def annotate(self, words: Tensor, mask: Tensor, side: str) -> Tensor:
        """A.2.1: states of one direction, [batch, source, n]. Padding leaves a state as it was."""
        h = words.new_zeros(len(words), self.W_s.shape[0])
        states = [h] * words.shape[1]
        for i in range(words.shape[1]) if side == "f" else reversed(range(words.shape[1])):
            x = words[:, i]
            z = torch.sigmoid(self.times(f"W_z_{side}", x) + self.times(f"U_z_{side}", h))
            r = torch.sigmoid(self.times(f"W_r_{side}", x) + self.times(f"U_r_{side}", h))
            candidate = torch.tanh(self.times(f"W_{side}", x) + self.times(f"U_{side}", r * h))
            h = torch.where(mask[:, i, None] == 1, (1 - z) * h + z * candidate, h)
            states[i] = h
        return torch.stack(states, 1)

    def align(self, s: Tensor, h: Tensor, mask: Tensor) -> Tensor:
        """A.1.2, eq. 6: α over the source, [batch, source], from the decoder's previous state."""
        e = torch.tanh(self.times("W_a", s)[:, None] + self.times("U_a", h)) @ self.v_a
        return e.masked_fill(mask == 0, -torch.inf).softmax(-1)

    def read(self, s: Tensor, y: Tensor, c: Tensor) -> Tensor:
        """A.2.2, deep output: the larger of each two neighbours, from the *previous* state."""
        t = self.times("U_o", s) + self.times("V_o", y) + self.times("C_o", c)
        return self.times("W_o", t.unflatten(-1, (-1, 2)).amax(-1))

    def step(self, s: Tensor, y: Tensor, c: Tensor) -> Tensor:
        """A.2.2: the decoder's gated unit. The reset gate acts before U, unlike torch.nn.GRU's."""
        z = torch.sigmoid(self.times("W_z", y) + self.times("U_z", s) + self.times("C_z", c))
        r = torch.sigmoid(self.times("W_r", y) + self.times("U_r", s) + self.times("C_r", c))
        candidate = torch.tanh(self.times("W", y) + self.times("U", r * s) + self.times("C", c))
        return (1 - z) * s + z * candidate


def rnnsearch(setting: Setting) -> Reference:
    """Ragged sources, and targets that are given: no search."""
    config = setting.fields(V=99, m=24, n=20, n_align=18, l=16)
    source, mask = setting.ragged("source", setting.sized((12, 8), (140, 131)), config["V"])
    target = setting.integers("target", 5, config["V"], 2, setting.sized(9, 131))
    inputs = {"src": source, "src_mask": mask, "tgt_in": target}
    return Reference(
        RNNsearch(**config), inputs, lambda model, given: model(**given), scale={"v_a": 4.0},
        config={"cls": "references.rnnsearch.RNNsearch", **config},
        notes=("annotations count where src_mask is 1", "it has no norms: the sharp regime changes nothing"),
    )  # fmt: skip


FAMILIES = {"rnnsearch": rnnsearch}
