"""From folders as the hub has them to video files: HunyuanVideo and HunyuanVideo-I2V with tiny networks."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image

from mutoscope import plan
from mutoscope.apps import cli, jobs
from mutoscope.apps.jobs import GenerateJob, generate
from mutoscope.autoencoders import hunyuan as autoencoders
from mutoscope.autoencoders.hunyuan import HunyuanAutoencoder
from mutoscope.core import config as configs
from mutoscope.core import weights
from mutoscope.core.errors import RequestError
from mutoscope.core.video import Video
from mutoscope.data import buckets
from mutoscope.encoders import llm
from mutoscope.encoders.llm import LlamaClip, LlavaClip, Published
from mutoscope.loading import Loading, load, tell_licence
from mutoscope.models import hunyuan, hunyuan_i2v
from mutoscope.models.family import Clips, Family
from mutoscope.pipeline import Request, System, outline, workload
from mutoscope.placement.quantize import E4M3, Float8Linear, dequantize, quantized_keys

pytest.importorskip("transformers")
from tests.encoders.hub_folders import write_clip, write_llama, write_llava

BASE = replace(hunyuan.PRESETS["tiny"], text_dim=16)
UNDISTILLED = replace(BASE, embeds_guidance=False)
NETWORKS: Mapping[str, tuple[Any, Any]] = {  # folder -> its family's module, and the config of its network
    "t2v": (hunyuan, BASE),
    "i2v": (hunyuan_i2v, hunyuan_i2v.Config(BASE, "replace")),
    "concat": (hunyuan_i2v, hunyuan_i2v.Config(UNDISTILLED, "concat")),
}
CLIPS = Clips(5, 32, 48, 24, side=64)
TEMPLATES = {
    "video": ("describe : {} <eot>", 3),
    "video_i2v": ("<line> <image> <line> describe <line> {} <eot> <head> assistant <tail> <line>", 6),
}
PROMPT = "a red kite flies over the sea"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write folders with everything, and the two templates."""
    top = tmp_path_factory.mktemp("maker")
    for name, (family, config) in NETWORKS.items():
        folder = top / name
        network = family.FAMILY.network(config)
        for index, parameter in enumerate(network.parameters()):
            rng = torch.Generator().manual_seed(index)
            parameter.data += torch.randn(parameter.shape, generator=rng) * 0.5 / math.sqrt(parameter.shape[-1])
        layout = "official" if name == "concat" else "diffusers"
        theirs = weights.to_theirs(network.state_dict(), family.keys(config)[layout])
        weights.save(folder / "transformer" / "diffusion_pytorch_model.safetensors", theirs, {"format": "pt"})
        torch.manual_seed(0)
        tiny = autoencoders.PRESETS["tiny"]
        state, own = HunyuanAutoencoder(tiny).state_dict(), {"config": json.dumps(configs.to_json(tiny))}
        weights.save(folder / "vae" / "diffusion_pytorch_model.safetensors", state, own)
        write_clip(folder / "text_encoder_2", folder / "tokenizer_2", projects=False)
    write_llama(top / "t2v" / "text_encoder")
    for name in ("i2v", "concat"):
        write_llava(top / name / "text_encoder_i2v")
    for name, (text, _) in TEMPLATES.items():
        (top / f"{name}.txt").write_text(text, encoding="utf-8")
    return top


@pytest.fixture(autouse=True)
def published(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the families name those folders, and know those templates."""

    def publish(module: Any, places: Mapping[str, str]) -> None:
        family: Family = module.FAMILY
        assert family.release is not None
        found = MappingProxyType({preset: (str(folders / name),) for preset, name in places.items()})
        presets = MappingProxyType({preset: NETWORKS[name][1] for preset, name in places.items()})
        release = replace(family.release, weights=found, clips=CLIPS)
        monkeypatch.setattr(module, "FAMILY", replace(family, presets=presets, release=release))

    publish(hunyuan, {"t2v": "t2v"})
    publish(hunyuan_i2v, {"replace": "i2v", "steady": "i2v", "concat": "concat"})
    known = {
        name: Published(hashlib.sha256(text.encode()).hexdigest(), opening)
        for name, (text, opening) in TEMPLATES.items()
    }
    monkeypatch.setattr(llm, "PUBLISHED", MappingProxyType(known))


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (49, 100, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def job(tmp_path: Path, folders: Path, photo: Path) -> Callable[..., GenerateJob]:
    def make(model: str, picture: bool = True, request: Request | None = None, **more: Any) -> GenerateJob:
        template = folders / ("video_i2v.txt" if "i2v" in model else "video.txt")
        loading = Loading("cpu", template=more.pop("template", template))
        more = {"loading": loading, "out": tmp_path / "out.mp4", "fit": "crop", "overwrite": True, **more}
        request = request or Request(PROMPT, steps=2, seed=1)
        return GenerateJob(request, model, image=photo if picture else None, **more)

    return make


def system_of(model: str, folders: Path) -> System:
    return load(model, "cpu", Loading(template=folders / ("video_i2v.txt" if "i2v" in model else "video.txt")))


def sidecar(path: Path) -> dict[str, Any]:
    return json.loads(Path(f"{path}.json").read_text(encoding="utf-8"))


def test_folder_of_the_hub_becomes_a_video_and_the_licence_is_told(
    job: Callable[..., GenerateJob], capsys: pytest.CaptureFixture[str]
) -> None:
    tell_licence.cache_clear()
    (path,) = generate(job("hunyuan", picture=False), quiet=True)
    assert Video.open(path).array().shape == (5, 32, 48, 3)
    assert "not for use in the EU" in capsys.readouterr().err
    assert sidecar(path)["guidance"] == 6.0
    assert sidecar(path)["negative"] is None


@pytest.mark.parametrize("model", ["hunyuan-i2v", "hunyuan-i2v/steady", "hunyuan-i2v/concat"])
def test_picture_and_prompt_become_a_video_of_the_shape_of_the_picture(
    model: str, job: Callable[..., GenerateJob], photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (path,) = generate(job(model, request=Request(PROMPT, steps=1, num_frames=5)))
    said, record = capsys.readouterr().err, sidecar(path)
    assert Video.open(path).array().shape == (5, 32, 64, 3)
    assert f"the clip is 64x32, of this model's sizes the nearest in shape to {photo}" in said
    assert f"{photo}: 100x49 scaled to" in said
    assert record["sources"].keys() == {"image", "template"}
    assert (record["height"], record["width"], record["num_frames"]) == (32, 64, 5)
    assert record["shift"] == (7.0 if "steady" in model else 17.0)


def test_command_line_takes_a_picture_a_template_and_a_negative_prompt(
    folders: Path, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["generate", PROMPT, "--model", "hunyuan-i2v-concat", "--image", str(photo), "--fit", "crop"]
    words += ["--steps", "1", "--guidance", "2", "--negative", "dawn", "--template", str(folders / "video_i2v.txt")]
    out = tmp_path / "out.mp4"
    monkeypatch.setattr("sys.argv", ["mutoscope", *words, "--device", "cpu", "--out", str(out)])
    cli.main()
    assert capsys.readouterr().out == f"{out}\n"
    assert (sidecar(out)["guidance"], sidecar(out)["negative"]) == (2.0, "dawn")


def test_command_in_the_sidecar_makes_the_same_video(
    job: Callable[..., GenerateJob], tmp_path: Path, folders: Path, photo: Path
) -> None:
    (path,) = generate(job("hunyuan-i2v"), quiet=True)
    *words, flag = sidecar(path)["command"]
    assert flag == "--overwrite"
    options = dict(zip(words[3::2], words[4::2], strict=True))
    assert options["--template"] == str(folders / "video_i2v.txt") and options["--image"] == str(photo)
    request = Request(
        PROMPT,
        steps=2,
        seed=1,
        height=int(options["--height"]),
        width=int(options["--width"]),
        guidance=float(options["--guidance"]),
        image_guidance=float(options["--image-guidance"]),
    )
    again = job("hunyuan-i2v", request=request, out=tmp_path / "again.mp4")
    assert generate(again, quiet=True)[0].read_bytes() == path.read_bytes()


def test_picture_of_another_size_is_refused_before_loading_unless_a_fit_is_named(
    job: Callable[..., GenerateJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "load", lambda *args, **options: pytest.fail("it was loaded"))
    with pytest.raises(RequestError, match=r"100x49, the clip is 64x32, of this .* nearest in shape\. Add --fit crop"):
        generate(job("hunyuan-i2v", fit="exact"), quiet=True)
    with pytest.raises(RequestError, match=r"100x49, the clip is 48x32\. Add"):
        generate(job("hunyuan-i2v", request=Request(PROMPT, height=32, width=48), fit="exact"), quiet=True)


def test_picture_is_cropped_to_its_own_shape_as_the_published_code_does_it(
    job: Callable[..., GenerateJob], photo: Path, folders: Path
) -> None:
    shaped, notes = jobs._follow_picture(job("hunyuan-i2v"), jobs.outline("hunyuan-i2v").size)
    requests, _ = jobs._requests(shaped, system_of("hunyuan-i2v", folders))
    frame = Video.open(photo).array()[0]
    assert len(notes) == 1
    assert (requests[0].given[0] == buckets.fit(frame, buckets.Bucket(32, 64))).all()


@pytest.mark.parametrize(
    ("model", "options", "says"),
    [
        ("hunyuan-i2v", ("no image",), "hunyuan-i2v animates a picture, and there is none"),
        ("hunyuan-i2v", ("last",), "its first frame only, not frames 0, 4"),
        ("hunyuan-i2v", ("video",), "its first frame only, not frames 0, 1, 2, 3"),
        ("hunyuan", (), "hunyuan can be given no picture, not frames 0"),
        ("hunyuan", ("no image", "last"), "hunyuan can be given no picture, not frames 4"),
        ("contentv", (), "contentv can be given no picture"),
    ],
)
def test_pictures_that_a_model_cannot_use_or_lacks_are_refused_before_it_is_loaded(
    model: str,
    options: tuple[str, ...],
    says: str,
    job: Callable[..., GenerateJob],
    photo: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(jobs, "load", lambda *args, **options: pytest.fail("it was loaded"))
    asked = job(model, picture="no image" not in options and "video" not in options)
    asked = replace(asked, last_image=photo if "last" in options else None, video=photo if "video" in options else None)
    with pytest.raises(RequestError, match=says):
        generate(asked, quiet=True)


def test_first_latent_frame_is_the_picture_and_stays_it(folders: Path) -> None:
    system = system_of("hunyuan-i2v", folders)
    picture = np.random.default_rng(1).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    pixels = torch.from_numpy(picture).permute(2, 0, 1)[None, :, None].float() / 127.5 - 1
    with torch.no_grad():
        image = system.autoencoder.encode(pixels)
        prepared = system.prepare([Request(PROMPT, given={0: picture}, steps=3)])
        latents = system.sample(prepared)
    assert prepared.noise.shape[2] == latents.shape[2] == 2
    torch.testing.assert_close(prepared.noise[:, :, :1], image)
    torch.testing.assert_close(latents[:, :, :1], image, rtol=1e-5, atol=1e-5)


def test_encoded_prompts_are_remembered_and_told_apart_by_their_picture(
    job: Callable[..., GenerateJob], photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (first,) = generate(job("hunyuan-i2v"), quiet=True)
    (plain,) = generate(job("hunyuan", picture=False, out=tmp_path / "plain.mp4"), quiet=True)

    def fail(*args: object, **options: object) -> None:
        raise AssertionError("loaded for nothing")

    for kind in (LlavaClip, LlamaClip):
        monkeypatch.setattr(kind, "load", fail)
    (again,) = generate(job("hunyuan-i2v", out=tmp_path / "again.mp4"), quiet=True)
    assert again.read_bytes() == first.read_bytes()
    (again,) = generate(job("hunyuan", picture=False, out=tmp_path / "again-plain.mp4"), quiet=True)
    assert again.read_bytes() == plain.read_bytes()
    Image.fromarray(np.full((49, 100, 3), 99, np.uint8)).save(photo)
    with pytest.raises(AssertionError, match="loaded for nothing"):
        generate(job("hunyuan-i2v"), quiet=True)


def test_offloaded_encoder_is_sent_back_and_encodes_the_same(folders: Path) -> None:
    template = folders / "video.txt"
    request = Request("a kite at dawn", steps=1)
    plain = load("hunyuan", "cpu", Loading(template=template)).prepare([request]).condition
    system = load("hunyuan", "cpu", Loading(template=template, offload="component"))
    offloaded = system.prepare([request]).condition
    assert isinstance(plain, hunyuan.Condition) and isinstance(offloaded, hunyuan.Condition)
    assert torch.equal(offloaded.tokens, plain.tokens)


def test_template_of_another_model_is_refused_before_anything_is_read(
    job: Callable[..., GenerateJob], folders: Path
) -> None:
    with pytest.raises(RequestError, match="is the template video; this model needs video_i2v or image_i2v"):
        generate(job("hunyuan-i2v", template=folders / "video.txt"), quiet=True)
    with pytest.raises(RequestError, match=r"contentv puts nothing around a prompt\. Leave --template out"):
        generate(job("contentv", picture=False, force=True), quiet=True)
    toy = job("stiv/toy", picture=False)
    with pytest.raises(RequestError, match="--template does not go with it"):
        generate(replace(toy, request=replace(toy.request, restarts=0)), quiet=True)  # two steps are too few for any


QUANTISED = {"hunyuan": "", "hunyuan-i2v": "base."}  # what stands before the names of their blocks


@pytest.mark.parametrize("model", list(QUANTISED))
def test_eight_bits_are_the_network_of_the_numbers_that_they_stand_for(model: str, folders: Path) -> None:
    template = folders / ("video_i2v.txt" if "i2v" in model else "video.txt")
    small = load(model, "cpu", Loading(template=template, quantize="fp8"))
    plain = system_of(model, folders)
    layers = {name: layer for name, layer in small.network.named_modules() if isinstance(layer, Float8Linear)}
    assert {name.removeprefix(QUANTISED[model]).split(".")[0] for name in layers} == {"doubles", "singles"}
    picture = np.random.default_rng(1).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    request = Request(PROMPT, given={0: picture} if "i2v" in model else {}, steps=2)
    with torch.no_grad():
        as_published = plain.sample(plain.prepare([request]))
        for name, layer in layers.items():
            linear = plain.network.get_submodule(name)
            assert isinstance(linear, torch.nn.Linear)
            meant, step = dequantize(layer.bits, layer.scale, torch.bfloat16), 2.0**-9 * layer.scale
            error, bound = (meant - linear.weight).abs().float(), (linear.weight.abs() / 15).clamp_min(step)
            assert (error <= bound).all()  # a sixteenth, and the rounding of bfloat16
            linear.weight.copy_(meant)
        known, found = (system.sample(system.prepare([request])) for system in (plain, small))
    assert torch.equal(found, known)
    assert 0 < (found - as_published).norm() < 0.5 * as_published.norm()


@pytest.mark.parametrize("quantize", [None, "fp8"])
def test_plan_counts_the_bytes_that_a_loaded_network_has(quantize: Literal["fp8"] | None, folders: Path) -> None:
    network = load("hunyuan", "cpu", Loading(template=folders / "video.txt", quantize=quantize)).network
    work = workload(outline("hunyuan"), Request(""), has_image=False, on_cpu=True, quantize=quantize)
    made = plan.plan(work, plan.HARDWARE["h200"])
    assert made.network.weight_bytes == sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()))
    assert made.network.parameters == 171_152 + (16 - 12) * (32 + 32)  # of `tiny`, with text four numbers wider


def test_published_file_of_eight_bits_keeps_them(folders: Path, tmp_path: Path) -> None:
    template = folders / "video.txt"
    own = load("hunyuan", "cpu", Loading(template=template, quantize="fp8")).network
    names = [name for name, layer in own.named_modules() if isinstance(layer, Float8Linear)]
    keys = list(quantized_keys(hunyuan.keys(BASE)["official"], names))
    theirs = weights.to_theirs(own.state_dict(), keys)
    scales = {name: theirs.pop(name) for key in keys for name in key.theirs if key.ours.endswith(".scale")}
    for name in scales:
        theirs[f"{name}.weight"] = theirs[f"{name}.weight"].view(E4M3)
    torch.save({"module": theirs}, tmp_path / "mp_rank_00_model_states_fp8.pt")
    torch.save(scales, tmp_path / "mp_rank_00_model_states_fp8_map.pt")
    published = str(tmp_path / "mp_rank_00_model_states_fp8.pt")
    again = load("hunyuan", "cpu", Loading(template=template, weights=published, quantize="fp8")).network
    wide = load("hunyuan", "cpu", Loading(template=template, weights=published)).network
    assert not any(isinstance(layer, Float8Linear) for layer in wide.modules())
    for name in names:
        first, second = own.get_submodule(name), again.get_submodule(name)
        assert isinstance(first, Float8Linear) and isinstance(second, Float8Linear)
        assert torch.equal(first.bits, second.bits)
        torch.testing.assert_close(first.scale, second.scale, rtol=2**-7, atol=0)


def test_command_line_quantises_and_the_sidecar_says_so(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["mutoscope", "generate", PROMPT, "--model", "hunyuan", "--steps", "1", "--device", "cpu"]
    words += ["--template", str(folders / "video.txt"), "--out", str(tmp_path / "small.mp4"), "--quantize", "fp8"]
    monkeypatch.setattr("sys.argv", words)
    cli.main()
    command: list[Any] = sidecar(tmp_path / "small.mp4")["command"]
    assert command[command.index("--quantize") + 1] == "fp8"
    command[command.index("--out") + 1] = str(tmp_path / "again.mp4")
    monkeypatch.setattr("sys.argv", command)
    cli.main()
    assert (tmp_path / "again.mp4").read_bytes() == (tmp_path / "small.mp4").read_bytes()
