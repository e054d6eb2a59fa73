"""Speech and sound from published sets: their pages, what is left out, strings of clips, rates of errors, baselines."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import corpora
import numpy as np
import pytest
import soundfile
import torch
import yaml

import anyformer as af
from anyformer.architecture import BackboneConfig
from anyformer.contracts import SPLITS, Sample
from anyformer.errors import ConfigError, SampleError
from anyformer.model import Model
from anyformer.objectives import SpecAugment
from anyformer.registry import tokenizers
from anyformer_tasks.sound import SoundClassification, SpeechRecognition
from anyformer_tasks.sound.clip import Clip
from anyformer_tasks.sound.dataset import SoundSet
from anyformer_tasks.sound.spelling import Counted
from anyformer_tasks.sound.variation import Variation

PAGES = sorted(path.stem for path in (Path(__file__).parents[1] / "configs" / "datasets" / "sound").glob("*.yaml"))
ELSEWHERE = ("librispeech", "speech_commands")  # read by torchaudio
JOINED = {"least": 2, "most": 4, "train": 20, "held_out": 10}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory) -> Path:
    """Every published set, tiny."""
    return corpora.write_all(tmp_path_factory.mktemp("sounds"))


def page(folder: Path, **settings) -> SoundSet:
    """A set that a file of its own describes, with its clips beside it."""
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({"origin": "ask the author"} | settings))
    return SoundSet.named(str(path), str(folder))


def beep(path: Path, seconds: float = 0.2, rate: int = 8000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.sin(np.arange(int(seconds * rate))), rate)


def model_of(task: af.Task, **audio) -> Model:
    """A small conformer, without training; its weights are drawn from a seed."""
    made = {"audio": tokenizers.create("audio", {"sample_rate": 8000, "mels": 8, "layers": 0} | audio)}
    if "text" in task.fields.values():
        made["text"] = tokenizers.create("characters", {"name": "text"})
    else:
        made["label"] = tokenizers.create("label", {})
    for field, kind in task.fields.items():
        made[kind].fit(task.corpus(field))
    specs = {field: made[kind].streams for field, kind in task.fields.items()}
    heads = task.objective.predicts(specs)
    recipe = ("half feed_forward", "attention", "convolution", "half feed_forward")
    torch.manual_seed(0)
    return Model(made, BackboneConfig(16, 2, 1, recipe=recipe, kernel=3, causal=False), heads).eval()


# ── The published sets ──


@pytest.mark.parametrize("name", [name for name in PAGES if name not in ELSEWHERE])
def test_every_page_reads_its_set(name, shelf):
    """From the folder that holds the set and from its own, with the same clips in the same order; only ljspeech-mini,
    which has too few, is judged by what it is tuned on."""
    whole = SoundSet.named(name, str(shelf))
    own = SoundSet.named(name, str(shelf / (whole.folder or name)))
    names = {}
    for split in SPLITS:
        clips = whole.clips(split)
        assert clips and [c.name for c in clips] == [c.name for c in own.clips(split)]
        assert all(Path(str(clip.place)).is_file() for clip in clips)
        names[split] = {clip.name for clip in clips}
    assert not names["train"] & (names["test"] | names["validation"])
    assert name == "ljspeech-mini" or not names["validation"] & names["test"]


def test_splits_are_the_published_ones(shelf):
    """fsdd: takes 0 to 4 of everyone; yesno: names that begin with a 1; ljspeech-mini: the first 26."""
    test = SoundSet.named("fsdd", str(shelf)).clips("test")
    assert {clip.fields["take"] for clip in test} == set("01234") and len(test) == 3 * 4 * 5
    assert test[0].fields == {"digit": "zero", "speaker": "george", "take": "0"}
    yesno = SoundSet.named("yesno", str(shelf))
    assert all(clip.told("text").startswith("yes ") for clip in yesno.clips("test"))
    assert all(clip.told("text").split()[0] == "no" for s in ("train", "validation") for clip in yesno.clips(s))
    read = SoundSet.named("ljspeech-mini", str(shelf)).clips("train")
    assert [clip.fields["id"] for clip in read] == [f"LJ001-{i:04d}" for i in range(1, 27)]


@pytest.mark.parametrize(("name", "kind", "value"), [("fsdd", "speaker", "lucas"), ("esc10", "fold", 2)])
def test_what_is_left_out_is_the_whole_test_split(name, kind, value, shelf):
    task = SoundClassification(
        name, str(shelf), label={"fsdd": "digit", "esc10": "sound"}[name], leave_out={kind: value}
    )
    clips = {split: task.source.clips(split) for split in SPLITS}
    assert {clip.raw[kind] for clip in clips["test"]} == {str(value)}
    assert str(value) not in {clip.raw[kind] for split in ("train", "validation") for clip in clips[split]}
    every = SoundSet.named(name, str(shelf))
    assert sum(map(len, clips.values())) == sum(len(every.clips(split)) for split in SPLITS)


def test_a_set_travels_without_its_clips(shelf):
    """Workers list their own; nothing is read of a file before it is asked for."""
    task = SpeechRecognition("yesno", str(shelf))
    samples = task.examples("train")
    assert all(isinstance(sample.values["audio"], str) for sample in samples)
    assert [s.id for s in pickle.loads(pickle.dumps(task)).examples("train")] == [s.id for s in samples]


# ── A user's own ──


def test_a_table_beside_a_folder(tmp_path):
    """A header, commas and quotes; the clip's path is a template over the columns."""
    (tmp_path / "metadata.csv").write_text('file_name,transcription\na.wav,"one, two"\nb.wav,three\n')
    for name in "ab":
        beep(tmp_path / f"{name}.wav")
    mine = page(tmp_path, table={"file": "metadata.csv", "clip": "{file_name}"}, splits={"test": {"file_name": "b.*"}})
    assert [clip.told("transcription") for clip in mine.clips("train")] == ["one, two"]
    (clip,) = mine.clips("test")
    assert clip.sound == str(tmp_path / "b.wav") and clip.wave()[0].shape == (1, 1600)


def test_torchaudios_readers(tmp_path):
    """Files in the published layout of LibriSpeech are found by torchaudio and read without it."""
    chapter = tmp_path / "librispeech" / "LibriSpeech" / "dev-clean" / "84" / "121"
    beep(chapter / "84-121-0000.flac", rate=16000)
    (chapter / "84-121.trans.txt").write_text("84-121-0000 GO DO YOU HEAR\n")
    (clip,) = SoundSet.named("librispeech", str(tmp_path)).clips("validation")
    assert clip.told("text") == "GO DO YOU HEAR" and clip.speaker == "84"
    assert clip.wave()[1] == 16000 and Path(clip.place).is_file()
    with pytest.raises(ConfigError, match=r"could not be loaded.*www\.openslr\.org/12"):
        SoundSet.named("librispeech", str(tmp_path)).clips("train")


def test_speech_commands_by_torchaudio(tmp_path):
    root = tmp_path / "speech_commands" / "SpeechCommands" / "speech_commands_v0.02"
    for place in ("yes/0a_nohash_0.wav", "no/0b_nohash_0.wav", "no/0c_nohash_0.wav"):
        beep(root / place, 1.0, 16000)
    (root / "validation_list.txt").write_text("no/0b_nohash_0.wav\n")
    (root / "testing_list.txt").write_text("no/0c_nohash_0.wav\n")
    task = SoundClassification("speech_commands", str(tmp_path), label="word")
    assert [task.examples(split)[0].values["label"] for split in SPLITS] == ["yes", "no", "no"]


def test_a_set_of_the_hub(tmp_path, monkeypatch):
    """A column of audio that `datasets` does not decode: soundfile reads its bytes. Classes have their names."""
    datasets = pytest.importorskip("datasets", reason="reads the hub's layout; pip install 'anyformer[hf]'")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    beep(tmp_path / "a.wav", 0.1)
    content = (tmp_path / "a.wav").read_bytes()
    features = datasets.Features(
        {"audio": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
         "kind": datasets.ClassLabel(names=["dog", "cat"])}
    )  # fmt: skip
    table = datasets.Dataset.from_dict({"audio": [{"bytes": content, "path": "a.wav"}], "kind": [1]}, features)
    table = table.cast_column("audio", datasets.Audio(decode=False))
    table.to_parquet(str(tmp_path / "hub" / "train.parquet"))
    mine = page(tmp_path, hub={"path": str(tmp_path / "hub"), "fields": {"sound": "kind"}})
    (clip,) = mine.clips("train")
    assert clip.told("sound") == "cat"
    samples, rate = clip.sound
    assert samples.shape == (1, 800) and rate == 8000


# ── What is wrong ──


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"files": "*.wav", "pth": "x"}, r"Unknown setting of the data set 'mine': 'pth'"),
        ({}, "has no clips; expected one of files, table"),
        ({"files": "*.wav", "table": {"file": "x"}}, "has files and table; expected one"),
        ({"files": "*.wav", "splits": {"tset": {}}}, "Unknown split of the data set 'mine': 'tset'"),
        ({"files": "*.wav", "path": "b"}, r"a\.wav is not named as the clips"),
        (
            {"files": "*.flac", "path": "b"},
            r"'train' of the data set 'mine' has no clips; get it \(ask the author",
        ),
        (
            {"files": "*.wav", "path": "(?P<x>a)", "splits": {"test": {"y": "a"}}},
            "Unknown field of the data set 'mine'",
        ),
        ({"files": "*.wav", "path": "(?P<x>a)", "names": {"x": {"b": "c"}}}, "unknown x 'a'; expected one of: b"),
        ({"table": {"file": "no.csv", "clip": ""}}, r"no file .*no\.csv; get it"),
        ({"table": {"file": "bad.csv", "clip": "", "columns": ["a", "b"]}}, r"bad\.csv, line 1: expected 2 columns"),
    ],
)
def test_what_is_wrong_with_a_page_is_one_sentence(settings, complaint, tmp_path):
    beep(tmp_path / "a.wav")
    (tmp_path / "bad.csv").write_text("one\n")
    with pytest.raises(ConfigError, match=complaint) as found:
        page(tmp_path, **settings).clips("train")
    assert "\n" not in str(found.value)


def test_settings_are_checked():
    with pytest.raises(ConfigError, match=r"no setting 'beam' of its decoding.*Did you mean 'beams'"):
        SpeechRecognition(decoding={"beam": 3})
    with pytest.raises(ConfigError, match="settings of Joined"):
        SpeechRecognition(joined={"clips": 3})
    with pytest.raises(ConfigError, match="1 <= least <= most"):
        SpeechRecognition(joined={"least": 0})


def test_a_clip_that_is_no_sound_is_named(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"nothing")
    with pytest.raises(SampleError, match=r"a\.wav cannot be read as audio"):
        Clip("a.wav", str(tmp_path / "a.wav"), {}).wave()


def test_a_recording_is_varied_and_keeps_its_length():
    """Turned, it is the same samples; louder, the same shape; faster, a tone is higher by as much. By the generator
    alone."""
    tone = np.sin(2 * np.pi * 500 * np.arange(8000) / 8000, dtype=np.float32)[None]
    turned = Variation(turned=True)((tone, 8000), np.random.default_rng(1))[0]
    assert turned.shape == tone.shape and not np.array_equal(turned, tone)
    assert np.allclose(np.sort(turned[0]), np.sort(tone[0]))
    louder = Variation(gain=6.0)((tone, 8000), np.random.default_rng(1))[0]
    factors = louder[0, 1:9] / tone[0, 1:9]
    assert np.allclose(factors, factors[0]) and 0.5 < factors[0] < 2 and factors[0] != 1
    peaks = []
    for seed in range(20):
        heard, rate = Variation(speed=0.2)((tone, 8000), np.random.default_rng(seed))
        assert heard.shape == tone.shape and heard.dtype == np.float32 and rate == 8000
        peaks.append(int(np.abs(np.fft.rfft(heard[0])).argmax()))
    assert 415 < min(peaks) < 450 < 550 < max(peaks) <= 600
    again = [Variation(3.0, 0.1, True)((tone, 8000), np.random.default_rng(seed))[0] for seed in (3, 3, 4)]
    assert np.array_equal(again[0], again[1]) and not np.array_equal(again[0], again[2])


def test_training_hears_variations_and_nobody_else(shelf):
    """The task's samples stay what they are; a path is read; without settings nothing is drawn."""
    plain, other = (SoundClassification("fsdd", str(shelf), augment=a) for a in ({}, {"gain": 6.0, "turned": True}))
    sample = other.examples("train")[0]
    assert plain.varied(sample, None) is sample, "asks no generator"
    wave, rate = other.varied(sample, np.random.default_rng(0)).values["audio"]
    was, own_rate = other.source.clips("train")[0].wave()
    assert rate == own_rate and wave.shape == was.shape and not np.array_equal(wave, was)
    assert other.examples("train")[0].values["audio"] == sample.values["audio"]
    for wrong, says in (({"gain": -1}, "gain and a colour of 0 dB or more"), ({"pitch": 1}, "settings of Variation")):
        with pytest.raises(ConfigError, match=says):
            SoundClassification("fsdd", str(shelf), augment=wrong)


# ── Strings of clips ──


def test_a_string_is_one_speakers_clips_in_a_row(shelf):
    """Its words are those of the clips, in their order; its length is theirs and the pauses'; a test string is made of
    test clips alone."""
    task = SpeechRecognition("fsdd", str(shelf), text="digit", joined=JOINED | {"noise": 0.0, "seed": 3})
    for split, count in (("train", 20), ("test", 10)):
        recordings = task.examples(split)
        assert len(recordings) == count
        own = {clip.name for clip in task.source.clips(split)}
        for index, sample in enumerate(recordings):
            chosen, _ = recordings._drawn(index)
            assert {clip.name for clip in chosen} <= own and {clip.speaker for clip in chosen} == {sample.cluster}
            assert sample.values["text"].split() == [clip.fields["digit"] for clip in chosen]
            sound, rate = sample.values["audio"]
            spoken = sum(clip.wave()[0].shape[1] for clip in chosen)
            pauses = (sound.shape[1] - spoken) / rate
            least = 2 * 0.02 + 0.02 * (len(chosen) - 1)
            assert least - 0.001 <= pauses <= 2 * 0.15 + 0.25 * (len(chosen) - 1) and 2 <= len(chosen) <= 4


def test_strings_are_the_seeds(shelf):
    """The same at every call, whatever was asked for before; others with another seed; texts without any sound."""
    settings = {"dataset": "fsdd", "data_dir": str(shelf), "text": "digit"}
    one, again = (SpeechRecognition(**settings, joined=JOINED).examples("train") for _ in range(2))
    assert np.array_equal(one[7].values["audio"][0], [again[i] for i in (3, 7)][1].values["audio"][0])
    assert one.texts() == [sample.values["text"] for sample in one] and one[-1].id == "train-19"
    other = SpeechRecognition(**settings, joined=JOINED | {"seed": 1}).examples("train")
    assert one.texts() != other.texts()
    task = SpeechRecognition(**settings, joined=JOINED)
    assert list(task.corpus("text")) == one.texts()


# ── Scores ──


def test_rates_of_errors_are_the_corpus_own(shelf, monkeypatch):
    """Σ weight · value / Σ weight is jiwer's rate of all texts together, whatever their lengths."""
    jiwer = pytest.importorskip("jiwer", reason="counts errors; pip install 'anyformer[metrics]'")
    task = SpeechRecognition("yesno", str(shelf))
    wanted, said = ["no yes no", "yes", "no no"], ["no no", "yes yes", ""]
    monkeypatch.setattr(SpeechRecognition, "written", lambda self, model, samples: said)
    samples = [Sample(str(i), {"text": text}) for i, text in enumerate(wanted)]
    scores = list(task.score(None, samples))
    for metric, rate in (("word_error_rate", jiwer.wer), ("character_error_rate", jiwer.cer)):
        own = [score for score in scores if score.metric == metric]
        mean = sum(s.weight * s.value for s in own) / sum(s.weight for s in own)
        assert mean == pytest.approx(rate(wanted, said)) and len(own) == 3


@pytest.mark.parametrize("decoding", [{}, {"beams": 3}, {"beams": 3, "order": 3, "weight": 0.5, "bonus": 0.1}])
def test_a_model_is_judged(decoding, shelf):
    """By every way to find a text; without training it is wrong nearly everywhere, and what it says is text."""
    task = SpeechRecognition("yesno", str(shelf), decoding=decoding)
    model = model_of(task)
    samples = task.examples("test")[:2]
    scores = list(task.score(model, samples))
    assert len(scores) == 4 and all(score.value > 0.3 for score in scores)
    assert all(set(score.shown["said"]) <= set("noyes ") for score in scores)
    assert task.written(model, samples[:1]) == task.written(model, samples)[:1], "alone as with another"


def test_counted_characters_are_a_language_model(shelf):
    """What all values add up to, whatever they spell: p of the next characters behind a prefix is at most one, and
    what was seen is likelier than what was not."""
    task = SpeechRecognition("yesno", str(shelf))
    tokenizer = model_of(task).tokenizers["text"]
    counted = Counted(tokenizer, 3, ("no yes no", "yes yes"))
    values = tokenizer.encode("ye").streams["text"].values[1:-1].tolist()
    row, end = counted([tuple(values)])[0], tokenizer.streams[0].end
    said = row[2:]
    letters = [tokenizer.decode(af.Tokens.of("text", torch.tensor([v]))) for v in range(2, 2 + len(said))]
    assert letters[int(said.argmax())] == "s" and np.exp(said).sum() + np.exp(row[end]) < 1
    y, e, s = tokenizer.encode("yes").streams["text"].values[1:-1].tolist()
    together = sum(said[value] for said, value in zip(counted([(), (y,), (y, e)]), (y, e, s), strict=True))
    assert counted.nats(b"yes") == pytest.approx(together)
    assert counted([(y, e, s)])[0][end] > counted([(y, e)])[0][end], "a text ends behind a word"


def test_a_sound_is_judged_as_it_is(shelf):
    """Nothing is hidden of what is judged: the scores are those of the bare objective."""
    bare = SoundClassification("fsdd", str(shelf))
    hidden = SoundClassification("fsdd", str(shelf))
    hidden.objective = SpecAugment({"type": "classification"}, bands=8, frames=100)
    model = model_of(bare)
    samples = bare.examples("test")[:12]
    shown = [[score.shown["prediction"] for score in task.score(model, samples)] for task in (bare, hidden)]
    assert shown[0] == shown[1] and all(s.cluster == "george" for s in bare.score(model, samples[:3]))


def test_baselines_are_computed_live(shelf):
    """The tones are told apart by the mean of their spectra."""
    pytest.importorskip("sklearn", reason="fits the baselines; pip install 'anyformer[demo]'")
    found = SoundClassification("esc10", str(shelf), label="sound", leave_out={"fold": 1}).baselines()["accuracy"]
    assert list(found) == ["random forest", "logistic regression"] and min(found.values()) > 0.9


# ── The real ones ──


@pytest.mark.parametrize(
    ("name", "folder", "sizes"),
    [
        ("fsdd", "fsdd", (1620, 180, 200)),
        ("yesno", "yesno", (26, 5, 29)),
        ("ljspeech-mini", "ljspeech_mini", (26, 6, 6)),
        ("esc10", "esc10_folds1-4", (210, 30, 80)),
    ],
)
def test_the_published_sets_are_whole(name, folder, sizes):
    held = Path(os.environ.get("ANYFORMER_DATA", "nowhere"))
    if not (held / folder).is_dir():
        pytest.skip(f"reads the set {name} from the folder that ANYFORMER_DATA names")
    found = SoundSet.named(name, str(held))
    assert tuple(len(found.clips(split)) for split in SPLITS) == sizes
