"""Ask language models, with pictures: servers that speak OpenAI's protocol (vLLM and others), and local models.

    Message(text, pictures), ... ── Chat.ask ──> Answer       one conversation; many threads may ask at once
    many items ── in_parallel ──> results as they come        an item is fetched only when there is room for it

Pictures are small files in memory (JPEG, PNG, WebP), so that every kind of model is shown the same ones. A video is
shown as some of its frames. `transformers` is imported only when a local model is opened.
"""

import base64
import email.utils
import http.client
import io
import ipaddress
import json
import os
import random
import re
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from mutoscope.core import folders
from mutoscope.core.errors import ChatError, MediaError, MissingExtra, RequestError, WeightsError

Schema = Mapping[str, Any]
T = TypeVar("T")
R = TypeVar("R")

LONGEST_REPLY = 16 * 2**20  # bytes; an answer has some thousands
ABOUT_THE_REQUEST = (400, 413, 415, 422, 501)
ABOUT_THE_SETUP = (401, 402, 403, 404, 405)
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
MAGIC = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG": "image/png", b"RIFF": "image/webp"}


@dataclass(frozen=True)
class Message:
    """One turn of a conversation: pictures, each a JPEG, PNG or WebP file, and then text."""

    text: str
    pictures: tuple[bytes, ...] = ()
    role: Literal["system", "user", "assistant"] = "user"


@dataclass(frozen=True)
class Answer:
    """What a model said; not `is_whole` where it was cut off at the limit of tokens."""

    text: str
    is_whole: bool = True
    tokens_in: int = 0
    tokens_out: int = 0


@runtime_checkable
class Chat(Protocol):
    """A language model that can be asked, from many threads at once."""

    @property
    def name(self) -> str:
        """Which model it is, as it is noted beside what it said."""
        ...

    @property
    def at_once(self) -> int:
        """How many conversations it should be asked at once."""
        ...

    def ask(self, conversation: Sequence[Message], schema: Schema | None = None, max_tokens: int = 1024) -> Answer:
        """Continue a conversation.

        Args:
            conversation: turns, the last one the user's.
            schema: JSON schema that the answer should obey. A hint: not every model can be held to it.
            max_tokens: where the answer is cut off.

        Raises:
            ChatError: there is no answer.
            MediaError: a picture cannot be read.
        """
        ...


def in_parallel(work: Callable[[T], R], items: Iterable[T], at_once: int) -> Iterator[tuple[T, R]]:
    """Do some work on each item in threads, and yield item and result in the order in which they are done.

    Args:
        work: what to do. When it raises, nothing further is begun, and the error comes out here.
        items: fetched one by one, when there is room.
        at_once: how many are under way at most.
    """
    waiting = iter(items)
    running: dict[Future[R], T] = {}
    with ThreadPoolExecutor(at_once) as pool:
        while True:
            for item in islice(waiting, at_once - len(running)):
                running[pool.submit(work, item)] = item
            if not running:
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in sorted(done, key=lambda future: future.exception() is not None):  # no result is lost
                yield running.pop(future), future.result()


def jpeg(frame: UInt8[np.ndarray, "H W 3"], longest_px: int = 512, quality: int = 90) -> bytes:
    """Make a small JPEG file of a frame.

    Args:
        frame: pixels.
        longest_px: its longer side becomes at most this.
        quality: of the JPEG, 1 to 95.
    """
    picture = Image.fromarray(frame)
    picture.thumbnail((longest_px, longest_px), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return file.getvalue()


def _media_type(picture: bytes) -> str:
    for magic, name in MAGIC.items():
        if picture.startswith(magic):
            return name
    raise MediaError("A picture for a language model is neither JPEG, PNG nor WebP. Save it as one of these.")


# ---- servers ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Endpoint:
    """A server that speaks OpenAI's protocol, and how to ask it. It is written into recipes, so it holds no key.

    Args:
        url: with the version, such as ``http://localhost:8000/v1``.
        model: which of its models; "" for the only one it has.
        key_variable: name of the environment variable that holds the key; "" for none.
        at_once: requests under way at most. vLLM batches what comes at once.
        timeout_s: how long the server may be silent.
        attempts: how often a request is made, at most, when the server fails or is busy.
        first_wait_s: before the second attempt, doubled before each further one, and shortened by up to half at random.
        longest_wait_s: between two attempts, also where the server asks for more.
        temperature: 0 for the likeliest words.
        extra: more fields for each request, as JSON: ``{"chat_template_kwargs": {"enable_thinking": false}}``.

    Raises:
        RequestError: `url` is none, or holds a key; `key_variable` is no name; `extra` is no JSON object.
    """

    url: str = "http://localhost:8000/v1"
    model: str = ""
    key_variable: str = ""
    at_once: int = 8
    timeout_s: float = 120.0
    attempts: int = 5
    first_wait_s: float = 1.0
    longest_wait_s: float = 60.0
    temperature: float = 0.0
    extra: str = "{}"

    def __post_init__(self) -> None:
        address = urllib.parse.urlsplit(self.url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise RequestError(f"{self.url!r} is no endpoint. Give one such as http://localhost:8000/v1.")
        if address.username or address.password or address.query:  # not repeated here: it may well be a secret
            raise RequestError(
                f"The url of {address.hostname} holds a user, a key or a query, which recipes would show. Set an "
                "environment variable to the key, and name it: key_variable=NAME."
            )
        if self.key_variable and not VARIABLE.fullmatch(self.key_variable):
            raise RequestError(
                "key_variable is no name of an environment variable. If it is the key, type: export NAME=KEY, and give "
                "key_variable=NAME."
            )
        self.fields()

    def fields(self) -> dict[str, Any]:
        """Return `extra` as data."""
        try:
            found = json.loads(self.extra)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise RequestError(f"extra={self.extra!r} is no JSON object. Give one such as {{}}.")
        return found


class EndpointChat:
    """A model behind an endpoint. Opening it asks the server for its models, so that a wrong name is found at once.

    Where the server refuses to be guided by a schema, it is asked without one from then on.

    Args:
        endpoint: where it is and how to ask.
        wait: what is called with the seconds before another attempt.

    Raises:
        ChatError: the server cannot be reached, does not let us in, or does not have the model.
        RequestError: the key is not set.
    """

    def __init__(self, endpoint: Endpoint = Endpoint(), wait: Callable[[float], None] = time.sleep) -> None:
        self.endpoint = endpoint
        self._wait = wait
        self._key = os.environ.get(endpoint.key_variable, "").strip() if endpoint.key_variable else ""
        if endpoint.key_variable and not self._key:
            raise RequestError(f"{endpoint.key_variable} is not set. Type: export {endpoint.key_variable}=KEY")
        # a proxy of this machine is of no use on the way to this machine
        host = urllib.parse.urlsplit(endpoint.url).hostname or ""
        proxies = [urllib.request.ProxyHandler({})] if _is_here(host) else []
        self._opener = urllib.request.build_opener(_NoRedirect(), *proxies)
        self._free = threading.BoundedSemaphore(endpoint.at_once)
        self._is_guided = True
        self._model = self._find_model()

    @property
    def name(self) -> str:
        """The model's name."""
        return self._model

    @property
    def at_once(self) -> int:
        """How many requests may be under way."""
        return self.endpoint.at_once

    def ask(self, conversation: Sequence[Message], schema: Schema | None = None, max_tokens: int = 1024) -> Answer:
        """Continue a conversation; see `Chat.ask`."""
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [{"role": message.role, "content": _content(message)} for message in conversation],
            "max_tokens": max_tokens,
            "temperature": self.endpoint.temperature,
            **self.endpoint.fields(),
        }
        guide = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
        with self._free:
            if schema is None or not self._is_guided:
                return self._call("/chat/completions", body, _answer)
            try:
                return self._call("/chat/completions", {**body, "response_format": guide}, _answer)
            except ChatError as error:
                if error.blame != "request":
                    raise
            answer = self._call("/chat/completions", body, _answer)  # if this fails too, it was not the schema
            self._is_guided = False
            return answer

    def _find_model(self) -> str:
        wanted = self.endpoint.model
        try:
            names = self._call("/models", None, lambda reply: [str(model["id"]) for model in reply["data"]])
        except ChatError as error:
            if wanted and error.status in (404, 405, 501):  # some servers keep no list
                return wanted
            raise
        if wanted in names or (not wanted and len(names) == 1):
            return wanted or names[0]
        has = ", ".join(sorted(names)[:10]) + ", ..." * (len(names) > 10) if names else "none"
        given = f"has no model {wanted}" if wanted else "does not say which model to ask"
        raise ChatError(f"{self.endpoint.url} {given}. It has: {has}. Name one of them (model=...).", "setup")

    def _call(self, path: str, body: Mapping[str, Any] | None, read: Callable[[Any], R]) -> R:
        """Make a request, again where that may help, and read its reply."""
        wait_s = self.endpoint.first_wait_s
        attempt = 0
        while True:
            attempt += 1
            try:
                return self._once(path, body, read)
            except ChatError as error:
                if error.blame != "server" or attempt >= self.endpoint.attempts:
                    raise
                # at random, lest all that a busy server turned away come back at the same moment
                pause_s = max(wait_s * random.uniform(0.5, 1), error.retry_after_s)
                self._wait(min(pause_s, self.endpoint.longest_wait_s))
                wait_s *= 2

    def _once(self, path: str, body: Mapping[str, Any] | None, read: Callable[[Any], R]) -> R:
        address = self.endpoint.url.rstrip("/") + path
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self._key}"} if self._key else {})
        data = None if body is None else json.dumps(body).encode()
        timeout_s = self.endpoint.timeout_s
        try:
            request = urllib.request.Request(address, data, headers)
            with self._opener.open(request, timeout=timeout_s) as response:
                text = _read_all(response, timeout_s)
        except urllib.error.HTTPError as error:
            with error:
                raise self._refusal(address, error) from None
        except TimeoutError as error:
            raise ChatError(f"{address} was silent for {timeout_s:g} s. Give it longer (timeout_s).") from error
        except (OSError, http.client.HTTPException) as error:  # refused, reset, cut short, no such name
            cause = getattr(error, "reason", error)
            if isinstance(cause, TimeoutError):
                raise ChatError(f"{address} was silent for {timeout_s:g} s. Give it longer (timeout_s).") from error
            raise ChatError(f"no reply from {address}: {cause or type(cause).__name__}. Is the server up?") from error
        try:
            return read(json.loads(text))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            start = " ".join(text[:80].decode(errors="replace").split())
            raise ChatError(f"{address} sent what is no reply: {start!r}. Is it an OpenAI endpoint?") from error

    def _refusal(self, address: str, error: urllib.error.HTTPError) -> ChatError:
        """Say what an HTTP status means, in the server's words where it has some."""
        try:
            said = _said(error.read(LONGEST_REPLY))
        except (OSError, http.client.HTTPException):
            said = ""
        said = said.replace(self._key, "***") if self._key else said
        message = f"{address} answers {error.code}: {said or error.reason}"
        if error.code in ABOUT_THE_SETUP or 300 <= error.code < 400:
            key = f"the key in {self.endpoint.key_variable}" if self._key else "key_variable, which is not set"
            what = {401: key, 403: key}.get(error.code, "url and model")
            return ChatError(f"{message.rstrip('.')}. Check {what}.", "setup", status=error.code)
        blame = "request" if error.code in ABOUT_THE_REQUEST else "server"
        return ChatError(message, blame, _seconds(error.headers.get("Retry-After")), error.code)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follow no redirect: urllib would make a GET of a POST, and show the key to whoever is named."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _is_here(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _read_all(response: http.client.HTTPResponse, timeout_s: float) -> bytes:
    """Read a reply to its end, unless it is endless or comes drop by drop."""
    deadline = time.monotonic() + timeout_s
    read = b""
    while piece := response.read1(2**16):
        read += piece
        if time.monotonic() > deadline:
            raise TimeoutError
        if len(read) > LONGEST_REPLY:
            raise http.client.HTTPException(f"a reply of more than {LONGEST_REPLY} bytes")
    if response.length:  # what the header promised and did not come; read1 does not mind
        raise http.client.IncompleteRead(read, response.length)
    return read


def _content(message: Message) -> str | list[dict[str, Any]]:
    if not message.pictures:
        return message.text
    urls = [f"data:{_media_type(file)};base64,{base64.b64encode(file).decode()}" for file in message.pictures]
    return [*({"type": "image_url", "image_url": {"url": url}} for url in urls), {"type": "text", "text": message.text}]


def _answer(reply: Any) -> Answer:
    choice, usage = reply["choices"][0], reply.get("usage") or {}
    text = choice["message"].get("content") or ""  # null where the model refused, or only thought
    if not isinstance(text, str):
        text = "".join(part.get("text", "") for part in text)
    is_whole = choice.get("finish_reason") != "length"
    return Answer(text, is_whole, int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0))


def _said(body: bytes) -> str:
    """Find the message in the body of an error: servers put it in different places."""
    text = body.decode(errors="replace")
    try:
        found = json.loads(text)
        for name in ("error", "detail", "message"):
            while isinstance(found, dict) and name in found:
                found = found[name]
        text = found if isinstance(found, str) else json.dumps(found)
    except ValueError:
        pass
    text = " ".join(text.split())
    return text[:300] + "..." * (len(text) > 300)


def _seconds(retry_after: str | None) -> float:
    """Read a Retry-After header: seconds, or a date."""
    try:
        return max(0.0, float(retry_after or 0))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(str(retry_after)).timestamp() - time.time())
    except ValueError:
        return 0.0


# ---- models on this machine ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LocalModel:
    """A model of `transformers` and how to run it; see `LocalChat` for the meaning of each."""

    source: str
    device: str = "cpu"
    dtype: str = "auto"
    at_once: int = 4


def open_chat(model: Endpoint | LocalModel) -> Chat:
    """Open a model that a recipe names; raises as `EndpointChat` and `LocalChat` do."""
    if isinstance(model, Endpoint):
        return EndpointChat(model)
    return LocalChat(model.source, model.device, model.dtype, model.at_once)


@dataclass(eq=False)
class _Question:
    """A conversation that waits for its answer."""

    turns: list[dict[str, Any]]
    pictures: list[Image.Image]
    max_tokens: int
    answer: Answer | BaseException | None = None


class LocalChat:
    """A language model of `transformers`, from a folder or the hub, that reads pictures where it was made for them.

    What is asked while it is busy is answered next, in one batch. Its words are always the likeliest ones. It cannot be
    held to a schema. Frames go through the image processor: the video processors of `transformers` need torchvision.

    Args:
        source: a folder, or ``hub:owner/name``.
        device: where it computes.
        dtype: name of torch's type, such as ``bfloat16``; "auto" for that of the weights.
        at_once: conversations in a batch, at most.

    Raises:
        MissingExtra: `transformers` is not installed.
        WeightsError: there is no such model, or it cannot be loaded.
    """

    def __init__(self, source: str | Path, device: str = "cpu", dtype: str = "auto", at_once: int = 4) -> None:
        try:
            import transformers
        except ImportError as error:
            raise MissingExtra("hub", "transformers", f"The language model {source}") from error
        folder = _whole_folder(source)
        try:
            config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
            known: Any = transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
            sees = type(config) in known
            kind: Any = transformers.AutoModelForImageTextToText if sees else transformers.AutoModelForCausalLM
            self._network, found = kind.from_pretrained(
                folder, dtype=dtype, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
            self._read = _still_processor(folder, config) if sees else None
            self._words = self._read.tokenizer if self._read else transformers.AutoTokenizer.from_pretrained(folder)
        except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
            cause = " ".join(str(error).split())
            raise WeightsError(f"cannot load the language model {source}: {cause} Choose another folder.") from error
        if found["missing_keys"]:
            raise WeightsError(
                f"{source} lacks {sorted(found['missing_keys'])[0]} and perhaps more. Download it again."
            )
        self._network.eval().to(device)
        self._words.padding_side = "left"  # so that all answers of a batch begin at the same place
        self._words.pad_token = self._words.pad_token or self._words.eos_token
        self._name, self._at_once = Path(str(source)).name, at_once
        self._busy = threading.Lock()
        self._waiting: deque[_Question] = deque()

    @property
    def name(self) -> str:
        """The folder's name."""
        return self._name

    @property
    def at_once(self) -> int:
        """How many conversations make a batch."""
        return self._at_once

    def ask(self, conversation: Sequence[Message], schema: Schema | None = None, max_tokens: int = 1024) -> Answer:
        """Continue a conversation; see `Chat.ask`."""
        pictures = [_opened(file) for message in conversation for file in message.pictures]
        if pictures and self._read is None:
            raise ChatError(f"{self.name} reads only text; {len(pictures)} pictures were given. Take a VLM.", "setup")
        turns = [{"role": message.role, "content": self._parts(message)} for message in conversation]
        mine = _Question(turns, pictures, max_tokens)
        self._waiting.append(mine)
        with self._busy:
            while mine.answer is None:
                batch = [self._waiting.popleft() for _ in range(min(self._at_once, len(self._waiting)))]
                try:
                    answers = self._answers(batch)
                except BaseException as error:  # it is raised again, in the threads that wait for an answer
                    answers = [error] * len(batch)
                for question, answer in zip(batch, answers, strict=True):
                    question.answer = answer
        if isinstance(mine.answer, BaseException):
            raise mine.answer
        return mine.answer

    def _parts(self, message: Message) -> str | list[dict[str, str]]:
        if self._read is None:
            return message.text
        return [*({"type": "image"} for _ in message.pictures), {"type": "text", "text": message.text}]

    def _answers(self, batch: list[_Question]) -> list[Answer]:
        import torch

        speaker = self._read or self._words
        texts = [
            speaker.apply_chat_template(question.turns, tokenize=False, add_generation_prompt=True)
            for question in batch
        ]
        options: dict[str, Any] = {"padding": True, "return_tensors": "pt"}
        if self._read is None:
            inputs = self._words(texts, add_special_tokens=False, **options)
        else:
            pictures = [question.pictures for question in batch]
            inputs = self._read(images=pictures if any(pictures) else None, text=texts, **options)
        device, dtype = self._network.device, self._network.dtype
        inputs = {k: x.to(device, dtype if x.is_floating_point() else x.dtype) for k, x in inputs.items()}
        longest = max(question.max_tokens for question in batch)
        with torch.inference_mode():
            rows = self._network.generate(
                **inputs, max_new_tokens=longest, do_sample=False, pad_token_id=self._words.pad_token_id
            )
        before = inputs["input_ids"].shape[1]
        lengths = inputs["attention_mask"].sum(1).tolist()
        return [
            self._answer(row[before:].tolist(), question.max_tokens, length)
            for row, question, length in zip(rows, batch, lengths, strict=True)
        ]

    def _answer(self, tokens: list[int], max_tokens: int, tokens_in: int) -> Answer:
        ends = self._network.generation_config.eos_token_id
        ends = {ends} if isinstance(ends, int) else set(ends or ())
        length = next((index for index, token in enumerate(tokens) if token in ends), None)
        is_whole = length is not None and length < max_tokens
        kept = tokens[: length if is_whole else max_tokens]
        return Answer(self._words.decode(kept, skip_special_tokens=True), is_whole, tokens_in, len(kept))


def _opened(file: bytes) -> Image.Image:
    _media_type(file)
    try:
        with Image.open(io.BytesIO(file)) as picture:
            return picture.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise MediaError(f"A picture for a language model cannot be read: {error}. Save it again.") from error


def _whole_folder(source: str | Path) -> Path:
    """Bring all files of a folder onto this machine, but weights that safetensors hold already."""
    folder, file = folders.find(source)
    names = folder.names()
    if file is not None or "config.json" not in names:
        raise WeightsError(f"there is no language model at {source}: config.json is missing. Give its folder.")
    has_safe = any(name.endswith(".safetensors") for name in names)
    wanted = [name for name in names if not (has_safe and name.endswith(folders.ENDINGS[1:]))]
    paths = {name: folder.fetch(name) for name in wanted}
    return paths["config.json"].parent


def _still_processor(folder: Path, config: Any) -> Any:
    """Load the processor of a VLM without its part for videos, which cannot even be made without torchvision."""
    from transformers import PROCESSOR_MAPPING, AutoImageProcessor, AutoTokenizer

    family: Any = PROCESSOR_MAPPING[type(config)]

    class StillProcessor(family):
        """The family's processor, which lets the one for videos be absent."""

        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            if "video" in argument_name and argument is None:
                return type(None)
            return super().check_argument_for_proper_class(argument_name, argument)

    load = {"image_processor": AutoImageProcessor, "tokenizer": AutoTokenizer}
    parts = [
        load[name].from_pretrained(folder, local_files_only=True) if name in load else None
        for name in family.get_attributes()
    ]
    settings, _ = family.get_processor_dict(folder, local_files_only=True)
    words = parts[family.get_attributes().index("tokenizer")]
    settings["chat_template"] = settings.get("chat_template") or words.chat_template
    return StillProcessor.from_args_and_dict(parts, settings)
