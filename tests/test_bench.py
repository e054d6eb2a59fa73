"""The suites work, at a size at which they measure nothing, and the bench counts, compares and tells rightly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from anyformer import registry
from anyformer.bench import Bar, Suite, find, names
from anyformer.bench.conductor import brief, disagreements
from anyformer.bench.page import achieved, page, table, utilisation, verdicts
from anyformer.bench.worker import begin, serve, turn
from anyformer.cli import main
from anyformer.errors import ConfigError

SLOW = {"startup"}  # starts processes, which is what it measures

TWO = """
from anyformer import registry
from anyformer.bench import Bar, Contender, Suite, Work

def make(answer, s):
    import time
    def run():
        end = time.process_time() + s.cost
        while time.process_time() < end:
            pass
        return 1.0
    return Work(run, [1.0, answer])

def broken(s):
    raise RuntimeError("out of order")

SUITE = Suite(
    title="Two.", unit="things", cases={"only": {"cost": 0.001}}, full={}, toy={},
    contenders=[
        Contender("anyformer", lambda s: make(2.0, s)), Contender("twin", lambda s: make(2.0001, s)),
        Contender("liar", lambda s: make(3.0, s)), Contender("broken", broken),
        Contender("absent", broken, ("no-such-distribution",)),
    ],
    bars=[Bar("only", at_least=0.5, beside="twin")],
)
"""

SIZED = """
from anyformer.bench import Contender, Suite, Work

def never():
    raise RuntimeError("asked to work")

SUITE = Suite(
    title="Sized.", unit="things", cases={"only": {}}, full={"size": 1}, toy={}, accelerated={"size": 7},
    contenders=[Contender("anyformer", lambda s: Work(never, [s.size, s.device == "cpu"]))],
)
"""


def rows(**values: float) -> dict:
    found = [{"case": "c", "contender": n, "value": v, "values": [v], "peak_mb": 1.0} for n, v in values.items()]
    return {"amount": False, "unit": "things", "rows": found, "flops": {}, "limits": {}}


@pytest.mark.parametrize("name", sorted({*names()} - SLOW))
def test_a_suite_works(name, monkeypatch):
    """All cases of all contenders that are installed, once, in this process; where they can be compared, they agree."""
    monkeypatch.setattr(registry.tasks, "_registered", dict(registry.tasks._registered))  # a suite may have its own
    suite = find(name)
    told = []
    for case in suite.cases:
        for one in suite.contenders:
            if one.lacks() or (one.cases is not None and case not in one.cases):
                continue
            work = begin(suite.file, one.name, case, toy=True)
            assert turn(work, 0.0)["runs"] == 1
            told.append({"case": case, "contender": one.name, "answer": work.answer and list(work.answer)})
    assert not disagreements(suite, told)


def test_a_run_from_the_command_line(tmp_path, capsys):
    """Processes of their own; one that fails, lies or is not installed is a row that says so; a lie ends with 1."""
    (tmp_path / "suites").mkdir()
    file = tmp_path / "suites" / "two.py"
    file.write_text(TWO)
    with pytest.raises(SystemExit) as ended:
        main(["bench", str(file), "--toy", "--out", str(tmp_path)])
    assert ended.value.code == 1
    said = capsys.readouterr()
    assert "| only | broken | failed: RuntimeError: out of order |" in said.out
    assert "| only | absent | not installed: no-such-distribution |" in said.out
    assert "only: anyformer and liar are 5.0e-01 apart" in said.err and "twin are" not in said.err
    line = json.loads((tmp_path / "two.toy.json").read_text())
    assert line["limits"] and line["machine"]["processor"] and line["versions"]["torch"]
    assert [len(row.get("values", [])) for row in line["rows"]] == [1, 1, 1, 0, 0]


def test_ratios_are_ours_to_the_best_peer():
    line = rows(anyformer=3.0, slow=1.0, fast=2.0)
    assert achieved(Bar("c", at_least=1.0, beside="the best peer"), line) == 1.5
    assert achieved(Bar("c", at_least=1.0, beside="slow"), line) == 3.0
    assert achieved(Bar("c", at_least=1.0, beside="nobody"), line) is None
    less = {**rows(anyformer=1.0, fast=4.0, slow=8.0), "amount": True}
    assert achieved(Bar("c", at_most=0.25, beside="the best peer"), less) == 0.25
    assert achieved(Bar("c", at_most=0.25), less) == 1.0
    assert "| c | fast | 2 (2 to 2) | 1.50 | 1 |" in table(line)


def test_a_missed_bar_is_told_as_missed():
    suite = Suite("", "things", [], {"c": {}}, {}, {}, bars=[Bar("c", at_least=2.0, beside="the best peer")])
    assert verdicts(suite, rows(anyformer=3.0, fast=2.0)) == ["* c: ≥ 2 of the best peer: 1.5, **missed**"]


def test_a_page_names_what_was_not_measured(tmp_path):
    """On the processor, and on an accelerator where the suite has work for one."""
    told = page([find("startup"), find("train")], tmp_path)
    assert told.count("Not measured.") == 3 and told.count("## train, on an accelerator") == 1


def test_an_accelerators_answers_are_held_against_the_processors():
    """Even where all that ran on it agree with each other; the first contender's too."""
    suite = Suite("", "things", [], {"c": {}}, {}, {}, tolerance=1e-3)
    told = [
        {"case": "c", "contender": "anyformer", "answer": [2.01], "processor": [2.0]},
        {"case": "c", "contender": "peer", "answer": [2.0001]},
    ]
    assert disagreements(suite, told) == ["c: the processor and anyformer are 5.0e-03 apart"]


def test_the_processor_answers_at_the_accelerators_sizes(tmp_path):
    """And does nothing else for it: the work itself would take it long."""
    (tmp_path / "suites").mkdir()
    (file := tmp_path / "suites" / "sized.py").write_text(SIZED)
    asked = iter([json.dumps({"said": "only", "toy": False, "device": "cuda"}), ""])
    said: list[str] = []
    serve(file, "anyformer", lambda: next(asked), said.append)
    assert [json.loads(line) for line in said] == [{"answer": [7.0, 1.0]}]


def test_the_share_of_the_limit_is_the_rate_times_the_formula():
    """10 things a second of 2e9 FLOP each, where GEMM makes 100 GFLOP a second: a fifth."""
    line = rows(anyformer=10.0, peer=5.0)
    line |= {"flops": {"c": 2e9}, "limits": {"GEMM float32, GFLOP/s": 100.0, "GEMM bfloat16, GFLOP/s": 800.0}}
    assert "| c | **anyformer** | 10 (10 to 10) | 1.00 | 20% | 1 |" in table(line)


def test_utilisation_is_told_by_the_data_sheet_of_an_accelerator():
    """1e6 tokens a second of 3e8 FLOP each are 300 of 989 TFLOP/s; elsewhere, and in float32, nothing is said."""
    line = rows(anyformer=1e6) | {"device": "cuda", "machine": {"accelerators": ["NVIDIA H100 80GB HBM3"]}}
    line |= {"flops": {"bf16": 3e8, "fp32": 3e8}, "rows": [{**line["rows"][0], "case": "bf16"}]}
    assert utilisation(line) == ["* bf16: MFU 30.3% of the data sheet's 989 TFLOP/s"]
    assert utilisation(line | {"device": "cpu"}) == []


def test_parts_of_one_pass_are_told_as_parts_of_it():
    line = rows(**{"anyformer": 4.0, "anyformer, its attention": 3.0}) | {"amount": True}
    assert "| c | **anyformer, its attention** | 3 (3 to 3) | 0.75 | 1 |" in table(line)


def test_cases_of_several_threads_and_of_a_compiler_say_more():
    line = rows(anyformer=4.0, peer=2.0) | {"cases": {"c": {"threads": 2, "compiled": True}}}
    for row in line["rows"]:
        row |= {"wall": 7.0, "first": 61.2}
    assert "| c | peer | 2 (2 to 2); 7 by the clock; ready after 61 s | 2.00 | 1 |" in table(line)


def test_without_an_accelerator_one_sentence_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit) as ended:
        main(["bench", "--device", "cuda", "--out", str(tmp_path)])
    assert not ended.value.code
    assert capsys.readouterr().err.count("\n") == 1 and not list(tmp_path.iterdir())


def test_a_suite_without_work_for_an_accelerator_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["bench", "startup", "--device", "cuda", "--out", str(tmp_path)])
    assert ended.value.code == 2 and "train" in capsys.readouterr().err


def test_no_suite_of_that_name():
    with pytest.raises(ConfigError, match="train"):
        find("trian")
    with pytest.raises(ConfigError, match="SUITE"):
        find(str(Path(__file__).parent / "conftest.py"))


def test_listing_imports_no_torch(tmp_path):
    """Suites are read to be listed."""
    import subprocess
    import sys

    code = "import sys; from anyformer.cli import main\ntry: main(['bench', '--list'])\n"
    code += "except SystemExit: assert 'torch' not in sys.modules, 'torch'"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[0].startswith("bpe")


def test_of_a_long_answer_a_line_keeps_the_beginning_and_a_digest():
    """Equal ones have equal digests; a short one is kept as it is."""
    long = [float(number) for number in range(100)]
    mine, same, other = (brief({"case": "c", "answer": answer}) for answer in (long, [*long], [*long[:-1], 7.0]))
    assert mine == same and mine["answer"] == long[:8] and mine["answer_numbers"] == 100
    assert other["answer"] == mine["answer"] and other["answer_sha256"] != mine["answer_sha256"]
    short = {"case": "c", "answer": [1.0], "processor": None}
    assert brief(short) == short
