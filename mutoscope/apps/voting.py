"""The job behind `mutoscope vote`: a page on which people compare clips, and what came of it.

GET  /                                the page
GET  /pair?voter=Ann&besides=ID,ID    which clips to show next; `besides` is a pair that has no vote yet
GET  /clip/ID                         a clip, cut from its source where no shard has it
POST /vote   {"voter", "left", "right", "winner"}
POST /undo   {"voter"}                takes a person's last vote back, and returns its pair

The page loads nothing from elsewhere, and the server answers only to its own page.
"""

import base64
import errno
import hashlib
import json
import random
import re
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from mutoscope.core.errors import MediaError, MissingExtra, MutoscopeError, RequestError
from mutoscope.core.files import replacing

if TYPE_CHECKING:  # it brings pyarrow, an extra, which the door checks first
    from mutoscope.curate.vote import Candidates

PAGE = Path(__file__).with_suffix(".html")
TYPES = {".mp4": "video/mp4", ".jpg": "image/jpeg", ".png": "image/png", ".webp": "image/webp"}
SHOWN_PX = 480  # short side of clips that are cut for the page
NAME_MOST = 60  # letters of a voter's name
BODY_MOST = 10_000  # bytes of a request
HERE = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class VoteJob:
    """What a person asks of a vote; see `apps.cli.vote` for the meaning of each."""

    dataset: Path
    column: str
    bins: int = 5
    host: str = "127.0.0.1"
    port: int = 8000
    votes: Path | None = None

    @property
    def file(self) -> Path:
        """Return where the votes are."""
        return self.votes or self.dataset / "votes" / f"{re.sub(r'[^A-Za-z0-9_.-]', '-', self.column)}.jsonl"


def report(job: VoteJob) -> list[str]:
    """Say what the votes tell so far.

    Raises:
        MissingExtra: pyarrow is not installed.
        MutoscopeError: there is no such data set or score, or the votes cannot be read.
    """
    _refuse_missing()
    from mutoscope.curate.verdict import Verdict
    from mutoscope.curate.vote import Ballots, Candidates, bins_of

    candidates = Candidates.of(job.dataset, job.column)
    bins = bins_of(candidates.values, job.bins)
    return Verdict.of(candidates, bins, Ballots(job.file, job.column)).lines()


def serve(job: VoteJob) -> "Server":
    """Open the page, which then waits for `serve_forever`.

    Raises:
        MissingExtra: pyarrow is not installed.
        MutoscopeError: there is no such data set or score, the votes cannot be read, or the port is taken.
    """
    _refuse_missing()
    try:
        return Server((job.host, job.port), Poll(job))
    except OverflowError as error:
        raise RequestError(f"port {job.port} was given. Give one from 0 to 65535.") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise RequestError(
                f"port {job.port} is in use on {job.host}. Give another one, such as --port {job.port + 1}."
            ) from error
        raise RequestError(f"cannot listen on {job.host}, port {job.port}: {error.strerror or error}.") from error


def _refuse_missing() -> None:
    if find_spec("pyarrow") is None:
        raise MissingExtra("curate", "pyarrow", "mutoscope vote")


class Poll:
    """One score, its clips and its votes. Threads may share it."""

    def __init__(self, job: VoteJob) -> None:
        from mutoscope.curate.vote import Ballots, Candidates, Draw, bins_of

        candidates = Candidates.of(job.dataset, job.column)
        self.films = Films(job.dataset, candidates)
        self.candidates = candidates.only(self.films.ids)
        self.bins = bins_of(self.candidates.values, job.bins)
        self.left_out = len(candidates.values) - len(self.candidates.values)
        self.ballots = Ballots(job.file, job.column)
        self._draw = Draw(self.bins, self.ballots, random.Random())
        self._lock = threading.Lock()

    def next(self, voter: str, besides: frozenset[str]) -> dict[str, Any]:
        """Return the pair that a person is to be shown, and how many votes there are."""
        with self._lock:
            self.ballots.refresh()
            return self._told(voter, self._draw.pair(voter, besides))

    def vote(self, voter: str, left: str, right: str, winner: str) -> dict[str, Any]:
        """Write down a vote."""
        from mutoscope.curate.vote import WINNERS, Vote

        known = self.candidates.values
        if winner not in WINNERS or left not in known or right not in known or left == right:
            raise RequestError("that is no vote on two clips of this set.")
        with self._lock:
            self.ballots.add(Vote(voter, left, right, winner))
            return self._told(voter, None)

    def undo(self, voter: str) -> dict[str, Any]:
        """Take back a person's last vote."""
        with self._lock:
            taken = self.ballots.undo(voter)
            return self._told(voter, (taken.left, taken.right) if taken else None)

    def unusable(self, clip: str) -> None:
        """Ask nobody about a clip again."""
        with self._lock:
            self._draw.leave_out(clip)

    def _told(self, voter: str, pair: tuple[str, str] | None) -> dict[str, Any]:
        shown = [{"id": clip, "kind": self.films.kind(clip)} for clip in pair or ()]
        return {"pair": shown or None, "mine": len(self.ballots.of(voter)), "all": len(self.ballots.votes)}


class Films:
    """The clips as files for a browser: from the shards or, where none has them, cut from their source."""

    def __init__(self, dataset: Path, candidates: "Candidates") -> None:
        import pyarrow.parquet as pq

        from mutoscope.data.tars import Tars

        self._folder, self._places = dataset / "work" / "vote", candidates.places
        self._tars, self._rows, self._paths = None, dict[str, int](), dict[str, Path]()
        with suppress(MediaError):  # the shards may have been moved, or never been finished
            self._tars = Tars(dataset)
            self._rows = {row.id: at for at, row in enumerate(self._tars.rows) if row.suffix in TYPES}
        path = dataset / "sources.parquet"
        try:
            columns = pq.read_table(path, columns=["id", "path"])
            self._paths = dict(zip(columns["id"].to_pylist(), map(Path, columns["path"].to_pylist()), strict=True))
        except FileNotFoundError:  # a set may be passed on without it; what its shards hold can be shown
            pass
        except (OSError, ValueError) as error:
            raise MediaError(f"{path} is damaged ({error}). Run the same mutoscope curate again.") from error
        there = {id for id, path in self._paths.items() if path.is_file()}
        self.ids = {id for id, place in candidates.places.items() if id in self._rows or place[0] in there}
        self._cutting = threading.Lock()  # one at a time leaves the machine usable

    def kind(self, clip: str) -> str:
        """Return ``image`` or ``video``."""
        _, start, end = self._places[clip]
        return "video" if end - start > 1 else "image"

    def file(self, clip: str) -> tuple[str, bytes]:
        """Return the type and the bytes of a clip.

        Raises:
            MediaError: it cannot be read.
        """
        if self._tars is not None and clip in self._rows:
            sample = self._tars.sample(self._rows[clip])
            return TYPES[sample.suffix], sample.payload
        with self._cutting:
            path = self._folder / f"{clip}{'.mp4' if self.kind(clip) == 'video' else '.png'}"
            if not path.is_file():
                self._cut(clip, path)
            return TYPES[path.suffix], path.read_bytes()

    def _cut(self, clip: str, out: Path) -> None:
        from mutoscope.core.video import Video

        source, start, end = self._places[clip]
        video = Video.open(self._paths[source])
        if (video.num_frames or 1) > 1:
            video = video.take(start, end - start).with_audio(None)
        scale = min(1.0, SHOWN_PX / min(video.height, video.width))
        height, width = (2 * round(side * scale / 2) for side in (video.height, video.width))
        with replacing(out) as temporary:
            video.resized(height, width, crop=True).save(temporary)


# ---- the server ------------------------------------------------------------------------------------------------------


class Server(ThreadingHTTPServer):
    """Serves one poll."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], poll: Poll) -> None:
        self.poll = poll
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, Handler)

    @property
    def url(self) -> str:
        """Return where the page is."""
        host, port = self.server_address[:2]
        return f"http://{f'[{host}]' if ':' in str(host) else host}:{port}"

    @property
    def is_private(self) -> bool:
        """Say whether only this machine reaches it."""
        return str(self.server_address[0]) in HERE

    def lines(self) -> list[str]:
        """Return what to say when it is up."""
        poll = self.poll
        clips = f"{len(poll.candidates.values)} clips in {len(poll.bins)} bins of {poll.candidates.column}"
        if poll.left_out:
            clips += f"; {poll.left_out} more are not where they were, and are left out"
        there = f"{len(poll.ballots.votes)} votes are there" if poll.ballots.votes else "no votes are there yet"
        return [f"vote at {self.url}", clips, f"votes go to {poll.ballots.path}; {there}", "Ctrl-C ends, and counts"]

    @cached_property
    def page(self) -> tuple[bytes, str]:
        """Return the page, and the policy that lets it do what it does and nothing else."""
        text = PAGE.read_text(encoding="utf-8")
        hashes = {tag: _hash(re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)) for tag in ("style", "script")}
        policy = (
            f"default-src 'none'; style-src {hashes['style']}; script-src {hashes['script']}; img-src 'self' data:; "
            "media-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        return text.encode(), policy

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of browsers that hang up, as they do when a clip is no longer shown."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


def _hash(parts: list[str]) -> str:
    return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()}'" for part in parts)


class Handler(BaseHTTPRequestHandler):
    """Answers one browser."""

    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]
    protocol_version = "HTTP/1.1"
    timeout = 60  # seconds that an idle connection is held
    server_version = sys_version = ""

    def do_GET(self) -> None:
        """Send the page, a pair or a clip."""
        if not self._is_for_us():
            return
        try:
            url = urlsplit(self.path)
        except ValueError:
            self._refuse(HTTPStatus.BAD_REQUEST, "that is no address.")
            return
        if url.path == "/":
            page, policy = self.server.page
            self._send(HTTPStatus.OK, "text/html; charset=utf-8", page, {"Content-Security-Policy": policy})
        elif url.path == "/pair":
            asked = parse_qs(url.query)
            besides = frozenset(id for id in asked.get("besides", [""])[0].split(",") if id)
            self._answer(lambda: self.server.poll.next(_voter(asked.get("voter", [""])[0]), besides))
        elif url.path.startswith("/clip/"):
            self._clip(unquote(url.path.removeprefix("/clip/")))
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "there is no such page.")

    def do_POST(self) -> None:
        """Take a vote, or take one back."""
        told = self._body() if self._is_for_us() else None
        if told is None:
            return
        poll, voter = self.server.poll, told.get("voter", "")
        if self.path == "/vote":
            left, right, winner = (str(told.get(name, "")) for name in ("left", "right", "winner"))
            self._answer(lambda: poll.vote(_voter(voter), left, right, winner))
        elif self.path == "/undo":
            self._answer(lambda: poll.undo(_voter(voter)))
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "there is no such page.")

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing of each request."""

    def _is_for_us(self) -> bool:
        """Refuse what another page makes a browser ask; it would come under that page's name."""
        host = re.sub(r":\d+$", "", self.headers.get("Host", "")).strip("[]")
        if not self.server.is_private or host in HERE:
            return True
        self.close_connection = True
        self._refuse(HTTPStatus.FORBIDDEN, f"this page is at {self.server.url}.")
        return False

    def _body(self) -> Mapping[str, Any] | None:
        """Read the JSON of a request; a page from elsewhere may not send this type without being allowed to."""
        length = self.headers.get("Content-Length", "")
        is_few = re.fullmatch(r"\d{1,6}", length, re.ASCII) is not None and int(length) <= BODY_MOST
        if self.headers.get_content_type() != "application/json" or not is_few:
            self.close_connection = True
            self._refuse(HTTPStatus.BAD_REQUEST, "a few bytes of JSON are needed.")
            return None
        try:
            told = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError):  # the second of a thousand brackets
            told = None
        if not isinstance(told, dict):
            self._refuse(HTTPStatus.BAD_REQUEST, "that is no JSON object.")
            return None
        return told

    def _answer(self, make: Callable[[], Mapping[str, Any]]) -> None:
        try:
            self._send_json(HTTPStatus.OK, make())
        except RequestError as error:
            self._refuse(HTTPStatus.BAD_REQUEST, str(error))
        except MutoscopeError as error:  # the disk is full, or the votes were damaged
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))

    def _clip(self, clip: str) -> None:
        if clip not in self.server.poll.candidates.values:
            self._refuse(HTTPStatus.NOT_FOUND, "there is no such clip.")
            return
        try:
            kind, data = self.server.poll.films.file(clip)
        except MutoscopeError as error:
            self.server.poll.unusable(clip)
            self._refuse(HTTPStatus.GONE, str(error))
            return
        headers = {"Accept-Ranges": "bytes", "Cache-Control": "private, max-age=3600"}
        part = re.fullmatch(r"bytes=(\d{0,15})-(\d{0,15})", self.headers.get("Range", ""))
        if part is None or part[0] == "bytes=-":
            self._send(HTTPStatus.OK, kind, data, headers)
            return
        first = int(part[1]) if part[1] else max(0, len(data) - int(part[2]))
        last = min(int(part[2]), len(data) - 1) if part[1] and part[2] else len(data) - 1
        if first > last:
            headers["Content-Range"] = f"bytes */{len(data)}"
            self._send(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, kind, b"", headers)
            return
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        self._send(HTTPStatus.PARTIAL_CONTENT, kind, data[first : last + 1], headers)

    def _refuse(self, status: HTTPStatus, why: str) -> None:
        self._send_json(status, {"problem": why})

    def _send_json(self, status: HTTPStatus, told: Mapping[str, Any]) -> None:
        self._send(status, "application/json", json.dumps(told).encode(), {"Cache-Control": "no-store"})

    def _send(self, status: HTTPStatus, kind: str, data: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "X-Content-Type-Options": "nosniff", **headers}.items():
            self.send_header(name, value)
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _voter(name: object) -> str:
    name = " ".join(name.split()) if isinstance(name, str) else ""
    if not 0 < len(name) <= NAME_MOST:
        raise RequestError(f"a vote needs a name of 1 to {NAME_MOST} letters.")
    return name
