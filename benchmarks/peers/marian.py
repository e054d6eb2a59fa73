"""A small Marian transformer of Hugging Face's transformers, trained to translate captions.

    python benchmarks/peers/marian.py --data_dir data [--seed 0]

MarianMTModel with 2 and 2 layers, 128 wide, 4 heads, 4,000 pieces that both languages share; 987 updates of about 88
padded pairs drawn in three shuffled passes, AdamW (fused) at 3e-3 behind 100 updates of warm-up, label smoothing 0.1;
then beams of four on the first 400 of the 2016 test set, lowercased. One line of JSON: BLEU and the processor's seconds
from the first import on. One thread.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import math
import time
from pathlib import Path

import sacrebleu
import sentencepiece
import torch
import torch.nn.functional as F
from transformers import MarianConfig, MarianMTModel

PAIRS, UPDATES, PAD, END = 88, 987, 0, 1


def lines(folder: Path, name: str) -> list[str]:
    return gzip.decompress((folder / name).read_bytes()).decode().lower().splitlines()


def pieces_of(sentences: list[str]) -> sentencepiece.SentencePieceProcessor:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences), model_writer=model, vocab_size=4000, model_type="bpe", pad_id=PAD,
        eos_id=END, unk_id=2, bos_id=-1, character_coverage=1.0, num_threads=1, minloglevel=2,
    )  # fmt: skip
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def padded(rows: list[list[int]]) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [PAD] * (longest - len(row)) for row in rows])


def train(model: MarianMTModel, pairs: list[tuple[list[int], list[int]]]) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    order: list[int] = []
    for update in range(UPDATES):
        if len(order) < PAIRS:
            order = torch.randperm(len(pairs)).tolist()
        chosen, order = [pairs[i] for i in order[:PAIRS]], order[PAIRS:]
        source, target = padded([a for a, _ in chosen]), padded([b for _, b in chosen])
        given = torch.cat((torch.full((len(target), 1), PAD), target[:, :-1]), 1)
        for group in optimizer.param_groups:
            warm, done = (update + 1) / 100, max(0, update - 100) / (UPDATES - 100)
            group["lr"] = 3e-3 * min(1.0, warm) * 0.5 * (1 + math.cos(math.pi * done))
        logits = model(input_ids=source, attention_mask=source != PAD, decoder_input_ids=given).logits
        loss = F.cross_entropy(
            logits.flatten(0, 1),
            target.masked_fill(target == PAD, -100).flatten(),
            label_smoothing=0.1,
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


@torch.no_grad()
def translated(model: MarianMTModel, sources: list[list[int]], pieces) -> list[str]:
    order = sorted(range(len(sources)), key=lambda i: len(sources[i]))
    found = [""] * len(sources)
    for start in range(0, len(order), 40):
        some = order[start : start + 40]
        read = padded([sources[i] for i in some])
        said = model.generate(input_ids=read, attention_mask=read != PAD, num_beams=4, max_new_tokens=48)
        for i, ids in zip(some, said.tolist(), strict=True):
            found[i] = pieces.decode([piece for piece in ids if piece > END])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", required=True, help="the folder that holds multi30k_en_de")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed)
    folder = Path(arguments.data_dir) / "multi30k_en_de"
    german, english = lines(folder, "train.de.gz"), lines(folder, "train.en.gz")
    pieces = pieces_of(german + english)
    pairs = [([*a, END], [*b, END]) for a, b in zip(pieces.encode(german), pieces.encode(english), strict=True)]
    config = MarianConfig(
        vocab_size=len(pieces), d_model=128, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=512, decoder_ffn_dim=512, pad_token_id=PAD, eos_token_id=END,
        decoder_start_token_id=PAD, forced_eos_token_id=None, max_position_embeddings=256, scale_embedding=True,
        dropout=0.1, activation_function="silu", init_std=0.02,
    )  # fmt: skip
    model = MarianMTModel(config)
    train(model.train(), pairs)
    test, wanted = lines(folder, "test_2016_flickr.de.gz")[:400], lines(folder, "test_2016_flickr.en.gz")[:400]
    said = translated(model.eval(), [[*ids, END] for ids in pieces.encode(test)], pieces)
    value = sacrebleu.corpus_bleu(said, [wanted]).score
    line = {"name": "Marian, Hugging Face", "value": value, "seed": arguments.seed}
    print(json.dumps(line | {"cpu_seconds": round(time.process_time(), 2)}))


if __name__ == "__main__":
    main()
