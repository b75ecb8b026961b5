"""The page serves the clips of a set and nothing else, keeps each vote at once, and answers only to its own page."""

import base64
import hashlib
import http.client
import json
import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="needs the extra curate")
import pyarrow as pa
import pyarrow.parquet as pq

from mutoscope.apps import cli, voting
from mutoscope.apps.voting import VoteJob, report, serve
from mutoscope.core.errors import MediaError, MissingExtra, RequestError
from mutoscope.core.video import Video
from mutoscope.curate.stage import CLIPS
from mutoscope.curate.vote import Ballots, Vote
from mutoscope.data import tars
from mutoscope.data.schema import Caption, Clip
from tests.curate import damage

SHOWN = [f"c{i}" for i in range(6)]  # clips in the shards; x0 and x1 were dropped by a limit on the score


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Six clips in a shard, and two that are in their sources: frames 4 to 10 of a video, and one that is lost."""
    folder = tmp_path / "set"
    writer = tars.Writer(folder / "shards" / tars.shard_name(0), 0)
    for id in SHOWN:
        clip = Clip(id, "s.mp4", 10, 48, 64, "8", captions=(Caption(""),))
        writer.add(tars.Sample(clip, ".mp4", f"the bytes of {id}".encode()))
    writer.close()
    tars.write_index(folder / "shards", writer.rows)
    path = damage.write_video(tmp_path / "raw/<i>.mp4", 12)
    sources = {"id": ["s", "x0", "x1"], "path": [str(tmp_path / "s.mp4"), str(path), str(tmp_path / "raw/lost.mp4")]}
    pq.write_table(pa.table(sources), folder / "sources.parquet")
    rows = []
    for i, id in enumerate([*SHOWN, "x0", "x1"]):
        row: dict[str, Any] = dict.fromkeys(CLIPS.names, "") | {"id": id, "source": "s", "start": 0, "end": 10}
        row |= {"start_s": 0.0, "end_s": 1.0, "sharp": float(i)}
        if id.startswith("x"):
            row |= {"source": id, "start": 4, "dropped_by": "quality", "reason": f"sharp {i} is above 5"}
        rows.append(row)
    pq.write_table(pa.Table.from_pylist(rows, CLIPS.append(pa.field("sharp", pa.float64()))), folder / "clips.parquet")
    (folder / "recipe.json").write_text("{}")
    return folder


class Browser:
    """Asks a server, and remembers what it said last."""

    def __init__(self, port: int) -> None:
        self.port = port

    def ask(self, path: str, body: object = None, **headers: str) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        sent = {"Content-Type": "application/json"} if data is not None else {}
        connection.request("GET" if data is None else "POST", path, data, sent | headers)
        reply = connection.getresponse()
        self.status, self.headers, self.data = reply.status, reply.headers, reply.read()
        connection.close()
        return json.loads(self.data) if self.headers["Content-Type"] == "application/json" else self.data

    def pair(self, voter: str, besides: str = "") -> list[str] | None:
        told = self.ask("/pair?" + urlencode({"voter": voter, "besides": besides}))
        return [clip["id"] for clip in told["pair"]] if told["pair"] else None

    def vote(self, voter: str, pair: list[str], winner: str) -> Any:
        return self.ask("/vote", {"voter": voter, "left": pair[0], "right": pair[1], "winner": winner})


@contextmanager
def served(dataset: Path, **changes: Any) -> Iterator[Browser]:
    with serve(VoteJob(dataset, "sharp", port=0, **changes)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield Browser(server.server_address[1])
        finally:
            server.shutdown()
            thread.join()


def test_a_vote_is_in_the_file_when_it_is_answered_and_can_be_taken_back(dataset: Path) -> None:
    with served(dataset, bins=2) as browser:
        pair = browser.pair("Ann")
        assert pair is not None and len(set(pair)) == 2
        assert browser.vote("Ann", pair, "left") == {"pair": None, "mine": 1, "all": 1}
        path = dataset / "votes/sharp.jsonl"
        assert Ballots(path, "sharp").votes == [Vote("Ann", pair[0], pair[1], "left")]
        assert browser.vote("Ann", pair, "equal")["all"] == 1  # sent again, or a change of mind
        browser.vote("Bo", pair, "right")
        told = browser.ask("/undo", {"voter": "Ann"})
        assert [clip["id"] for clip in told["pair"]] == pair and (told["mine"], told["all"]) == (0, 1)
        assert browser.ask("/undo", {"voter": "Ann"})["pair"] is None
        assert Ballots(path, "sharp").votes == [Vote("Bo", pair[0], pair[1], "right")]
    with served(dataset, bins=2) as browser:  # another day
        assert browser.ask("/pair?voter=Bo")["mine"] == 1


def test_each_person_sees_each_pair_once_also_when_all_vote_at_the_same_time(dataset: Path) -> None:
    with served(dataset, bins=2) as browser:

        def sit(voter: str) -> list[frozenset[str]]:
            mine, seen, before = Browser(browser.port), [], ""
            while pair := mine.pair(voter, before):
                before = ",".join(pair)
                mine.vote(voter, pair, "equal")
                seen.append(frozenset(pair))
            return seen

        with ThreadPoolExecutor(3) as pool:
            seen = list(pool.map(sit, ["Ann", "Bo", "Cy"]))
    assert [len(set(pairs)) for pairs in seen] == [len(pairs) for pairs in seen] == [12, 12, 12]  # seven clips: 4 x 3
    assert len(Ballots(dataset / "votes/sharp.jsonl", "sharp").votes) == 36


def test_a_pair_that_is_under_way_is_not_given_again(dataset: Path) -> None:
    with served(dataset, bins=2) as browser:
        first = browser.pair("Ann")
        assert first is not None
        others = [browser.pair("Ann", ",".join(first)) for _ in range(20)]
        assert all(other is not None and set(other) != set(first) for other in others)


def test_clips_of_the_shards_come_as_they_are_also_in_parts(dataset: Path) -> None:
    with served(dataset) as browser:
        whole = browser.ask("/clip/c3")
        assert (whole, browser.status, browser.headers["Content-Type"]) == (b"the bytes of c3", 200, "video/mp4")
        for asked, part, told in (
            ("bytes=4-8", b"bytes", "bytes 4-8/15"),
            ("bytes=4-", b"bytes of c3", "bytes 4-14/15"),
            ("bytes=-2", b"c3", "bytes 13-14/15"),
            ("bytes=0-99", whole, "bytes 0-14/15"),
        ):
            assert browser.ask("/clip/c3", Range=asked) == part
            assert (browser.status, browser.headers["Content-Range"]) == (206, told)
        assert browser.ask("/clip/c3", Range="bytes=15-") == b"" and browser.status == 416
        assert browser.ask("/clip/c3", Range="lines=1-2") == whole and browser.status == 200


def test_a_clip_that_is_in_no_shard_is_cut_from_its_source_once(dataset: Path) -> None:
    with served(dataset) as browser:
        made = browser.ask("/clip/x0")
        cut = dataset / "work/vote/x0.mp4"
        assert browser.headers["Content-Type"] == "video/mp4" and cut.read_bytes() == made
        frames = Video.open(cut).array().astype(int)
        truth = Video.open(dataset.parent / "raw/<i>.mp4").array()[4:10].astype(int)
        assert frames.shape == truth.shape and np.abs(frames - truth).mean() < 5
        (dataset.parent / "raw/<i>.mp4").unlink()
        assert browser.ask("/clip/x0") == made


def test_what_cannot_be_shown_is_asked_about_no_more(dataset: Path) -> None:
    source = dataset.parent / "raw/<i>.mp4"
    source.write_bytes(source.read_bytes()[:200])
    with served(dataset, bins=2) as browser:
        assert all("x1" not in (browser.pair("Ann") or ()) for _ in range(30))  # its source is not there
        assert browser.ask("/clip/x1")["problem"] == "there is no such clip."
        assert any("x0" in (browser.pair("Ann") or ()) for _ in range(60))
        assert "problem" in browser.ask("/clip/x0") and browser.status == 410
        assert not any("x0" in (browser.pair("Ann") or ()) for _ in range(60))


def test_the_page_is_whole_and_may_load_nothing_from_elsewhere(dataset: Path) -> None:
    with served(dataset) as browser:
        page = browser.ask("/?voter=" + quote("<script>alert(1)</script>")).decode()
        policy = browser.headers["Content-Security-Policy"]
    assert "alert(1)" not in page and "innerHTML" not in page and not re.search(r"https?://| on\w+=| style=", page)
    assert re.findall(r'(?:src|href)="([^"]*)"', page) == ["data:,"]
    for tag in ("style", "script"):
        (inside,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy and "unsafe" not in policy


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("/clip/nothing", None, 404, "no such clip"),
        ("/clip/..%2F..%2Frecipe.json", None, 404, "no such clip"),
        ("/recipe.json", None, 404, "no such page"),
        ("/pair?voter=", None, 400, "needs a name"),
        ("/pair?voter=" + "x" * 61, None, 400, "needs a name"),
        ("/vote", {"voter": "Ann", "left": "c0", "right": "c5", "winner": "both"}, 400, "no vote"),
        ("/vote", {"voter": "Ann", "left": "c0", "right": "c0", "winner": "left"}, 400, "no vote"),
        ("/vote", {"voter": "Ann", "left": "c0", "right": "no", "winner": "left"}, 400, "no vote"),
        ("/vote", {"voter": ["Ann"], "left": "c0", "right": "c5", "winner": "left"}, 400, "needs a name"),
        ("/vote", [1], 400, "no JSON object"),
        ("/vote", b"{", 400, "no JSON object"),
        ("/vote", b" " * 20_000, 400, "few bytes"),
        ("/vote", b"[" * 9_000, 400, "no JSON object"),
        ("/other", {}, 404, "no such page"),
    ],
)
def test_what_makes_no_sense_is_refused_and_not_written(
    dataset: Path, path: str, body: object, status: int, says: str
) -> None:
    with served(dataset) as browser:
        assert says in browser.ask(path, body)["problem"] and browser.status == status
    assert not (dataset / "votes").exists()


def test_an_address_that_is_none_is_refused(dataset: Path) -> None:
    with served(dataset) as browser:
        assert "no address" in browser.ask("http://[/", Host="localhost")["problem"] and browser.status == 400


@pytest.mark.parametrize("length", ["9" * 5_000, "-1", "²", ""])
def test_a_length_that_makes_no_sense_is_refused(dataset: Path, length: str) -> None:
    with served(dataset) as browser:
        told = browser.ask("/vote", b"{}", **{"Content-Length": length})
        assert "few bytes" in told["problem"] and browser.status == 400


def test_a_set_may_come_without_its_sources_but_not_with_damaged_ones(dataset: Path) -> None:
    (dataset / "sources.parquet").write_bytes(b"nonsense")
    with pytest.raises(MediaError, match=r"sources\.parquet is damaged"):
        serve(VoteJob(dataset, "sharp", port=0))
    (dataset / "sources.parquet").unlink()
    with served(dataset, bins=2) as browser:
        assert not any({"x0", "x1"} & set(browser.pair("Ann") or ()) for _ in range(30))


def test_a_page_from_elsewhere_cannot_vote(dataset: Path) -> None:
    vote = json.dumps({"voter": "Ann", "left": "c0", "right": "c5", "winner": "left"}).encode()
    with served(dataset) as browser:
        browser.ask("/vote", vote, **{"Content-Type": "text/plain"})  # all that a form of another page can send
        assert browser.status == 400
        browser.ask("/vote", vote, Host="evil.example:80")  # a name of theirs that leads to this machine
        assert browser.status == 403
        browser.ask("/vote", vote, Host=f"localhost:{browser.port}")
        assert browser.status == 200


def test_a_disk_that_refuses_is_told_and_the_page_goes_on(dataset: Path) -> None:
    (dataset / "votes").write_text("in the way")
    with served(dataset, votes=dataset / "new/votes.jsonl") as browser:
        (dataset / "new").write_text("")
        told = browser.vote("Ann", ["c0", "c5"], "left")
        assert "cannot" in told["problem"] and browser.status == 500
        (dataset / "new").unlink()
        assert browser.vote("Ann", ["c0", "c5"], "left")["all"] == 1


def test_a_port_that_is_taken_or_is_none_is_named(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(RequestError, match=rf"port {port} is in use on 127.0.0.1. .* --port {port + 1}"):
            serve(VoteJob(dataset, "sharp", port=port))
    with pytest.raises(RequestError, match="from 0 to 65535"):
        serve(VoteJob(dataset, "sharp", port=70_000))
    with pytest.raises(RequestError, match=r"cannot listen on 203.0.113.1"):
        serve(VoteJob(dataset, "sharp", host="203.0.113.1", port=0))
    monkeypatch.setattr(voting, "find_spec", lambda module: None)
    for call in (serve, report):
        with pytest.raises(MissingExtra, match=r"mutoscope\[curate\]"):
            call(VoteJob(dataset, "sharp"))


def test_the_command_says_where_the_page_is_and_at_the_end_what_came_of_it(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ballots = Ballots(dataset / "votes.jsonl", "sharp")
    for number in range(60):
        low, high = f"c{number % 2}", f"c{2 + number % 4}"
        ballots.add(Vote(f"voter {number}", low, high, "right"))

    def interrupt(self: voting.Server) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(voting.Server, "serve_forever", interrupt)
    words = ["mutoscope", "vote", "thresholds", str(dataset), "--column", "sharp", "--bins", "4", "--port", "0"]
    words += ["--votes", str(ballots.path)]
    monkeypatch.setattr("sys.argv", words)
    cli.main()
    shown = capsys.readouterr().out
    assert re.search(r"vote at http://127.0.0.1:\d+\n7 clips in 4 bins of sharp; 1 more", shown)
    assert "60 votes are there" in shown and 'Threshold("sharp", at_least=2.0, name="sharp")' in shown
    monkeypatch.setattr("sys.argv", [*words, "--report"])
    cli.main()
    assert shown.endswith(capsys.readouterr().out)
    monkeypatch.setattr("sys.argv", [*words[:5], "shrap", "--report"])
    with pytest.raises(SystemExit):
        cli.main()
    assert "no score 'shrap'. Choose from sharp" in capsys.readouterr().err
