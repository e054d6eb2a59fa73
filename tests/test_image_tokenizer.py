"""The image tokenizer: any size comes back, any picture mode is read, and bad files are named."""

from __future__ import annotations

import io
import pickle
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from anyformer.errors import ConfigError, LimitError, SampleError, TokenizerError
from anyformer.testing import check_tokenizer
from anyformer.tokens import Tokens
from anyformer_tokenizers.image import FORMATS, ImageTokenizer, patchify, unpatchify

RED, WHITE = (255, 0, 0), (255, 255, 255)


@pytest.fixture
def image() -> ImageTokenizer:
    return ImageTokenizer()


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize(
    "settings_",
    [
        {},
        {"channels": 1, "patch": 4, "mean": 0.0, "std": 1.0},
        {"channels": 5, "mean": [0.1, 0.2, 0.3, 0.4, 0.5]},
        {"fit_mode": "refuse"},
        {"fit_mode": "resize"},
        {"max_patches": 2},
        {"flat": True, "class_slot": True},
    ],
)
def test_contract(settings_: dict) -> None:
    """The public contract, as any plugin must fulfil it."""
    check_tokenizer(ImageTokenizer(**settings_))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 7), st.integers(1, 4))
def test_patches_are_the_image_rearranged(rows: int, columns: int, patch: int, channels: int) -> None:
    """unpatchify undoes patchify, and each patch is the square at its row and column, channels first."""
    image = torch.rand(rows * patch, columns * patch, channels)
    patches = patchify(image, patch)
    assert patches.shape == (rows, columns, channels * patch * patch)
    assert torch.equal(unpatchify(patches, channels), image)
    square = image[(rows - 1) * patch :, (columns - 1) * patch :]
    assert torch.equal(patches[-1, -1], square.permute(2, 0, 1).flatten())


def test_features_are_ordered_as_in_a_patch_convolution() -> None:
    """A ViT's convolution weight, reshaped, is the linear map of the stream (arXiv:2010.11929)."""
    image, weight = torch.rand(8, 12, 3), torch.rand(10, 3, 4, 4)
    by_convolution = torch.nn.functional.conv2d(image.permute(2, 0, 1)[None], weight, stride=4)[0]
    by_linear = patchify(image, 4) @ weight.reshape(10, -1).T
    torch.testing.assert_close(by_linear.permute(2, 0, 1), by_convolution)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_every_image_comes_back(data: st.DataObject) -> None:
    """Exact for any size, whatever the patch and the statistics, and as long as announced."""
    height, width, channels = (data.draw(st.integers(1, top)) for top in (24, 24, 4))
    statistics = [data.draw(st.lists(st.floats(low, 1), min_size=channels, max_size=channels)) for low in (0, 0.001)]
    tokenizer = ImageTokenizer(
        patch=data.draw(st.integers(1, 9)), channels=channels, mean=statistics[0], std=statistics[1]
    )
    # Black and white borders are where padding could be mistaken for picture.
    raw = data.draw(arrays(np.uint8, (height, width, channels), elements=st.sampled_from([0, 1, 127, 254, 255])))
    tokens = tokenizer.encode(raw)
    back = tokenizer.decode(tokens)
    assert back.dtype == np.uint8 and np.array_equal(back, raw)
    assert tokenizer.length(raw) == tokens.length


def test_patches_know_where_they_are(image: ImageTokenizer) -> None:
    """Row-major, (row, column), normalised to [-1, 1] by default."""
    raw = np.zeros((32, 48, 3), np.uint8)
    raw[16:, 32:] = 255
    tokens = image.encode(raw)
    assert tokens.positions.tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    values = tokens.streams["image"].values
    assert values.shape == (6, 768) and values.dtype == torch.float32
    assert (values[:5] == -1).all() and (values[5] == 1).all()
    assert image.streams[0].features == 768 and image.streams[0].rank == 2


def test_statistics_are_per_channel() -> None:
    tokenizer = ImageTokenizer(patch=1, mean=[0.0, 0.5, 1.0], std=[1.0, 0.5, 0.25])
    values = tokenizer.encode(np.full((1, 1, 3), 255, np.uint8)).streams["image"].values
    assert values.tolist() == [[1.0, 1.0, 0.0]]


def test_decoding_follows_positions(image: ImageTokenizer) -> None:
    """A picture behind a caption starts further on; the order of its patches does not matter."""
    raw = noise(32, 48, 3)
    alone = image.encode(raw)
    behind = Tokens.laid_end_to_end([Tokens.of("text", torch.arange(5)), alone])
    assert np.array_equal(image.decode(behind), raw)
    order = torch.tensor([5, 3, 1, 0, 2, 4])
    shuffled = Tokens.of("image", alone.streams["image"].values[order])
    shuffled = Tokens(shuffled.streams, 6, alone.positions[order])
    assert np.array_equal(image.decode(shuffled), raw)


def test_generated_values_are_clipped(image: ImageTokenizer) -> None:
    """A model overshoots; levels end at 0 and 255, and only lines wholly below black count as padding."""
    tokens = image.encode(np.zeros((16, 16, 3), np.uint8))
    values = tokens.streams["image"].values
    values[:] = 3.0
    assert (image.decode(tokens) == 255).all()
    values[:] = -3.0
    values[0, 0] = 0.0
    assert image.decode(tokens).shape == (1, 1, 3), "at least a pixel is left"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda values, positions: (values[:5], positions[:5]),  # a patch is missing
        lambda values, positions: (values, positions[[0, 1, 2, 3, 4, 4]]),  # two in one place
        lambda values, positions: (values[:, :7], positions),  # another patch size
        lambda values, positions: (values, positions[:, :1]),  # no columns
        lambda values, positions: (values[:0], positions[:0]),  # nothing
        lambda values, positions: (values * torch.nan, positions),
        lambda values, positions: (values * torch.inf, positions),
    ],
)
def test_what_is_no_picture_does_not_decode(image: ImageTokenizer, spoil) -> None:
    tokens = image.encode(noise(32, 48, 3))
    values, positions = spoil(tokens.streams["image"].values, tokens.positions)
    with pytest.raises(TokenizerError, match="expected"):
        image.decode(Tokens(Tokens.of("image", values).streams, len(values), positions))


def test_foreign_stream_is_refused(image: ImageTokenizer) -> None:
    with pytest.raises(TokenizerError, match=r"'image'.*\['text'\]"):
        image.decode(Tokens.of("text", torch.tensor([1])))


@pytest.mark.parametrize(
    "raw",
    [
        np.zeros((8, 8, 3)),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8,), np.uint8),
        np.zeros((1, 8, 8, 3), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
        np.zeros((8, 0), np.uint8),
        Image.new("RGB", (0, 4)),
        torch.zeros(8, 8, 3, dtype=torch.uint8),
        None,
        7,
    ],
    ids=lambda raw: f"{type(raw).__name__}{getattr(raw, 'shape', '')}",
)
@pytest.mark.parametrize("method", ["encode", "length"])
def test_what_is_no_image_is_refused(image: ImageTokenizer, method: str, raw: object) -> None:
    with pytest.raises(SampleError, match="expected"):
        getattr(image, method)(raw)


@pytest.mark.parametrize("shape", [(1, 1), (1, 10_000), (10_000, 1), (33, 17)])
def test_odd_shapes(image: ImageTokenizer, shape: tuple[int, int]) -> None:
    """One pixel and one line are pictures like any other; grey is repeated over the channels."""
    raw = noise(*shape)
    tokens = image.encode(raw)
    assert tokens.length == image.length(raw) == -(-shape[0] // 16) * -(-shape[1] // 16)
    assert np.array_equal(image.decode(tokens), np.stack([raw] * 3, axis=2))


def test_views_of_arrays(image: ImageTokenizer) -> None:
    """A mirrored, strided and read-only view encodes as its copy does."""
    view = noise(40, 40, 3)[::-1, ::2]
    view.flags.writeable = False
    assert np.array_equal(image.decode(image.encode(view)), view)


def encoded_levels(tokenizer: ImageTokenizer, raw: object) -> list:
    """The first pixel of a picture, after a trip through tokens."""
    return tokenizer.decode(tokenizer.encode(raw))[0, 0].tolist()


@pytest.mark.parametrize(
    ("picture", "first"),
    [
        (Image.new("1", (4, 4), 1), WHITE),
        (Image.new("L", (4, 4), 9), (9, 9, 9)),
        (Image.new("LA", (4, 4), (9, 0)), WHITE),
        (Image.new("RGBA", (4, 4), (0, 0, 0, 0)), WHITE),
        (Image.new("RGBA", (4, 4), (*RED, 255)), RED),
        (Image.new("RGB", (4, 4), RED).quantize(2), RED),
        (Image.new("CMYK", (4, 4), (0, 255, 255, 0)), RED),
        (Image.new("RGB", (4, 4), RED).convert("YCbCr"), (254, 0, 0)),
        (Image.fromarray(np.full((4, 4), 0x8000, np.uint16)), (128, 128, 128)),
        (Image.fromarray(np.full((4, 4), 0xFFFF, np.int32)), WHITE),
    ],
    ids=lambda value: getattr(value, "mode", None),
)
def test_every_mode_is_read(image: ImageTokenizer, picture: Image.Image, first: tuple) -> None:
    """Palette, transparency on white, CMYK, and 16 bits scaled rather than clipped at 255."""
    assert tuple(encoded_levels(image, picture)) == first
    assert image.length(picture) == 1


def test_palette_transparency_is_laid_on_white(image: ImageTokenizer, tmp_path: Path) -> None:
    """A GIF's transparent index is background, not its hidden colour."""
    picture = Image.new("P", (4, 4), 0)
    picture.putpalette([*RED, 0, 0, 255])
    picture.save(tmp_path / "p.png", transparency=0)
    assert tuple(encoded_levels(image, tmp_path / "p.png")) == WHITE


@pytest.mark.parametrize("value", [-5, 70_000, 0.5])
def test_pixels_without_a_range_are_refused(image: ImageTokenizer, value: float) -> None:
    """32-bit integers beyond 16 bits and floats have no known white: no silent guess."""
    dtype = np.float32 if isinstance(value, float) else np.int32
    with pytest.raises(SampleError, match="cannot be read"):
        image.encode(Image.fromarray(np.full((4, 4), value, dtype)))


def test_alpha_is_kept_where_it_has_a_channel() -> None:
    tokenizer = ImageTokenizer(channels=4)
    assert encoded_levels(tokenizer, Image.new("RGBA", (4, 4), (1, 2, 3, 4))) == [1, 2, 3, 4]


def test_channels_no_file_has() -> None:
    with pytest.raises(SampleError, match="channels=5"):
        ImageTokenizer(channels=5).encode(Image.new("RGB", (4, 4)))


def test_orientation_is_applied(image: ImageTokenizer, tmp_path: Path) -> None:
    """A photo taken sideways (EXIF orientation 6) stands upright; its announced length still holds."""
    picture, exif = Image.new("RGB", (40, 20), RED), Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "sideways.png", exif=exif)
    tokens = image.encode(tmp_path / "sideways.png")
    assert image.decode(tokens).shape == (40, 20, 3)
    assert image.length(tmp_path / "sideways.png") == tokens.length == 6


def test_animation_gives_its_first_frame(image: ImageTokenizer, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, WHITE)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert tuple(encoded_levels(image, str(tmp_path / "a.gif"))) == RED


@pytest.mark.parametrize("method", ["encode", "length"])
def test_limit_holds_before_pixels_are_decoded(image: ImageTokenizer, method: str, tmp_path: Path) -> None:
    """Files of a few kilobytes that claim 169 and 400 megapixels: ours refuses one, Pillow's guard the other.

    Their pixel data is missing, so decoding would be another error.
    """
    for side in (13_000, 20_000):
        path = tmp_path / f"{side}.png"
        path.write_bytes(png_claiming(side, side))
        with pytest.raises(LimitError, match=f"{side}.png"):
            getattr(image, method)(path)
    with pytest.raises(LimitError, match="max_pixels=15"):
        getattr(ImageTokenizer(max_pixels=15), method)(np.zeros((4, 4), np.uint8))


def png_claiming(width: int, height: int) -> bytes:
    """A PNG whose header (8-bit grey) is right and whose pixels are cut off."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)

    header = width.to_bytes(4) + height.to_bytes(4) + bytes([8, 0, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100))


def test_length_reads_the_header_only(image: ImageTokenizer, tmp_path: Path) -> None:
    """Planning a batch must not decode pixels: here there are none to decode, and `encode` says so."""
    path = tmp_path / "cut.png"
    path.write_bytes(png_claiming(600, 400)[:60])
    assert image.length(path) == 38 * 25
    with pytest.raises(SampleError, match=r"cut\.png.*Replace it"):
        image.encode(path)


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"not a picture", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_unreadable_files_are_named(image: ImageTokenizer, content: bytes, tmp_path: Path) -> None:
    """Among them PostScript, which Pillow would hand to an interpreter."""
    path = tmp_path / "odd.jpg"
    path.write_bytes(content)
    for use in (image.encode, image.length, image.render):
        with pytest.raises(SampleError, match=r"odd\.jpg.*expected"):
            use(path)


@pytest.mark.parametrize("path", ["no/such/file.png", "", "nul\0.png", Path(".")])
def test_missing_files_are_named(image: ImageTokenizer, path: object) -> None:
    with pytest.raises(SampleError, match="cannot be read"):
        image.encode(path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM"])
def test_damaged_files_never_crash(image: ImageTokenizer, kind: str, tmp_path: Path) -> None:
    """Cut files are refused or read; flipped bytes too; nothing but a SampleError escapes."""
    stream, rng = io.BytesIO(), np.random.default_rng(0)
    Image.fromarray(noise(24, 24, 3)).save(stream, kind)
    content, path, refused = stream.getvalue(), tmp_path / "damaged", 0
    assert kind in FORMATS
    for trial in range(60):
        damaged = bytearray(content)
        at = int(rng.integers(len(content)))
        if trial % 2:
            damaged[at] ^= 1 << int(rng.integers(8))
        else:
            del damaged[at:]
        path.write_bytes(damaged)
        try:
            tokens = image.encode(path)
        except SampleError as error:
            assert "damaged" in str(error)
            refused += 1
        else:
            assert image.length(path) == tokens.length
    assert refused >= 15, "half the files were cut"


def test_refusing_and_resizing() -> None:
    """The alternatives to padding: an error with the cure, or the nearest size; resizing promises less."""
    raw = np.full((20, 41, 3), 77, np.uint8)
    with pytest.raises(SampleError, match=r"20x41.*multiples of patch=16.*fit_mode"):
        ImageTokenizer(fit_mode="refuse").encode(raw)
    resize = ImageTokenizer(fit_mode="resize")
    back = resize.decode(resize.encode(raw))
    assert back.shape == (16, 48, 3) and (back == 77).all()
    assert resize.length(raw) == 3
    assert (resize.fidelity, ImageTokenizer().fidelity) == ("approximate", "exact")
    assert resize.length(np.zeros((1, 1), np.uint8)) == 1


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_rendered_png_is_the_picture(channels: int) -> None:
    tokenizer, raw = ImageTokenizer(channels=channels), noise(5, 7, channels)
    png = Image.open(io.BytesIO(tokenizer.render(raw)["image/png"]))
    assert np.array_equal(np.asarray(png).reshape(raw.shape), raw)


@pytest.mark.parametrize(
    "setting",
    [
        {"patch": 0},
        {"channels": 0},
        {"max_pixels": 0},
        {"fit_mode": "crop"},
        {"mean": 123.7},
        {"mean": [0.5, 0.5]},
        {"std": 0},
        {"std": [0.5, float("nan"), 0.5]},
    ],
    ids=str,
)
def test_settings_are_checked(setting: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(setting))):
        ImageTokenizer(**setting)


def test_fingerprint_follows_settings() -> None:
    """Another normalisation is another tokenizer; a tuple and the list JSON makes of it are the same one."""
    variants = [{}, {"patch": 8}, {"mean": 0.4}, {"std": 0.4}, {"fit_mode": "resize"}, {"channels": 1}]
    assert len({ImageTokenizer(**variant).fingerprint() for variant in variants}) == len(variants)
    given_tuple, given_list = ImageTokenizer(mean=(0.1, 0.2, 0.3)), ImageTokenizer(mean=[0.1, 0.2, 0.3])
    assert given_tuple == given_list and given_tuple.fingerprint() == given_list.fingerprint()


def test_pickles(image: ImageTokenizer) -> None:
    received, raw = pickle.loads(pickle.dumps(image)), noise(20, 20, 3)
    assert received == image
    assert torch.equal(received.encode(raw).streams["image"].values, image.encode(raw).streams["image"].values)


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 90), st.integers(1, 90), st.integers(1, 5), st.integers(1, 40), st.sampled_from(["pad", "resize"])
)
def test_a_budget_of_patches_keeps_the_aspect_ratio(height, width, patch, most, mode) -> None:
    """Never more patches than that, each side as near below its share as whole patches are; smaller pictures stay as
    they are; turning a picture turns its grid."""
    tokenizer = ImageTokenizer(patch=patch, channels=1, fit_mode=mode, max_patches=most)
    free = ImageTokenizer(patch=patch, channels=1, fit_mode=mode)
    picture = noise(height, width)
    tokens, whole = tokenizer.encode(picture), free.encode(picture)
    assert tokens.length == tokenizer.length(picture) == tokenizer.length(picture.T) <= most
    if whole.length <= most:
        assert torch.equal(tokens.streams["image"].values, whole.streams["image"].values)
        return
    rows, columns = (tokens.positions.amax(0) + 1).tolist()
    for found, side, other in ((rows, height, width), (columns, width, height)):
        assert found**2 * other <= most * side or found == 1
        assert (found + 1) ** 2 * other > most * side or found == most
    assert (tokenizer.encode(picture.T).positions.amax(0) + 1).tolist() == [columns, rows]


def test_a_picture_that_is_scaled_down_still_shows_the_same() -> None:
    """Left half dark, right half bright, twice as wide as high: 2 x 4 patches of the 18 that it had."""
    picture = np.zeros((24, 48), np.uint8)
    picture[:, 24:] = 200
    tokenizer = ImageTokenizer(patch=8, channels=1, max_patches=10)
    shown = tokenizer.decode(tokenizer.encode(picture))[..., 0]
    assert shown.shape == (16, 32) and (shown[:, :14] < 5).all() and (shown[:, 18:] > 195).all()


def test_a_budget_below_zero_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_patches=-1; expected 0 or more"):
        ImageTokenizer(max_patches=-1)
