"""What DICOM's tags say of one image: view, body part, age, time, spacing and exposure, only where it is sure."""

import re
from collections.abc import Sequence
from datetime import date
from functools import cache

from chartray.records.levels import possible_age
from chartray.records.parsing import calendar_date, number
from chartray.schema import AGE_RANGE

VIEWS = ("PA", "AP", "LATERAL")
_FRONTAL = {"PA": "PA", "AP": "AP", "POSTEROANTERIOR": "PA", "ANTEROPOSTERIOR": "AP"}
_LATERAL = ("LATERAL", "LAT", "LL", "RL", "LLAT", "RLAT", "SEITLICH", "SEITL")
_SIDES = ("LEFT", "RIGHT", "L", "R")
_HOW = (
    *("SUPINE", "ERECT", "UPRIGHT", "SITTING", "STANDING", "PORTABLE", "MOBILE", "BEDSIDE", "LIEGEND", "STEHEND"),
    *("CHEST", "THORAX", "PROJECTION", "VIEW"),
)
_OTHER_VIEW = re.compile(r"OBLI|DECUB|LORDOT|APICAL|AXIAL|SWIMMER|RIB")
# The view codes of DICOM (CID 4010), in SNOMED CT and in the older SNOMED RT, with the code of 2003 for PA.
_VIEW_CODES = {
    **dict.fromkeys(("272479007", "R-40888", "R-10214"), "PA"),
    **dict.fromkeys(("399348003", "R-10206"), "AP"),
    **dict.fromkeys(("399067008", "399198007", "399173006", "R-102CD", "R-10232", "R-10236"), "LATERAL"),
}
CHEST = "CHEST"
DISAGREE = "tags that disagree"
_CHEST = ("CHEST", "THORAX", "TORAX", "THORACIC", "LUNG", "LUNGS", "LUNGE", "PULMON")
# What makes "thoracic spine" or "chest wall ribs" another examination.
_OTHER_PART = (
    *("ABDOMEN", "ABD", "ABDO", "PELVIS", "BECKEN", "HIP", "HUEFTE", "FEMUR", "THIGH", "KNEE", "KNIE", "PATELLA"),
    *("TIBIA", "FIBULA", "LEG", "ANKLE", "FOOT", "FUSS", "FEET", "TOE", "TOES", "CALCANEUS", "HEEL", "EXTREMITY"),
    *("HAND", "HANDS", "FINGER", "THUMB", "WRIST", "FOREARM", "RADIUS", "ULNA", "ELBOW", "HUMERUS", "ARM"),
    *("SHOULDER", "SCHULTER", "CLAVICLE", "SCAPULA", "SPINE", "CSPINE", "TSPINE", "LSPINE", "BWS", "HWS", "LWS"),
    *("SKULL", "HEAD", "NECK", "FACE", "SINUS", "JAW", "MANDIBLE", "TEETH", "BREAST", "BABYGRAM", "SACRUM", "COCCYX"),
    *("RIB", "RIBS", "RIBCAGE", "STERNUM", "ESOPHAGUS", "WHOLEBODY", "KUB"),
)
_CHEST_CODES = ("816094009", "51185008", "43799004", "T-D3000", "T-D3001")
_CLOCK = re.compile(r"(\d{2})(?::?(\d{2})(?::?(\d{2})(\.\d+)?)?)?", re.ASCII)


def view_of(position: str, code: str, patient_position: str, description: str) -> tuple[str | None, str]:
    """The view, and the tag that says it; None with "tags that disagree", "another view" or "no tag".

    Files made from other formats have it in PatientPosition, whose own terms (HFS ...) are no views.

    >>> view_of("RL", "", "", ""), view_of("", "", "PA", ""), view_of("PA", "R-10206", "", "")
    (('LATERAL', 'ViewPosition'), ('PA', 'PatientPosition'), (None, 'tags that disagree'))
    >>> view_of("", "", "HFS", "Thorax a.p. liegend"), view_of("LLO", "", "", "Chest PA"), view_of("", "", "", "PA/LAT")
    (('AP', 'SeriesDescription'), (None, 'another view'), (None, 'no tag'))
    """
    said = {"ViewPosition": view_word(position), "ViewCodeSequence": _coded_view(code)}
    found = {source: view for source, view in said.items() if view is not None}
    if len(set(found.values())) == 2:
        return None, DISAGREE
    if found:
        source = next(iter(found))
        return found[source], source
    if position or code:
        return None, "another view"
    if (view := view_word(patient_position)) is not None:
        return view, "PatientPosition"
    view = _described_view(description)
    return view, "no tag" if view is None else "SeriesDescription"


@cache
def view_word(text: str) -> str | None:
    """PA, AP or LATERAL from a whole cell; oblique, decubitus and other views are None.

    >>> [view_word(text) for text in ("PA", "ap supine", "LL", "L LAT", "POSTERO_ANTERIOR", "RLD", "AP AXIAL", "LPO")]
    ['PA', 'AP', 'LATERAL', 'LATERAL', 'PA', None, None, None]
    """
    words = _words(re.sub(r"(?i)(postero|antero)[\s_-]+", r"\1", text))
    rest = [word for word in words if word not in _HOW]
    if any(word in _LATERAL for word in rest):
        return "LATERAL" if all(word in (*_LATERAL, *_SIDES) for word in rest) else None
    return _FRONTAL.get(rest[0]) if len(rest) == 1 else None


def _coded_view(text: str) -> str | None:
    value, _, meaning = text.partition("\\")
    return _VIEW_CODES.get(value) or view_word(meaning)


@cache
def _described_view(text: str) -> str | None:
    """The only view that a description names."""
    words = _words(text)
    if any(_OTHER_VIEW.search(word) for word in words):
        return None
    found = {_FRONTAL.get(word, "LATERAL" if word in _LATERAL else "") for word in words} - {""}
    return found.pop() if len(found) == 1 else None


def part_of(examined: str, region: str, descriptions: Sequence[str]) -> tuple[str | None, str]:
    r"""The body part and the tag that says it; CHEST, another part as it is written, or None: no tag names one.

    Descriptions count only where both tags are blank.

    >>> part_of("Thorax", "", ()), part_of("HIP", "", ("Chest",)), part_of("", "51185008\\Chest", ())
    (('CHEST', 'BodyPartExamined'), ('HIP', 'BodyPartExamined'), ('CHEST', 'AnatomicRegionSequence'))
    >>> part_of("", "", ("Thoracic spine ap",)), part_of("", "", ("PORT CHEST 1V",)), part_of("", "", ("Port 1V",))
    (('SPINE', 'a description'), ('CHEST', 'a description'), (None, 'no tag'))
    """
    value, _, meaning = region.partition("\\")
    if examined:
        return _named_part(examined) or examined, "BodyPartExamined"
    if region:
        named = CHEST if value in _CHEST_CODES else _named_part(meaning)
        return named or meaning or value, "AnatomicRegionSequence"
    named = next((part for text in descriptions if (part := _named_part(text))), None)
    return named, "no tag" if named is None else "a description"


@cache
def _named_part(text: str) -> str | None:
    words = _words(text)
    other = next((word for word in words if word in _OTHER_PART), None)
    return other or (CHEST if any(word in _CHEST for word in words) else None)


def age_of(age: str, born: str, on: str) -> tuple[float | None, str]:
    """Years, and the tag that says it: PatientAge, else from the date of birth and of the study.

    >>> age_of("018M", "", ""), age_of("", "20000101", "20200702"), age_of("18M", "", "20200702")
    ((1.5, 'PatientAge'), (20.5, 'PatientBirthDate'), (None, 'no tag'))
    """
    years = possible_age(age) if age else None
    if years is not None:
        return years, "PatientAge"
    birth, day = _date(born), _date(on)
    if birth is None or day is None:
        return None, "no tag"
    between = round((day - birth).days / 365.25, 2)
    return (between, "PatientBirthDate") if AGE_RANGE[0] <= between <= AGE_RANGE[1] else (None, "no tag")


def time_of(pairs: Sequence[tuple[str, str, str]]) -> tuple[str | None, str]:
    """The first readable date with its time, from (tag, date, time), as text of an ISO time, and its tag.

    Without any time of day it is the first date, at midnight: nothing of that day then counts as known before it.

    >>> time_of([("Study", "20200131", "1100"), ("Content", "20200201", "09")])
    ('2020-01-31T11:00:00', 'Study')
    >>> time_of([("Study", "20200131", ""), ("Acquisition", "20200131", "093012.5")])
    ('2020-01-31T09:30:12.5', 'Acquisition')
    >>> time_of([("Study", "2020.01.31", "99")]), time_of([("Study", "", "0930")])
    (('2020-01-31', 'Study, without a time of day'), (None, 'no tag'))
    """
    dated = [(tag, day, _clock(clock)) for tag, written, clock in pairs if (day := _date(written)) is not None]
    # A time of another day is not the time of this image.
    whole = next(((tag, f"{day}T{clock}") for tag, day, clock in dated if clock and day == dated[0][1]), None)
    if whole is not None:
        return whole[1], whole[0]
    return (str(dated[0][1]), f"{dated[0][0]}, without a time of day") if dated else (None, "no tag")


def first_number(*cells: str, scale: float = 1.0) -> float | None:
    r"""The first of the values of the first readable cell, times `scale`; 0 is a blank.

    >>> first_number("", "0.168\\0.168"), first_number("0", ""), first_number("2500", scale=0.001)
    (0.168, None, 2.5)
    """
    read = (number(cell.partition("\\")[0]) for cell in cells if cell)
    value = next((value for value in read if value), None)
    return None if value is None else value * scale


def _words(text: str) -> list[str]:
    return re.findall(r"[A-Z]+", re.sub(r"(?<=\b[A-Z])\.", "", text.upper()))


@cache
def _date(cell: str) -> date | None:
    return calendar_date(cell) if cell else None


def _clock(cell: str) -> str | None:
    """HH:MM:SS[.F] of DICOM's HH, HHMM, HHMMSS or HHMMSS.FFFFFF."""
    found = _CLOCK.fullmatch(cell)
    if found is None:
        return None
    hour, minute, second = (int(part or 0) for part in found.groups()[:3])
    if hour > 23 or minute > 59 or second > 60:
        return None
    return f"{hour:02}:{minute:02}:{min(second, 59):02}{found[4] or ''}"
