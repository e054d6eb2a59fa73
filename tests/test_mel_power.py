"""Mel bands are reckoned without a spectrum of powers, and are what torchaudio reckons with one."""

import pytest
import torch

from anyformer_tokenizers.audio.tokenizer import mel_power, mel_transform


@pytest.mark.parametrize("edges", ["constant", "reflect"])
@pytest.mark.parametrize("samples", [201, 1600, 5000])
def test_mel_power_is_torchaudios(edges, samples):
    """Frame by frame and band by band, for clips of one frame and of many; silence is exactly nothing."""
    transform = mel_transform(16_000, 400, 160, 80, 0.0, 8_000.0, edges)
    wave = torch.randn(samples, generator=torch.Generator().manual_seed(samples))
    found, wanted = mel_power(transform, wave), transform(wave).T
    assert found.shape == wanted.shape and found.is_contiguous()
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6 * float(wanted.max()))
    assert not mel_power(transform, torch.zeros(samples)).any()
