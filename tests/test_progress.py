"""Progress where there is no terminal."""

import pytest

from chartray import progress as room


def test_every_plain_line_says_something_new(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(room, "_PLAIN_INTERVAL_SECONDS", 0.0)  # a line is due at every step, the last included
    with room.progress("pretrain", 3, "steps", done=1) as advance:
        advance(1, "loss 5.1")
        advance()
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(",")[0] for line in lines] == ["pretrain: 2/3 steps", "pretrain: 3/3 steps"]
    with room.progress("ingest", 2, "films", done=2):
        pass
    assert len(capsys.readouterr().err.splitlines()) == 1  # work that another run had done is still said
