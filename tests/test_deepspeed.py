"""DeepSpeed is refused in a sentence that names what to use instead, before anything asks for its package."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy

from anyformer.cli.fit import run
from anyformer.errors import ConfigError
from anyformer.training.sharded import require_ours, shard


def test_the_command_line_refuses_it_by_name(tmp_path):
    sections = {"model.backbone": "{dim: 8, depth: 1, heads: 2}", "data.tokenizers": "{}", "data.tasks": "{}"}
    chosen = sections | {"data.token_budget": 8, "trainer.default_root_dir": tmp_path}
    with pytest.raises(ConfigError, match=r"strategy=deepspeed_stage_2 cannot be: .* Choose strategy=sharded"):
        run(["fit", "--trainer.strategy=deepspeed_stage_2", *(f"--{name}={value}" for name, value in chosen.items())])


def test_a_trainer_that_has_it_is_refused():
    strategy = object.__new__(DeepSpeedStrategy)  # its constructor wants the package
    with pytest.raises(ConfigError, match=r"strategy=deepspeed cannot be: .* Choose strategy=sharded"):
        shard(None, SimpleNamespace(strategy=strategy))


@pytest.mark.parametrize("strategy", ["auto", "ddp", "sharded", None, DDPStrategy()])
def test_others_are_not(strategy):
    require_ours(strategy)
