"""DICOM against DCMTK, over a matrix of headers; what is refused; which way is up and left."""

import io
import re
import shutil
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from imagecodecs import jpeg8_encode, png_encode
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    RLELossless,
)

from chartray.pixels import read
from chartray.pixels.dicom_header import read_header
from chartray.pixels.grey import UnreadableImage
from chartray.pixels.read import decode_image, read_image
from tests.test_read import dicom, encapsulated, read_bytes, read_dicom

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_dcmtk = pytest.mark.skipif(not shutil.which("dcm2pnm"), reason="DCMTK is not installed (apt-get install dcmtk)")
needs_films = pytest.mark.skipif(not (DATA / "dicom").exists(), reason="shared/data/dicom is not here")


@pytest.fixture(scope="module")
def real() -> np.ndarray:
    """A real image in [0, 1], both ends in use; a gradient with noise where there is none."""
    file = DATA / "formats" / "nih_00000001_000_512.png"
    if file.exists():
        film = np.asarray(Image.open(file), dtype=np.float64)[:300:2, :400:2]
    else:
        film = np.add.outer(np.arange(150), np.arange(200)) + np.random.default_rng(0).uniform(0, 40, (150, 200))
    return (film - film.min()) / (film.max() - film.min())


def of_bits(real: np.ndarray, bits: int, kind: type | None = None) -> np.ndarray:
    return np.rint(real * ((1 << bits) - 1)).astype(kind or (np.uint8 if bits == 8 else np.uint16))


def dcmtk(file: Path, *options: str) -> np.ndarray:
    """What DCMTK shows: grey (H, W) or colours (H, W, 3) in [0, 1]."""
    shown = file.with_suffix(".pnm")
    run = subprocess.run(["dcm2pnm", "+opn", "16", *options, file, shown], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "cannot select" not in run.stderr  # the window or table asked for
    content = shown.read_bytes()
    header = re.match(rb"P([2356])\s(?:#[^\n]*\n)*(\d+)\s+(\d+)\s(?:#[^\n]*\n)*(\d+)\s", content)
    assert header
    kind, width, height, top = (int(number) for number in header.groups())
    samples = 3 if kind in (3, 6) else 1
    body = content[header.end() :]
    if kind in (2, 3):
        values = np.array(body.split(), dtype=np.float64)
    else:
        values = np.frombuffer(body, ">u2" if top > 255 else "u1", height * width * samples).astype(np.float64)
    shape = (height, width) if samples == 1 else (height, width, 3)
    return values[: height * width * samples].reshape(shape) / top


def assert_as_dcmtk(data: Dataset, folder: Path, *options: str) -> None:
    """Within what DCMTK's own scaling to the end of the range costs: 2^n levels onto 2^n - 1."""
    image = read_dicom(data, folder)
    np.testing.assert_allclose(image, dcmtk(folder / "film.dcm", *options), atol=1.01 / 255)


def table(number: int, first: int, bits: int, *, words: bool = True, vr: str = "OW") -> Sequence:
    """A curved look-up table of `number` entries of `bits` bits, each in a word or, packed, in a byte."""
    entries = np.rint(np.sqrt(np.linspace(0, 1, number)) * ((1 << bits) - 1)).astype(np.uint16 if words else np.uint8)
    item = Dataset()
    item.LUTDescriptor = [number % 65536, first, bits]
    item.add_new("LUTData", vr, entries.tolist() if vr == "US" else entries.tobytes().ljust(number + number % 2, b"\0"))
    item.ModalityLUTType = "US"
    return Sequence([item])


# ---- the grey scale, against DCMTK


@needs_dcmtk
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_range_windows_and_polarity_are_dcmtks(bits: int, real: np.ndarray, tmp_path: Path) -> None:
    pixels, top = of_bits(real, bits), 1 << bits
    windows = {"WindowCenter": [0.55 * top, 3], "WindowWidth": [0.8 * top, 4]}
    rescaled = {"RescaleSlope": "-2.5", "RescaleIntercept": "100", "WindowCenter": -1.2 * top, "WindowWidth": 2 * top}
    for photometric in ("MONOCHROME1", "MONOCHROME2"):
        for shape in ({}, {"PresentationLUTShape": "IDENTITY"}, {"PresentationLUTShape": "INVERSE"}):
            header = {"bits": bits, "PhotometricInterpretation": photometric, **shape}
            assert_as_dcmtk(dicom(pixels, **header), tmp_path)
            assert_as_dcmtk(dicom(pixels, **header, **windows), tmp_path, "+Wi", "1")
        assert_as_dcmtk(dicom(pixels, **header, **rescaled), tmp_path, "+Wi", "1")
        sigmoid = dicom(pixels, **header, **windows, VOILUTFunction="SIGMOID")
        assert_as_dcmtk(sigmoid, tmp_path, "+Wi", "1", "+Wfs")


@needs_dcmtk
@pytest.mark.parametrize("blank", [{"RescaleSlope": "", "RescaleIntercept": "100"}, {"RescaleIntercept": "100"}])
def test_half_a_rescale_is_none_as_in_dcmtk(blank: dict[str, str], real: np.ndarray, tmp_path: Path) -> None:
    data = dicom(of_bits(real, 12), bits=12, WindowCenter=2000, WindowWidth=3000, **blank)
    assert_as_dcmtk(data, tmp_path, "+Wi", "1")


@needs_dcmtk
@pytest.mark.parametrize("entry", [(8, True), (8, False), (9, True), (10, True), (12, True), (14, True), (16, True)])
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_look_up_tables_of_any_bits_are_dcmtks(
    bits: int, entry: tuple[int, bool], real: np.ndarray, tmp_path: Path
) -> None:
    pixels, top, (entry_bits, words) = of_bits(real, bits), 1 << bits, entry
    for number, first in ((top, 0), (top * 3 // 4 + 1, top // 8)):
        curve = table(number, first, entry_bits, words=words)
        assert_as_dcmtk(dicom(pixels, bits=bits, VOILUTSequence=curve), tmp_path, "+Wl", "1")
        assert_as_dcmtk(dicom(pixels, bits=bits, ModalityLUTSequence=curve), tmp_path)


@needs_dcmtk
def test_tables_written_as_numbers_and_tables_after_tables(real: np.ndarray, tmp_path: Path) -> None:
    pixels = of_bits(real, 12)
    data = dicom(pixels, bits=12, VOILUTSequence=table(4096, 0, 9, vr="US"))
    assert_as_dcmtk(data, tmp_path, "+Wl", "1")
    both = dicom(pixels, bits=12, ModalityLUTSequence=table(4096, 0, 12), VOILUTSequence=table(4096, 0, 10))
    assert_as_dcmtk(both, tmp_path, "+Wl", "1")


@needs_dcmtk
def test_signed_pixels_are_dcmtks(real: np.ndarray, tmp_path: Path) -> None:
    signed = (of_bits(real, 12).astype(np.int32) - 2048).astype(np.int16)
    assert_as_dcmtk(dicom(signed, bits=12), tmp_path)
    assert_as_dcmtk(dicom(signed & 0x0FFF, bits=12, PixelRepresentation=1), tmp_path)
    assert_as_dcmtk(dicom(signed, bits=16, WindowCenter=0, WindowWidth=4096), tmp_path, "+Wi", "1")
    assert_as_dcmtk(dicom(signed, bits=12, VOILUTSequence=table(4096, -2048, 12)), tmp_path, "+Wl", "1")
    shifted = dicom(signed << 4, bits=12, HighBit=15)
    assert_as_dcmtk(shifted, tmp_path)


@needs_dcmtk
def test_high_bits_overlays_and_32_bits_are_dcmtks(real: np.ndarray, tmp_path: Path) -> None:
    assert_as_dcmtk(dicom(of_bits(real, 12) << 4, bits=12, HighBit=15), tmp_path)
    assert_as_dcmtk(dicom(of_bits(real, 10) << 4, bits=10, HighBit=13), tmp_path)
    overlay = of_bits(real, 12)
    overlay[10:20, 10:20] |= 0x8000
    assert_as_dcmtk(dicom(overlay, bits=12), tmp_path)
    assert_as_dcmtk(dicom(of_bits(real, 16, np.uint32), bits=16), tmp_path)
    assert_as_dcmtk(dicom(of_bits(real, 12, np.uint32) << 20, bits=32), tmp_path)


def test_dense_bits_that_an_overlay_claims_are_left_out(real: np.ndarray, tmp_path: Path) -> None:
    pixels = of_bits(real, 12)
    dense = pixels.copy()
    dense[::3] |= 0x8000
    data = dicom(dense, bits=12)
    with pytest.raises(
        UnreadableImage, match="declares 12 bits up to bit 11, but many pixels set other bits of its 16"
    ):
        read_dicom(data, tmp_path)
    data.add_new((0x6000, 0x0100), "US", 16)
    data.add_new((0x6000, 0x0102), "US", 15)
    np.testing.assert_allclose(read_dicom(data, tmp_path), pixels / 4095, atol=1e-6)


@needs_dcmtk
def test_every_uncompressed_syntax_is_dcmtks(real: np.ndarray, tmp_path: Path) -> None:
    for syntax in (ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian):
        data = dicom(of_bits(real, 12), bits=12, VOILUTSequence=table(4096, 0, 12))
        data.file_meta.TransferSyntaxUID = syntax
        if syntax == ExplicitVRBigEndian:
            data.PixelData = of_bits(real, 12).astype(">u2").tobytes()
            data.VOILUTSequence[0].LUTData = (
                np.frombuffer(data.VOILUTSequence[0].LUTData, "<u2").astype(">u2").tobytes()
            )
        assert_as_dcmtk(data, tmp_path, "+Wl", "1")
    for vr in ("OB", "OW"):
        data = dicom(of_bits(real, 8))
        data.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
        if vr == "OW":
            data.PixelData = np.frombuffer(data.PixelData, "<u2").astype(">u2").tobytes()
        data["PixelData"].VR = vr
        assert_as_dcmtk(data, tmp_path)


@needs_dcmtk
def test_colours_are_the_luma_of_dcmtks(real: np.ndarray, tmp_path: Path) -> None:
    grey = of_bits(real, 8)
    colours = np.dstack([grey, grey // 2, 255 - grey])
    films = []
    for photometric in ("RGB", "YBR_FULL"):
        for planar in (0, 1):
            data = dicom(grey, SamplesPerPixel=3, PhotometricInterpretation=photometric, PlanarConfiguration=planar)
            data.PixelData = (colours if planar == 0 else np.moveaxis(colours, 2, 0)).tobytes()
            films.append(data)
    palette = dicom(grey, PhotometricInterpretation="PALETTE COLOR")
    for name, share in (("Red", 1.0), ("Green", 0.8), ("Blue", 0.5)):
        entries = (np.arange(256) * 257 * share).astype(np.uint16)
        setattr(palette, f"{name}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(palette, f"{name}PaletteColorLookupTableData", entries.tobytes())
    for data in (*films, palette):
        image = read_dicom(data, tmp_path)
        if data.PhotometricInterpretation == "YBR_FULL":
            # Y itself: by way of RGB, DCMTK clips colours that no screen has.
            np.testing.assert_allclose(image, grey / np.float32(255), atol=1e-6)
            continue
        luma = dcmtk(tmp_path / "film.dcm") @ [0.299, 0.587, 0.114]
        np.testing.assert_allclose(image, luma, atol=1.01 / 255)


# ---- the real radiographs


@needs_films
@needs_dcmtk
@pytest.mark.parametrize("name", sorted(file.name for file in (DATA / "dicom").glob("*.dcm")))
def test_every_real_image_is_dcmtks_or_refused(name: str, tmp_path: Path) -> None:
    """DCMTK decodes; the window is that of the file; flipped where PatientOrientation is R\\F."""
    file = DATA / "dicom" / name
    data = pydicom.dcmread(file)
    if data.Modality == "CT":
        with pytest.raises(UnreadableImage, match="Modality is CT"):
            read_image(file)
        return
    image, copy = decode_image(file).image, tmp_path / "film.dcm"
    if "J2KR" in name or "j2k" in name:
        # DCMTK has no JPEG 2000: the lossless image equals the RLE one, bit for bit; the other is only windowed here.
        if "J2KR" in name:
            assert np.array_equal(image, read_image(file.with_name(name.replace("J2KR", "RLE"))))
            return
        data.decompress()
        data.save_as(copy)
    else:
        tool = {"JPLL": "dcmdjpeg", "JPLY": "dcmdjpeg", "JLSN": "dcmdjpls", "RLE.": "dcmdrle"}.get(
            name[-8:-4].lstrip("_")
        )
        tool = tool or ("dcmdrle" if "RLE" in name else "dcmconv")
        subprocess.run([tool, file, copy], check=True, capture_output=True)
    plain = pydicom.dcmread(copy)
    stored = np.frombuffer(plain.PixelData, f"<u{plain.BitsAllocated // 8}", plain.Rows * plain.Columns)
    stored = stored.reshape(plain.Rows, plain.Columns).astype(np.float64)
    if "WindowWidth" in plain:
        shown = np.clip((stored - (plain.WindowCenter - 0.5)) / (plain.WindowWidth - 1) + 0.5, 0, 1)
    else:
        shown = stored / ((1 << plain.BitsStored) - 1)
    if plain.PhotometricInterpretation == "MONOCHROME1":
        shown = 1 - shown
    turned = list(plain.get("PatientOrientation") or []) == ["R", "F"]
    # The same float of the same integer, so any other integer would show.
    assert np.array_equal(image, (shown[:, ::-1] if turned else shown).astype(np.float32))
    oracle = dcmtk(copy, *(["+Wi", "1"] if "WindowWidth" in plain else []))
    np.testing.assert_allclose(image, oracle[:, ::-1] if turned else oracle, atol=1.01 / 255)


# ---- codestreams that say other than the header


def test_more_bits_than_the_tag_are_the_codestreams(real: np.ndarray, tmp_path: Path) -> None:
    """A JPEG 2000 of 14 bits whose header says 12 wrapped round."""
    pixels = of_bits(real, 14)
    data = dicom(pixels, bits=14)
    data.compress(JPEG2000Lossless, generate_instance_uid=False)
    data.BitsStored, data.HighBit = 12, 11
    np.testing.assert_allclose(read_dicom(data, tmp_path), pixels / np.float32((1 << 14) - 1), atol=1e-6)
    sparse = of_bits(real, 12)
    expected = sparse / np.float32(4095)
    sparse[5:10, 5:10] |= 1 << 13
    data = dicom(sparse, bits=14)
    data.compress(JPEG2000Lossless, generate_instance_uid=False)
    data.BitsStored, data.HighBit = 12, 11
    np.testing.assert_allclose(read_dicom(data, tmp_path), expected, atol=1e-6)


def test_fewer_bits_than_the_tag_are_the_codestreams_too(real: np.ndarray, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(of_bits(real, 8)).save(buffer, format="JPEG", quality=95)
    data = encapsulated(dicom(of_bits(real, 12), bits=12), buffer.getvalue(), JPEGBaseline8Bit)
    assert np.abs(read_dicom(data, tmp_path) - real).mean() < 0.01


def test_what_a_lossy_codec_overshoots_is_white_not_black(real: np.ndarray, tmp_path: Path) -> None:
    pixels = of_bits(np.where(real > 0.5, 1, real), 10)
    codestream = jpeg8_encode(pixels, bitspersample=12, level=60)
    image = read_dicom(encapsulated(dicom(pixels, bits=10), codestream, JPEGExtended12Bit), tmp_path)
    assert image[real > 0.5].min() > 0.5


# ---- a grey scale that an image does not use


def test_a_window_that_saturates_the_anatomy_is_none(real: np.ndarray, tmp_path: Path) -> None:
    pixels = of_bits(0.1 + 0.9 * real, 12)
    for centre, width in ((128, 256), (0, 1), (60000, 100), (40, 400)):
        image = read_dicom(dicom(pixels, bits=12, WindowCenter=centre, WindowWidth=width), tmp_path)
        np.testing.assert_allclose(image, pixels / np.float32(4095), atol=1e-6)
    # The second is taken where the first is none, and so is a table that whitens all.
    windows = dicom(pixels, bits=12, WindowCenter=[128, 2000], WindowWidth=[256, 3000])
    expected = np.clip((pixels - 1999.5) / 2999 + 0.5, 0, 1)
    np.testing.assert_allclose(read_dicom(windows, tmp_path), expected, atol=1e-6)
    windows.VOILUTSequence = table(200, 0, 12)
    np.testing.assert_allclose(read_dicom(windows, tmp_path), expected, atol=1e-6)


@pytest.mark.parametrize("width", ["0", "-5", "nan", "inf", ""])
def test_a_width_that_is_none_is_no_window(width: str, real: np.ndarray, tmp_path: Path) -> None:
    pixels = of_bits(real, 12)
    data = dicom(pixels, bits=12, WindowCenter="2000")
    data.add_new("WindowWidth", "LO", width)
    if width in ("nan", "inf"):
        data["WindowWidth"].VR = "LO"
    np.testing.assert_allclose(read_dicom(data, tmp_path), pixels / np.float32(4095), atol=1e-6)


def dim_films(real: np.ndarray) -> dict[str, Dataset]:
    """12 bits of image in 16 bits of scale."""
    pixels = of_bits(real, 12)
    marked = pixels.copy()
    marked[3:6, 3:6] = 65535
    colour = dicom(pixels, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0)
    colour.PixelData = np.dstack([pixels] * 3).tobytes()
    identity = table(65536, 0, 16)
    identity[0].LUTData = np.arange(65536, dtype=np.uint16).tobytes()
    return {
        "range": dicom(pixels, bits=16),
        "window": dicom(pixels, bits=16, WindowCenter=32768, WindowWidth=65536),
        "window of 12 bits": dicom(pixels, bits=12, WindowCenter=32768, WindowWidth=65536),
        "table": dicom(pixels, bits=16, VOILUTSequence=identity),
        "marker": dicom(marked, bits=16),
        "signed marker": dicom((marked.astype(np.int32) - 32768).astype(np.int16), bits=16),
        "colour": colour,
    }


@pytest.mark.parametrize("name", ["range", "window", "window of 12 bits", "table", "marker", "signed marker", "colour"])
def test_a_dim_image_keeps_its_greys(name: str, real: np.ndarray, tmp_path: Path) -> None:
    image = read_dicom(dim_films(real)[name], tmp_path)
    film = np.ones(real.shape, dtype=bool)
    film[3:6, 3:6] = False
    assert len(np.unique(np.rint(image[film] * 255))) > 160
    assert np.corrcoef(image[film], real[film])[0, 1] > 0.9999
    # A straight line all the way: no anatomy is clipped.
    line = np.polyfit(real[film], image[film], 1)
    np.testing.assert_allclose(image[film], np.polyval(line, real[film]), atol=1e-3)


def test_dim_16_bit_png_in_grey_and_colour(real: np.ndarray, tmp_path: Path) -> None:
    pixels = of_bits(real, 12)
    marked = pixels.copy()
    marked[3:6, 3:6] = 65535
    opaque = np.full_like(pixels, 65535)
    for layers in (marked, np.dstack([pixels] * 3), np.dstack([pixels, opaque]), np.dstack([pixels] * 3 + [opaque])):
        image = read_bytes(png_encode(layers))
        assert len(np.unique(np.rint(image * 255))) > 160
        assert np.corrcoef(image[10:].ravel(), real[10:].ravel())[0, 1] > 0.9999
    bright = of_bits(real, 16)
    halved = np.dstack([bright, bright, bright, opaque // 2])
    np.testing.assert_allclose(read_bytes(png_encode(halved)), bright / 65535 / 2, atol=2e-5)


def test_an_image_of_8_bits_is_never_stretched(real: np.ndarray, tmp_path: Path) -> None:
    dim = of_bits(real, 8) // 8
    np.testing.assert_allclose(read_dicom(dicom(dim), tmp_path), dim / np.float32(255), atol=1e-6)


# ---- directions


def test_left_and_right_up_and_down(real: np.ndarray, tmp_path: Path) -> None:
    pixels = of_bits(real, 8)
    expected = pixels / np.float32(255)
    turned = {
        ("L", "F"): pixels,
        ("R", "F"): pixels[:, ::-1],
        ("RP", "FA"): pixels[:, ::-1],
        ("L", "H"): pixels[::-1],
        ("R", "H"): pixels[::-1, ::-1],
        ("F", "L"): pixels.T,
        ("F", "R"): pixels[:, ::-1].T,
        ("H", "L"): pixels[::-1].T,
        ("P", "F"): pixels,
        ("A", "F"): pixels,
        ("A", "H"): pixels[::-1],
        ("L", "P"): pixels,
        ("L", "R"): pixels,
        ("X", "F"): pixels,
        ("R", ""): pixels,
    }
    for directions, held in turned.items():
        data = dicom(np.ascontiguousarray(held))
        data.PatientOrientation = list(directions)
        np.testing.assert_allclose(read_dicom(data, tmp_path), expected, atol=1e-6, err_msg=str(directions))
    animal = dicom(pixels, AnatomicalOrientationType="QUADRUPED", PatientOrientation=["R", "F"])
    np.testing.assert_allclose(read_dicom(animal, tmp_path), expected, atol=1e-6)


@needs_dcmtk
@pytest.mark.parametrize(
    ("said", "rows", "columns"),
    [
        ({"PixelAspectRatio": ["2", "1"]}, 2, 1),
        ({"PixelAspectRatio": ["2", "3"]}, 1, 1.5),
        ({"PixelSpacing": [0.1, 0.2]}, 1, 2),
        ({"ImagerPixelSpacing": [0.3, 0.2], "PixelAspectRatio": ["1", "1"]}, 1.5, 1),
    ],
)
def test_pixels_that_are_no_squares_are_drawn_out_as_by_dcmtk(
    said: dict[str, list[object]], rows: float, columns: float, real: np.ndarray, tmp_path: Path
) -> None:
    film = real.reshape(-1, 2, real.shape[1]).mean(1)
    film = film.reshape(len(film), -1, 2).mean(2)  # smooth, since the two interpolate in their own ways
    pixels = of_bits((film - film.min()) / np.ptp(film), 12)
    image = read_dicom(dicom(pixels, bits=12, **said), tmp_path)
    assert image.shape == (round(pixels.shape[0] * rows), round(pixels.shape[1] * columns))
    shown = dcmtk(tmp_path / "film.dcm", "+Sxv", str(image.shape[1]))
    # The two interpolate in ways of their own: the same picture, but not to the level.
    assert image.shape == shown.shape
    assert np.abs(image - shown).mean() < 0.01
    turned = read_dicom(dicom(pixels, bits=12, PatientOrientation=["F", "L"], **said), tmp_path)
    assert np.array_equal(turned, image.T)


def test_square_pixels_and_headers_that_say_nothing_change_nothing(real: np.ndarray, tmp_path: Path) -> None:
    pixels = of_bits(real, 8)
    for said in (b"0.143\\0.143 ", b"0.143\\0.1429", b"0\\0 ", b"0.2\\0 ", b"0.1 ", b"x\\y ", b"inf\\1 ", b""):
        data = dicom(pixels, PixelSpacing=["0.125", "0.25"])
        data.save_as(tmp_path / "film.dcm", enforce_file_format=True)
        content = (tmp_path / "film.dcm").read_bytes()
        before, after = (b"DS" + len(text).to_bytes(2, "little") + text for text in (b"0.125\\0.25", said))
        assert content.count(before) == 1
        assert np.array_equal(read_bytes(content.replace(before, after)), pixels / np.float32(255)), said
    with pytest.raises(UnreadableImage, match="one side more than four times the other"):
        read_dicom(dicom(pixels, PixelSpacing=[0.1, 100]), tmp_path)
    both = dicom(pixels, NominalScannedPixelSpacing=[0, 0], PixelAspectRatio=["4", "1"])
    assert read_dicom(both, tmp_path).shape == (4 * pixels.shape[0], pixels.shape[1])
    # Drawn out, it is larger than allowed.
    assert read_dicom(dicom(pixels, PixelSpacing=[0.1, 0.2]), tmp_path).size == 2 * pixels.size
    with pytest.raises(UnreadableImage):
        decode_image(tmp_path / "film.dcm", largest=pixels.size)


def test_directions_by_cosines_where_no_letters_stand(real: np.ndarray, tmp_path: Path) -> None:
    pixels = of_bits(real, 8)
    expected = pixels / np.float32(255)
    mirrored = dicom(np.ascontiguousarray(pixels[:, ::-1]), ImageOrientationPatient=[-1, 0, 0, 0, 0, -1])
    np.testing.assert_allclose(read_dicom(mirrored, tmp_path), expected, atol=1e-6)
    upright = dicom(pixels, ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
    np.testing.assert_allclose(read_dicom(upright, tmp_path), expected, atol=1e-6)
    upright.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    np.testing.assert_allclose(read_dicom(upright, tmp_path), expected, atol=1e-6)
    # Letters come first.
    both = dicom(pixels, PatientOrientation=["L", "F"], ImageOrientationPatient=[-1, 0, 0, 0, 0, -1])
    np.testing.assert_allclose(read_dicom(both, tmp_path), expected, atol=1e-6)


# ---- what is refused


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"Modality": "CT"}, "Modality is CT"),
        ({"Modality": "MR"}, "Modality is MR"),
        ({"Modality": "US"}, "Modality is US"),
        ({"Modality": "MG"}, "Modality is MG"),
        ({"Modality": "Doe^John 17"}, "Modality is of no known kind"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"}, "CT Image Storage"),
        ({"PresentationIntentType": "FOR PROCESSING"}, "FOR PROCESSING"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.1.1"}, "FOR PROCESSING"),
        ({"RescaleSlope": "0", "RescaleIntercept": "0"}, "RescaleSlope is 0"),
        ({"HighBit": 20}, "contradict each other"),
        ({"HighBit": 3}, "contradict each other"),
        ({"BitsStored": 17}, "contradict each other"),
        ({"BitsAllocated": 1}, "1 bits allocated"),
        ({"BitsAllocated": 64}, "64 bits allocated"),
        ({"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}, "twice as long as its size"),
        ({"PhotometricInterpretation": "HSV"}, "samples of HSV"),
        ({"PhotometricInterpretation": "RGB"}, "1 samples of RGB"),
        ({"SamplesPerPixel": 3}, "3 samples of MONOCHROME2"),
        ({"Rows": 0}, "0 rows"),
        ({"Rows": 65535, "Columns": 65535}, "more than the limit of 100 million"),
        ({"NumberOfFrames": "2"}, "2 frames"),
        ({"FloatPixelData": b"\0" * 4}, "floating-point"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "palette look-up table is incomplete"),
    ],
)
def test_refused_with_the_reason(header: dict[str, object], reason: str, real: np.ndarray, tmp_path: Path) -> None:
    data = dicom(of_bits(real, 12), bits=12)
    for name, value in header.items():
        setattr(data, name, value)
    with pytest.raises(UnreadableImage, match=reason):
        read_dicom(data, tmp_path)


@pytest.mark.parametrize("modality", ["CR", "DX", "RG", "DR", "RF", "OT", "SC", "", " dx "])
def test_radiographs_of_every_modality_are_read(modality: str, real: np.ndarray, tmp_path: Path) -> None:
    pixels = of_bits(real, 12)
    data = dicom(pixels, bits=12, PresentationIntentType="FOR PRESENTATION")
    data.add_new("Modality", "LO", modality)
    np.testing.assert_allclose(read_dicom(data, tmp_path), pixels / np.float32(4095), atol=1e-6)


@pytest.mark.parametrize(("slope", "intercept"), [("NaN", "0"), ("inf", "0"), ("1", "nan"), ("one", "0"), ("1", "-")])
def test_a_rescale_that_is_no_number_is_refused(slope: str, intercept: str, real: np.ndarray, tmp_path: Path) -> None:
    data = dicom(of_bits(real, 12), bits=12)
    data.add_new("RescaleSlope", "LO", slope)
    data.add_new("RescaleIntercept", "LO", intercept)
    with pytest.raises(UnreadableImage, match=r"is 0 or not finite|is not a number"):
        read_dicom(data, tmp_path)


def test_broken_tables_are_refused(real: np.ndarray, tmp_path: Path) -> None:
    short = table(4096, 0, 12)
    short[0].LUTData = short[0].LUTData[:1000]
    with pytest.raises(UnreadableImage, match="VOI look-up table does not have the 4096 entries"):
        read_dicom(dicom(of_bits(real, 12), bits=12, VOILUTSequence=short), tmp_path)
    del short[0].LUTData
    with pytest.raises(UnreadableImage, match="modality look-up table is incomplete"):
        read_dicom(dicom(of_bits(real, 12), bits=12, ModalityLUTSequence=short), tmp_path)


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, RLELossless, UID("1.2.840.10008.1.2.4.80")])
def test_compressed_pixels_that_break_off_are_refused(syntax: UID, real: np.ndarray, tmp_path: Path) -> None:
    data = dicom(of_bits(real, 12), bits=12)
    data.compress(syntax, generate_instance_uid=False)
    frame = next(pydicom.encaps.generate_frames(data.PixelData, number_of_frames=1))
    data.PixelData = encapsulate([frame[: len(frame) // 2]])
    with pytest.raises(UnreadableImage, match=r"truncated|cannot be decoded"):
        read_dicom(data, tmp_path)


def test_a_codestream_of_another_size_is_refused_before_it_is_decoded(real: np.ndarray, tmp_path: Path) -> None:
    data = dicom(of_bits(real, 12), bits=12)
    data.compress(JPEG2000Lossless, generate_instance_uid=False)
    data.Rows = data.Rows - 1
    with pytest.raises(UnreadableImage, match="another size"):
        read_dicom(data, tmp_path)
    frame = bytearray(next(pydicom.encaps.generate_frames(data.PixelData, number_of_frames=1)))
    at = frame.index(b"\xff\x4f\xff\x51") + 8
    frame[at : at + 8] = (60000).to_bytes(4) * 2
    data.PixelData = encapsulate([bytes(frame)])
    with pytest.raises(UnreadableImage, match="another size"):
        read_dicom(data, tmp_path)


def test_a_deflated_bomb_is_refused_before_it_is_kept(real: np.ndarray, tmp_path: Path) -> None:
    data = dicom(of_bits(real, 8))
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    data.save_as(tmp_path / "film.dcm", enforce_file_format=True)
    content = (tmp_path / "film.dcm").read_bytes()
    start = 144 + int.from_bytes(content[140:144], "little")
    deflater = zlib.compressobj(wbits=-15)
    body = deflater.compress(bytes(1 << 25)) + deflater.flush()
    (tmp_path / "film.dcm").write_bytes(content[:start] + body)
    with pytest.raises(UnreadableImage, match="deflated data are larger"):
        decode_image(tmp_path / "film.dcm", largest=1 << 21)


def test_the_header_of_a_deflated_file_is_read_within_the_bounds_of_an_image(
    real: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of such a file has to be read: failed before, when that had no bound."""
    data = dicom(of_bits(real, 8))
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    file = tmp_path / "image.dcm"
    data.save_as(file, enforce_file_format=True)
    assert read_header(str(file), ["Rows"], "").texts == {"Rows": str(data.Rows)}
    monkeypatch.setattr(read, "_LARGEST_FILE", file.stat().st_size - 1)
    with pytest.raises(UnreadableImage, match="the file has more than"):
        read_header(str(file), ["Rows"], "")


# ---- compressed signs and colours, padding, odd headers


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, RLELossless, UID("1.2.840.10008.1.2.4.80")])
@pytest.mark.parametrize("bits", [12, 16])
def test_signed_pixels_are_the_same_compressed(syntax: UID, bits: int, real: np.ndarray, tmp_path: Path) -> None:
    signed = (of_bits(real, bits).astype(np.int32) - (1 << bits - 1)).astype(np.int16)
    data = dicom(signed, bits=bits)
    expected = read_dicom(data, tmp_path)
    data.compress(syntax, generate_instance_uid=False)
    assert np.array_equal(read_dicom(data, tmp_path), expected)


@needs_dcmtk
@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL_422"])
def test_colour_jpeg_is_the_luma_of_dcmtks(photometric: str, real: np.ndarray, tmp_path: Path) -> None:
    grey = of_bits(real, 8)
    colours = np.dstack([grey, grey // 2 + 60, 255 - grey])
    data = dicom(grey, SamplesPerPixel=3, PhotometricInterpretation=photometric, PlanarConfiguration=0)
    if photometric == "RGB":
        codestream = jpeg8_encode(colours, level=95, colorspace="RGB", outcolorspace="RGB")
    else:
        codestream = jpeg8_encode(colours, level=95, colorspace="RGB", outcolorspace="YCBCR")
    image = read_dicom(encapsulated(data, codestream, JPEGBaseline8Bit), tmp_path)
    subprocess.run(["dcmdjpeg", tmp_path / "film.dcm", tmp_path / "plain.dcm"], check=True, capture_output=True)
    luma = dcmtk(tmp_path / "plain.dcm") @ [0.299, 0.587, 0.114]
    assert np.abs(image - luma).mean() < 1 / 255
    assert np.abs(image - colours @ [0.299, 0.587, 0.114] / 255).mean() < 2 / 255


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, RLELossless])
def test_colour_compressed_without_loss_is_luma(syntax: UID, real: np.ndarray, tmp_path: Path) -> None:
    grey = of_bits(real, 8)
    colours = np.dstack([grey, grey // 2 + 60, 255 - grey])
    data = dicom(grey, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0)
    data.PixelData = colours.tobytes()
    data.compress(syntax, generate_instance_uid=False)
    np.testing.assert_allclose(read_dicom(data, tmp_path), colours @ [0.299, 0.587, 0.114] / 255, atol=0.51 / 255)


@pytest.mark.parametrize(
    ("fill", "bits", "kind", "header"),
    [
        (0, 12, np.uint16, {"PixelPaddingValue": 0}),
        (4095, 12, np.uint16, {"PixelPaddingValue": 4095}),
        (4000, 12, np.uint16, {"PixelPaddingValue": 3990, "PixelPaddingRangeLimit": 4095}),
        (4000, 12, np.uint16, {"PixelPaddingValue": 4095, "PixelPaddingRangeLimit": 3990}),
        (65535, 12, np.uint16, {"PixelPaddingValue": 65535}),
        (-2000, 12, np.int16, {"PixelPaddingValue": -2000}),
        (-2000, 16, np.int16, {"PixelPaddingValue": 63536}),
    ],
)
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_of_every_spelling_is_air(
    fill: int, bits: int, kind: type, header: dict[str, int], photometric: str, real: np.ndarray, tmp_path: Path
) -> None:
    pixels = (of_bits(real, 10).astype(np.int32) + 500).astype(kind)
    pixels[:, :30] = fill
    data = dicom(pixels, bits=bits, PhotometricInterpretation=photometric, WindowCenter=1000, WindowWidth=1400)
    for name, value in header.items():
        data.add_new(name, "SS" if value < 0 else "US", value)
    image = read_dicom(data, tmp_path)
    shown = np.clip((pixels[:, 30:] - 999.5) / 1399 + 0.5, 0, 1)
    np.testing.assert_allclose(image[:, 30:], 1 - shown if photometric == "MONOCHROME1" else shown, atol=1e-6)
    assert not image[:, :30].any()


def test_files_that_name_no_transfer_syntax_and_letters_in_one(real: np.ndarray, tmp_path: Path) -> None:
    pixels = of_bits(real, 12)
    data = dicom(pixels, bits=12)
    data.add_new("PatientOrientation", "CS", "RF")  # one value of two letters: where rows run, and no more
    data.save_as(tmp_path / "film.dcm", enforce_file_format=True)
    content = (tmp_path / "film.dcm").read_bytes()
    at = content.index(b"\x02\x00\x10\x00UI")
    without = bytearray(content[:at] + content[at + 8 + int.from_bytes(content[at + 6 : at + 8], "little") :])
    without[140:144] = (int.from_bytes(content[140:144], "little") - (len(content) - len(without))).to_bytes(
        4, "little"
    )
    for film in (content, bytes(without)):
        np.testing.assert_allclose(read_bytes(film), pixels / np.float32(4095), atol=1e-6)


def test_no_reason_quotes_the_file(real: np.ndarray, tmp_path: Path) -> None:
    data = dicom(of_bits(real, 12), bits=12)
    data.add_new("NumberOfFrames", "LO", "Doe^Jane 4711")
    with pytest.raises(UnreadableImage) as caught:
        read_dicom(data, tmp_path)
    assert not re.search("Doe|Jane|4711", str(caught.value))
