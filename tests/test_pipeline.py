from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pytest
import torch

from mutoscope.autoencoders import hunyuan as hunyuan_autoencoder
from mutoscope.autoencoders.base import Size as PixelSize
from mutoscope.autoencoders.hunyuan import HunyuanAutoencoder
from mutoscope.core import weights
from mutoscope.core.errors import RequestError, WeightsError
from mutoscope.encoders.base import TextTokens
from mutoscope.loading import Loading, load, tell_licence
from mutoscope.models import hunyuan, hunyuan_i2v, stiv
from mutoscope.models.family import Family
from mutoscope.pipeline import Request, Size, System, outline, workload
from mutoscope.plan import Way
from tests.published_toy import publish
from tests.toy_system import toy_system

PICTURE = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def system() -> System:
    return toy_system()


def latents_of(system: System, *requests: Request) -> torch.Tensor:
    with torch.no_grad():
        return system.sample(system.prepare(requests))


def test_same_seed_gives_the_same_clip_and_another_seed_another(system: System) -> None:
    request = Request("a red circle", seed=3, steps=3)
    assert torch.equal(latents_of(system, request), latents_of(system, request))
    assert not torch.allclose(latents_of(system, request), latents_of(system, Request("a red circle", seed=4, steps=3)))


def test_clip_depends_on_its_own_request_alone(system: System) -> None:
    first, second = Request("a red circle", seed=1, steps=3), Request("a blue square drifts left", seed=2, steps=3)
    together = latents_of(system, first, second)
    alone = torch.cat([latents_of(system, first), latents_of(system, second)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_restarts_draw_anew_from_the_clips_own_seed(system: System) -> None:
    first, second = (Request("a red circle", seed=seed, steps=8, restarts=2) for seed in (1, 2))
    together = latents_of(system, first, second)
    alone = torch.cat([latents_of(system, first), latents_of(system, second)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    without = latents_of(system, replace(first, restarts=0))
    assert not torch.allclose(alone[:1], without, atol=0.1)
    assert torch.equal(without, latents_of(system, replace(first, restarts=None)))  # as the family says


@pytest.mark.parametrize("restarts", [0, 2])
def test_given_frames_arrive_as_they_were_given(system: System, restarts: int) -> None:
    request = Request("a red circle", given={0: PICTURE, 3: PICTURE[::-1]}, steps=6, restarts=restarts)
    latents = latents_of(system, request)
    pixels = torch.from_numpy(np.stack([PICTURE, PICTURE[::-1]])).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    torch.testing.assert_close(latents[:, :, [0, 3]], system.autoencoder.encode(pixels), rtol=1e-4, atol=1e-4)


def test_prompt_and_given_frame_both_change_the_other_frames(system: System) -> None:
    plain = latents_of(system, Request("a red circle", steps=3))
    prompted = latents_of(system, Request("a blue square", steps=3))
    shown = latents_of(system, Request("a red circle", steps=3, given={0: PICTURE}))
    assert not torch.allclose(plain, prompted)
    assert not torch.allclose(plain[:, :, 1:], shown[:, :, 1:])


def test_renormalised_guidance_keeps_the_length_of_the_velocity_and_plain_guidance_does_not(system: System) -> None:
    """One step from noise of unit length shows the velocity itself."""

    def length(renormalise: Literal["sample", "none"], guidance: float) -> torch.Tensor:
        request = Request("a red circle", steps=1, sampler="euler", guidance=guidance, renormalise=renormalise)
        prepared = system.prepare([request])
        return (system.sample(prepared) - prepared.noise).norm()

    with torch.no_grad():
        assert torch.isclose(length("sample", 6.0), length("sample", 1.0), rtol=1e-4)
        assert not torch.isclose(length("none", 6.0), length("none", 1.0), rtol=1e-2)


def test_an_unknown_axis_of_renormalisation_is_refused(system: System) -> None:
    request = Request("a circle")
    object.__setattr__(request, "renormalise", "clip")  # what a caller without a type checker may write
    with pytest.raises(RequestError, match="sample, frame, token, none"):
        system.prepare([request])


def test_a_shift_spends_more_steps_near_noise(system: System) -> None:
    grid = system.prepare([Request("a red circle", steps=4, shift=3.0)]).grid
    torch.testing.assert_close(grid, torch.tensor([1.0, 0.9, 0.75, 0.5, 0.0]))


def test_video_has_the_size_and_rate_that_were_asked_for(system: System) -> None:
    (video,) = system.generate([Request("a red circle", num_frames=6, height=48, width=16, fps=Fraction(12), steps=1)])
    assert video.array().shape == (6, 48, 16, 3)
    assert video.fps == 12


def test_stream_is_what_generate_makes_and_can_be_read_again() -> None:
    system, request = published_system(hunyuan.FAMILY, "tiny"), Request("a kite", num_frames=13, steps=1)
    (whole,) = system.generate([request])
    video, way = system.stream(request)
    assert (video.num_frames, video.height, video.width, video.fps, way) == (13, 32, 32, 24, "exact")
    assert np.array_equal(video.array(), whole.array()) and np.array_equal(video.array(), whole.array())
    assert not torch.is_inference_mode_enabled()


def test_frames_are_decoded_as_they_are_read_and_none_that_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    system, made, closed = published_system(hunyuan.FAMILY, "tiny"), [], []
    decode = system.decode

    def watched(latents: torch.Tensor, way: Way) -> Iterator[torch.Tensor]:
        try:
            for group in decode(latents, way):
                for part in group.split(4, dim=2):  # this clip is so small that it would come as one
                    made.append(part.shape[2])
                    yield part
        finally:
            closed.append(sum(made))

    monkeypatch.setattr(system, "decode", watched)
    video, _ = system.stream(Request("a kite", num_frames=13, steps=1))
    assert made == []
    for shown, _ in enumerate(video.frames(), 1):
        assert sum(made) - made[-1] < shown <= sum(made)  # not one group ahead of the reader
        assert not torch.is_inference_mode_enabled()
    assert closed == [13] and len(made) > 2
    made.clear()
    latents = latents_of(system, Request("a kite", num_frames=13, steps=1))
    assert len(system.stream_of(latents, PixelSize(3, 32, 32), Fraction(24)).video.array()) == 3
    assert closed[1:] == [sum(made)] and sum(made) < 13  # the decoder was let go of, and asked for no more


def test_groups_of_frames_are_the_whole_clip(system: System) -> None:
    latents = latents_of(system, Request("a red circle", steps=1))
    torch.testing.assert_close(torch.cat(list(system.decode(latents)), dim=2), system.autoencoder.decode(latents))


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (Request("  "), "prompt is empty"),
        (Request("a circle", num_frames=5), "Use num_frames=6"),
        (Request("a circle", height=40), "height=48"),
        (Request("a circle", sampler="magic"), "euler, heun, adams_bashforth"),
        (Request("a circle", steps=0), "steps=0"),
        (Request("a circle", guidance=-1.0), "at least 0"),
        (Request("a circle", shift=0.0), "shift=0.0"),
        (Request("a circle", restarts=-1), "restarts=-1"),
        (Request("a circle", steps=2, restarts=1), "2 steps are too few"),
        (Request("a circle", fps=Fraction(0)), "above 0"),
        (Request("a circle", given={4: PICTURE}), "frames 0 to 3"),
        (Request("a circle", given={0: PICTURE[:16]}), "32x16, the clip is 32x32"),
        (Request("a circle", given=dict.fromkeys(range(4), PICTURE)), "nothing to make"),
    ],
)
def test_impossible_request_is_refused_before_sampling(system: System, request_: Request, says: str) -> None:
    with pytest.raises(RequestError, match=says):
        system.prepare([request_])


def test_requests_of_different_sizes_are_no_batch(system: System) -> None:
    with pytest.raises(RequestError, match="must share"):
        system.prepare([Request("a circle"), Request("a circle", num_frames=6)])


def test_unknown_model_is_named_with_its_neighbour() -> None:
    with pytest.raises(RequestError, match="stiv/toy"):
        load("stif/toy")


def test_model_without_published_weights_says_what_to_do() -> None:
    with pytest.raises(WeightsError, match="mutoscope train"):
        load("stiv/XL")


def test_foreign_weights_are_refused(tmp_path) -> None:
    path = tmp_path / "other.safetensors"
    weights.save(path, {"x": torch.zeros(1)}, {})
    with pytest.raises(WeightsError, match="not written by"):
        load(str(path))


def test_damaged_weights_are_refused(tmp_path) -> None:
    path = tmp_path / "cut.safetensors"
    path.write_bytes(b"\x10\x00\x00")
    with pytest.raises(WeightsError, match="not a whole safetensors file"):
        load(str(path))


def test_published_weights_make_the_same_clip_and_say_their_terms_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(tmp_path / "film", monkeypatch)
    tell_licence.cache_clear()
    system = load("stiv/tiny", "cpu")
    load("stiv/tiny", "cpu", Loading(weights=str(tmp_path / "film" / "transformer")))
    assert (
        capsys.readouterr().err == "note: the weights of stiv are under the Toy Licence, https://example.org/licence\n"
    )
    assert {parameter.dtype for parameter in system.network.parameters()} == {torch.bfloat16}
    assert system.size == toy_system().size
    theirs, ours = (latents_of(one, Request("a red circle", steps=2)) for one in (system, toy_system()))
    torch.testing.assert_close(theirs, ours, rtol=0.1, atol=0.3)  # bfloat16 against float32


def test_published_weights_that_do_not_fit_are_refused_before_anything_else_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tmp_path / "film", monkeypatch)
    with pytest.raises(WeightsError, match="vae has none of the names of stiv/tiny"):
        load("stiv/tiny", "cpu", Loading(weights=str(tmp_path / "film" / "vae")))


def test_weights_of_our_own_models_are_not_named_twice() -> None:
    with pytest.raises(RequestError, match="stiv/toy was not published by others"):
        load("stiv/toy", "cpu", Loading(weights="somewhere"))


def test_offloaded_components_make_the_same_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(tmp_path / "film", monkeypatch)
    request = Request("a red circle", steps=2, given={0: PICTURE})
    plain, parted = load("stiv/tiny", "cpu"), load("stiv/tiny", "cpu", Loading(offload="component"))
    assert parted.offload_to == parted.device == torch.device("cpu")
    one, other = (system.generate([request])[0].array() for system in (plain, parted))
    assert (one == other).all()


def test_component_is_on_the_device_only_while_it_is_used() -> None:
    system = toy_system()
    system.offload_to = torch.device("meta")
    with system.at_work(system.network):
        assert next(system.network.parameters()).is_meta
        assert system.encoder.encode(["a red circle"]).tokens.device.type == "cpu"
    assert not next(system.network.parameters()).is_meta


def test_workload_is_that_of_the_request_and_of_the_model_where_it_says_nothing() -> None:
    request = Request("", height=128, steps=7, restarts=0, image_guidance=4.0)
    work = workload(outline("stiv/toy"), request, has_image=True)
    system = load("stiv/toy", "cpu")
    assert work.size == (system.size.num_frames, 128, system.size.width)
    assert (work.num_steps, work.batch, work.sampler) == (7, 3, system.sampling.sampler)
    assert work.dtype == torch.float32


def test_published_autoencoder_is_planned_for_a_cpu_in_the_type_in_which_it_is_loaded_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = publish(tmp_path / "film", monkeypatch)
    assert family.release is not None
    half = replace(family.release, autoencoder_dtype=torch.float16)
    monkeypatch.setattr(stiv, "FAMILY", replace(family, release=half))
    found = outline("stiv/tiny")
    there, here = (workload(found, Request(""), has_image=False, on_cpu=on_cpu) for on_cpu in (False, True))
    assert (there.autoencoder_dtype, here.autoencoder_dtype) == (torch.float16, torch.float32)
    loaded = cast(torch.nn.Module, load("stiv/tiny", "cpu").autoencoder)
    assert {parameter.dtype for parameter in loaded.parameters()} == {here.autoencoder_dtype}


def test_outline_of_a_model_is_known_without_its_weights() -> None:
    found = outline("stiv/toy")
    assert found.config == load("stiv/toy", "cpu").network.config
    assert outline("stiv/XL").size is None
    with pytest.raises(WeightsError, match="there are no weights at nowhere"):
        outline("nowhere.safetensors")


class Prompts:
    """Stands for encoders that see and for those that do not; remembers what it was asked."""

    def __init__(self, config: Any) -> None:
        self.config, self.texts, self.pictures = config, [], []

    def encode(self, texts: Sequence[str], pictures: Sequence[np.ndarray] | None = None) -> TextTokens:
        self.texts += texts
        self.pictures += pictures or []
        rows = [torch.full((5, self.config.text_dim), len(text) / 30) for text in texts]
        tokens = torch.stack(rows) * torch.linspace(-1, 1, self.config.text_dim)
        mask = torch.ones(tokens.shape[:2], dtype=torch.bool)
        return TextTokens(tokens, mask, tokens[:, 0, : self.config.pooled_dim])

    def null(self, count: int) -> TextTokens:
        return self.encode([""] * count, [np.zeros((4, 4, 3), np.uint8)] * count)

    def unknown(self, text: str) -> list[tuple[str, list[str]]]:
        return []


def published_system(family: Family, preset: str) -> System:
    """Return a system with an autoencoder that compresses time, for clips of 5 frames of 32x32."""
    config = family.presets[preset]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = family.network(config)
        for parameter in network.parameters():
            parameter.data += 0.1 * torch.randn(parameter.shape)
        autoencoder = HunyuanAutoencoder(hunyuan_autoencoder.PRESETS["tiny"])
    for module in (network, autoencoder):
        module.eval().requires_grad_(False)
    size = Size(5, 32, 32, Fraction(24))
    return System(family, network, autoencoder, Prompts(config), f"{family.name}/{preset}", size)


def test_distilled_network_is_told_the_scale_of_guidance_and_called_once() -> None:
    system = published_system(hunyuan.FAMILY, "tiny")
    for request, scale in ((Request("a kite", steps=2), 6.0), (Request("a kite", steps=2, guidance=2.5), 2.5)):
        prepared = system.prepare([request, request])
        assert isinstance(prepared.condition, hunyuan.Condition)
        assert prepared.condition.guidance.tolist() == [scale, scale]
        assert prepared.settings.scale == scale and prepared.settings.negative is None
    assert cast(Any, system.encoder).texts == ["a kite"] * 4
    assert workload(outline("hunyuan"), Request("", guidance=2.5), has_image=False).batch == 1


def test_network_that_was_not_distilled_is_led_away_from_the_negative_prompt_with_a_black_picture() -> None:
    system = published_system(hunyuan_i2v.FAMILY, "tiny-concat")
    encoder: Any = system.encoder
    given = {0: PICTURE}
    prepared = system.prepare([Request("a kite", given=given, guidance=3.0)])
    assert encoder.texts == ["a kite", hunyuan_i2v.NEGATIVE]
    assert (encoder.pictures[0] == PICTURE).all() and not encoder.pictures[1].any()
    condition: Any = prepared.condition
    assert condition.image.shape == (2, 4, 1, 4, 4) and torch.equal(*condition.image)
    assert prepared.given is None and prepared.settings.negative == hunyuan_i2v.NEGATIVE
    system.prepare([Request("a kite", given=given, guidance=3.0, negative=" rain ")])
    system.prepare([Request("a kite", given=given, guidance=3.0, negative="")])
    assert encoder.texts[2:] == ["a kite", "rain", "a kite", ""]


def test_negative_prompt_changes_the_clip_and_is_refused_where_it_would_not() -> None:
    system = published_system(hunyuan_i2v.FAMILY, "tiny-concat")
    request = Request("a kite", given={0: PICTURE}, guidance=3.0, steps=2)
    other = latents_of(system, replace(request, negative="rain"))
    assert not torch.allclose(latents_of(system, request), other)
    with pytest.raises(RequestError, match=r"guidance is 1\. Raise that"):
        system.prepare([replace(request, guidance=1.0, negative="rain")])
    with pytest.raises(RequestError, match=r"its network follows guidance by itself\. Leave it out"):
        published_system(hunyuan.FAMILY, "tiny").prepare([Request("a kite", negative="rain")])


def test_frames_that_are_no_part_of_the_video_are_sampled_and_dropped() -> None:
    system = published_system(hunyuan_i2v.FAMILY, "tiny-concat")
    request = Request("a kite", given={0: PICTURE}, steps=1, guidance=1.0)
    latents = latents_of(system, request)
    assert latents.shape[2] == 3  # of 5 frames and 4 more
    frames = torch.cat(list(system.decode(latents)), dim=2)
    torch.testing.assert_close(frames, system.autoencoder.decode(latents)[:, :, 4:])
    assert system.generate([request])[0].array().shape == (5, 32, 32, 3)
    found = outline("hunyuan_i2v/concat")
    assert found.size is not None and found.size.num_frames == 125


def test_sampling_starts_where_the_family_says() -> None:
    request = Request("a kite", given={0: PICTURE}, seed=3)
    system = published_system(hunyuan_i2v.FAMILY, "tiny")
    noise = published_system(hunyuan.FAMILY, "tiny").prepare([Request("a kite", seed=3)]).noise
    dynamic = system.prepare([request])
    system.sampling = hunyuan_i2v.FAMILY.own_sampling["steady"]
    steady = system.prepare([request])
    image = steady.noise[:, :, :1]
    assert torch.equal(dynamic.noise, torch.cat([image, noise[:, :, 1:]], dim=2))
    torch.testing.assert_close(steady.noise[:, :, 1:], 0.999 * noise[:, :, 1:] + 0.001 * image)
    assert (dynamic.settings.shift, steady.settings.shift) == (17.0, 7.0)


def test_given_first_frame_arrives_through_an_autoencoder_that_compresses_time() -> None:
    system = published_system(hunyuan_i2v.FAMILY, "tiny")
    latents = latents_of(system, Request("a kite", given={0: PICTURE}, steps=3))
    pixels = torch.from_numpy(PICTURE).permute(2, 0, 1)[None, :, None].float() / 127.5 - 1
    torch.testing.assert_close(latents[:, :, :1], system.autoencoder.encode(pixels), rtol=1e-5, atol=1e-5)


def test_only_the_first_frame_can_be_given_where_a_latent_holds_several() -> None:
    stiv = toy_system()
    autoencoder = HunyuanAutoencoder(hunyuan_autoencoder.PRESETS["tiny"]).eval()
    size = Size(5, 32, 32, Fraction(8))
    system = System(stiv.family, stiv.network, autoencoder, stiv.encoder, "stiv/tiny", size)
    with torch.no_grad():
        assert system.prepare([Request("a red circle", given={0: PICTURE})]).given is not None
    with pytest.raises(RequestError, match=r"the first frame alone, not frames 0, 4"):
        system.prepare([Request("a red circle", given={0: PICTURE, 4: PICTURE})])


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (Request("a kite"), "animates a picture, and there is none"),
        (Request("a kite", given={4: PICTURE}), "its first frame only, not frames 4"),
        (Request("a kite", given={0: PICTURE}, image_guidance=2.0), "knows no clip without its picture"),
    ],
)
def test_what_a_model_that_animates_pictures_cannot_do_is_refused(request_: Request, says: str) -> None:
    with pytest.raises(RequestError, match=says):
        published_system(hunyuan_i2v.FAMILY, "tiny").prepare([request_])
