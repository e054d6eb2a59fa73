"""Which of DeepSpeed's strategies are ours, and what is said of the others before anything asks for its package."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from types import SimpleNamespace

import pytest
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, StrategyRegistry

from anyformer.cli.fit import run
from anyformer.errors import ConfigError, PluginError
from anyformer.training.deepspeed import DeepSpeed, refuse, require_ours


def test_the_command_line_refuses_what_is_not_ours_by_name(tmp_path):
    sections = {"model.backbone": "{dim: 8, depth: 1, heads: 2}", "data.tokenizers": "{}", "data.tasks": "{}"}
    chosen = sections | {"data.token_budget": 8, "trainer.default_root_dir": tmp_path}
    with pytest.raises(ConfigError, match=r"strategy=deepspeed_stage_3 cannot be: .* Choose strategy=sharded"):
        run(["fit", "--trainer.strategy=deepspeed_stage_3", *(f"--{name}={value}" for name, value in chosen.items())])


@pytest.mark.parametrize("name", ["deepspeed_stage_2_offload", "deepspeed_stage_3_offload_nvme"])
def test_offloading_is_refused(name):
    with pytest.raises(ConfigError, match=f"strategy={name} cannot be: expected auto, ddp, sharded, deepspeed_stage_1"):
        require_ours(name)


def test_lightnings_own_is_refused():
    """Its checkpoints hold parts, and its engine drops updates that nobody counts."""
    strategy = object.__new__(DeepSpeedStrategy)  # its constructor wants the package
    with pytest.raises(ConfigError, match="strategy=DeepSpeedStrategy cannot be: "):
        require_ours(strategy)


@pytest.mark.parametrize("strategy", ["auto", "ddp", "sharded", "deepspeed_stage_2", None, DDPStrategy()])
def test_others_are_not(strategy):
    require_ours(strategy)


@pytest.mark.parametrize("name", ["deepspeed", "deepspeed_stage_1", "deepspeed_stage_2"])
def test_lightning_finds_ours_under_its_own_names(name):
    assert StrategyRegistry[name]["strategy"] is DeepSpeed


def test_the_package_is_asked_for_in_a_sentence():
    try:
        version("deepspeed")
    except PackageNotFoundError:
        with pytest.raises(PluginError, match=r"needs DeepSpeed, .* pip install 'anyformer\[deepspeed\]'"):
            DeepSpeed(stage=1)
    else:
        pytest.skip("DeepSpeed is installed")


@pytest.mark.parametrize("trainer", [{"precision": "16-mixed"}, {"gradient_clip_algorithm": "value"}])
def test_what_the_engine_cannot_do_is_refused(trainer):
    settings = {"precision": "32-true", "gradient_clip_algorithm": None} | trainer
    with pytest.raises(ConfigError, match="strategy=deepspeed cannot be with"):
        refuse(SimpleNamespace(**settings))
