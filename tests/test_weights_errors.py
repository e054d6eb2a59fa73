"""What is wrong with a folder of weights is said in one sentence that names it, and nothing in it is run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from published import altered, config_of, sketch, tensors_of, write_config, write_tensors

import anyformer as af
from anyformer.errors import AnyformerError, ConfigError, WeightsError
from anyformer.weights.table import table_for

pytest.importorskip("transformers", reason="it makes the weights; pip install 'anyformer[hf]'")


def complaint(source: str | Path, config: dict | None = None) -> str:
    """What is said of a source that cannot be read."""
    with pytest.raises(WeightsError) as caught:
        af.from_pretrained(source, config)
    assert "\n" not in str(caught.value), "one line"
    return str(caught.value)


# Tensors

FAMILIES = ("gpt2", "bert", "t5_v1_1", "bart", "decision_transformer", "mixtral", "bloom", "vaswani_torch", "vit_hf")
SHAPE = r"\d+(?: x \d+)*|a number"


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    made = {family: sketch(family, tmp_path_factory.mktemp(family)) for family in FAMILIES}
    # Of a T5 1.1, transformers 5 says that it is tied, and then a file without an output table is whole.
    altered(made["t5_v1_1"], config=lambda config: {**config, "tie_word_embeddings": False})
    return made


def listed(said: str) -> dict[str, set[str]]:
    """The names that a complaint has under each of its headings."""
    found = {}
    for kind in ("missing", "not expected", "of another shape"):
        part = re.search(rf"{kind}: (.*?)(?:; |\.$)", said)
        text = re.sub(rf" (?:{SHAPE}), expected (?:{SHAPE})", "", part[1]) if part else ""
        found[kind] = set(text.split(", ")) - {""}
    return found


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_every_tensor_that_does_not_fit_is_named_and_no_other(folders, tmp_path, data):
    """Some of them dropped, some reshaped, strangers among them."""
    family = data.draw(st.sampled_from(FAMILIES))
    tensors = tensors_of(folders[family])
    names = [name for name in sorted(tensors) if not re.search(r"encoder\.wte", name)]  # which nothing reads
    some = st.sets(st.sampled_from(names), max_size=4)
    dropped = data.draw(some)
    reshaped = data.draw(some) - dropped
    strangers = data.draw(st.sets(st.sampled_from(["stranger.weight", "h.7.stranger", "layers.0.bias_2"]), max_size=2))
    for name in dropped:
        del tensors[name]
    for name in reshaped:
        tensors[name] = torch.cat((tensors[name], tensors[name].narrow(-1, 0, 1)), -1)
    tensors |= {name: torch.zeros(2) for name in strangers}
    dropped -= {"final_logits_bias"}  # zero where there is none
    write_tensors(tensors, tmp_path / "model.safetensors")
    write_config(config_of(folders[family]), tmp_path)
    if not dropped | reshaped | strangers:
        af.from_pretrained(tmp_path)
        return
    found = listed(complaint(tmp_path))
    extra = {table_for(config_of(tmp_path)).current_name(name) for name in strangers}
    assert found == {"missing": dropped, "not expected": extra, "of another shape": reshaped}


def test_both_shapes_are_said(tmp_path):
    """Of each part of what is one matrix here, under the name and in the layout of the file."""
    sketch("bert", tmp_path)
    name = "bert.encoder.layer.0.attention.self.query.weight"
    altered(tmp_path, lambda x: x | {name: x[name][:, :40], "cls.seq_relationship.bias": torch.zeros(3)})
    said = complaint(tmp_path)
    assert said.endswith(
        f"of another shape: {name} 48 x 40, expected 48 x 48, cls.seq_relationship.bias 3, expected 2."
    )
    altered(sketch("gpt2", tmp_path), lambda x: {n: v.T if n.endswith("c_fc.weight") else v for n, v in x.items()})
    assert "transformer.h.0.mlp.c_fc.weight 192 x 48, expected 48 x 192" in complaint(tmp_path)


def test_parts_that_only_together_have_the_right_size_are_refused(tmp_path):
    """48 rows of queries and 24 of keys are no 24 and 48."""
    sketch("llama_gqa", tmp_path)
    q, k = (f"model.layers.1.self_attn.{part}_proj.weight" for part in "qk")
    altered(tmp_path, lambda x: x | {q: x[k], k: x[q]})
    assert f"{q} 24 x 48, expected 48 x 48, {k} 48 x 48, expected 24 x 48" in complaint(tmp_path)


def test_numbers_of_another_kind_are_refused(tmp_path):
    """Whole numbers are somebody's quantised weights."""
    altered(
        sketch("gpt2", tmp_path), lambda x: x | {"transformer.wte.weight": x["transformer.wte.weight"].to(torch.int8)}
    )
    assert "transformer.wte.weight of torch.int8, expected torch.float32" in complaint(tmp_path)


def test_one_tensor_may_not_have_two_names(tmp_path):
    altered(sketch("gpt2", tmp_path), lambda x: x | {"wte.weight": x["transformer.wte.weight"]})
    assert "'wte.weight'" in complaint(tmp_path) and "one and the same tensor" in complaint(tmp_path)


# Configs


def test_an_unknown_family_is_answered_with_the_nearest(tmp_path):
    write_config({"model_type": "robertta"}, tmp_path)
    said = complaint(tmp_path)
    assert "config of 'robertta'" in said and "whisper" in said and said.endswith("Did you mean 'roberta'?")
    write_config({"hidden_size": 3}, tmp_path)
    assert "nothing that says" in complaint(tmp_path)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"", b"[" * 100_000, b'{"model_type": '])
def test_a_config_that_is_no_json(content, tmp_path):
    (tmp_path / "config.json").write_bytes(content)
    assert "config.json: is not JSON" in complaint(tmp_path)


def test_a_config_that_is_no_object(tmp_path):
    (tmp_path / "config.json").write_text("[1]")
    assert "expected a JSON object, got list" in complaint(tmp_path)
    (tmp_path / "config.json").unlink()
    assert "has no config.json; expected one beside the weights, or give `config`" in complaint(tmp_path)


# Files


def test_what_is_not_there():
    assert "no such directory, file or hub id" in complaint("./nowhere")
    assert "no such directory, file or hub id" in complaint("a/b/c")
    assert "no such directory, file or hub id" in complaint("gpt2-by-mistake")


def test_a_hub_id_without_a_network(monkeypatch):
    """The hub's own error runs over many lines."""
    import huggingface_hub

    def offline(*arguments, **settings):
        raise OSError("Name or service not known.\nPlease check your connection.\nOr not.")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    assert complaint("someone/some-model") == (
        "someone/some-model: no such directory, and the hub gave none (OSError: Name or service not known)."
    )


def test_a_folder_without_weights(tmp_path):
    write_config({"model_type": "gpt2"}, tmp_path)
    assert "has no weights; expected model.safetensors, model.safetensors.index.json" in complaint(tmp_path)


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-100], lambda data: data[:5], lambda data: b"", lambda data: b"\xff" * 9]
)
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_damaged_file(damage, name, tmp_path):
    """Half a download."""
    sketch("gpt2", tmp_path)
    if name.endswith(".bin"):
        torch.save(tensors_of(tmp_path), tmp_path / name)
        (tmp_path / "model.safetensors").unlink()
    (tmp_path / name).write_bytes(damage((tmp_path / name).read_bytes()))
    assert f"{name}: " in complaint(tmp_path)


class Malice:
    """Pickled, it is a call."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("how", [{}, {"_use_new_zipfile_serialization": False}])
def test_a_pickle_s_code_is_not_run(how, tmp_path):
    marker, file = tmp_path / "marker", tmp_path / "pytorch_model.bin"
    write_config({"model_type": "gpt2"}, tmp_path)
    torch.save({"wte.weight": torch.zeros(2), "more": Malice(marker)}, file, **how)
    assert "cannot be read as plain tensors" in complaint(tmp_path)
    assert not marker.exists()
    torch.load(file, weights_only=False)
    assert marker.exists(), "it would have been run"


@pytest.mark.parametrize("content", [[torch.zeros(2)], {"weight": 3}, {"state_dict": {"weight": "x"}}, torch.zeros(2)])
def test_a_pickle_of_other_things(content, tmp_path):
    torch.save(content, tmp_path / "weights.pt")
    assert "expected a mapping from names to tensors" in complaint(tmp_path / "weights.pt", {"model_type": "gpt2"})


@pytest.mark.parametrize(
    ("index", "sentence"),
    [
        ({"weight_map": {"wte.weight": "model-2.safetensors"}}, "'model-2.safetensors', which is not beside it"),
        ({"weight_map": {"wte.weight": "../evil.safetensors"}}, "'../evil.safetensors', which is not beside it"),
        ({"weight_map": {"wte.weight": "/etc/passwd"}}, "'/etc/passwd', which is not beside it"),
        ({"weight_map": {"stranger": "shard.safetensors"}}, "names tensors that no shard has: stranger"),
        ({"weight_map": ["shard.safetensors"]}, "expected a `weight_map`"),
        ({"weight_map": {"wte.weight": 3}}, "expected a `weight_map`"),
        ({}, "expected a `weight_map`"),
        ([], "expected a JSON object"),
    ],
)  # fmt: skip
def test_an_index_that_leads_nowhere(index, sentence, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    write_config({"model_type": "gpt2"}, folder)
    for place in (folder / "shard.safetensors", tmp_path / "evil.safetensors"):
        write_tensors({"wte.weight": torch.zeros(2)}, place)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert sentence in complaint(folder)


# Writing


def test_a_family_that_is_not_there(tmp_path):
    model = af.from_pretrained(sketch("gpt2", tmp_path / "model"))
    with pytest.raises(ConfigError, match=r"Unknown file in configs/weights 'gpt3'.*Did you mean 'gpt2'"):
        af.to_pretrained(model, tmp_path / "out", family="gpt3")
    with pytest.raises(
        WeightsError, match=r"bert files cannot say this architecture; they would change .*norm placement"
    ):
        af.to_pretrained(model, tmp_path / "out", family="bert")
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written(tmp_path):
    model = af.from_pretrained(sketch("gpt2", tmp_path / "model"))
    (tmp_path / "file").write_text("mine")
    with pytest.raises(AnyformerError, match="cannot be written"):
        af.to_pretrained(model, tmp_path / "file")
    af.save(model, tmp_path / "checkpoint")
    before = (tmp_path / "checkpoint" / "config.json").read_bytes()
    with pytest.raises(WeightsError, match="is a checkpoint, which would be spoilt"):
        af.to_pretrained(model, tmp_path / "checkpoint")
    assert (tmp_path / "checkpoint" / "config.json").read_bytes() == before
