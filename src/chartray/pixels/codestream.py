"""What a JPEG, JPEG-LS or JPEG 2000 codestream says of itself, before it is decoded."""

from typing import NamedTuple

_JPEG_START, _J2K_START, _JP2_START = b"\xff\xd8", b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP"
_END = b"\xff\xd9"
_PADDING_AT_END = 16
_FRAME_MARKERS = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})


class Codestream(NamedTuple):
    """The size in pixels, the bits of a sample, and whether the last marker is there (else it was cut)."""

    rows: int
    columns: int
    samples: int
    precision: int
    complete: bool


def codestream(content: bytes) -> Codestream | None:
    """What `content` declares, or None: no such codestream, or one that breaks off before it says."""
    complete = _END in content[-_PADDING_AT_END:]
    if content.startswith(_JPEG_START):
        return _jpeg(content, complete)
    start = 0
    if content.startswith(_JP2_START):
        start = content.find(_J2K_START)
    if start < 0 or not content.startswith(_J2K_START, start) or len(content) < start + 46:
        return None
    numbers = [int.from_bytes(content[place : place + 4]) for place in range(start + 8, start + 24, 4)]
    right, bottom, left, top = numbers
    samples = int.from_bytes(content[start + 40 : start + 42])
    return Codestream(bottom - top, right - left, samples, (content[start + 42] & 0x7F) + 1, complete)


def _jpeg(content: bytes, complete: bool) -> Codestream | None:
    place = 2
    while place + 10 <= len(content):
        if content[place] != 0xFF:
            return None
        marker = content[place + 1]
        if marker == 0xFF or marker in _WITHOUT_LENGTH:
            place += 1 if marker == 0xFF else 2
            continue
        if marker in _FRAME_MARKERS:
            rows, columns = (int.from_bytes(content[at : at + 2]) for at in (place + 5, place + 7))
            return Codestream(rows, columns, content[place + 9], content[place + 4], complete)
        place += 2 + int.from_bytes(content[place + 2 : place + 4])
    return None
