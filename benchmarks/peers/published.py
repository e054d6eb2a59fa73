"""A published model and ours with its weights, on the same inputs: what several suites compare."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from anyformer.bench import Settings, Work


def ours(model: nn.Module, config: Mapping[str, Any] | None, inputs: Mapping[str, Tensor]) -> tuple[Any, Any]:
    """Our model with these weights, and the inputs as our batch."""
    import anyformer as af
    from anyformer.weights.fixture import Facts, read
    from anyformer.weights.table import table_for

    with TemporaryDirectory() as folder:
        if config is None:
            model.save_pretrained(folder)
            config = json.loads((Path(folder) / "config.json").read_text())
        else:
            from safetensors.torch import save_file

            save_file({n: t.detach().clone() for n, t in model.state_dict().items()}, f"{folder}/model.safetensors")
            (Path(folder) / "config.json").write_text(json.dumps(config))
        mine = af.from_pretrained(folder)
    return mine, read(mine, inputs, Facts(config, table_for(config).check)).batch()


def passes(model: nn.Module, output: Callable[[], Tensor], s: Settings, units: float) -> Work:
    """Inference, or a training step on the mean square of the output (`s.train`), in float32 or under autocast to
    bfloat16 (`s.precision`), on `s.device`, where what the output is made of must be. The answer is the mean square in
    float32."""
    model.to(s.device).eval()  # neither dropout nor statistics of a batch, so that answers can be compared
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)

    def loss() -> Tensor:
        return output().float().square().mean()

    value = loss()
    value.backward()
    answer = [float(value)]
    optimizer.zero_grad()

    def run() -> float:
        with torch.autocast(s.device, torch.bfloat16, enabled=s.precision == "bf16"):
            if not s.train:
                with torch.inference_mode():
                    output()
                return units
            value = loss()
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        return units

    return Work(run, answer)
