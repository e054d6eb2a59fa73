"""Tiny copies of the published data sets, in their own formats and folders, made from a seed: what they hold
can be learned by a rule that each function states."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

FILLERS = "the film a plot its cast this story and music of scenes with an ending that crew".split()
GOOD = "good fine great funny moving".split()
BAD = "bad dull poor boring weak".split()
COLOURS = "red green blue white black".split()
INTENTS = {
    "card_arrival": "arrive",
    "exchange_rate": "rate",
    "lost_or_stolen_card": "stolen",
    "top_up_failed": "failed",
}
PEOPLE, PLACES = "Anna Bruno Clara David Elena".split(), "Paris Lima Oslo Kyoto Cairo".split()
GERMAN = {
    "a": "ein", "man": "Mann", "dog": "Hund", "child": "Kind", "red": "roter", "small": "kleiner", "old": "alter",
    "runs": "rennt", "sleeps": "schläft", "sings": "singt", "here": "hier", "outside": "draußen", "today": "heute",
}  # fmt: skip
SCENE = (
    ("a",),
    ("red", "small", "old"),
    ("man", "dog", "child"),
    ("runs", "sleeps", "sings"),
    ("here", "outside", "today"),
)


def write_all(folder: Path, seed: int = 0) -> Path:
    """Every set below in `folder`, as a person would keep them."""
    for write in SETS:
        write(folder, np.random.default_rng(seed))
    return folder


def some(rng: np.random.Generator, words: list[str] | tuple[str, ...]) -> str:
    return str(rng.choice(list(words)))


def sentence(rng: np.random.Generator, *words: str, length: int = 6) -> str:
    """So many fillers, with these words somewhere among them."""
    found = rng.choice(FILLERS, length).tolist()
    for word in words:
        found.insert(int(rng.integers(len(found) + 1)), word)
    return " ".join(found)


def sst2(folder: Path, rng: np.random.Generator) -> None:
    """A good word is positive, a bad one negative."""
    for split, count in (("train", 64), ("dev", 16), ("test", 24)):
        labels = [number % 2 for number in range(count)]
        rows = [f"{sentence(rng, some(rng, GOOD if label else BAD))}\t{label}" for label in labels]
        _write(folder / "sst2" / f"{split}.tsv", "\n".join(rows) + "\n")


def sick(folder: Path, rng: np.random.Generator) -> None:
    """The first is good: a good second is entailed, a bad one contradicts, one of a colour is neutral."""
    header = "pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment"
    rules = {"ENTAILMENT": (GOOD, "4.5"), "CONTRADICTION": (BAD, "3.2"), "NEUTRAL": (COLOURS, "1.7")}
    number = 0
    for file, count in (("SICK_train.txt", 60), ("SICK_trial.txt", 12), ("SICK_test_annotated.txt", 24)):
        rows = [header]
        for i in range(count):
            judgment, (words, relatedness) = list(rules.items())[i % 3]
            first, second = sentence(rng, some(rng, GOOD)), sentence(rng, some(rng, words))
            number += 1
            rows.append("\t".join((str(number), first, second, relatedness, judgment)))
        _write(folder / "sick" / file, "\n".join(rows) + "\n")


def banking77(folder: Path, rng: np.random.Generator) -> None:
    """One word tells an intent; records are sorted by intent, and some hold a comma or a line end, as published."""
    own = folder / "banking77"
    for split, count in (("train", 30), ("test", 6)):
        own.mkdir(parents=True, exist_ok=True)
        with open(own / f"{split}.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "category"])
            for intent, word in INTENTS.items():
                for number in range(count):
                    end = (", please?", "?", "\n?")[number % 3]
                    writer.writerow([f"Will my card {sentence(rng, word, length=3)}{end}", intent])
    _write(own / "categories.json", json.dumps(list(INTENTS), indent=2))


def wnut17(folder: Path, rng: np.random.Generator) -> None:
    """Names of people and of places, the latter behind "New" half of the time; a token may be a lone mark."""
    for file, count in (("wnut17train.conll", 60), ("emerging.dev.conll", 12), ("emerging.test.annotated", 24)):
        text = ""
        for number in range(count):
            place = [("New", "B-location"), (some(rng, PLACES), "I-location")]
            place = place if number % 2 else [(some(rng, PLACES), "B-location")]
            words = [*rng.choice(FILLERS, 3).tolist(), some(rng, ["!", ":)", "\U0001f642", "@x", "#y"])]
            rows = [(some(rng, PEOPLE), "B-person"), *((word, "O") for word in words), *place, (".", "O")]
            text += "".join(f"{word}\t{tag}\n" for word, tag in rows) + ("\t\n" if number % 5 == 0 else "\n")
        _write(folder / "wnut17" / file, text)


def xquad(folder: Path, rng: np.random.Generator) -> None:
    """Whose place is asked for is said in the paragraph: "Anna lives in Paris ."; 12 articles of two paragraphs."""
    _write(folder / "xquad_en" / "xquad.en.json", json.dumps({"version": "1.1", "data": articles(rng)}))


def squad(folder: Path, rng: np.random.Generator) -> None:
    """The same in the files of both versions; in 2.0 somebody is also asked for of whom nothing is said."""
    for version, name in (("v1.1", "squad"), ("v2.0", "squad2")):
        for split in ("train", "dev"):
            data = {"version": version, "data": articles(rng, unanswerable=name == "squad2")}
            _write(folder / name / f"{split}-{version}.json", json.dumps(data))


def articles(rng: np.random.Generator, unanswerable: bool = False) -> list[dict]:
    found = []
    for number in range(20 if unanswerable else 12):
        paragraphs = []
        for paragraph in range(2):
            people, places = rng.permutation(PEOPLE).tolist(), rng.permutation(PLACES)[:3].tolist()
            said = [f"{person} lives in {place}." for person, place in zip(people[:3], places, strict=True)]
            context = f"{sentence(rng).capitalize()}. {' '.join(said)}"
            asked = [
                {
                    "id": f"{number}-{paragraph}-{i}",
                    "question": f"Where does {person} live?",
                    "answers": [{"text": place, "answer_start": context.index(f"in {place}.") + 3}],
                }
                for i, (person, place) in enumerate(zip(people[:3], places, strict=True))
            ]
            if unanswerable:
                question = f"Where does {people[3]} live?"
                asked = [{**one, "is_impossible": False} for one in asked]
                asked.append(
                    {"id": f"{number}-{paragraph}-x", "question": question, "answers": [], "is_impossible": True}
                )
            paragraphs.append({"context": context, "qas": asked})
        found.append({"title": f"Article_{number}", "paragraphs": paragraphs})
    return found


def piqa(folder: Path, rng: np.random.Generator) -> None:
    """What is good works; the labels stand in a file of their own."""
    for split, count in (("train", 60), ("valid", 48)):
        rows, labels = [], [int(label) for label in rng.integers(2, size=count)]
        for label in labels:
            answers = [sentence(rng, some(rng, GOOD if i == label else BAD), length=3) for i in range(2)]
            rows.append(json.dumps({"goal": sentence(rng, length=4), "sol1": answers[0], "sol2": answers[1]}))
        _write(folder / "piqa" / f"{split}.jsonl", "\n".join(rows) + "\n")
        _write(folder / "piqa" / f"{split}-labels.lst", "\n".join(map(str, labels)) + "\n")


def multi30k(folder: Path, rng: np.random.Generator) -> None:
    """Word for word."""
    for split, count in (("train", 60), ("val", 10), ("test_2016_flickr", 12)):
        english = [[some(rng, choice) for choice in SCENE] for _ in range(count)]
        for language, said in (("en", english), ("de", [[GERMAN[word] for word in line] for line in english])):
            text = "".join(" ".join(line).capitalize() + ".\n" for line in said)
            path = folder / "multi30k_en_de" / f"{split}.{language}.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(gzip.compress(text.encode(), mtime=0))


def tinyshakespeare(folder: Path, rng: np.random.Generator) -> None:
    """About 20 kB of speeches of few words."""
    names = [f"{name.upper()}:" for name in PEOPLE]
    speeches = [f"{some(rng, names)}\n{sentence(rng, some(rng, GOOD)).capitalize()}.\n" for _ in range(460)]
    _write(folder / "tinyshakespeare" / "input.txt", "\n".join(speeches))


def wikitext_2(folder: Path, rng: np.random.Generator) -> None:
    """Articles of a heading and two paragraphs, rare words as <unk>; a blank around each line, as published."""
    for split, count in (("train", 24), ("valid", 12), ("test", 12)):
        text = ""
        for _ in range(count):
            said = [sentence(rng, "<unk>", some(rng, GOOD), length=20).capitalize() for _ in range(2)]
            text += f" \n = {some(rng, PLACES)} = \n \n {said[0]} . \n {said[1]} . \n"
        _write(folder / "wikitext-2" / f"{split}.txt", text)


def cnn_dailymail(folder: Path, rng: np.random.Generator) -> None:
    """The highlights are the article's first sentence."""
    for split, count in (("train", 30), ("validation", 6), ("test", 8)):
        rows = []
        for number in range(count):
            first, *rest = (f"{sentence(rng, some(rng, PEOPLE)).capitalize()} ." for _ in range(4))
            record = {"id": f"{split}-{number}", "article": " ".join((first, *rest)), "highlights": first}
            rows.append(json.dumps(record))
        _write(folder / "cnn_dailymail" / f"{split}.jsonl", "\n".join(rows) + "\n")


def fsdd(folder: Path, rng: np.random.Generator) -> None:
    """A tone for each digit, a timbre for each speaker; takes 0 to 7 of three digits, at 8 kHz."""
    for digit in range(3):
        for speaker, harmonic in (("george", 1), ("jackson", 2), ("lucas", 3), ("nicolas", 4)):
            for take in range(8):
                time = np.arange(int(8000 * rng.uniform(0.3, 0.5))) / 8000
                timbre = 1 + 0.3 * np.sin(2 * np.pi * 30 * harmonic * time)
                sound = 0.3 * timbre * np.sin(2 * np.pi * 300 * (1 + digit) * time)
                _record(folder / "fsdd" / "recordings" / f"{digit}_{speaker}_{take}.wav", sound, 8000, rng)


def yesno(folder: Path, rng: np.random.Generator) -> None:
    """Eight tones, high for yes, with pauses between them."""
    for number in range(14):
        answers = [int(number % 2), *rng.integers(2, size=7).tolist()]
        pause = np.zeros(1200)
        sound = np.concatenate([part for answer in answers for part in (_tone(400 + 800 * answer, 0.25, 8000), pause)])
        name = "_".join(map(str, answers))
        _record(folder / "yesno" / "waves_yesno" / f"{name}.wav", sound, 8000, rng)


def ljspeech_mini(folder: Path, rng: np.random.Generator) -> None:
    """A hum as long as its sentence, 80 ms a letter, which nothing can be learned from."""
    rows = []
    for number in range(1, 33):
        text = f"{sentence(rng, length=2).capitalize()}."
        rows.append(f"LJ001-{number:04d}|{text}|{text}")
        sound = _tone(200, 0.08 * len(text), 22050)
        _record(folder / "ljspeech_mini" / "wavs" / f"LJ001-{number:04d}.wav", sound, 22050, rng)
    _write(folder / "ljspeech_mini" / "metadata.csv", "\n".join(rows) + "\n")


def esc10(folder: Path, rng: np.random.Generator) -> None:
    """A tone for each of three sounds, four clips a fold, at 16 kHz."""
    for number, name in enumerate(("Dog bark", "Rain", "Sea waves"), 1):
        for fold in range(1, 5):
            for take in range(4):
                path = folder / "esc10_folds1-4" / f"{number:03d} - {name}" / f"{fold}-{1000 * number + take}-A.ogg"
                _record(path, _tone(300 * number, 0.5, 16000), 16000, rng)


def fashion_mnist(folder: Path, rng: np.random.Generator) -> None:
    """The lower the bright bar, the higher the label; IDX, packed."""
    for split, count in (("train", 240), ("t10k", 60)):
        labels = np.arange(count, dtype=np.uint8) % 10
        pictures = rng.integers(0, 60, (count, 28, 28), dtype=np.uint8)
        for picture, label in zip(pictures, labels, strict=True):
            picture[2 + 2 * label : 7 + 2 * label, 4:24] += 180
        for array, kind in ((pictures, "images"), (labels, "labels")):
            shape = b"".join(size.to_bytes(4, "big") for size in array.shape)
            path = folder / "fashion-mnist" / f"{split}-{kind}-idx{array.ndim}-ubyte.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(gzip.compress(bytes([0, 0, 8, array.ndim]) + shape + array.tobytes(), mtime=0))


def sign_language_digits(folder: Path, rng: np.random.Generator) -> None:
    """The higher the digit, the further right the dark bar; ten JPEG files of each, some numbers of four digits."""
    for digit in range(10):
        own = folder / "sign-language-digits" / "Dataset" / str(digit)
        own.mkdir(parents=True, exist_ok=True)
        for number in range(995, 1005):
            picture = rng.integers(200, 256, (100, 100, 3), dtype=np.uint8)
            picture[:, 10 * digit : 10 * digit + 10] //= 4
            Image.fromarray(picture).save(own / f"IMG_{number}.JPG")


def emojitwo(folder: Path, rng: np.random.Generator) -> None:
    """Discs and squares of seven colours, each also in two tones of skin; transparent around them."""
    own, told = folder / "emojitwo96" / "png" / "96", {}
    own.mkdir(parents=True, exist_ok=True)
    for number, (name, colour) in enumerate(DRAWN.items()):
        for shape in ("disc", "square"):
            for tone in ("", "-1f3fb", "-1f3ff"):
                code = f"1f{600 + 2 * number + (shape == 'disc')}{tone}"
                there = np.hypot(*(np.indices((96, 96)) - 48)) < 40 if shape == "disc" else np.ones((96, 96), bool)
                there[:8] = there[-8:] = bool(tone)
                picture = np.zeros((96, 96, 4), np.uint8)
                picture[there] = (*colour, 255)
                Image.fromarray(picture).save(own / f"{code}.png")
                said = f"{name} {shape}{' light' * (tone == '-1f3fb')}{' dark' * (tone == '-1f3ff')}"
                told[code] = {"name": said, "keywords": [name, some(rng, GOOD)] if not tone else []}
    _write(folder / "emojitwo96" / "emoji.json", json.dumps(told))


DRAWN = {
    "red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "black": (10, 10, 10),
    "grey": (120, 120, 120), "yellow": (230, 230, 20), "pink": (240, 130, 200),
}  # fmt: skip


SETS: tuple[Callable[[Path, np.random.Generator], None], ...] = (
    sst2, sick, banking77, wnut17, xquad, squad, piqa, multi30k, tinyshakespeare, wikitext_2, cnn_dailymail,
    fsdd, yesno, ljspeech_mini, esc10,
    fashion_mnist, sign_language_digits, emojitwo,
)  # fmt: skip


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="")


def _tone(pitch: float, seconds: float, rate: int) -> np.ndarray:
    """With silence at its end, a fifth of it."""
    time = np.arange(int(seconds * rate)) / rate
    return 0.3 * np.sin(2 * np.pi * pitch * time) * (time < 0.8 * seconds)


def _record(path: Path, sound: np.ndarray, rate: int, rng: np.random.Generator) -> None:
    """In the format that the name says, with a little noise."""
    import soundfile

    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, sound + 0.01 * rng.standard_normal(len(sound)), rate)
