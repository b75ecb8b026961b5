import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from mutoscope.core.errors import ChatError, MediaError, MutoscopeError
from mutoscope.curate.ask import BadAnswer
from mutoscope.curate.ledger import PATIENCE, Ledger, fingerprint, read_ledger, read_results, work_through
from mutoscope.curate.view import View
from tests.curate.chat_server import Asked, Reply, serving
from tests.curate.clips import grey

MEANS = {"what": "test", "n": 1}


def rows(path: Path) -> list[dict]:
    return [row for row in read_ledger(path) if "clip" in row]


def test_what_is_in_the_ledger_is_not_done_again(tmp_path: Path) -> None:
    done: list[str] = []

    def work(view: View) -> dict:
        done.append(view.id)
        return {"id": view.id}

    views = [grey(f"c{n}") for n in range(6)]
    with Ledger(tmp_path / "l.jsonl") as ledger:
        assert work_through(views[:4], work, ledger, MEANS, 2).results == 4
    with Ledger(tmp_path / "l.jsonl") as ledger:
        tally = work_through([*views, views[0], views[5]], work, ledger, MEANS, 2)
    assert (tally.results, tally.earlier) == (2, 6) and sorted(done) == [view.id for view in views]
    assert dict(read_results(tmp_path / "l.jsonl")) == {view.id: {"id": view.id} for view in views}


def test_other_settings_are_other_results_and_are_explained_once(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.jsonl") as ledger:
        for means in (MEANS, MEANS | {"n": 2}, MEANS):
            work_through([grey("a")], lambda view, n=means["n"]: {"n": n}, ledger, means, 1)
    explained = [row for row in read_ledger(tmp_path / "l.jsonl") if "means" in row]
    assert [row["means"]["n"] for row in explained] == [1, 2]
    assert list(read_results(tmp_path / "l.jsonl", fingerprint(MEANS))) == [("a", {"n": 1})]


def test_every_clip_that_cannot_be_done_is_a_drop_with_its_reason(tmp_path: Path) -> None:
    errors = [BadAnswer("nonsense"), MediaError("damaged"), ChatError("too long", "request")]

    def work(view: View) -> dict:
        raise errors[int(view.id)]

    with Ledger(tmp_path / "l.jsonl") as ledger:
        tally = work_through([grey(str(n)) for n in range(3)], work, ledger, MEANS, 2)
    assert (tally.results, tally.drops, tally.unanswered) == (0, 3, 0)
    assert {row["clip"]: row["reason"] for row in rows(tmp_path / "l.jsonl")} == {
        "0": "nonsense",
        "1": "damaged",
        "2": "too long",
    }
    assert not dict(read_results(tmp_path / "l.jsonl"))


def test_a_clip_that_the_server_leaves_unanswered_is_done_by_the_next_run(tmp_path: Path) -> None:
    fails = True

    def work(view: View) -> dict:
        if fails and view.id == "1":
            raise ChatError("busy")
        return {}

    views = [grey(str(n)) for n in range(4)]
    with Ledger(tmp_path / "l.jsonl") as ledger:
        tally = work_through(views, work, ledger, MEANS, 1)
        assert (tally.results, tally.unanswered) == (3, 1)
        fails = False
        tally = work_through(views, work, ledger, MEANS, 1)
    assert (tally.results, tally.unanswered, tally.earlier) == (1, 0, 3)


@pytest.mark.parametrize(("blame", "asked"), [("server", PATIENCE), ("setup", 1)])
def test_a_run_stops_when_the_server_is_gone_and_drops_nothing(tmp_path: Path, blame: str, asked: int) -> None:
    tried: list[str] = []

    def work(view: View) -> dict:
        tried.append(view.id)
        raise ChatError("gone", blame)  # pyright: ignore[reportArgumentType]

    with Ledger(tmp_path / "l.jsonl") as ledger, pytest.raises(ChatError, match="gone"):
        work_through((grey(str(n)) for n in range(1000)), work, ledger, MEANS, 1)
    assert len(tried) == asked and not rows(tmp_path / "l.jsonl")


def test_a_file_cut_anywhere_loses_only_the_line_that_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "l.jsonl"
    with Ledger(path) as ledger:
        ledger.write("a", "s", {"text": "é"})
        ledger.write("b", "s", {"text": "x"})
    whole = path.read_bytes()
    ends = [at + 1 for at, byte in enumerate(whole) if byte == 10]
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        kept = sum(end <= length for end in ends)
        assert len(list(read_ledger(path))) == kept
        with Ledger(path) as ledger:
            assert [ledger.holds(clip, "s") for clip in "ab"] == [kept >= 1, kept >= 2]
            for clip in "ab"[kept:]:
                ledger.write(clip, "s", {"again": True})
        assert [row["clip"] for row in rows(path)] == ["a", "b"]


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "l.jsonl").write_text('{"settings": "s", "means": {}}\n{"clip": oh}\n', encoding="utf-8")
    with pytest.raises(MutoscopeError, match=r"line 2 of .*l\.jsonl is damaged"):
        Ledger(tmp_path / "l.jsonl")


def test_two_writers_are_one_too_many(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.jsonl"), pytest.raises(MutoscopeError, match="is being written by another process"):
        Ledger(tmp_path / "l.jsonl")
    Ledger(tmp_path / "l.jsonl").__exit__()
    with pytest.raises(MutoscopeError, match="cannot write"):
        Ledger(tmp_path)


CHILD = """
import sys
from types import SimpleNamespace
from mutoscope.core.chat import Endpoint, EndpointChat, Message
from mutoscope.curate.ledger import Ledger, work_through
url, path = sys.argv[1:]
chat = EndpointChat(Endpoint(url))
clips = [SimpleNamespace(id=f"c{n}") for n in range(24)]
with Ledger(path) as ledger:
    work = lambda clip: {"said": chat.ask([Message(clip.id)]).text}
    print(work_through(clips, work, ledger, {"what": "kill"}, 4))
"""


@pytest.mark.parametrize("kill_at", [3, 17])
def test_a_killed_run_loses_at_most_what_was_under_way(tmp_path: Path, kill_at: int) -> None:
    path, lock, child = tmp_path / "l.jsonl", threading.Lock(), None
    count = 0

    def script(asked: Asked) -> Reply | str:
        nonlocal count
        with lock:
            count += 1
            if count == kill_at and child is not None:
                os.kill(child.pid, signal.SIGKILL)
        return asked.last

    with serving(script) as server:
        command = [sys.executable, "-c", CHILD, server.url, str(path)]
        child = subprocess.Popen(command)
        assert child.wait() == -signal.SIGKILL
        child, kept = None, {row["clip"] for row in rows(path)}
        assert kill_at - len(kept) <= 4
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        often = Counter(asked.last for asked in server.asked)
    # the server may come to what the killed run asked last only after the kill, so counts in between tell nothing
    assert all(often[clip] == 1 for clip in kept) and often.total() - 24 <= 4
    assert sorted(row["clip"] for row in rows(path)) == sorted(f"c{n}" for n in range(24))
    assert all(result["said"] == clip for clip, result in read_results(path))


def test_a_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    with Ledger(tmp_path / "l.jsonl") as ledger:
        ledger.write("a", "s", {})
        monkeypatch.setattr(os, "write", lambda file, line: write(file, line[:7]))
        with pytest.raises(MutoscopeError, match="No space left on device"):
            ledger.write("b", "s", {})
        monkeypatch.undo()
        ledger.write("b", "s", {"late": True})
    assert json.loads((tmp_path / "l.jsonl").read_bytes().splitlines()[1])["result"] == {"late": True}
    assert not ledger.holds("c", "s")
