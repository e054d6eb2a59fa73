"""Published data sets: what their pages say, records in their own formats, and what is wrong in a file, by line."""

from __future__ import annotations

import gzip
import json
import os
import pickle
from importlib import metadata
from pathlib import Path

import corpora
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from anyformer.contracts import SPLITS
from anyformer.errors import ConfigError
from anyformer_tasks.files import FORMATS, conll, csv_table, each_line, lines, read
from anyformer_tasks.language.dataset import Dataset

NAMES = sorted(path.stem for path in (Path(__file__).parents[1] / "configs" / "datasets").glob("*.yaml"))
FOLDERS = {
    "xquad": "xquad_en", "multi30k": "multi30k_en_de", "wikitext-2-small": "wikitext-2", "piqa-small": "piqa",
}  # fmt: skip


@pytest.fixture(scope="module")
def shelf(tmp_path_factory) -> Path:
    """Every published set, tiny."""
    return corpora.write_all(tmp_path_factory.mktemp("sets"))


def page(folder: Path, **settings) -> Dataset:
    """A set described by a file of its own, with its files beside it."""
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({"origin": "ask the author", "files": {"train": "train.txt"}} | settings))
    return Dataset.named(str(path), str(folder))


def complaint(folder: Path, content: str | bytes, file: str = "train.txt", **settings) -> str:
    """What is said of a file with this content."""
    (folder / file).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ConfigError) as found:
        page(folder, **{"files": {"train": file}} | settings).records("train")
    said = str(found.value)
    assert "\n" not in said and said.endswith(".")
    return said


# ── The published sets ──


@pytest.mark.parametrize("name", NAMES)
def test_every_page_reads_its_set(name, shelf):
    """From the folder of the set and from the one that holds it, with the same splits in the same order, none empty."""
    own = shelf / FOLDERS.get(name, name)
    for split in SPLITS:
        records = Dataset.named(name, str(own)).records(split)
        assert records and records == Dataset.named(name, str(shelf)).records(split)
        assert len({frozenset(record) for record in records}) == 1
        assert all(not isinstance(value, str) or value.strip() for record in records for value in record.values())


def test_records_have_readable_values(shelf):
    def first(name: str):
        return Dataset.named(name, str(shelf)).records("train")[0]

    assert first("sst2")["label"] in ("negative", "positive") and set(first("sst2")) == {"sentence", "label"}
    assert first("sick")["entailment_judgment"] == "entailment" and first("sick")["relatedness"] == 4.5
    assert first("banking77")["label"] == "card_arrival"
    words, labels = (first("wnut17")[name] for name in ("words", "labels"))
    assert len(words) == len(labels) and words[0] in corpora.PEOPLE and labels[0] == "B-person"
    asked = first("xquad")
    (answer,) = asked["answers"]
    begin = answer["answer_start"]
    assert asked["context"][begin : begin + len(answer["text"])] == answer["text"]
    pair = first("multi30k")
    assert [corpora.GERMAN[w] for w in pair["en"].lower()[:-1].split()] == [
        w if w in corpora.GERMAN.values() else w.capitalize() for w in pair["de"][:-1].replace("Ein", "ein").split()
    ]
    goal, label = first("piqa"), (shelf / "piqa" / "train-labels.lst").read_text().split()[0]
    assert list(goal) == ["goal", "sol1", "sol2", "label"] and goal["label"] == label
    assert any(not record["answers"] for record in Dataset.named("squad2", str(shelf)).records("test"))
    assert first("cnn_dailymail")["article"].startswith(first("cnn_dailymail")["highlights"])


def test_a_text_is_cut_by_its_characters(shelf):
    """nanoGPT's split: int(0.9 n) characters, the rest is validation and test."""
    text = (shelf / "tinyshakespeare" / "input.txt").read_text()
    parts = [Dataset.named("tinyshakespeare", str(shelf)).records(split) for split in SPLITS]
    cut = int(len(text) * 0.9)
    assert [[record["text"] for record in part] for part in parts] == [[text[:cut]], [text[cut:]], [text[cut:]]]


def test_no_article_is_in_two_splits(shelf):
    """Questions of one article would tell each other's answers."""
    splits = [Dataset.named("xquad", str(shelf)).records(split) for split in SPLITS]
    titles = [{record["title"] for record in records} for records in splits]
    assert [len(found) for found in titles] == [8, 1, 3] and len(set.union(*titles)) == 12
    small = [Dataset.named("wikitext-2-small", str(shelf)).records(split)[0]["text"] for split in SPLITS]
    assert small[0] + small[1] == (shelf / "wikitext-2" / "valid.txt").read_text()


def test_held_out_records_are_not_trained_on(shelf):
    """Of every label, since the file is sorted; both together are the file."""
    train, validation = (Dataset.named("banking77", str(shelf)).records(split) for split in ("train", "validation"))
    texts = [record["text"] for record in read(shelf / "banking77" / "train.csv", "")]
    assert len(train) + len(validation) == len(texts) and len(validation) == len(texts) // 10
    assert [record["text"] for record in validation] == texts[9::10]
    assert {record["label"] for record in validation} == {record["label"] for record in train}


def test_records_do_not_travel_into_workers(shelf):
    """Workers read their own, and read the same."""
    one = Dataset.named("sst2", str(shelf))
    kept = one.records("train")
    other = pickle.loads(pickle.dumps(one))
    assert len(pickle.dumps(one)) < 2000 and other.records("train") == kept and one.records("train") is kept


COUNTS = {
    "sst2": (6920, 872, 1821), "sick": (4500, 500, 4927), "banking77": (9003, 1000, 3080),
    "wnut17": (3394, 1009, 1287), "xquad": (826, 99, 265), "multi30k": (29000, 1014, 1000),
    "piqa-small": (1286, 92, 460),
}  # fmt: skip


@pytest.mark.parametrize("name", COUNTS)
def test_the_published_files_have_the_published_counts(name):
    """The numbers of records that the publications state, from the files themselves."""
    if not os.environ.get("ANYFORMER_DATA"):
        pytest.skip("set ANYFORMER_DATA to a folder that holds the published sets")
    data = Dataset.named(name, os.environ["ANYFORMER_DATA"])
    assert tuple(len(data.records(split)) for split in SPLITS) == COUNTS[name]


# ── Formats ──


@given(st.lists(st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"])), max_size=8))
def test_parallel_lines_stay_parallel(texts):
    """Only a line end parts lines: Unicode has others, which `splitlines` would part at."""
    text = "".join(f"{line}\n" for line in texts)
    assert lines(text) == texts
    assert [found.values["text"] for found in each_line(text, "")] == texts


def test_csv_knows_quotes_and_lines_within_them():
    found = list(csv_table('text,label\n"a, ""b""\nc",one\n\nd,two\n', "some.csv"))
    assert [one.values for one in found] == [{"text": 'a, "b"\nc', "label": "one"}, {"text": "d", "label": "two"}]
    assert [one.number for one in found] == [2, 5]


def test_conll_sentences_end_at_blank_lines():
    """A line of a lone TAB is blank too (WNUT 2017 has them), and the last sentence needs none."""
    found = list(conll("\na\tO\nb\tB-x\n\t\n\nc\tO", "some.conll"))
    assert [one.values for one in found] == [{"0": ["a", "b"], "1": ["O", "B-x"]}, {"0": ["c"], "1": ["O"]}]
    assert [one.at() for one in found] == ["some.conll, line 2", "some.conll, line 6"]


def test_a_tsv_file_may_have_a_header_or_none(tmp_path):
    """Named columns are looked for in a header, counted ones are not; quotes are ordinary."""
    (tmp_path / "train.txt").write_text('a\tb\n"x\t1\r\n', newline="")
    assert page(tmp_path, format="tsv", fields={"said": "a"}).records("train") == [{"said": '"x'}]
    assert page(tmp_path, format="tsv", fields={"said": 0}).records("train") == [{"said": "a"}, {"said": '"x'}]
    assert page(tmp_path, format="tsv").records("train") == [{"a": '"x', "b": "1"}]


@pytest.mark.parametrize("format", sorted(FORMATS))
def test_an_empty_file_is_refused(format, tmp_path):
    said = complaint(tmp_path, "", format=format)
    assert "The split 'train' of the data set 'mine' is empty" in said or str(tmp_path / "train.txt") in said


# ── What is wrong, and where ──


@pytest.mark.parametrize(
    ("content", "settings", "said"),
    [
        ("a\tb\nc\td\ne\n", {"format": "tsv"}, "line 3: expected 2 columns, got 1"),
        ("a\t1\nb\t2\tc\n", {"format": "tsv", "fields": {"x": 0}}, "line 2: expected 2 columns, got 3"),
        ("a,b\nc,d\n\ne\n", {"format": "csv"}, "line 4: expected 2 columns, got 1"),
        ('a,b\nc,"d\n', {"format": "csv"}, "line 2: expected CSV, got a broken record"),
        ("a\tb\nc\td\n", {"format": "tsv", "fields": {"x": "z"}}, "line 2: expected a column 'z', got 'a', 'b'"),
        (
            "a\t1\nb\tyes\n",
            {"format": "tsv", "fields": {"x": 0, "y": 1}, "names": {"y": {1: "one"}}},
            "line 2: unknown y 'yes'; expected one of: 1",
        ),
        ("a\tO\nb\tX\n", {"format": "conll", "fields": {"y": 1}, "names": {"y": {"O": "O"}}}, "line 2: unknown y 'X'"),
        ("a\tO\nb\n", {"format": "conll"}, "line 2: expected 2 columns, got 1"),
        ("a\tb\nc\td\n", {"format": "tsv", "numbers": ["b"]}, "line 2: expected a number as 'b', got 'd'"),
        ('{"a": 1}\n\n{"a": \n', {}, "line 3: expected JSON"),
        ('{"a": 1}\n[2]\n', {}, "line 2: expected an object with named fields, got [2]"),
        ('[{"a": 1}, 2]', {"format": "json"}, "record 2: expected an object"),
        ('{"a": 1}', {"format": "json"}, "not a list of records"),
        ('{"data": [{"paragraphs": [{"qas": [{}]}]}]}', {"format": "squad"}, "record 1: expected SQuAD's layout"),
        (b"good\nb\xffd\n", {"format": "lines"}, "line 2: expected UTF-8, got the byte 0xff"),
    ],
)
def test_bad_files_are_named_with_their_line(content, settings, said, tmp_path):
    found = complaint(tmp_path, content, **settings)
    assert said in found and str(tmp_path / "train.txt") in found


def test_damaged_archives_and_lonely_lines_are_named(tmp_path):
    whole = gzip.compress(b"one\ntwo\n" * 100)
    for damaged in (whole[:-12], b"no archive", whole[:20] + b"\0\0\0\0" + whole[24:]):
        said = complaint(tmp_path, damaged, file="train.gz", format="lines")
        assert str(tmp_path / "train.gz") in said and "not a whole gzip file" in said
    for name, text in (("a.txt", "1\n2\n3\n"), ("b.txt", "1\n2\n")):
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=r"b\.txt has 2 lines and .*a\.txt has 3: after line 2 one is alone"):
        page(tmp_path, format="lines", files={"train": {"a": "a.txt", "b": "b.txt"}}).records("train")


def test_a_set_that_is_not_there_says_how_to_get_it(tmp_path, monkeypatch):
    """With a folder that lacks it, and without one where `datasets` is not installed."""
    with pytest.raises(ConfigError, match=r"no file .*train\.tsv; get it \(.*SST2\) and give its folder as --data_dir"):
        Dataset.named("sst2", str(tmp_path)).records("train")

    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    with pytest.raises(ConfigError, match=r"needs its files; get it .*--data_dir.*pip install 'anyformer\[hf\]'"):
        Dataset.named("sst2").records("train")
    with pytest.raises(ConfigError, match=r"no file train\.txt; get it \(ask the author\) .*--data_dir\.$"):
        Dataset.named(str(page(tmp_path).name and tmp_path / "mine.yaml")).records("train")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"format": "xml"}, "Unknown format of the data set 'mine': 'xml'; expected one of: conll"),
        ({"colums": {}}, "Unknown setting of the data set 'mine': 'colums'"),
        ({"origin": ""}, "does not say enough; expected `origin`"),
        ({"files": {}}, "expected `origin`, and `files` or `hub`"),
        ({"parts": {"train": [0.9, 0.1]}}, "has parts="),
        ({"held_out": {"test": {"of": "train"}}}, "has held_out="),
        ({"names": {"label": ["no", "yes"]}}, "has names="),
        ({"hub": {"config": "main"}}, "has hub="),
    ],
)
def test_a_page_is_checked(settings, said, tmp_path):
    with pytest.raises(ConfigError, match=r"mine") as found:
        page(tmp_path, **settings)
    assert said in str(found.value)


def test_names_are_checked(tmp_path, shelf):
    with pytest.raises(ConfigError, match=r"Unknown file in configs/datasets 'sst'.*Did you mean 'sst2'"):
        Dataset.named("sst")
    with pytest.raises(ConfigError, match=r"cannot be read"):
        Dataset.named(str(tmp_path / "none.yaml"))
    with pytest.raises(ConfigError, match=r"Unknown split of the data set 'mine': 'test'; expected one of: train"):
        page(tmp_path).records("test")


# ── The hub's layout ──


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """A folder for sets, and `datasets` without a network and with a cache of its own."""
    datasets = pytest.importorskip("datasets", reason="reads the hub's layout; pip install 'anyformer[hf]'")
    import huggingface_hub

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for module in (datasets.config, huggingface_hub.constants):
        monkeypatch.setattr(module, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    return tmp_path


def hub_page(folder: Path, **settings) -> Dataset:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({"origin": "ask the author"} | settings))
    return Dataset.named(str(path))


def test_jsonl_in_the_hubs_layout(hub):
    """Our names for its splits and fields; what is readable already stays so; every third is held out."""
    folder = hub / "set"
    folder.mkdir()
    for split in ("train", "test"):
        rows = [{"text": f"{split} {i}", "kind": ["0", "good"][i % 2]} for i in range(6)]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = hub_page(
        hub,
        hub={
            "path": str(folder),
            "splits": {"train": "train", "test": "test"},
            "fields": {"said": "text", "y": "kind"},
        },
        names={"y": {0: "bad", 1: "good"}},
        held_out={"validation": {"of": "train", "every": 3}},
    )
    assert data.records("test")[:2] == [{"said": "test 0", "y": "bad"}, {"said": "test 1", "y": "good"}]
    assert [record["said"] for record in data.records("validation")] == ["train 2", "train 5"]
    assert len(data.records("train")) == 4


def test_parquet_in_the_hubs_layout(hub):
    """Class numbers become names, alone and in lists, and SQuAD's answers a list of records again."""
    import datasets

    features = datasets.Features(
        {
            "tags": datasets.Sequence(datasets.ClassLabel(names=["O", "B-x"])),
            "label": datasets.ClassLabel(names=["no", "yes"]),
            "answers": datasets.Sequence({"text": datasets.Value("string"), "answer_start": datasets.Value("int32")}),
        }
    )
    rows = {
        "tags": [[0, 1], [1]],
        "label": [1, -1],
        "answers": [{"text": ["a", "b"], "answer_start": [3, 5]}, {"text": [], "answer_start": []}],
    }
    folder = hub / "set"
    folder.mkdir()
    datasets.Dataset.from_dict(rows, features).to_parquet(folder / "train.parquet")
    data = hub_page(hub, hub={"path": str(folder)})
    assert data.records("train") == [
        {
            "tags": ["O", "B-x"],
            "label": "yes",
            "answers": [{"text": "a", "answer_start": 3}, {"text": "b", "answer_start": 5}],
        },
        {"tags": ["B-x"], "label": None, "answers": []},
    ]


def test_lines_of_a_text_in_the_hubs_layout_are_one_text(hub):
    folder = hub / "set"
    folder.mkdir()
    (folder / "train.jsonl").write_text("\n".join(json.dumps({"text": line}) for line in (" = A = \n", "", " b \n")))
    data = hub_page(hub, format="text", hub={"path": str(folder), "splits": "train"}, parts={"test": [0.5, 1]})
    assert data.records("test") == [{"text": " \n b \n"}]


def test_without_a_network_the_hub_says_what_to_do(hub):
    """The library's own error becomes a reason in ours."""
    with pytest.raises(ConfigError, match=r"'sst2' could not be loaded \(.*; get it \(.*--data_dir") as found:
        Dataset.named("sst2").records("train")
    assert "\n" not in str(found.value)
    folder = hub / "set"
    folder.mkdir()
    (folder / "train.jsonl").write_text('{"text": "a"}')
    with pytest.raises(ConfigError, match=r"could not be loaded"):
        hub_page(hub, hub={"path": str(folder)}).records("test")
