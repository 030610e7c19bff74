"""The reader: whatever a file says, one grey image in [0, 1], dark = air."""

import io
import re
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from imagecodecs import jpeg8_encode
from PIL import Image
from pydicom.dataset import FileMetaDataset
from pydicom.pixels import apply_windowing
from pydicom.sequence import Sequence
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from chartray.pixels.grey import UnreadableImage
from chartray.pixels.read import DecodedImage, decode_image, read_image, squash

FORMATS = Path(__file__).resolve().parents[2] / "shared" / "data" / "formats"
needs_formats = pytest.mark.skipif(not FORMATS.exists(), reason="shared/data/formats is not here")


@pytest.fixture
def film() -> np.ndarray:
    """A real image, uint8 (H, W); a gradient with noise where there is none."""
    if FORMATS.exists():
        return np.asarray(Image.open(FORMATS / "nih_00000001_000_512.png"))[:300, :400]
    noise = np.random.default_rng(0).integers(0, 40, (300, 400))
    return (np.add.outer(np.arange(300), np.arange(400)) * 215 // 698 + noise).astype(np.uint8)


def dicom(pixels: np.ndarray, *, bits: int | None = None, **elements: object) -> pydicom.Dataset:
    """An uncompressed secondary capture of `pixels` (H, W)."""
    data = pydicom.Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = "1.2.3"
    data.Rows, data.Columns = pixels.shape
    data.SamplesPerPixel = 1
    data.PhotometricInterpretation = "MONOCHROME2"
    data.BitsAllocated = pixels.dtype.itemsize * 8
    data.BitsStored = bits or data.BitsAllocated
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    data.PixelData = pixels.tobytes()
    data["PixelData"].VR = "OW" if data.BitsAllocated > 8 else "OB"
    for name, value in elements.items():
        setattr(data, name, value)
    return data


def read_dicom(data: pydicom.Dataset, folder: Path) -> np.ndarray:
    data.save_as(folder / "film.dcm", enforce_file_format=True)
    return read_image(folder / "film.dcm")


def save(picture: Image.Image, file: Path, **options: object) -> Path:
    picture.save(file, **options)
    return file


# ---- pictures


@needs_formats
@pytest.mark.parametrize("name", sorted(p.name for p in FORMATS.glob("*") if p.suffix in (".png", ".jpg", ".jpeg")))
def test_every_real_picture_equals_pillows_own_grey(name: str) -> None:
    picture = Image.open(FORMATS / name)
    expected = np.asarray(picture.convert("RGB").convert("L"), dtype=np.float32) / 255
    image = read_image(FORMATS / name)
    assert image.dtype == np.float32
    assert image.shape == (picture.height, picture.width)
    # A JPEG's luma is not rounded by way of RGB here.
    assert np.abs(image - expected).max() <= (2 / 255 if name.endswith(("jpg", "jpeg")) else 1e-6)


def test_jpeg_of_every_colour_space(film: np.ndarray, tmp_path: Path) -> None:
    grey = Image.fromarray(film)
    for mode, tolerance in (("L", 1.5), ("RGB", 2.0), ("CMYK", 2.5)):
        picture = grey if mode == "L" else grey.convert("RGB").convert(mode)
        image = read_image(save(picture, tmp_path / f"{mode}.jpg", quality=100))
        assert np.abs(image * 255 - film).mean() < tolerance, mode
        assert np.corrcoef(image.ravel(), film.ravel())[0, 1] > 0.995, mode


def test_png_of_every_mode_is_the_original(film: np.ndarray, tmp_path: Path) -> None:
    grey = Image.fromarray(film)
    palette = grey.convert("P")
    palette.putpalette([value for level in range(256) for value in (255 - level,) * 3])
    palette.putdata((255 - film).ravel().tolist())
    shuffled = {
        "L": grey,
        "RGB": grey.convert("RGB"),
        "LA": grey.convert("LA"),
        "RGBA": grey.convert("RGBA"),
        "palette": palette,
    }
    for name, picture in shuffled.items():
        image = read_image(save(picture, tmp_path / f"{name}.png"))
        np.testing.assert_allclose(image, film / np.float32(255), atol=1e-6, err_msg=name)


def test_transparent_pixels_are_air(film: np.ndarray, tmp_path: Path) -> None:
    alpha = np.full_like(film, 255)
    alpha[:100] = 0
    alpha[100:200] = 128
    layers = np.dstack([film, film, film, alpha])
    expected = film / 255 * (alpha / 255)
    image = read_image(save(Image.fromarray(layers), tmp_path / "rgba.png"))
    np.testing.assert_allclose(image, expected, atol=1.01 / 255)
    image = read_image(save(Image.fromarray(layers[..., [0, 3]]), tmp_path / "la.png"))
    np.testing.assert_allclose(image, expected, atol=1.01 / 255)


@settings(max_examples=25, deadline=None)
@given(values=hnp.arrays(np.uint16, hnp.array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=9)))
def test_16_bit_png_keeps_every_level(values: np.ndarray) -> None:
    values[0, 0], values[-1, -1] = 0, 65535
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, format="PNG")
    image = read_bytes(buffer.getvalue())
    assert np.array_equal(np.rint(image.astype(np.float64) * 65535).astype(np.uint16), values)


def read_bytes(content: bytes) -> np.ndarray:
    return film_of(content).image


def film_of(content: bytes, smallest_side: int | None = None) -> DecodedImage:
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        return decode_image(file.name, smallest_side=smallest_side)


def test_16_bit_png_of_an_image_is_the_image_and_12_bits_in_16_are_not_black(film: np.ndarray, tmp_path: Path) -> None:
    wide = film.astype(np.uint16) * 257
    image = read_image(save(Image.fromarray(wide), tmp_path / "wide.png"))
    np.testing.assert_allclose(image, film / np.float32(255), atol=1e-6)
    narrow = film.astype(np.uint16) * 16
    image = read_image(save(Image.fromarray(narrow), tmp_path / "narrow.png"))
    assert image.min() == 0
    assert image.max() == 1
    assert np.corrcoef(image.ravel(), film.ravel())[0, 1] > 0.99999


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation: int, film: np.ndarray, tmp_path: Path) -> None:
    # What the camera held: the inverse of what the tag tells the viewer to do.
    held = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: np.transpose,
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).T,
        8: lambda a: np.rot90(a, -1),
    }[orientation](film)
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(np.ascontiguousarray(held))
    png = decode_image(save(picture, tmp_path / "o.png", exif=exif))
    np.testing.assert_allclose(png.image, film / np.float32(255), atol=1e-6)
    jpeg = decode_image(save(picture, tmp_path / "o.jpg", quality=95, exif=exif), smallest_side=100)
    assert (jpeg.height, jpeg.width) == film.shape == (png.height, png.width)
    small = np.asarray(Image.fromarray(film).resize((80, 80), Image.Resampling.BILINEAR))
    assert np.abs(squash(jpeg, 80).astype(int) - small).mean() < 1


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(200, 600),
    width=st.integers(200, 600),
    size=st.integers(20, 150),
    mode=st.sampled_from(["L", "CMYK"]),
)
def test_scaled_decoding_moves_nothing(height: int, width: int, size: int, mode: str) -> None:
    """At sides that no power of two divides, a scaled ramp ends where the whole one does."""
    ramp = np.add.outer(np.linspace(0, 120, height), np.linspace(0, 120, width)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(ramp).convert("RGB").convert(mode).save(buffer, format="JPEG", quality=98)
    whole, scaled = film_of(buffer.getvalue()), film_of(buffer.getvalue(), smallest_side=size)
    assert (whole.height, whole.width) == (scaled.height, scaled.width) == (height, width)
    assert scaled.image.shape == (-(-height // scaled.scale), -(-width // scaled.scale))
    assert min(scaled.image.shape) >= size
    small = size * 4 // 5
    difference = squash(whole, small).astype(float) - squash(scaled, small)
    assert np.abs(difference.mean(axis=0)).max() < 1
    assert np.abs(difference.mean(axis=1)).max() < 1


def test_scaled_decoding_is_close_to_the_whole_image(film: np.ndarray, tmp_path: Path) -> None:
    large = Image.fromarray(film).resize((1600, 1200), Image.Resampling.BICUBIC)
    file = save(large, tmp_path / "large.jpg", quality=92)
    whole, scaled = decode_image(file), decode_image(file, smallest_side=256)
    assert whole.image.shape == (1200, 1600)
    assert scaled.image.shape == (300, 400)
    assert (scaled.height, scaled.width) == (1200, 1600)
    difference = squash(whole, 256).astype(int) - squash(scaled, 256)
    assert np.abs(difference).mean() < 0.5
    assert min(read_image(file, smallest_side=1201).shape) == 1200


# ---- DICOM


@needs_formats
def test_real_dicom_is_its_stored_values_over_255() -> None:
    file = FORMATS / "nih_monochrome2_uncompressed.dcm"
    film = decode_image(file)
    stored = pydicom.dcmread(file).pixel_array
    assert (film.height, film.width) == (1024, 1024)
    np.testing.assert_allclose(film.image, stored / np.float32(255), atol=1e-6)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_compressed_dicom_is_the_original(syntax: str, bits: int, film: np.ndarray, tmp_path: Path) -> None:
    kind = np.uint8 if bits == 8 else np.uint16
    stored = np.rint(film / 255 * ((1 << bits) - 1)).astype(kind)
    data = dicom(stored, bits=bits)
    data.compress(syntax, generate_instance_uid=False)
    image = read_dicom(data, tmp_path)
    assert np.array_equal(np.rint(image.astype(np.float64) * ((1 << bits) - 1)).astype(kind), stored)


def test_dicom_of_jpeg_baseline_is_read(film: np.ndarray, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(film).save(buffer, format="JPEG", quality=95)
    data = encapsulated(dicom(film), buffer.getvalue(), JPEGBaseline8Bit)
    assert np.abs(read_dicom(data, tmp_path) * 255 - film).mean() < 2


def encapsulated(data: pydicom.Dataset, codestream: bytes, syntax: str) -> pydicom.Dataset:
    data.PixelData = pydicom.encaps.encapsulate([codestream])
    data["PixelData"].is_undefined_length = True
    data.file_meta.TransferSyntaxUID = syntax
    return data


@pytest.mark.parametrize(("syntax", "predictor"), [(JPEGLosslessSV1, 1), (JPEGLossless, 6)])
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_jpeg_lossless_is_the_original(
    syntax: str, predictor: int, bits: int, film: np.ndarray, tmp_path: Path
) -> None:
    kind = np.uint8 if bits == 8 else np.uint16
    stored = np.rint(film / 255 * ((1 << bits) - 1)).astype(kind)
    codestream = jpeg8_encode(stored, lossless=True, predictor=predictor, bitspersample=bits)
    image = read_dicom(encapsulated(dicom(stored, bits=bits), codestream, syntax), tmp_path)
    assert np.array_equal(np.rint(image.astype(np.float64) * ((1 << bits) - 1)).astype(kind), stored)


def test_jpeg_extended_of_12_bits_is_close_and_never_half_read(film: np.ndarray, tmp_path: Path) -> None:
    stored = film.astype(np.uint16) * 16
    codestream = jpeg8_encode(stored, bitspersample=12, level=98)
    image = read_dicom(encapsulated(dicom(stored, bits=12), codestream, JPEGExtended12Bit), tmp_path)
    assert np.abs(image * 4095 - stored).mean() < 16
    with pytest.raises(UnreadableImage, match="pixel data are truncated"):
        read_dicom(encapsulated(dicom(stored, bits=12), codestream[:-2000], JPEGExtended12Bit), tmp_path)
    with pytest.raises(UnreadableImage, match="another size"):
        read_dicom(encapsulated(dicom(stored[:, :-1], bits=12), codestream, JPEGExtended12Bit), tmp_path)


@settings(max_examples=40, deadline=None)
@given(
    bits=st.integers(8, 16),
    pixels=hnp.arrays(np.uint16, hnp.array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=8)),
    window=st.none() | st.tuples(st.integers(0, 60000), st.integers(2, 60000)),
)
def test_monochrome1_of_the_negative_is_monochrome2(
    bits: int, pixels: np.ndarray, window: tuple[int, int] | None
) -> None:
    top = (1 << bits) - 1
    pixels &= top
    positive, negative = dicom(pixels, bits=bits), dicom((top - pixels).astype(np.uint16), bits=bits)
    negative.PhotometricInterpretation = "MONOCHROME1"
    if window is not None:
        positive.WindowCenter, positive.WindowWidth = window
        # LINEAR is centred half a level low: its mirror image is top - centre + 1.
        negative.WindowCenter, negative.WindowWidth = top - window[0] + 1, window[1]
    read = []
    for data in (positive, negative):
        buffer = io.BytesIO()
        data.save_as(buffer, enforce_file_format=True)
        try:
            read.append(read_bytes(buffer.getvalue()))
        except UnreadableImage as reason:
            read.append(str(reason))
    if isinstance(read[0], str):
        assert read[0] == read[1] == "every pixel has the same value"
    else:
        np.testing.assert_allclose(read[1], read[0], atol=1e-4)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_the_first_window_is_applied_as_pydicom_does(function: str, film: np.ndarray, tmp_path: Path) -> None:
    data = dicom(film.astype(np.uint16) * 16, bits=12, RescaleSlope="2", RescaleIntercept="-1000")
    data.WindowCenter, data.WindowWidth = [3000, 1], [4000, 2]
    data.VOILUTFunction = function
    modality = film.astype(np.float64) * 32 - 1000
    expected = apply_windowing(modality, data)
    low, high = -1000.0, 4095 * 2 - 1000.0
    np.testing.assert_allclose(read_dicom(data, tmp_path), (expected - low) / (high - low), atol=1e-5)


def test_a_window_that_shows_nothing_is_ignored(film: np.ndarray, tmp_path: Path) -> None:
    data = dicom(film, WindowCenter=-500, WindowWidth=1)
    np.testing.assert_allclose(read_dicom(data, tmp_path), film / np.float32(255), atol=1e-6)


@pytest.mark.parametrize(("name", "bits"), [("VOILUTSequence", 12), ("ModalityLUTSequence", 16)])
def test_a_table_is_applied_and_precedes_the_window(name: str, bits: int, film: np.ndarray, tmp_path: Path) -> None:
    table = (np.linspace(0, 1, 256) ** 2 * ((1 << bits) - 1)).astype(np.uint16)
    item = pydicom.Dataset()
    item.LUTDescriptor = [256, 0, bits]
    item.LUTData = table.tobytes()
    if name == "ModalityLUTSequence":
        item.ModalityLUTType = "OD"
    data = dicom(film)
    setattr(data, name, Sequence([item]))
    if name == "VOILUTSequence":
        data.WindowCenter, data.WindowWidth = 10, 5
    np.testing.assert_allclose(read_dicom(data, tmp_path), table[film] / np.float32((1 << bits) - 1), atol=1e-6)


def test_padding_is_air_and_does_not_stretch_the_rest(film: np.ndarray, tmp_path: Path) -> None:
    narrow = (film.astype(np.uint16) * 4) + 500  # under a quarter of 16 bits: stretched
    padded = narrow.copy()
    padded[:, :50] = 60000
    expected = (narrow - float(narrow[:, 50:].min())) / float(narrow[:, 50:].max() - narrow[:, 50:].min())
    expected[:, :50] = 0
    for photometric in ("MONOCHROME2", "MONOCHROME1"):
        data = dicom(padded, PhotometricInterpretation=photometric, PixelPaddingValue=60000)
        image = read_dicom(data, tmp_path)
        wanted = expected.copy()
        if photometric == "MONOCHROME1":
            wanted[:, 50:] = 1 - wanted[:, 50:]
        np.testing.assert_allclose(image, wanted, atol=1e-5)


def test_signed_and_negatively_rescaled_values(film: np.ndarray, tmp_path: Path) -> None:
    signed = dicom((film.astype(np.int32) * 256 - 32768).astype(np.int16))
    np.testing.assert_allclose(read_dicom(signed, tmp_path), film * 256.0 / 65535, atol=1e-4)
    falling = dicom(255 - film, RescaleSlope="-1", RescaleIntercept="255")
    np.testing.assert_allclose(read_dicom(falling, tmp_path), film / 255, atol=1e-5)


def test_colour_dicom_is_luma(film: np.ndarray, tmp_path: Path) -> None:
    data = dicom(film, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0)
    data.PixelData = np.dstack([film, film, film]).tobytes()
    np.testing.assert_allclose(read_dicom(data, tmp_path), film / 255, atol=1e-5)


def test_dicom_without_preamble(film: np.ndarray, tmp_path: Path) -> None:
    data = dicom(film)
    data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    buffer = io.BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    content = buffer.getvalue()
    meta_length = int.from_bytes(content[140:144], "little")
    (tmp_path / "old").write_bytes(content[144 + meta_length :])
    np.testing.assert_allclose(read_image(tmp_path / "old"), film / 255, atol=1e-6)


# ---- what cannot be read


def unreadable(content: bytes) -> str:
    with pytest.raises(UnreadableImage) as caught:
        read_bytes(content)
    return str(caught.value)


def encoded(picture: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=kind)
    return buffer.getvalue()


def test_reasons(film: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage, match=r"^no such file$"):
        read_image(tmp_path / "none.jpg")
    with pytest.raises(UnreadableImage, match="not a regular file"):
        read_image(tmp_path)
    grey = Image.fromarray(film)
    assert unreadable(b"") == "the file is empty"
    assert unreadable(b"GIF89a" + b"\0" * 300) == "the file is not a JPEG, PNG or DICOM"
    assert unreadable(b"patient,film\n1,2\n") == "the file is not a JPEG, PNG or DICOM"
    assert unreadable(encoded(grey, "BMP")) == "the file is not a JPEG, PNG or DICOM"
    assert unreadable(encoded(Image.new("L", (20, 20), 7), "PNG")) == "every pixel has the same value"
    assert "truncated" in unreadable(encoded(grey, "JPEG")[:-3000])
    assert unreadable(encoded(grey, "PNG")[:-3000]).startswith("the image cannot be decoded: ")
    assert unreadable(encoded(grey, "JPEG")[:100]).startswith("the image cannot be decoded: ")
    for reason in (unreadable(encoded(grey, "JPEG")[:100]), unreadable(encoded(grey, "PNG")[:40])):
        assert "0x" not in reason
        assert "/" not in reason


def test_dicom_reasons(film: np.ndarray, tmp_path: Path) -> None:
    several = dicom(film[:10, :10], NumberOfFrames=3)
    several.PixelData = several.PixelData * 3
    with pytest.raises(UnreadableImage, match="holds 3 frames"):
        read_dicom(several, tmp_path)
    report = dicom(film)
    del report.PixelData
    with pytest.raises(UnreadableImage, match="has no pixel data"):
        read_dicom(report, tmp_path)
    short = dicom(film)
    short.PixelData = short.PixelData[:1000]
    with pytest.raises(UnreadableImage, match="pixel data are truncated"):
        read_dicom(short, tmp_path)
    with pytest.raises(UnreadableImage, match="every pixel is padding"):
        read_dicom(dicom(np.full((4, 4), 9, np.uint8), PixelPaddingValue=9), tmp_path)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_damage_raises_anything_else(data: st.DataObject) -> None:
    grey = Image.fromarray(np.arange(48 * 40, dtype=np.uint16).reshape(48, 40).astype(np.uint8))
    buffer = io.BytesIO()
    dicom(np.asarray(grey)).save_as(buffer, enforce_file_format=True)
    content = bytearray(data.draw(st.sampled_from([encoded(grey, "JPEG"), encoded(grey, "PNG"), buffer.getvalue()])))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    try:
        image = read_bytes(bytes(content))
    except UnreadableImage:
        return
    assert image.dtype == np.float32
    assert image.ndim == 2
    assert 0 <= image.min() < image.max() <= 1


# ---- squashing


def test_squash_keeps_the_mean_and_both_ends(film: np.ndarray) -> None:
    image = film / np.float32(255)
    for size in (64, 224, 448):
        squashed = squash(DecodedImage(image, *film.shape), size)
        assert squashed.shape == (size, size)
        assert squashed.dtype == np.uint8
        assert abs(squashed.mean() - film.mean()) < 0.7
    ends = np.zeros((64, 64), dtype=np.float32)
    ends[:, 32:] = 1
    assert set(np.unique(squash(DecodedImage(ends, 64, 64), 64))) == {0, 255}
    np.testing.assert_array_equal(squash(DecodedImage(image[:, :300], 300, 300), 300), film[:, :300])


def test_a_picture_larger_than_any_image_is_refused_by_its_header(film: np.ndarray) -> None:
    """0.9 MB that inflate to 30,000 x 30,000."""
    for side in (12_000, 30_000):
        content = bytearray(encoded(Image.fromarray(film), "PNG"))
        content[16:24] = side.to_bytes(4) * 2
        content[29:33] = zlib.crc32(content[12:29]).to_bytes(4)
        assert re.search(r"144000000|12000 x 12000|900000000 pixels", unreadable(bytes(content)))
