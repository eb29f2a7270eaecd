from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from vsae_search.tracking.spool import Event, Spool

if TYPE_CHECKING:
    from pathlib import Path


def uids(spool: Spool, limit: int = 100) -> list[str]:
    return [pending.event.uid for pending in spool.read(limit)]


def filled(folder: Path, count: int) -> Spool:
    spool = Spool(folder)
    for number in range(count):
        spool.append(Event("rung", f"t{number}", data={"number": number}))
    return spool


def test_events_come_back_in_order_and_once_acknowledged_no_more(tmp_path: Path) -> None:
    spool = filled(tmp_path, 3)
    assert spool.pending == 3
    batch = spool.read(2)
    assert [pending.event.uid for pending in batch] == ["t0", "t1"]
    assert batch[0].event.data == {"number": 0}
    spool.acknowledge(batch)
    assert (spool.pending, spool.delivered) == (1, 2)
    assert uids(spool) == ["t2"]
    spool.close()
    again = Spool(tmp_path)
    assert (again.pending, again.delivered) == (1, 2)
    assert uids(again) == ["t2"]
    assert [pending.event.uid for pending in again.scan()] == ["t0", "t1", "t2"]
    again.close()


def test_the_spool_keeps_its_name(tmp_path: Path) -> None:
    first, other = Spool(tmp_path / "a"), Spool(tmp_path / "b")
    again = Spool(tmp_path / "a")
    assert first.id == again.id != other.id
    for spool in (first, other, again):
        spool.close()


def test_a_torn_last_line_costs_only_itself(tmp_path: Path, warnings_of: object) -> None:
    filled(tmp_path, 2).close()
    path = tmp_path / "events.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    spool = Spool(tmp_path)
    assert spool.pending == 1
    spool.append(Event("rung", "later"))
    assert uids(spool) == ["t0", "later"]
    assert uids(spool) == ["t0", "later"]
    assert len(warnings_of()) == 1  # type: ignore[operator]
    spool.close()


def test_a_line_that_is_not_text_is_passed_over(tmp_path: Path) -> None:
    filled(tmp_path, 1).close()
    with (tmp_path / "events.jsonl").open("ab") as file:
        file.write(b"\xff\xfe\x00garbage\n[1]\n3\n{}\n\n")
    spool = Spool(tmp_path)
    spool.append(Event("rung", "later"))
    assert uids(spool) == ["t0", "later"]
    spool.close()


def test_a_line_that_is_being_written_is_not_read(tmp_path: Path) -> None:
    spool = filled(tmp_path, 1)
    with (tmp_path / "events.jsonl").open("ab") as file:
        file.write(b'{"kind":"rung","uid":"half"')
        file.flush()
        assert uids(spool) == ["t0"]
        file.write(b"}\n")
        file.flush()
        assert uids(spool) == ["t0", "half"]
    spool.close()


@pytest.mark.parametrize("mark", ["", "{", "[]", '{"offset": "x"}', '{"offset": -1}', '{"offset": 1000000}'])
def test_a_damaged_mark_repeats_deliveries(tmp_path: Path, mark: str) -> None:
    spool = filled(tmp_path, 2)
    spool.acknowledge(spool.read(2))
    spool.close()
    (tmp_path / "delivered.json").write_text(mark)
    again = Spool(tmp_path)
    assert again.pending == 2
    assert uids(again) == ["t0", "t1"]
    again.close()


def test_numbers_survive(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append(Event("rung", "a", time_ms=5, data={"x": 0.1 + 0.2, "nan": float("nan"), "inf": float("inf")}))
    event = spool.read(1)[0].event
    assert event.time_ms == 5
    assert event.data["x"] == 0.1 + 0.2
    assert event.data["nan"] != event.data["nan"]
    assert event.data["inf"] == float("inf")
    spool.close()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    target.write_text("mine")
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / "events.jsonl").symlink_to(target)
    with pytest.raises(OSError, match="symbolic links"):
        Spool(tmp_path / "spool")
    assert target.read_text() == "mine"


def test_a_disk_that_fills_up_in_the_middle_of_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    spool = filled(tmp_path, 1)
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:10]))
    with pytest.raises(OSError, match="wrote 10 of"):
        spool.append(Event("rung", "lost"))
    monkeypatch.undo()
    spool.append(Event("rung", "later"))
    assert uids(spool) == ["t0", "later"]
    assert spool.pending == 2
    spool.close()


def test_one_line_of_json_per_event(tmp_path: Path) -> None:
    filled(tmp_path, 2).close()
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["spool", "rung", "rung"]
