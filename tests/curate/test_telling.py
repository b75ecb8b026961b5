from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mutoscope.core.chat import jpeg
from mutoscope.curate.ask import Asking, BadAnswer
from mutoscope.curate.ledger import Ledger, read_results
from mutoscope.curate.telling import (
    JOIN,
    MERGE,
    Mixture,
    draw_caption,
    mix,
    mix_clips,
    read_telling,
    tell_by_frames,
    tell_video,
)
from mutoscope.curate.view import View
from tests.curate.chat_server import Asked, Reply, Server, serving
from tests.curate.clips import chat_with, grey


def levels(asked: Asked) -> str:
    return " and ".join(str(round(float(np.mean(np.asarray(picture))), -1)) for picture in asked.pictures)


def script(asked: Asked) -> str:
    """Tell how bright pictures are; to a question without pictures, repeat the lines that it holds."""
    return f"Grey of {levels(asked)}." if asked.pictures else "Both: " + " / ".join(asked.last.splitlines()[1:])


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(script) as server:
        yield server


def ramp(count: int) -> tuple[bytes, ...]:
    """Frames of a clip that grows brighter, from 0 to 200."""
    picks = [(2 * n + 1) * 100 / count for n in range(count)]
    return tuple(jpeg(np.full((16, 16, 3), round(level), np.uint8)) for level in picks)


RAMP = View("ramp", 2.0, ramp)


def test_the_mixture_is_of_the_middle_frame_the_clip_and_both(server: Server) -> None:
    chat = chat_with(server)
    found = mix(chat, chat, chat, RAMP, Asking(num_frames=2))
    assert found.image == "Grey of 100.0." and found.video == "Grey of 50.0 and 150.0."
    assert found.merged == f"Both: Of the picture: {found.image} / Of the video: {found.video}"
    assert [len(asked.pictures) for asked in server.asked] == [1, 2, 0]
    assert server.asked[2].last.startswith(MERGE)


def test_a_photo_is_captioned_once(server: Server) -> None:
    chat = chat_with(server)
    assert set(vars(mix(chat, chat, chat, grey("p", 90, 0))).values()) == {"Grey of 90.0."}
    assert len(server.asked) == 1


def test_each_caption_comes_from_the_model_meant_for_it(server: Server, tmp_path: Path) -> None:
    server.models = ["image", "video", "llm"]
    image, video, llm = (chat_with(server, model=name) for name in server.models)
    two = Asking(num_frames=2)
    with Ledger(tmp_path / "l.jsonl") as ledger:
        assert mix_clips([RAMP, grey("g")], image, video, llm, ledger, two).results == 2
        assert mix_clips([RAMP, grey("g")], image, video, llm, ledger, two).earlier == 2
    asked = Counter((asked.body["model"], min(len(asked.pictures), 2)) for asked in server.asked)
    assert asked == {("image", 1): 2, ("video", 2): 2, ("llm", 0): 2}
    results = {clip: Mixture(**result) for clip, result in read_results(tmp_path / "l.jsonl")}
    assert results["ramp"].image == "Grey of 100.0."


def test_training_draws_half_image_and_a_quarter_each_of_video_and_both() -> None:
    mixture = Mixture("image", "video", "merged")
    draws = [draw_caption(mixture, f"clip{n % 100}", 3, n // 100) for n in range(3000)]
    shares = {name: count / len(draws) for name, count in Counter(draws).items()}
    assert shares == pytest.approx({"image": 0.5, "video": 0.25, "merged": 0.25}, abs=0.04)
    assert draws[:50] == [draw_caption(mixture, f"clip{n}", 3) for n in range(50)]


def test_frames_are_captioned_alone_and_summarised_in_order_of_time(server: Server) -> None:
    chat = chat_with(server)
    told = tell_by_frames(chat, chat, RAMP, Asking(num_frames=4))
    assert told == "Both: 1. Grey of 20.0. / 2. Grey of 80.0. / 3. Grey of 120.0. / 4. Grey of 180.0."
    assert server.asked[-1].last.startswith(JOIN) and [len(a.pictures) for a in server.asked] == [1, 1, 1, 1, 0]


@pytest.mark.parametrize(
    "answer", ['{"caption": "a dog"}', "```a dog```", "# Dog", "", "dog " * 201, "In frame 2, a dog."]
)
def test_an_answer_that_is_no_plain_text_is_asked_for_again(server: Server, answer: str) -> None:
    with pytest.raises(BadAnswer):
        read_telling(answer)
    server.queue.append(Reply(answer))
    assert tell_video(chat_with(server), grey("a", 50), Asking(num_frames=1)) == "Grey of 50.0."


def test_quotes_and_thoughts_around_an_answer_are_taken_off() -> None:
    assert read_telling('<think>hm</think>\n "A dog\n runs." ') == "A dog runs."
