"""Raw sound, measured before it is read: what a clip claims to be, whether that can be, and its samples."""

from __future__ import annotations

import io
import math
import os
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from anyformer.errors import LimitError, SampleError

HIGHEST_RATE = 768_000  # the fastest converters there are
MOST_CHANNELS = 64
MOST_VALUES = 2**28  # channels x samples: 1 GiB of float32
MOST_TAPS = 2**24  # of a resampling filter: rate/gcd x target/gcd
LOUDEST = 1e6  # times full scale; beyond it float32 spectra overflow
WAV = ("WAV", "WAVEX", "RF64")
FORMATS = (*WAV, "FLAC", "OGG", "MP3")  # a cut one can be told (an MP3 by its Xing header, if it has one)


class Extent(NamedTuple):
    """What can be known of a clip without reading its samples (`samples` counts one channel)."""

    item: str
    channels: int
    samples: int
    rate: int

    def resampled(self, target: int) -> int:
        """Samples at another rate: ceil(samples * target / rate)."""
        return -(-self.samples * target // self.rate)


def measure(raw: Any, target: int, max_seconds: float) -> Extent:
    """The clip's extent. SampleError or LimitError unless it can become at most `max_seconds` of sound at
    `target` samples a second; a file is opened but its samples are not read."""
    if _is_path(raw):
        extent = _file_extent(Path(raw))
    else:
        array, rate = _array(raw)
        extent = Extent("Audio", *array.shape, rate)
    item, channels, samples, rate = extent
    if not 1 <= rate <= HIGHEST_RATE:
        raise SampleError(f"{item} claims {rate} samples a second; expected 1 to {HIGHEST_RATE}. Correct its metadata.")
    if samples < 1 or channels < 1:
        raise SampleError(f"{item} is empty ({channels} channels, {samples} samples); expected 1 sample. Drop it.")
    if channels > MOST_CHANNELS:
        raise SampleError(
            f"{item} has {channels} channels; expected at most {MOST_CHANNELS}. "
            "Transpose it to [channels, time] if it is [time, channels]."
        )
    if samples > max_seconds * rate or samples * channels > MOST_VALUES:
        raise LimitError(
            f"{item} lasts {samples / rate:.1f} s ({channels} channels, {samples} samples); expected at most "
            f"{max_seconds:g} s and {MOST_VALUES} values in all. Cut it into pieces or raise max_seconds."
        )
    common = math.gcd(rate, target)
    if rate // common * (target // common) > MOST_TAPS:
        raise LimitError(
            f"{item} has {rate} samples a second, too odd a ratio to {target} to resample in memory; "
            f"expected a rate such as 44100 or 48000. Convert it first, or set sample_rate={rate}."
        )
    return extent


def waveform(raw: Any, extent: Extent) -> Float[Tensor, " time"]:
    """The measured clip's samples, its channels averaged, at its own rate; all are finite."""
    if _is_path(raw):
        wave = _file_samples(Path(raw), extent)
    else:
        channels = torch.from_numpy(_array(raw)[0].astype(np.float32))
        wave = channels[0] if len(channels) == 1 else channels.mean(0)
    lowest, highest = map(float, wave.aminmax())  # both are NaN where any sample is
    peak = max(-lowest, highest)
    if not math.isfinite(peak):
        raise SampleError(f"{extent.item} has NaN or infinite samples; expected finite ones. Repair or drop it.")
    if peak > LOUDEST:
        raise SampleError(f"{extent.item} peaks at {peak:.3g}; expected full scale at 1. Scale it down.")
    return wave


def resampled(wave: Float[Tensor, " time"], rate: int, target: int) -> Float[Tensor, " resampled"]:
    """Band-limited resampling to exactly ceil(time * target / rate) samples."""
    from torchaudio.functional import resample

    if rate == target:
        return wave
    wanted = -(-len(wave) * target // rate)
    # torchaudio counts its output in float32, now and then one short: ask for more silence, and cut it off.
    spare = rate // math.gcd(rate, target) * (2 + wanted // 2**23)
    return resample(functional.pad(wave, (0, spare)), rate, target)[:wanted]


def _is_path(raw: Any) -> bool:
    return isinstance(raw, str | os.PathLike)


def _array(raw: Any) -> tuple[Float[np.ndarray, "channels time"], int]:
    """A raw pair, its types checked."""
    if not isinstance(raw, tuple | list) or len(raw) != 2:
        raise SampleError(f"Audio is {type(raw).__name__}; expected (float32[channels, time], sample_rate) or a path.")
    samples, rate = raw
    samples = samples.detach().cpu().numpy() if isinstance(samples, Tensor) else np.asarray(samples)
    if samples.dtype.kind != "f" or samples.ndim not in (1, 2):
        raise SampleError(
            f"Audio is {samples.dtype}{list(samples.shape)}; expected float[time] or float[channels, time]. "
            "Divide integer samples by their full scale."
        )
    if not isinstance(rate, int | float | np.integer | np.floating) or not float(rate).is_integer():
        raise SampleError(f"Audio claims {rate!r} samples a second; expected a whole number, such as 16000.")
    return np.atleast_2d(samples), int(rate)


def _file_extent(path: Path) -> Extent:
    """The header's word, which for WAV is held against the file's size."""
    import soundfile

    try:
        with soundfile.SoundFile(path) as file:
            extent, kind = Extent(str(path), file.channels, file.frames, file.samplerate), file.format
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise SampleError(f"{path} cannot be read as audio ({error}). Convert it to WAV or FLAC.") from error
    if kind not in FORMATS:
        raise SampleError(f"{path} is {kind}; expected one of {', '.join(FORMATS)}. Convert it to WAV or FLAC.")
    with path.open("rb") as file:
        if kind in WAV:
            _check_wav(file, path)
        elif kind == "OGG":
            _check_ogg(file, path)
    return extent


def _check_wav(file: BinaryIO, path: Path) -> None:
    """libsndfile reads a cut WAV as a shorter one; compare the data chunk's length with what is there
    (RIFF and RF64 chunks: EBU Tech 3306)."""
    size = path.stat().st_size
    order = "big" if file.read(12)[:4] == b"RIFX" else "little"
    claimed_by_ds64 = 0xFFFFFFFF
    for _ in range(1000):
        header = file.read(8)
        length = int.from_bytes(header[4:], order)
        if header[:4] == b"data":
            claimed, held = claimed_by_ds64 if length == 0xFFFFFFFF else length, size - file.tell()
            if claimed > held:
                raise SampleError(
                    f"{path} claims {claimed} bytes of sound but holds {held}; it was cut short. "
                    "Fetch it again, or rewrite its header."
                )
            return
        if header[:4] == b"ds64":
            claimed_by_ds64 = int.from_bytes(file.read(16)[8:], "little")
            length -= 16
        file.seek(length + length % 2, io.SEEK_CUR)
    raise SampleError(f"{path} has no data chunk among its first 1000; expected a WAV file. Convert it again.")


def _check_ogg(file: BinaryIO, path: Path) -> None:
    """A cut Ogg, too, reads as a shorter one: its last page must be whole and marked as the stream's end
    (RFC 3533 §6)."""
    longest = 27 + 255 + 255 * 255
    file.seek(-min(longest, path.stat().st_size), io.SEEK_END)
    tail = file.read()
    page = tail[tail.rfind(b"OggS") :]
    segments = page[27 : 27 + page[26]] if len(page) > 27 else b""
    if not segments or not page[5] & 4 or len(page) < 27 + len(segments) + sum(segments):
        raise SampleError(f"{path} lacks the last page of its stream; it was cut short. Fetch it again.")


def _file_samples(path: Path, extent: Extent) -> Float[Tensor, " time"]:
    """The file's channels averaged, read a block at a time; a short or unreadable file is refused."""
    import soundfile

    try:
        with soundfile.SoundFile(path) as file:
            # not file.blocks, which fills up what a cut file lacks with whatever was in memory
            blocks = [np.zeros(0, dtype=np.float32)]
            while len(block := file.read(2**18, dtype="float32", always_2d=True)):
                blocks.append(block.mean(1))
    except (OSError, RuntimeError, MemoryError) as error:
        raise SampleError(f"{path} is damaged ({error}). Fetch it again, or drop it.") from error
    wave = torch.from_numpy(np.concatenate(blocks))
    if len(wave) != extent.samples:
        raise SampleError(
            f"{path} claims {extent.samples} samples but holds {len(wave)}; it was cut short. Fetch it again."
        )
    return wave
