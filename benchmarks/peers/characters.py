"""A character GPT trained by hand in plain PyTorch, set as nanoGPT's README sets its small one for a processor.

    python benchmarks/peers/characters.py --data_dir data [--seed 0]

4 layers, 4 heads, 128 wide, learned positions, no biases, a tied head, 12 random windows of 64 characters, 2,000
updates of AdamW (betas 0.9 and 0.99, weight decay 0.1, clipped at 1), 100 of warm-up and a cosine from 1e-3 to 1e-4;
the loss on 20 batches of either split is looked at every 250 updates. One line of JSON: the loss on the whole last
tenth, in windows laid end to end, and the processor's seconds from the first import on. One thread.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DIM, DEPTH, HEADS, WINDOW, BATCH, UPDATES = 128, 4, 4, 64, 12, 2000


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before_attention, self.before_mlp = nn.LayerNorm(DIM, bias=False), nn.LayerNorm(DIM, bias=False)
        self.qkv, self.out = nn.Linear(DIM, 3 * DIM, bias=False), nn.Linear(DIM, DIM, bias=False)
        self.up, self.down = nn.Linear(DIM, 4 * DIM, bias=False), nn.Linear(4 * DIM, DIM, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.before_attention(x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.before_mlp(x))))


class CharacterGPT(nn.Module):
    def __init__(self, characters: int) -> None:
        super().__init__()
        self.characters, self.places = nn.Embedding(characters, DIM), nn.Embedding(WINDOW, DIM)
        self.layers, self.norm = nn.ModuleList(Layer() for _ in range(DEPTH)), nn.LayerNorm(DIM, bias=False)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                ends_branch = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(weight, std=0.02 / (math.sqrt(2 * DEPTH) if ends_branch else 1))

    def forward(self, read: Tensor, wanted: Tensor) -> Tensor:
        x = self.characters(read) + self.places.weight[: read.shape[1]]
        for layer in self.layers:
            x = layer(x)
        return F.cross_entropy(F.linear(self.norm(x), self.characters.weight).flatten(0, 1), wanted.flatten())


def rate(update: int) -> float:
    if update < 100:
        return 1e-3 * (update + 1) / 101
    done = (update - 100) / (UPDATES - 100)
    return 1e-4 + 0.5 * (1 + math.cos(math.pi * done)) * 9e-4


def windows(text: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    found = torch.stack([text[start : start + WINDOW + 1] for start in starts.tolist()])
    return found[:, :-1], found[:, 1:]


def drawn(text: Tensor) -> tuple[Tensor, Tensor]:
    return windows(text, torch.randint(len(text) - WINDOW, (BATCH,)))


def train(model: CharacterGPT, train_text: Tensor, held_out: Tensor) -> None:
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    groups = [
        {"params": matrices, "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99))
    for update in range(UPDATES):
        if update % 250 == 0:
            with torch.no_grad():
                for text in (train_text, held_out):
                    sum(model(*drawn(text)).item() for _ in range(20))
        for group in optimizer.param_groups:
            group["lr"] = rate(update)
        loss = model(*drawn(train_text))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


@torch.no_grad()
def judge(model: CharacterGPT, text: Tensor) -> float:
    starts = torch.arange(0, len(text) - 1 - WINDOW, WINDOW)
    parts = [model(*windows(text, some)).item() * len(some) for some in starts.split(64)]
    return sum(parts) / len(starts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", required=True, help="the folder that holds tinyshakespeare/input.txt")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed)
    text = (Path(arguments.data_dir) / "tinyshakespeare" / "input.txt").read_text(encoding="utf-8")
    number = {character: i for i, character in enumerate(sorted(set(text)))}
    whole = torch.tensor([number[character] for character in text])
    edge = int(0.9 * len(whole))
    model = CharacterGPT(len(number))
    train(model, whole[:edge], whole[edge:])
    value = judge(model, whole[edge:])
    line = {"name": "plain PyTorch, set as nanoGPT", "value": value, "seed": arguments.seed}
    print(json.dumps(line | {"cpu_seconds": round(time.process_time(), 2)}))


if __name__ == "__main__":
    main()
