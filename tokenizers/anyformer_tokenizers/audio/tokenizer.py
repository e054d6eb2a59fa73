"""The log-mel tokenizer.

>>> audio = AudioTokenizer()
>>> second = np.zeros((1, 16000), dtype=np.float32), 16000
>>> audio.fit([second])
>>> audio.encode(second).streams["audio"].values.shape, audio.length(second)
(torch.Size([101, 80]), 26)
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from anyformer.contracts import Tokenizer
from anyformer.errors import ConfigError, TokenizerError
from anyformer.tokens import Stream, StreamSpec, Tokens
from anyformer_tokenizers.audio.clip import Extent, measure, resampled, waveform
from anyformer_tokenizers.audio.conformer import Conformer, Subsampling
from anyformer_tokenizers.audio.scaling import Edges, Standardised, Whisper, scaling_of
from anyformer_tokenizers.standardisation import STATISTICS, Standardisation

if TYPE_CHECKING:
    from torchaudio.transforms import MelSpectrogram

ENOUGH_FRAMES = 100_000  # a mean over these has settled; a corpus may hold millions


@dataclass
class AudioTokenizer(Tokenizer):
    """One continuous stream of normalised frames, log-mel or cepstral, named after the tokenizer.

    Raw values: `(float[time] or float[channels, time], sample_rate)` from numpy or torch with full scale at
    ±1, or the path of a WAV, FLAC, OGG or MP3 file. Channels are averaged; another rate is resampled. Frames
    are centred on every `hop`-th sample, with silence beyond both ends: n samples make 1 + floor(n / hop)
    frames, and every sample counts, however short the clip.

    sample_rate: Hz. window (even), hop: samples. low, high: Hz, by default 0 and half the sample rate.
    subsampling: frames per slot, a power of two. layers, heads, kernel (slots, odd), dropout: the embedder's
    conformer blocks. max_seconds: longer clips raise LimitError before they are read.
    scaling: `{type: standardised, range: 45}` makes how loud a clip is, and its background, tell nothing, see
    `Standardised`; `{type: cepstral, coefficients: 13}` makes a frame the shape of its spectrum, see `Cepstral`;
    `{type: whisper, pad: true}` makes Whisper's frames, floor(n / hop) of them, see `Whisper`.

    frames: every clip is told in so many, at equal distances from its first to its last: what is said fast looks as it
    does said slowly. By default a longer clip has more.

    `fit` learns a mean and a deviation for each number of a frame, and comes before encode and decode, unless another
    scaling has nothing to learn.
    """

    name: str = "audio"
    sample_rate: int = 16_000
    mels: int = 80
    window: int = 400
    hop: int = 160
    low: float = 0.0
    high: float | None = None
    subsampling: int = 4
    layers: int = 1
    heads: int = 4
    kernel: int = 15
    dropout: float = 0.0
    max_seconds: float = 600.0
    scaling: dict[str, Any] = field(default_factory=dict)
    frames: int | None = None

    fidelity: ClassVar = "approximate"

    _learned: Standardisation | None = field(init=False, default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._scaling = scaling_of(self.scaling)
        if min(self.sample_rate, self.mels, self.hop, self.layers + 1, self.heads, self.max_seconds) <= 0:
            raise ConfigError(f"{self}; expected every size, rate and limit to be positive.")
        if self.frames is not None and self.frames < 1:
            raise ConfigError(f"frames={self.frames}; expected 1 or more, or none for as many as a clip is long.")
        if self.subsampling < 1 or self.subsampling & (self.subsampling - 1):
            raise ConfigError(f"subsampling={self.subsampling}; expected a power of two: 1, 2, 4, 8, …")
        if self.kernel % 2 == 0:
            raise ConfigError(f"kernel={self.kernel}; expected an odd number, such as {self.kernel + 1}.")
        if self.window % 2 or not 2 <= self.hop <= self.window / 2:  # beyond half, some samples go unheard
            raise ConfigError(
                f"hop={self.hop}, window={self.window}; expected an even window and 2 <= hop <= window / 2."
            )
        if not 0 <= self.low < self._highest <= self.sample_rate / 2:
            raise ConfigError(
                f"low={self.low}, high={self._highest} at sample_rate={self.sample_rate}; "
                "expected 0 <= low < high <= half the sample rate."
            )
        self._features = self._scaling.features(self.mels)

    def config(self) -> dict[str, Any]:
        """The settings; without `scaling` and `frames` where they are the defaults, which older checkpoints did not
        write."""
        usual = {"scaling": self._scaling == Standardised(), "frames": self.frames is None}
        return {name: value for name, value in super().config().items() if not usual.get(name)}

    @property
    def streams(self) -> tuple[StreamSpec, ...]:
        conformer = Conformer(self._features, self.subsampling, self.layers, self.heads, self.kernel, self.dropout)
        slots = Subsampling(self.subsampling)
        return (StreamSpec.continuous(self.name, self._features, slots=slots, embedder=conformer),)

    def encode(self, raw: Any) -> Tokens:
        """float32[frames, features] in ceil(frames / subsampling) slots.

        SampleError: empty, not finite, an impossible rate, a damaged or cut file. LimitError: too long.
        TokenizerError: not fitted.
        """
        frames = self._scale.apply(self._rows(raw))
        slots = torch.arange(Subsampling(self.subsampling)(len(frames)))
        return Tokens({self.name: Stream.whole(frames, slots)}, len(slots), slots[:, None])

    def decode(self, tokens: Tokens) -> tuple[Float[np.ndarray, "1 time"], int]:
        """A waveform with about these frames, and its rate in Hz: least squares from mel bands to
        frequencies, then phases by the fast Griffin-Lim algorithm (Perraudin et al., WASPAA 2013).

        Of the lengths that encode to as many frames again it has the middle one.
        """
        from torchaudio.functional import griffinlim

        power = self._scaling.power(self._scale.invert(self._frames_of(tokens)), self.mels)
        bank = self._mel_transform.mel_scale.fb
        spectrum = torch.linalg.lstsq(bank.T, power.T, driver="gelsd").solution.clamp(min=0)
        # The algorithm needs half a window of signal at least: repeat the last frame, then cut that off.
        margin = self.window // self.hop
        wave = griffinlim(
            functional.pad(spectrum, (0, margin), mode="replicate"),
            torch.hann_window(self.window),
            n_fft=self.window,
            hop_length=self.hop,
            win_length=self.window,
            power=2.0,
            n_iter=32,
            momentum=0.99,
            length=None,
            rand_init=False,  # the same tokens, the same sound
        )
        return wave[: self._scaling.samples(len(power), self.hop)].numpy()[None], self.sample_rate

    def length(self, raw: Any) -> int:
        """ceil(frames / subsampling), from the number of samples and their rate; of a file, the header."""
        samples = self._scaling.heard(self._measured(raw).resampled(self.sample_rate), self.sample_rate)
        return Subsampling(self.subsampling)(self.frames or self._scaling.frames(samples, self.hop))

    def example(self, rng: np.random.Generator) -> tuple[Float[np.ndarray, "1 time"], int]:
        """A gliding tone in noise, 0.2 to 0.8 s."""
        time = np.arange(int(rng.uniform(0.2, 0.8) * self.sample_rate) + 1) / self.sample_rate
        start, slope = rng.uniform(0.02, 0.2, size=2) * self.sample_rate
        glide = 0.4 * np.sin(2 * np.pi * (start * time + slope * time**2 / 2))
        return (glide + rng.normal(0, 0.01, len(time))).astype(np.float32)[None], self.sample_rate

    def render(self, raw: Any) -> dict[str, bytes | str]:
        """What is heard after mixing and resampling (16-bit WAV, clipped at full scale), and its log-mel."""
        import soundfile
        from matplotlib.figure import Figure

        wave, sound, picture = self.wave(raw), io.BytesIO(), io.BytesIO()
        soundfile.write(sound, wave.clamp(-1, 1).numpy(), self.sample_rate, format="WAV", subtype="PCM_16")
        figure = Figure(figsize=(5, 2), layout="constrained")
        axes = figure.subplots()
        edges = (0, len(wave) / self.sample_rate, 0, self.mels)
        axes.imshow(self.log_mel(wave).T.numpy(), origin="lower", aspect="auto", extent=edges)
        axes.set(xlabel="seconds", ylabel="mel band")
        figure.savefig(picture, format="png", dpi=80)
        return {"audio/wav": sound.getvalue(), "image/png": picture.getvalue()}

    # From samples to frames.

    def wave(self, raw: Any) -> Float[Tensor, " time"]:
        """Mono samples at `sample_rate`, as many as are heard."""
        extent = self._measured(raw)
        wave = resampled(waveform(raw, extent), extent.rate, self.sample_rate)
        missing = self._scaling.heard(len(wave), self.sample_rate) - len(wave)
        return functional.pad(wave, (0, missing)) if missing else wave

    def _measured(self, raw: Any) -> Extent:
        extent = measure(raw, self.sample_rate, self.max_seconds)
        self._scaling.require(extent.item, extent.resampled(self.sample_rate), self.sample_rate, self.window)
        return extent

    def log_mel(self, wave: Float[Tensor, " time"]) -> Float[Tensor, "frames mels"]:
        """The logarithm of mel power, natural unless `scaling` says otherwise, not yet normalised."""
        return self._scaling.logarithm(mel_power(self._mel_transform, wave))

    def _rows(self, raw: Any) -> Float[Tensor, "frames features"]:
        rows = self._scaling.told(self.log_mel(self.wave(raw)))
        return rows if self.frames is None else at_equal_distances(rows, self.frames)

    @property
    def _highest(self) -> float:
        return self.sample_rate / 2 if self.high is None else self.high

    @property
    def _mel_transform(self) -> MelSpectrogram:
        edges = self._scaling.edges
        return mel_transform(self.sample_rate, self.window, self.hop, self.mels, self.low, self._highest, edges)

    def _frames_of(self, tokens: Tokens) -> Float[Tensor, "frames mels"]:
        stream = tokens.streams.get(self.name)
        shape = None if stream is None else list(stream.values.shape)
        if stream is None or len(stream.values) == 0 or shape != [len(stream.values), self._features]:
            raise TokenizerError(
                f"Cannot decode a stream {self.name!r} of shape {shape}; expected [frames, {self._features}]."
            )
        if not stream.values.isfinite().all():
            raise TokenizerError(f"Cannot decode {self.name!r}: it has NaN or infinite values; expected finite.")
        return stream.values.detach().cpu().float()

    # What is learned.

    @property
    def fitted(self) -> bool:
        return self._learned is not None or not self._scaling.learns

    def fit(self, samples: Iterable[Any]) -> None:
        """Mean and deviation of each of a frame's numbers, over the first samples that hold `ENOUGH_FRAMES`."""
        if not self._scaling.learns:
            return
        frames = _until(ENOUGH_FRAMES, (self._rows(raw) for raw in samples))
        self._learned = Standardisation.learned(frames, least=0.5)

    def state(self) -> dict[str, bytes]:
        return {} if self._learned is None else {STATISTICS: self._learned.to_json()}

    def restore(self, state: Mapping[str, bytes]) -> None:
        if not self._scaling.learns:
            return super().restore(state)
        self._learned = Standardisation.from_json(state.get(STATISTICS), self._features) if state else None

    @property
    def _scale(self) -> Standardisation | Whisper:
        if isinstance(self._scaling, Whisper):
            return self._scaling
        if self._learned is None:
            raise TokenizerError(f"Tokenizer {self.name!r} is not fitted; call fit(samples) or restore(state).")
        return self._learned


def _until(enough: int, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
    """Pieces up to and including the one with which there are `enough` rows."""
    for piece in pieces:
        yield piece
        enough -= len(piece)
        if enough <= 0:
            return


def at_equal_distances(rows: Float[Tensor, "rows features"], count: int) -> Float[Tensor, "count features"]:
    """`count` rows from the first to the last, each on the line between the two that it lies between; of one row, as
    many as are asked for.

    >>> at_equal_distances(torch.tensor([[0.0], [10.0], [20.0]]), 5).T.tolist()
    [[0.0, 5.0, 10.0, 15.0, 20.0]]
    """
    at = torch.linspace(0, len(rows) - 1, count)
    before = at.long().clamp(max=max(0, len(rows) - 2))
    after = (before + 1).clamp(max=len(rows) - 1)
    return torch.lerp(rows[before], rows[after], (at - before)[:, None])


def mel_power(transform: MelSpectrogram, wave: Float[Tensor, " time"]) -> Float[Tensor, "frames mels"]:
    """What `transform(wave).T` is, in half the time: a band weighs the squares of a frequency's real and imaginary part
    alike, so neither their sum nor its root, which would be squared again, is ever written."""
    spectrogram = transform.spectrogram
    spectrum = torch.stft(
        wave,
        spectrogram.n_fft,
        spectrogram.hop_length,
        window=transform.get_buffer("spectrogram.window"),
        pad_mode=spectrogram.pad_mode,
        return_complex=True,
    )
    parts = torch.view_as_real(spectrum.T).flatten(1)  # frames × (real, imaginary, real, …), as they lie in memory
    return parts.square_() @ transform.get_buffer("mel_scale.fb").repeat_interleave(2, 0)


@lru_cache
def mel_transform(rate: int, window: int, hop: int, mels: int, low: float, high: float, edges: Edges) -> MelSpectrogram:
    """Power of Hann windows, summed in triangular bands (Slaney, Auditory Toolbox, 1998): linear below 1 kHz,
    so that no band falls between two frequencies. Made once per process, and so never pickled."""
    from torchaudio.transforms import MelSpectrogram

    return MelSpectrogram(
        rate,
        window,
        hop_length=hop,
        n_mels=mels,
        f_min=low,
        f_max=high,
        pad_mode=edges,
        norm="slaney",
        mel_scale="slaney",
    )
