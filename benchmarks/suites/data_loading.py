"""From texts to batches, with and without worker processes."""

from __future__ import annotations

from functools import partial

from anyformer.bench import Contender, Settings, Suite, Work


def ours(prepared: bool, s: Settings) -> Work:
    """prepared: from shards, as `anyformer prepare` writes them."""
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from peers.texts import fitted, mixture, spent, texts

    from anyformer.training.shards.writing import write

    tokenizer = fitted(s.vocab, s.characters)
    ids = [tokenizer.encode(text).streams["text"].values for text in texts(s.characters)]
    total, folder = sum(map(len, ids)), TemporaryDirectory()
    if prepared:
        data = mixture(tokenizer, s)
        write(data.tasks, data.tokenizers, Path(folder.name), ("train",), size=1024)

    def run() -> float:
        data = mixture(tokenizer, s, shards=folder.name if prepared else None)
        data.setup()
        batches = data.train_dataloader()
        return spent(batches, lambda batch: batch.tokens, s.passes * total, int(s.part * total), s.alone)

    return Work(run, [total, float(sum(one.sum() for one in ids))])


def torch(s: Settings) -> Work:
    """A DataLoader of shuffled texts, each encoded when it is asked for and padded to the longest of its batch."""
    from peers.texts import fitted, spent, texts
    from sentencepiece import SentencePieceProcessor
    from torch import tensor
    from torch.nn.utils.rnn import pad_sequence
    from torch.utils.data import DataLoader, Dataset

    model = SentencePieceProcessor(model_proto=fitted(s.vocab, s.characters).state()["sentencepiece.model"])
    of = texts(s.characters)

    class Texts(Dataset):
        def __len__(self) -> int:
            return len(of)

        def __getitem__(self, index: int):
            return tensor(model.encode(of[index], add_bos=True, add_eos=True))

    def padded(rows: list):
        return pad_sequence(rows, True), tensor([len(row) for row in rows])

    data = Texts()
    total = sum(len(row) for row in data)
    size = max(1, round(s.budget * len(of) / total))

    def run() -> float:
        loader = DataLoader(data, size, shuffle=True, collate_fn=padded, num_workers=s.workers)
        return spent(loader, lambda batch: int(batch[1].sum()), s.passes * total, int(s.part * total), s.alone)

    return Work(run, [total, float(sum(row.sum() for row in data))])


SUITE = Suite(
    title="From texts, 400 characters on average, to batches of about 8192 tokens: encoded by one and the same model "
    "of sentencepiece, drawn in another order at each pass, and packed or padded.",
    unit="CPU us a token",
    contenders=[
        Contender("anyformer", partial(ours, False)),
        Contender("anyformer, from shards", partial(ours, True)),
        Contender("torch's DataLoader", torch, ("sentencepiece",)),
    ],
    cases={
        "no worker": {"workers": 0},
        "no worker, second pass": {"workers": 0, "passes": 1},
        "1 worker": {"workers": 1},
        "2 workers": {"workers": 2},
        "2 workers, the training process": {"workers": 2, "alone": True},
    },
    full={
        "vocab": 8192, "characters": 2_000_000, "budget": 8192, "passes": 0, "part": 0.8, "alone": False,
    },
    toy={"vocab": 400, "characters": 20_000, "budget": 2048, "workers": 0},
    amount=True,
    seconds=0.0,
    rounds=3,
    tolerance=0.0,
    notes="Of all processes together, but where it is told; what they take to begin is left out. Ours plans batches by "
    "tokens, so it must know each text's length before, and encodes it for that, once: workers do so ahead of it. "
    "Shards are encoded already. What is the same at every pass it keeps.",
)  # fmt: skip
