"""The real lm-evaluation-harness, offline, on a task made here: its scores are our own."""

from __future__ import annotations

import json

import pytest
import torch

from anyformer.errors import ConfigError
from anyformer.evaluation.likelihood import TextModel
from anyformer.model import Model
from anyformer_tasks.in_context import MultipleChoice
from anyformer_tokenizers.text import TextTokenizer

lm_eval = pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed (the extra `eval`)")

WORDS = "the cat sat on the mat a dog ran in the sun and slept".split()


@pytest.fixture(scope="module")
def model() -> Model:
    torch.manual_seed(0)
    tokenizer = TextTokenizer(vocab_size=290)
    tokenizer.fit([" ".join(WORDS)])
    made = Model({"text": tokenizer}, {"dim": 16, "heads": 2, "depth": 1}, ["text"])
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.4)
    return made.eval()


def questions(count: int) -> list[dict]:
    return [
        {
            "goal": " ".join(WORDS[i % 9 : i % 9 + 3]),
            "sol1": " ".join(WORDS[i % 5 : i % 5 + 1 + i % 3]),
            "sol2": " ".join(WORDS[8 + i % 4 : 11 + i % 4]),
            "label": i % 2,
        }
        for i in range(count)
    ]


def written(folder, name: str, rest: str) -> None:
    (folder / f"{name}.yaml").write_text(
        f"task: {name}\ndataset_path: json\ntest_split: test\n"
        f"dataset_kwargs:\n  data_files:\n    test: {folder / 'q.jsonl'}\n{rest}"
    )


CHOOSING = """output_type: multiple_choice
doc_to_text: "Question: {{goal}}\\nAnswer:"
doc_to_choice: "{{[sol1, sol2]}}"
doc_to_target: "{{label}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
ROLLING = """output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{goal}}"
metric_list: [{metric: bits_per_byte}]
"""
WRITING = """output_type: generate_until
doc_to_text: "{{goal}}"
doc_to_target: "{{sol1}}"
generation_kwargs: {until: ["\\n", "t"], max_gen_toks: 5}
metric_list: [{metric: exact_match}]
"""


def test_the_harness_and_our_own_tasks_agree(model, tmp_path, monkeypatch):
    """Guards all three requests: choices (acc, acc_norm), whole texts in windows, and writing."""
    from lm_eval.tasks import TaskManager

    from anyformer.evaluation.harness import HarnessModel

    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    rows = questions(24)
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, rest in (("choosing", CHOOSING), ("rolling", ROLLING), ("writing", WRITING)):
        written(tmp_path, name, rest)
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    adapter = HarnessModel(model, context=16, token_budget=64)
    theirs = lm_eval.simple_evaluate(
        adapter, tasks=["choosing", "rolling", "writing"], task_manager=manager, bootstrap_iters=0, log_samples=True
    )
    task = MultipleChoice(str(tmp_path), {"test": "q.jsonl"}, "piqa", context=16)
    scores = list(task.score(model, task.examples("test")))
    for ours, name in (("accuracy", "acc,none"), ("accuracy_by_characters", "acc_norm,none")):
        values = [score.value for score in scores if score.metric == ours]
        assert 0 < sum(values) < len(values), "all alike would tell nothing"
        assert theirs["results"]["choosing"][name] == pytest.approx(sum(values) / len(values))
    text = TextModel(model, context=16)
    found = text.rolling([row["goal"] for row in rows])
    bytes_ = sum(len(row["goal"].encode()) for row in rows)
    bits = -sum(likelihood.total for likelihood in found) / torch.log(torch.tensor(2.0)).item() / bytes_
    assert theirs["results"]["rolling"]["bits_per_byte,none"] == pytest.approx(bits, rel=1e-5)
    said = [sample["resps"][0][0] for sample in sorted(theirs["samples"]["writing"], key=lambda s: s["doc_id"])]
    assert said == text.write([row["goal"] for row in rows], 5, ["\n", "t"])


def test_a_request_to_sample_is_refused(model):
    from lm_eval.api.instance import Instance

    from anyformer.evaluation.harness import HarnessModel

    request = Instance("generate_until", {}, ("the cat", {"do_sample": True, "temperature": 0.7}), 0)
    with pytest.raises(ConfigError, match="wants to sample"):
        HarnessModel(model).generate_until([request])
