import importlib.util
import io
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mutoscope.core import config
from mutoscope.core.chat import Endpoint, EndpointChat, LocalChat, LocalModel, Message, in_parallel, jpeg, open_chat
from mutoscope.core.errors import ChatError, MediaError, MissingExtra, RequestError, WeightsError
from tests.curate.chat_server import MODEL, Reply, Server, serving

HELLO = (Message("hello there"),)
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
QUICK = Endpoint(timeout_s=10, attempts=3)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


def opened(server: Server, **settings: Any) -> tuple[EndpointChat, list[float]]:
    """Open a chat whose pauses take no time, and are noted."""
    pauses: list[float] = []
    return EndpointChat(replace(QUICK, url=server.url, **settings), pauses.append), pauses


def frame(height: int = 20, width: int = 40) -> np.ndarray:
    return np.full((height, width, 3), (200, 30, 30), np.uint8)


def test_the_models_words_come_back_with_their_count(server: Server) -> None:
    chat, pauses = opened(server)
    answer = chat.ask(HELLO)
    assert (answer.text, answer.is_whole, answer.tokens_in, answer.tokens_out) == ("hello there", True, 11, 2)
    assert chat.name == MODEL and not pauses


def test_pictures_arrive_as_they_were_sent_and_in_order(server: Server) -> None:
    chat, _ = opened(server)
    png = io.BytesIO()
    Image.new("RGB", (3, 2)).save(png, "PNG")
    chat.ask((Message("look", (jpeg(frame()), png.getvalue())),))
    assert [picture.size for picture in server.asked[0].pictures] == [(40, 20), (3, 2)]


def test_a_picture_is_made_small_and_keeps_its_shape_and_colour() -> None:
    picture = Image.open(io.BytesIO(jpeg(frame(100, 400), longest_px=64)))
    assert picture.size == (64, 16)
    assert np.abs(np.asarray(picture).mean((0, 1)) - (200, 30, 30)).max() < 4


def test_what_is_no_picture_is_not_sent(server: Server) -> None:
    with pytest.raises(MediaError, match="neither JPEG, PNG nor WebP"):
        opened(server)[0].ask((Message("look", (b"GIF89a",)),))
    assert not server.asked


def test_an_answer_cut_off_at_the_limit_says_so(server: Server) -> None:
    answer = opened(server)[0].ask((Message("one two three four"),), max_tokens=2)
    assert (answer.text, answer.is_whole) == ("one two", False)


@pytest.mark.parametrize("content", [[{"type": "text", "text": "in"}, {"type": "text", "text": " parts"}], "in parts"])
def test_content_may_be_text_or_parts(server: Server, content: Any) -> None:
    server.queue.append(Reply(content=content))
    assert opened(server)[0].ask(HELLO).text == "in parts"


@pytest.mark.parametrize(
    "trouble",
    [
        Reply("busy", 429),
        Reply("oh", 500),
        Reply(status=502, how="html"),
        Reply(how="html"),
        Reply("half", how="broken"),
        Reply("half of it", how="dropped"),
        Reply(content={"not": "text"}),
    ],
)
def test_a_server_in_trouble_is_asked_again_after_longer_and_longer_pauses(server: Server, trouble: Reply) -> None:
    server.queue.extend([trouble] * 2)
    chat, pauses = opened(server)
    assert chat.ask(HELLO).text == "hello there"
    assert len(server.asked) == 3
    assert 0.5 <= pauses[0] <= 1 and 1 <= pauses[1] <= 2


def test_attempts_come_to_an_end_and_no_pause_follows_the_last(server: Server) -> None:
    server.queue.extend([Reply("out of memory", 500)] * 3)
    chat, pauses = opened(server)
    with pytest.raises(ChatError, match="answers 500: out of memory") as caught:
        chat.ask(HELLO)
    assert caught.value.blame == "server" and len(server.asked) == 3 and len(pauses) == 2


def test_a_silent_server_is_given_up_after_the_time_allowed(server: Server) -> None:
    server.queue.extend([Reply(how="silent")] * 2)
    chat, pauses = opened(server, timeout_s=0.05, attempts=2)
    with pytest.raises(ChatError, match=r"was silent for 0.05 s\. Give it longer \(timeout_s\)"):
        chat.ask(HELLO)
    assert len(pauses) == 1


@pytest.mark.parametrize(("asked", "given"), [("7", 7.0), ("9999", 60.0), ("soon", 0.0), ("0", 0.0)])
def test_the_pause_that_a_server_asks_for_is_kept_up_to_the_longest(server: Server, asked: str, given: float) -> None:
    server.queue.append(Reply("busy", 429, headers={"Retry-After": asked}))
    chat, pauses = opened(server)
    chat.ask(HELLO)
    assert pauses == [given] if given else 0.5 <= pauses[0] <= 1


def test_the_pause_may_be_given_as_a_date(server: Server) -> None:
    server.queue.append(Reply("busy", 503, headers={"Retry-After": formatdate(time.time() + 30, usegmt=True)}))
    chat, pauses = opened(server)
    chat.ask(HELLO)
    assert 25 < pauses[0] <= 30


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refused_request_is_made_once(server: Server, status: int) -> None:
    server.queue.append(Reply("maximum context length is 4096 tokens", status))
    chat, pauses = opened(server)
    with pytest.raises(ChatError, match=f"answers {status}: maximum context length") as caught:
        chat.ask(HELLO)
    assert caught.value.blame == "request" and len(server.asked) == 1 and not pauses


def test_a_redirect_is_not_followed(server: Server) -> None:
    server.queue.append(Reply("moved", 307, headers={"Location": "http://127.0.0.1:9/"}))
    with pytest.raises(ChatError, match="answers 307: moved") as caught:
        opened(server)[0].ask(HELLO)
    assert caught.value.blame == "setup"


@pytest.mark.parametrize(
    "body",
    [{"error": {"message": "no"}}, {"error": "no"}, {"detail": "no"}, {"object": "error", "message": "no"}, "no"],
)
def test_the_servers_words_are_found_wherever_it_puts_them(body: Any) -> None:
    from mutoscope.core import chat

    assert chat._said(json.dumps(body).encode()) == "no"
    assert chat._said(b"plain\n  text") == "plain text"
    assert len(chat._said(json.dumps({"detail": [{"input": "x" * 9999}]}).encode())) == 303


def test_a_schema_is_sent_and_a_server_that_refuses_it_is_asked_without_from_then_on(server: Server) -> None:
    chat, _ = opened(server)
    chat.ask(HELLO, SCHEMA)
    assert server.asked[0].body["response_format"]["json_schema"]["schema"] == SCHEMA
    server.guides = False
    assert chat.ask(HELLO, SCHEMA).text == chat.ask(HELLO, SCHEMA).text == "hello there"
    assert ["response_format" in asked.body for asked in server.asked] == [True, True, False, False]


def test_a_request_that_fails_with_and_without_a_schema_does_not_give_up_schemas(server: Server) -> None:
    server.queue.extend([Reply("too long", 400)] * 2)
    chat, _ = opened(server)
    with pytest.raises(ChatError, match="too long"):
        chat.ask(HELLO, SCHEMA)
    chat.ask(HELLO, SCHEMA)
    assert "response_format" in server.asked[-1].body


def test_the_key_comes_from_the_environment_and_is_never_shown(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.key = "sk-right"
    with pytest.raises(ChatError, match=r"answers 401: Incorrect API key provided: None. Check key_variable"):
        opened(server)
    with pytest.raises(RequestError, match=r"MY_KEY is not set. Type: export MY_KEY=KEY"):
        opened(server, key_variable="MY_KEY")
    monkeypatch.setenv("MY_KEY", "sk-wrong")
    with pytest.raises(ChatError, match=r"Bearer \*\*\*\. Check the key in MY_KEY") as caught:
        opened(server, key_variable="MY_KEY")
    assert "sk-wrong" not in str(caught.value)
    monkeypatch.setenv("MY_KEY", "sk-right\n")
    assert opened(server, key_variable="MY_KEY")[0].ask(HELLO).text == "hello there"


def test_a_model_that_the_server_does_not_have_is_found_at_the_door(server: Server) -> None:
    with pytest.raises(ChatError, match=rf"has no model big-vlm\. It has: {MODEL}\. Name one"):
        opened(server, model="big-vlm")
    server.models = ["b", "a"]
    with pytest.raises(ChatError, match=r"does not say which model to ask. It has: a, b"):
        opened(server)
    assert opened(server, model="b")[0].name == "b"


def test_a_server_without_a_list_is_trusted_with_the_name_given(server: Server) -> None:
    server.lists_models = False
    assert opened(server, model=MODEL)[0].ask(HELLO).text == "hello there"
    with pytest.raises(ChatError, match=r"answers 404: Not Found. Check url and model"):
        opened(server)


def test_a_server_that_is_down_is_named() -> None:
    with serving() as server:
        url = server.url
    with pytest.raises(ChatError, match=rf"no reply from {url}/models: .*refused"):
        EndpointChat(Endpoint(url, attempts=2), lambda _: None)


@pytest.mark.parametrize("url", ["localhost:8000", "file:///etc/passwd", ""])
def test_what_is_no_endpoint_is_refused(url: str) -> None:
    with pytest.raises(RequestError, match=r"is no endpoint. Give one such as http"):
        Endpoint(url)


@pytest.mark.parametrize(
    "given",
    [
        {"url": "https://me:sk-123@host/v1"},
        {"url": "https://sk-123@host/v1"},
        {"url": "https://host/v1?key=sk-123"},
        {"key_variable": "sk-123"},
    ],
)
def test_a_key_in_a_setting_is_refused_and_not_repeated(given: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="key_variable=NAME") as refused:
        Endpoint(**given)
    assert "sk-123" not in str(refused.value)


@pytest.mark.parametrize("extra", ["", "[1]", "{"])
def test_more_fields_that_are_no_object_are_refused(extra: str) -> None:
    with pytest.raises(RequestError, match="is no JSON object"):
        Endpoint(extra=extra)


def test_a_recipe_can_hold_an_endpoint_and_open_it(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-123")
    server.key = "sk-123"
    endpoint = config.from_json(Endpoint, config.to_json(Endpoint(server.url, key_variable="MY_KEY", extra='{"n": 1}')))
    assert open_chat(endpoint).ask(HELLO).text == "hello there" and "sk-123" not in str(config.to_json(endpoint))


def test_more_fields_reach_the_server(server: Server) -> None:
    opened(server, extra='{"seed": 3}', temperature=0.5)[0].ask(HELLO, max_tokens=9)
    body = server.asked[0].body
    assert (body["seed"], body["temperature"], body["max_tokens"]) == (3, 0.5, 9)


def test_no_more_requests_are_under_way_than_allowed_and_no_fewer(server: Server) -> None:
    server.gate = threading.Barrier(3)  # none of three is answered before all three are there
    chat, _ = opened(server, at_once=3)
    answers = [result.text for _, result in in_parallel(lambda n: chat.ask((Message(f"{n}"),)), range(9), 6)]
    assert sorted(answers) == [str(n) for n in range(9)]
    assert server.most_at_once == 3


def test_items_are_fetched_only_when_there_is_room() -> None:
    fetched: list[int] = []
    yielded: list[int] = []

    def items() -> Iterator[int]:
        for n in range(20):
            assert n - len(yielded) <= 3
            fetched.append(n)
            yield n

    for item, result in in_parallel(lambda n: n * n, items(), 4):
        assert result == item**2
        yielded.append(item)
    assert sorted(yielded) == fetched == list(range(20))


def test_an_error_in_the_work_comes_out_and_nothing_further_is_begun() -> None:
    begun: list[int] = []

    def work(n: int) -> int:
        begun.append(n)
        return 1 // (n - 2)

    with pytest.raises(ZeroDivisionError):
        list(in_parallel(work, range(1000), 2))
    assert len(begun) < 10


# ---- local models


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    pytest.importorskip("transformers")
    from tests.core.vlm_folder import write_llm, write_vlm

    seeing, reading = tmp_path_factory.mktemp("vlm"), tmp_path_factory.mktemp("llm")
    write_vlm(seeing)
    write_llm(reading)
    return seeing, reading


def noisy(seed: int, width: int = 28) -> bytes:
    return jpeg(np.random.default_rng(seed).integers(0, 256, (28, width, 3), np.uint8))


def test_a_local_vlm_sees_pictures_without_torchvision(local: tuple[Path, Path]) -> None:
    chat = open_chat(LocalModel(str(local[0])))
    if importlib.util.find_spec("torchvision") is None:
        with pytest.raises(ImportError, match="Torchvision"):
            __import__("transformers").Qwen2VLVideoProcessor()
    asked = [
        chat.ask((Message("what is seen", pictures),), max_tokens=8) for pictures in ((), (noisy(1), noisy(2, 56)))
    ]
    assert (
        asked[1].tokens_in - asked[0].tokens_in == 2 * 2 + 1 + 2
    )  # each between two marks; the second is twice as wide
    assert (
        asked[0].text != asked[1].text == chat.ask((Message("what is seen", (noisy(1), noisy(2, 56))),), None, 8).text
    )


@pytest.mark.parametrize("sees", [True, False])
def test_a_batch_says_what_each_would_say_alone(local: tuple[Path, Path], sees: bool) -> None:
    folder = local[0] if sees else local[1]
    pictures = [tuple(noisy(k) for k in range(n % 3 * sees)) for n in range(5)]
    questions = [(Message("what is seen over the sea"[: 4 + 5 * n], pictures[n]),) for n in range(5)]
    alone, together = LocalChat(folder, at_once=1), LocalChat(folder, at_once=5)
    expected = [alone.ask(question, max_tokens=6 + n) for n, question in enumerate(questions)]
    sizes: list[int] = []
    answers = together._answers
    together._answers = lambda batch: sizes.append(len(batch)) or answers(batch)
    got: dict[int, Any] = {}
    threads = [
        threading.Thread(target=lambda n=n: got.update({n: together.ask(questions[n], max_tokens=6 + n)}))
        for n in range(5)
    ]
    with together._busy:  # until all of them wait
        for thread in threads:
            thread.start()
        while len(together._waiting) < 5:
            pass
    for thread in threads:
        thread.join()
    assert sizes == [5] and [got[n] for n in range(5)] == expected
    assert len({answer.text for answer in expected}) > 1


def test_a_model_that_reads_only_text_is_shown_no_picture(local: tuple[Path, Path]) -> None:
    chat = LocalChat(local[1])
    assert chat.ask(HELLO, max_tokens=3).tokens_out <= 3 and chat.name == local[1].name
    with pytest.raises(ChatError, match=r"reads only text; 1 pictures were given\. Take a VLM") as caught:
        chat.ask((Message("what", (noisy(0),)),))
    assert caught.value.blame == "setup"
    with pytest.raises(MediaError, match="cannot be read"):
        LocalChat(local[0]).ask((Message("what", (noisy(0)[:40],)),))


def test_a_failure_is_raised_where_the_question_was_asked_and_the_model_goes_on(
    local: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = LocalChat(local[1])
    with monkeypatch.context() as patch:
        patch.setattr(chat._network, "generate", lambda **_: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            chat.ask(HELLO)
    assert chat.ask(HELLO, max_tokens=2).tokens_out <= 2


def test_a_folder_without_a_model_is_refused(local: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"config\.json is missing"):
        LocalChat(tmp_path)
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((local[1] / name).read_bytes())
    with pytest.raises(WeightsError, match="cannot load the language model"):
        LocalChat(tmp_path)


def test_chat_needs_no_transformers_until_a_local_model_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys, mutoscope.core.chat; assert not {'torch', 'transformers', 'httpx'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtra, match=r"pip install 'mutoscope\[hub\]'"):
        LocalChat("somewhere")
