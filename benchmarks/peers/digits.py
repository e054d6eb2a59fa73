"""scikit-learn's handwritten digits by transformers' Vision Transformer.

    python benchmarks/peers/digits.py [--seed 0]

4 layers, 4 heads, 64 wide, patches of 2 x 2 pixels, as in `digits-vit`; 70 passes in batches of 64 over seven tenths of
the scans, whole and as they are, which is the quickest way; AdamW, 100 updates of warm-up and a cosine from 2e-3,
clipped at 1. One line of JSON: the accuracy on a fifth that was held out, and the processor's seconds from the first
import on. One thread.
"""

from __future__ import annotations

import argparse
import json
import time

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from transformers import ViTConfig, ViTForImageClassification, get_cosine_schedule_with_warmup

PASSES, BATCH = 70, 64


def as_input(pictures: Tensor) -> Tensor:
    return pictures / 127.5 - 1


def small_vit(classes: int) -> nn.Module:
    config = ViTConfig(
        hidden_size=64, num_hidden_layers=4, num_attention_heads=4, intermediate_size=256, image_size=8, patch_size=2,
        num_channels=1, num_labels=classes, hidden_dropout_prob=0.1,
    )  # fmt: skip
    return ViTForImageClassification(config)


def train(model: nn.Module, scans: Dataset) -> None:
    batches = DataLoader(scans, BATCH, shuffle=True, drop_last=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    schedule = get_cosine_schedule_with_warmup(optimizer, 100, PASSES * len(batches))
    model.train()
    for _ in range(PASSES):
        for pictures, labels in batches:
            model(pixel_values=pictures, labels=labels).loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()


@torch.no_grad()
def judge(model: nn.Module, pictures: Tensor, labels: Tensor) -> float:
    said = model.eval()(pixel_values=as_input(pictures)).logits.argmax(-1)
    return float((said == labels).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", help="not needed: the scans come with scikit-learn")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed)
    found = load_digits()
    pictures = torch.tensor(found.images / 16 * 255).round().to(torch.uint8)[:, None]
    parts = train_test_split(
        pictures, torch.tensor(found.target), test_size=0.2, stratify=found.target, random_state=arguments.seed
    )
    known, held_out, labels, wanted = (torch.as_tensor(part) for part in parts)
    model = small_vit(len(found.target_names))
    trained = len(found.target) * 7 // 10
    train(model, TensorDataset(as_input(known[:trained]), labels[:trained]))
    line = {"name": "ViT in transformers", "value": judge(model, held_out, wanted), "seed": arguments.seed}
    print(json.dumps(line | {"cpu_seconds": round(time.process_time(), 2)}))


if __name__ == "__main__":
    main()
