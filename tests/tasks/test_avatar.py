"""HunyuanVideo-Avatar at work: the plan of its steps, its windows, what they hear, and from request to video."""

import importlib.util
import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import numpy as np
import pytest
import torch
from einops import repeat
from torch import Tensor

from mutoscope import plan
from mutoscope.autoencoders import hunyuan as autoencoders
from mutoscope.core import config as configs
from mutoscope.core import weights
from mutoscope.core.errors import RequestError
from mutoscope.core.video import Audio, Video
from mutoscope.diffusion.schedule import grid
from mutoscope.encoders.audio import RATE
from mutoscope.encoders.person import PersonClip
from mutoscope.loading import Loading
from mutoscope.models import hunyuan, hunyuan_avatar
from mutoscope.models.family import Clips
from mutoscope.models.hunyuan_avatar import FAMILY, PRESETS, Condition, HunyuanAvatar, condition
from mutoscope.pipeline import Outline, Request, Size, workload
from mutoscope.tasks import avatar
from mutoscope.tasks.avatar import (
    MOVE,
    WINDOW,
    Box,
    Speech,
    Turn,
    Walk,
    face_mask,
    generate,
    latent_frames,
    latent_mask,
    places,
    prepare,
    sample,
    size_of,
    sounds,
    turns,
    walk_of,
)
from tests.tasks.speaker import CONFIG, EAR, Seeing, draw, network, speaker, text_of, voice
from tests.test_plan import Squares
from tests.toy_system import toy_system

PICTURE = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
PLAIN = Turn(3.0, 1.0, is_prompted=False, is_whole=True)
T = torch.tensor([0.7])


def clip(frames: int, window: int) -> Condition:
    """Condition of a clip of so many latent frames of 4 x 4."""
    shape = CONFIG.audio_window, CONFIG.audio_layers, CONFIG.audio_dim
    return condition(
        text_of(5, 1), [], reference=draw(1, 4, window, 4, 4, seed=3), audio=draw(1, 4 * frames, *shape, seed=4)
    )


NEGATIVE = hunyuan.condition(text_of(3, 7), [])


def walk(frames: int, window: int, plan: list[Turn], net: HunyuanAvatar | None = None) -> Walk:
    return Walk(net or network(), clip(frames, window), NEGATIVE, grid(len(plan)), plan)


SPEECH = Speech("a man speaks", PICTURE, voice(9), height=32, width=32, steps=2)


# ---- the plan of the steps


def test_guidance_begins_as_asked_and_turns_to_the_voice_after_ten_steps() -> None:
    plan = turns(50, 7.5)
    assert plan[0] == Turn(7.5, 0.6, is_prompted=True, is_whole=True)
    assert plan[9].guidance == pytest.approx(2 + 5.5 * 41 / 50) and plan[9].face == 0.6
    assert plan[10] == Turn(plan[10].guidance, 1.0, is_prompted=False, is_whole=True)
    assert plan[10].guidance == pytest.approx(3.5 + 3 * 40 / 50)
    assert plan[49].guidance == pytest.approx(3.5 + 3 / 50)
    assert [turn.is_prompted for turn in plan] == [True] * 10 + [False] * 40


def test_of_fifty_steps_twenty_can_be_skipped_and_never_the_first_or_the_last() -> None:
    skipped = [step for step, turn in enumerate(turns(50, 7.5, skips=True)) if not turn.is_whole]
    assert len(skipped) == 20 and min(skipped) == 16 and max(skipped) == 39
    assert all(turn.is_whole for turn in turns(50, 7.5))


# ---- the windows and what they hear


@pytest.mark.parametrize("window", [5, WINDOW])
def test_what_is_walked_has_room_for_all_sound_and_what_is_kept_covers_it(window: int) -> None:
    span = window - 1
    for heard in range(1, 40 * span):
        walked, kept = latent_frames(heard, window)
        assert (walked - 1) % span == 0 and walked >= max(window, kept)
        assert 4 * (kept - 1) <= heard < 4 * kept
        assert walked == window or 4 * (walked - 1) > heard >= 4 * (walked - 1 - span)


def test_each_latent_frame_hears_the_same_sound_in_every_window() -> None:
    total, window = 9, 5
    for step in range(5):
        for frames in places(total, step, window, 2):
            heard = sounds(frames, total)
            assert heard[0] == 4 * frames[0]
            for k, frame in enumerate(frames.tolist()[1:], 1):
                assert heard[4 * k - 3 : 4 * k + 1].tolist() == [(4 * frame - back) % 36 for back in (3, 2, 1, 0)]


def test_windows_move_by_ten_and_come_around() -> None:
    assert [int(places(65, step)[0, 0]) for step in range(5)] == [0, 55, 45, 35, 65 - 40 % 33]
    assert torch.equal(places(WINDOW, 3), torch.arange(WINDOW)[None])


# ---- the field


def test_one_window_is_the_guided_network() -> None:
    net, x = network(), draw(1, 4, 3, 4, 4, seed=9)
    cond = replace(clip(3, 3), audio=clip(3, 3).audio[:, :9])
    silent = replace(cond, audio=torch.zeros_like(cond.audio))
    for turn, other in (
        (PLAIN, silent),
        (Turn(4.0, 0.6, is_prompted=True, is_whole=True), replace(silent, text=NEGATIVE)),
    ):
        heard, away = (replace(part, face=turn.face * part.face) for part in (cond, other))
        with_voice, without = net(x, T, heard), net(x, T, away)
        wanted = without + turn.guidance * (with_voice - without)
        torch.testing.assert_close(walk(3, 3, [turn], net)(x, T), wanted, rtol=1e-4, atol=1e-4)


def test_where_nothing_is_heard_the_scale_of_the_voice_does_not_matter() -> None:
    x, net = draw(1, 4, 3, 4, 4, seed=9), network()
    walks = [walk(3, 3, [PLAIN._replace(guidance=scale)], net) for scale in (1.0, 6.5)]
    for one in walks:
        one.whole = replace(one.whole, audio=torch.zeros_like(one.whole.audio))
    torch.testing.assert_close(walks[0](x, T), walks[1](x, T), rtol=1e-4, atol=1e-4)


def test_a_clip_turned_on_its_circle_as_far_as_its_windows_has_the_same_velocity_turned() -> None:
    frames, window = 11, 6
    walked = walk(frames, window, [PLAIN] * 3)
    move = MOVE % window
    x = draw(1, 4, frames, 4, 4, seed=9)
    times = walked.times[:-1]
    now = walked(x, times[:1])
    walked.whole = replace(walked.whole, audio=walked.whole.audio.roll(-4 * move, 1))
    later = places(frames, 1, window)
    assert torch.equal(later, (places(frames, 0, window) - move) % frames)
    answer = avatar.average(lambda part, at: walked.answer(part, times[:1], at, 1), x.roll(-move, 2), later)
    torch.testing.assert_close(answer, now.roll(-move, 2), rtol=1e-4, atol=1e-4)


def test_the_field_is_a_function_of_state_and_time() -> None:
    walked, x = walk(8, 5, [PLAIN] * 4), draw(1, 4, 8, 4, 4, seed=9)
    first = walked(x, walked.times[2:3])
    walked(draw(1, 4, 8, 4, 4, seed=10), walked.times[1:2])
    assert torch.equal(walked(x, walked.times[2:3]), first)


def test_a_skipped_step_at_the_same_place_and_time_gives_the_same_velocity_without_the_trunk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net, calls = network(), []
    trunk = net.trunk
    monkeypatch.setattr(net, "trunk", lambda *given: calls.append(1) or trunk(*given))
    walked, x = walk(3, 3, [PLAIN, PLAIN._replace(is_whole=False)], net), draw(1, 4, 3, 4, 4, seed=9)
    part, t = torch.arange(3), walked.times[:1]
    first = walked.answer(x, t, part, 0)
    again = walked.answer(x, t, part, 1)
    assert torch.equal(first, again) and len(calls) == 1
    assert (walked.answer(x + 1, t, part, 1) - again).abs().max() == 0  # it does not look at the state
    assert (walked.answer(x, t - 0.4, part, 1) - again).abs().max() > 1e-4  # but at the time


def test_tokens_are_kept_by_frame_and_only_if_a_step_will_skip() -> None:
    walked, x = walk(8, 5, [PLAIN, PLAIN, PLAIN._replace(is_whole=False)]), draw(1, 4, 8, 4, 4, seed=9)
    walked(x, walked.times[:1])
    assert not walked.memory
    walked(x, walked.times[1:2])
    assert sorted(walked.memory) == list(range(8))
    assert torch.isfinite(walked(x, walked.times[2:3])).all()
    where = places(8, 2, 5)[0]
    tokens = walked._recall(where)
    for k, frame in enumerate(where.tolist()):
        assert torch.equal(tokens[:, 4 * (k + 1) : 4 * (k + 2)], walked.memory[frame].video)
    assert torch.equal(tokens[:, :4], walked.memory[int(where[0])].reference)


# ---- the picture


def test_the_voice_moves_three_times_the_area_of_a_face_around_its_middle() -> None:
    mask = face_mask(Box(400, 300, 500, 420), 1000, 1000)
    assert mask.sum() == pytest.approx(3 * 100 * 120, rel=0.02)
    rows, columns = np.nonzero(mask)
    assert (rows.mean() + 0.5, columns.mean() + 0.5) == pytest.approx((360, 450), abs=0.51)
    cut = face_mask(Box(0, 0, 20, 20), 100, 100)
    assert cut[:27, :27].all() and cut.sum() == 27 * 27  # 10 + 10 * sqrt(3), and nothing beyond the edge


def test_a_mask_of_latents_is_the_share_of_pixels_near_their_middle() -> None:
    half = np.zeros((32, 48), np.bool_)
    half[:, 20:] = True
    assert latent_mask(half, 4, 6).flatten()[:6].tolist() == [0, 0, 0.5, 1, 1, 1]
    assert latent_mask(np.ones((32, 48), np.bool_), 4, 6).unique().tolist() == [1]


def test_a_face_moves_with_the_picture_when_that_is_scaled_and_cut() -> None:
    wide = np.zeros((40, 80, 3), np.uint8)  # to 32 x 32: scaled by 0.8, then 16 columns cut at each side
    mask = np.zeros((40, 80), np.bool_)
    mask[:, 20:40] = True  # the left half of what is left
    prepared = prepare(speaker(), EAR, replace(SPEECH, picture=wide, face=mask))
    assert repeat(prepared.condition.face[0, 0, 0, 0], "w -> h w", h=4).tolist() == [[1, 1, 0, 0]] * 4
    assert any("cutting 20 pixels each at the left and right" in notice for notice in prepared.notices)


@pytest.mark.parametrize(
    ("shape", "size"), [((1080, 1920), (704, 1216)), ((1920, 1080), (1216, 704)), ((500, 500), (704, 704))]
)
def test_a_video_has_the_shape_of_its_picture_and_sides_of_64(shape: tuple[int, int], size: tuple[int, int]) -> None:
    speech = replace(SPEECH, picture=np.zeros((*shape, 3), np.uint8), height=None, width=None)
    assert size_of(speech, Size(129, 704, 1216, Fraction(25))) == size


def test_a_very_wide_picture_makes_no_more_pixels_than_the_model_does() -> None:
    speech = replace(SPEECH, picture=np.zeros((200, 1000, 3), np.uint8), height=None, width=None)
    height, width = size_of(speech, Size(129, 704, 1216, Fraction(25)))
    assert height * width <= 1.1 * 704 * 1216 and width / height == pytest.approx(5, rel=0.1)


# ---- from request to video


def test_a_video_lasts_as_long_as_the_voice_and_carries_it(tmp_path: Path) -> None:
    spoken = voice(9.6, 48_000)
    seen: list[int] = []
    video = generate(speaker(), EAR, replace(SPEECH, voice=spoken), lambda step: seen.append(step.index))
    assert (video.num_frames, video.height, video.width, video.fps) == (9, 32, 32, 25) and seen == [0, 1]
    assert video.audio is not None and np.array_equal(video.audio.array(), spoken.array()[:, : 9 * 48_000 // 25])
    video.save(tmp_path / "a.mp4")
    back = Video.open(tmp_path / "a.mp4")
    assert back.num_frames == 9 and back.audio is not None and back.audio.rate == 48_000
    assert any("the whole picture follows the voice" in notice for notice in video.notices)


def test_a_long_voice_is_walked_in_windows_and_silence_is_cut_off() -> None:
    system = speaker()
    prepared = prepare(system, EAR, replace(SPEECH, voice=voice(140), steps=1))
    assert prepared.noise.shape == (1, 4, 65, 4, 4) and prepared.size.num_frames == 140
    assert 4 * (prepared.kept - 1) + 1 >= 140
    assert prepared.condition.audio.shape[1] == 4 * 65 and not prepared.condition.audio[:, 140:].any()
    assert prepared.condition.reference.shape[2] == WINDOW
    with torch.inference_mode():
        assert sample(system, prepared).shape == (1, 4, prepared.kept, 4, 4)


def test_one_window_is_enough_for_129_frames_at_either_rate() -> None:
    for fps, seconds in ((Fraction(25), 5.16), (Fraction(25, 2), 10.32)):
        prepared = prepare(speaker(), EAR, replace(SPEECH, voice=voice(25 * seconds), fps=fps))
        assert (prepared.size.num_frames, prepared.noise.shape[2], prepared.kept) == (129, 33, 33)
        assert prepared.condition.fps.tolist() == [float(fps)]


def test_the_same_seed_gives_the_same_video_and_prompt_voice_and_seed_all_matter() -> None:
    system = speaker()

    def made(**changes: Any) -> Tensor:
        return sample(system, prepare(system, EAR, replace(SPEECH, steps=1, **changes)))

    first = made()
    assert torch.equal(made(), first)
    quiet = Audio.from_array(np.zeros((1, 9 * 640), np.float32), RATE)
    for changes in ({"seed": 1}, {"prompt": "a man sings"}, {"voice": quiet}, {"negative": "hands"}, {"pose": 5.0}):
        assert not torch.equal(made(**changes), first), changes


class TinyAutoencoder(autoencoders.HunyuanAutoencoder):
    def __init__(self) -> None:
        super().__init__(autoencoders.PRESETS["tiny"])


def planned_work(num_frames: int, autoencoder: type[Any] = Squares) -> plan.Workload:
    """What the plan says of the tiny speaker, whose texts have five tokens."""
    family = replace(FAMILY, autoencoder=autoencoder)
    found = Outline("hunyuan-avatar/tiny", family, "tiny", CONFIG, speaker().size, FAMILY.sampling, None)
    request = Request("", num_frames=num_frames, height=32, width=32, steps=2)
    return replace(avatar.in_windows(workload(found, request, has_image=False)), text_tokens=5)


def counted(num_frames: int) -> plan.Plan:
    """The same, counted, but for what is encoded, with an autoencoder of one layer."""
    return plan.plan(replace(planned_work(num_frames), encoded=0), plan.HARDWARE["h200"])


@pytest.mark.parametrize("frames", [9, 129, 130, 260, 700])
def test_plan_counts_the_windows_that_the_walk_makes(frames: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    walked, kept = walk_of(frames)
    clip = walk(walked, WINDOW, [PLAIN] * 2)
    monkeypatch.setattr(clip, "answer", lambda part, *_: calls.append(part.shape[2]) or part)
    for t in clip.times[:-1]:
        clip(torch.zeros(1, 4, walked, 1, 1), t[None])
    work = planned_work(frames)
    assert work.num_calls == len(calls) and set(calls) == {work.window}
    assert work.size.num_frames == 4 * (kept - 1) + 1 >= frames


@pytest.mark.parametrize("frames", [9, 140])
def test_speaking_takes_as_many_calls_and_products_as_planned(frames: int, monkeypatch: pytest.MonkeyPatch) -> None:
    system, calls = speaker(), []
    monkeypatch.setattr(Seeing, "encode", lambda *_: text_of(5, 1))
    net = cast(HunyuanAvatar, system.network)
    tip = net.tip
    monkeypatch.setattr(net, "tip", lambda *given: calls.append(1) or tip(*given))
    prepared = prepare(system, EAR, replace(SPEECH, voice=voice(frames)))
    taken = plan.count(lambda: sample(system, prepared))
    made = counted(frames)
    assert len(calls) == made.workload.num_calls == (2 if frames == 9 else 4)
    assert taken.flops == made.workload.num_calls * made.network.count.flops > 0


def test_encoding_of_the_repeated_picture_is_planned() -> None:
    taken = plan.count(lambda: prepare(speaker(), EAR, SPEECH))
    work = planned_work(9, TinyAutoencoder)
    with torch.device("meta"):
        planned = plan._encode(work, TinyAutoencoder())
    assert work.encoded == 129 and taken.flops == planned.flops > 0
    both = plan._in_turn(planned, replace(planned, peak_bytes=2 * planned.peak_bytes))
    assert (both.flops, both.peak_bytes) == (2 * planned.flops, 2 * planned.peak_bytes)


def test_plan_of_a_longer_voice_has_more_windows_and_no_greater_ones() -> None:
    short, long = counted(129), counted(500)
    assert (short.workload.windows, long.workload.windows) == (1, 4)
    assert long.network.count == short.network.count and long.tokens == short.tokens == 33 * 2 * 2
    assert long.step_flops == 4 * short.step_flops
    assert 3 * short.expected_s < long.expected_s < 5 * short.expected_s
    assert long.work_bytes(long.autoencoder) > short.work_bytes(short.autoencoder)
    with pytest.raises(RequestError, match="num_frames=0 is no video"):
        planned_work(0)


def test_too_little_memory_for_a_long_voice_proposes_smaller_pictures_and_no_shorter_video() -> None:
    work = replace(planned_work(500), size=plan.Size(505, 512, 512), steps=10**4, encoded=0)
    available = plan.plan(work, plan.HARDWARE["h200"]).peak_bytes("none") - 1
    with pytest.raises(RequestError, match=r": use \d+x\d+x505"):
        plan.refuse_unless_it_fits(work, available, "none", "it")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": " "}, "The prompt is empty"),
        ({"height": 30}, "Use num_frames=129 height=32 width=32"),
        ({"width": None}, "Only one of height and width"),
        ({"steps": 60, "skips_steps": True}, "steps=60 would skip every step after 50"),
        ({"fps": Fraction(24)}, "fps=24 was given"),
        ({"guidance": -1.0}, "guidance=-1.0 is no scale"),
        ({"face": Box(10, 10, 50, 30)}, "does not lie in a picture of 40x40"),
        ({"face": np.zeros((40, 40), np.bool_)}, "with 0 pixels set"),
        ({"face": np.ones((30, 40), np.bool_)}, "The mask of the face is 40x30"),
        ({"voice": voice(751)}, "more than 30 s"),
    ],
)
def test_what_cannot_be_made_is_refused_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        prepare(speaker(), EAR, replace(SPEECH, **changes))
    assert "\n" not in str(caught.value)


def test_another_model_does_not_speak() -> None:
    with pytest.raises(RequestError, match="stiv/tiny makes nobody speak"):
        prepare(toy_system(), EAR, SPEECH)
    with pytest.raises(RequestError, match="stiv/toy is no released model that makes an avatar speak"):
        avatar.load("stiv/toy")


# ---- loading


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not installed")
@pytest.mark.skipif(importlib.util.find_spec("diffusers") is None, reason="diffusers is not installed")
def test_folder_as_released_becomes_somebody_who_speaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    from tests.encoders.hub_folders import write_clip, write_llava, write_network

    small = replace(CONFIG, base=replace(CONFIG.base, text_dim=16), audio_dim=8)
    net, inner = HunyuanAvatar(small), tmp_path / "hunyuan-video-t2v-720p"
    theirs = weights.to_theirs(net.state_dict(), hunyuan_avatar.keys(small)["official"])
    (inner / "transformers").mkdir(parents=True)
    torch.save({"module": theirs}, inner / "transformers" / "mp_rank_00_model_states.pt")
    tiny = autoencoders.PRESETS["tiny"]
    state, own = autoencoders.HunyuanAutoencoder(tiny).state_dict(), {"config": json.dumps(configs.to_json(tiny))}
    weights.save(inner / "vae" / "model.safetensors", state, own)
    write_llava(tmp_path / "llava_llama_image")
    write_clip(tmp_path / "text_encoder_2", tmp_path / "text_encoder_2", projects=False)
    whisper = transformers.WhisperConfig(
        vocab_size=20,
        num_mel_bins=12,
        d_model=8,
        encoder_layers=1,
        encoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_layers=1,
        decoder_attention_heads=2,
        decoder_ffn_dim=16,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    write_network(tmp_path / "whisper-tiny", transformers.WhisperForConditionalGeneration(whisper))
    transformers.WhisperFeatureExtractor(feature_size=12).save_pretrained(tmp_path / "whisper-tiny")
    assert FAMILY.release is not None
    release = replace(FAMILY.release, weights=MappingProxyType({"base": (str(inner),)}), clips=Clips(129, 32, 32, 25))
    presets = MappingProxyType({"base": small, "tiny": PRESETS["tiny"]})
    monkeypatch.setattr(hunyuan_avatar, "FAMILY", replace(FAMILY, presets=presets, release=release))
    speech = replace(SPEECH, prompt="a red kite", steps=1, face=Box(10, 10, 20, 20))
    videos = []
    for offload in ("none", "component"):
        monkeypatch.setenv("MUTOSCOPE_CACHE", str(tmp_path / f"cache-{offload}"))
        system, ear = avatar.load(loading=Loading("cpu", weights=str(tmp_path), offload=offload))
        videos.append(generate(system, ear, speech).array())
    assert videos[0].shape == (9, 32, 32, 3) and np.array_equal(*videos)
    monkeypatch.setattr(PersonClip, "load", lambda *_: pytest.fail("the encoder was loaded"))
    system, ear = avatar.load(loading=Loading("cpu", weights=str(tmp_path)))
    assert np.array_equal(generate(system, ear, speech).array(), videos[0])  # its prompts are remembered
    for other in (replace(speech, prompt="a kite"), replace(speech, picture=255 - PICTURE)):
        with pytest.raises(pytest.fail.Exception, match="the encoder was loaded"):
            generate(system, ear, other)
    direct, _ = avatar.load(loading=Loading("cpu"))
    assert direct.name == "hunyuan-avatar"
