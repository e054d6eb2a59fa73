"""Parameters of published models: what the papers say, and what the reference implementations hold."""

from __future__ import annotations

COUNTS = {
    "gpt1": ("gpt1", "117M", 116_534_784),
    "gpt2": ("gpt2", "124M", 124_439_808),
    "gpt3_neo": ("gpt3-small", "125M", 125_226_240),
    "llama_gqa": ("llama3-8b", "8.03B", 8_030_261_248),
    "bert": ("bert-base", "110M", 110_106_428),
    "roberta": ("roberta-base", "125M", 124_697_433),
    "distilbert": ("distilbert-base", "66M", 66_985_530),
    "electra_generator": ("electra-small-generator", "not stated", 13_546_682),
    "electra_discriminator": ("electra-small-discriminator", "14M", 13_549_057),
    "t5_v1_0": ("t5-small", "60M", 60_506_624),
    "t5_v1_1": ("t5-v1.1-small", "77M", 76_961_152),
    "bart": ("bart-base", "139M", 139_420_416),
    "marian": ("marian", "74M", 74_410_496),
    "whisper": ("whisper-tiny", "39M", 37_760_640),
    "vit_hf": ("vit-b-16", "86M", 86_567_656),
    "vit_timm": ("vit-l-16", "307M", 304_326_632),
    "vit_torchvision": ("vit-h-14", "632M", 632_045_800),
}
"""Family → (preset, as published, exactly)."""
