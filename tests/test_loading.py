"""Folders exactly as people hold published weights, with tiny networks: found, recognised and read, without the hub."""

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mutoscope.apps import cli
from mutoscope.autoencoders import hunyuan as hunyuan_autoencoder
from mutoscope.autoencoders import wan
from mutoscope.core import weights
from mutoscope.core.errors import MutoscopeError, WeightsError
from mutoscope.encoders import llm
from mutoscope.encoders.llm import Published
from mutoscope.loading import Loading, load, outline
from mutoscope.models import contentv, hunyuan, hunyuan_avatar, hunyuan_i2v
from tests.core.gguf_writer import write_gguf

FAMILIES: Mapping[str, ModuleType] = {
    "hunyuan": hunyuan,
    "hunyuan-i2v": hunyuan_i2v,
    "hunyuan-avatar": hunyuan_avatar,
    "contentv": contentv,
}
ENCODERS = {  # folders of a release, with a config in each
    "hunyuan": ("text_encoder", "text_encoder_2"),
    "hunyuan-i2v": ("text_encoder_i2v", "text_encoder_2"),
    "hunyuan-avatar": ("llava_llama_image", "text_encoder_2"),
    "contentv": ("text_encoder", "text_encoder_2", "text_encoder_3"),
}
VAE_CONFIGS = {  # as released, beside the tiny autoencoders
    "hunyuan": {
        "_class_name": "AutoencoderKLCausal3D",
        "latent_channels": 4,
        "block_out_channels": [8, 16, 16, 16],
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "scaling_factor": 0.476986,
        "sample_size": 256,
        "time_compression_ratio": 4,
    },
    "wan": {
        "_class_name": "AutoencoderKLWan",
        "base_dim": 8,
        "z_dim": 4,
        "dim_mult": [1, 2, 2, 2],
        "num_res_blocks": 1,
        "temperal_downsample": [False, True, True],
        "latents_mean": wan.MEAN[:4],
        "latents_std": wan.STD[:4],
    },
}
TEMPLATES = {"video": "describe : {}", "video_i2v": "animate : {}"}


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no hub, encoded prompts of one's own, and templates that are known."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.setenv("MUTOSCOPE_CACHE", str(tmp_path / "cache"))
    known = {name: Published(hashlib.sha256(text.encode()).hexdigest(), 3) for name, text in TEMPLATES.items()}
    monkeypatch.setattr(llm, "PUBLISHED", MappingProxyType(known))
    for name, text in TEMPLATES.items():
        (tmp_path / f"{name}.txt").write_text(text)


def random(network: nn.Module) -> nn.Module:
    for index, parameter in enumerate(network.parameters()):
        rng = torch.Generator().manual_seed(index)
        parameter.data = torch.randn(parameter.shape, generator=rng)
    return network


def network_of(model: str) -> Any:
    module: Any = FAMILIES[model]
    return random(module.FAMILY.network(module.PRESETS["tiny"]))


def names_of(model: str, network: Any, layout: str) -> dict[str, Tensor]:
    module: Any = FAMILIES[model]
    theirs = weights.to_theirs(network.state_dict(), module.keys(network.config)[layout])
    return {name: tensor.contiguous().clone() for name, tensor in theirs.items()}


def vae_of(model: str) -> tuple[Any, str]:
    """Return the tiny autoencoder of a family, and the name of its config."""
    if model == "contentv":
        return random(wan.WanAutoencoder(wan.PRESETS["tiny"])), "wan"
    return random(hunyuan_autoencoder.HunyuanAutoencoder(hunyuan_autoencoder.PRESETS["tiny"])), "hunyuan"


def vae_names(model: str, layout: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    vae, kind = vae_of(model)
    keys = {"wan": wan.keys, "hunyuan": hunyuan_autoencoder.keys}[kind](vae.config)[layout]
    return {name: part.clone() for name, part in weights.to_theirs(vae.state_dict(), keys).items()}, VAE_CONFIGS[kind]


def write_encoders(folder: Path, model: str) -> None:
    for name in ENCODERS[model]:
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text("{}")
        save_file({"w": torch.ones(8)}, folder / name / "model.safetensors")


def write_official(root: Path, model: str) -> list[Path]:
    """Write ckpts as Tencent released them; return the levels at which a user may name them."""
    ckpts = root / "HunyuanVideo" / "ckpts"
    inner = ckpts / "hunyuan-video-t2v-720p"
    (inner / "transformers").mkdir(parents=True)
    (inner / "vae").mkdir()
    file = inner / "transformers" / "mp_rank_00_model_states.pt"
    torch.save({"module": names_of(model, network_of(model), "official")}, file)
    torch.save({}, file.with_name("mp_rank_00_model_states_fp8.pt"))
    torch.save({}, file.with_name("mp_rank_00_model_states_fp8_map.pt"))
    tensors, config = vae_names(model, "official")
    torch.save({"state_dict": {f"vae.{name}": part for name, part in tensors.items()}}, inner / "vae/pytorch_model.pt")
    (inner / "vae" / "config.json").write_text(json.dumps(config))
    write_encoders(ckpts, model)
    (root / "HunyuanVideo" / "assets").mkdir()
    return [root / "HunyuanVideo", ckpts, inner, inner / "transformers", file]


def write_diffusers(root: Path, model: str, config: Mapping[str, Any]) -> list[Path]:
    """Write a folder for diffusers, of two shards without an index."""
    folder = root / "pipeline"
    for name in ("transformer", "vae", "scheduler"):
        (folder / name).mkdir(parents=True)
    layout = "official" if model == "hunyuan-avatar" else "diffusers"
    tensors = list(names_of(model, network_of(model), layout).items())
    for number, part in ((1, tensors[::2]), (2, tensors[1::2])):
        save_file(dict(part), folder / "transformer" / f"diffusion_pytorch_model-0000{number}-of-00002.safetensors")
    (folder / "transformer" / "config.json").write_text(json.dumps(config))
    tensors, vae_config = vae_names(model, "diffusers")
    save_file(tensors, folder / "vae" / "diffusion_pytorch_model.safetensors")
    (folder / "vae" / "config.json").write_text(json.dumps(vae_config))
    write_encoders(folder, model)
    return [folder, folder / "transformer"]


def assert_loads(model: str, loading: Loading, rel: float = 2**-8) -> Any:
    system = load(f"{model}/tiny", "cpu", loading)
    known, vae = network_of(model).state_dict(), vae_of(model)[0].state_dict()
    found, found_vae = system.network.state_dict(), cast_state(system.autoencoder)
    assert found.keys() == known.keys() and found_vae.keys() == vae.keys()
    for name, tensor in known.items():
        assert (found[name].float() - tensor).abs().max() <= rel * tensor.abs().max(), name
    for name, tensor in vae.items():
        torch.testing.assert_close(found_vae[name].float(), tensor, rtol=2**-8, atol=1e-6)
    return system


def cast_state(module: Any) -> dict[str, Tensor]:
    return module.state_dict()


def loading_of(model: str, tmp_path: Path, **named: Any) -> Loading:
    template = None if model == "contentv" else tmp_path / ("video_i2v.txt" if "i2v" in model else "video.txt")
    parts: dict[str, Any] = {name: str(path) for name, path in named.items()}
    return Loading(template=template, **parts)


@pytest.mark.parametrize("model", ["hunyuan", "hunyuan-i2v", "hunyuan-avatar"])
def test_official_folder_is_found_from_every_level(model: str, tmp_path: Path) -> None:
    for level in write_official(tmp_path, model):
        system = assert_loads(model, loading_of(model, tmp_path, weights=level))
        assert {name: said["from"] for name, said in system.origin().items() if name != "network"} == {
            "autoencoder": str(tmp_path / "HunyuanVideo" / "ckpts" / "hunyuan-video-t2v-720p" / "vae"),
            "text_encoders": str(tmp_path / "HunyuanVideo" / "ckpts"),
        }


@pytest.mark.parametrize("model", list(FAMILIES))
def test_diffusers_folder_is_found_from_every_level(model: str, tmp_path: Path) -> None:
    for level in write_diffusers(tmp_path, model, {}):
        assert_loads(model, loading_of(model, tmp_path, weights=level))


@pytest.mark.parametrize("model", list(FAMILIES))
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_split_files_of_comfyui_are_joined(
    model: str, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors, _ = vae_names(model, "official")  # without a config: they are of the published shape
    monkeypatch.setattr(hunyuan_autoencoder, "PRESETS", {"884-16c": hunyuan_autoencoder.PRESETS["tiny"]})
    monkeypatch.setattr(wan, "PRESETS", {"2.1": wan.PRESETS["tiny"], "tiny": wan.PRESETS["tiny"]})
    monkeypatch.setitem(hunyuan_autoencoder.PRESETS, "tiny", hunyuan_autoencoder.PRESETS["884-16c"])
    for name in ("diffusion_models", "vae", "text_encoders"):
        (tmp_path / "models" / name).mkdir(parents=True)
    file = tmp_path / "models" / "diffusion_models" / "film_bf16.safetensors"
    save_file({prefix + name: part for name, part in names_of(model, network_of(model), "official").items()}, file)
    save_file(tensors, tmp_path / "models" / "vae" / "film_vae_bf16.safetensors")
    save_file({"text_model.w": torch.ones(1)}, tmp_path / "models" / "text_encoders" / "clip_l.safetensors")
    write_encoders(tmp_path / "encoders", model)
    for level in (tmp_path / "models", file):
        assert_loads(model, loading_of(model, tmp_path, weights=level, text_encoders=tmp_path / "encoders"))
    clip = tmp_path / "models" / "text_encoders" / "clip_l.safetensors"
    loading = loading_of(model, tmp_path, weights=file, text_encoders=clip)
    with pytest.raises(WeightsError, match=r"no tokenizer: give the folder that holds"):
        outline(f"{model}/tiny", loading)


@pytest.mark.parametrize("model", list(FAMILIES))
@pytest.mark.parametrize(("kind", "rel"), [("BF16", 2**-8), ("Q8_0", 2**-6)])
def test_gguf_file_is_joined_with_an_autoencoder_and_encoders(
    model: str, kind: str, rel: float, tmp_path: Path
) -> None:
    pytest.importorskip("gguf")
    write_gguf(tmp_path / "film.gguf", names_of(model, network_of(model), "official"), kind, says_shape=False)
    folder = write_diffusers(tmp_path / "else", model, {})[0]
    parts = {"vae": folder / "vae" / "diffusion_pytorch_model.safetensors", "text_encoders": folder / "text_encoder_2"}
    assert_loads(model, loading_of(model, tmp_path, weights=tmp_path / "film.gguf", **parts), rel)


def test_config_beside_the_weights_decides_their_size(tmp_path: Path) -> None:
    said = {"num_layers": 2, "num_single_layers": 2, "num_attention_heads": 2, "attention_head_dim": 16}
    said |= {"rope_axes_dim": [4, 6, 6], "out_channels": 4, "text_embed_dim": 12, "pooled_projection_dim": 8}
    said |= {"_class_name": "HunyuanVideoTransformer3DModel", "patch_size": 2, "patch_size_t": 1, "rope_theta": 256.0}
    folder = write_diffusers(tmp_path, "hunyuan", said)[0]
    loading = loading_of("hunyuan", tmp_path, weights=folder)
    for preset in ("t2v", "t2v-undistilled"):
        wanted = hunyuan.PRESETS["tiny"]
        if preset == "t2v":
            assert outline(f"hunyuan/{preset}", loading).config == wanted
            assert load(f"hunyuan/{preset}", "cpu", loading).config == wanted
        else:  # what it does not say is the preset's
            with pytest.raises(WeightsError, match=r"4 unknown: time_text_embed\.guidance_embedder"):
                outline(f"hunyuan/{preset}", loading)
    path = folder / "transformer" / "config.json"
    path.write_text(json.dumps(said | {"num_refiner_layers": 3}))
    with pytest.raises(MutoscopeError, match="num_refiner_layers=3"):
        outline("hunyuan", loading)


def test_autoencoder_of_other_latents_is_refused(tmp_path: Path) -> None:
    folder = write_diffusers(tmp_path, "hunyuan", {})[0]
    config = hunyuan_autoencoder.HunyuanConfig(latent_channels=8, dims=(8, 16, 16, 16), depth=1, groups=4)
    vae = random(hunyuan_autoencoder.HunyuanAutoencoder(config))
    weights.save(tmp_path / "vae.safetensors", vae.state_dict(), {"config": json.dumps(vars(config))})
    loading = loading_of("hunyuan", tmp_path, weights=folder, vae=tmp_path / "vae.safetensors")
    with pytest.raises(WeightsError, match=r"latents of 8 channels, and hunyuan/tiny takes 4\. .* \(--vae\)"):
        load("hunyuan/tiny", "cpu", loading)


def test_parts_that_are_nowhere_are_named_with_their_options(tmp_path: Path) -> None:
    save_file(names_of("hunyuan", network_of("hunyuan"), "official"), tmp_path / "film.safetensors")
    loading = loading_of("hunyuan", tmp_path, weights=tmp_path / "film.safetensors")
    with pytest.raises(WeightsError, match=r"hub cannot be asked: .* --vae FILE, --text-encoders FOLDER"):
        load("hunyuan/tiny", "cpu", loading)


def test_path_of_weights_is_checked_before_memory_is_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mutoscope.apps.jobs.available_bytes", lambda _: 1000)
    words = ["mutoscope", "generate", "a kite", "--model", "hunyuan", "--out", str(tmp_path / "a.mp4")]
    words += ["--template", str(tmp_path / "video.txt"), "--device", "cpu"]
    for option, value in (("--weights", "/nowhere"), ("--vae", "/nowhere"), ("--text-encoders", "/nowhere")):
        monkeypatch.setattr("sys.argv", [*words, option, value])
        with pytest.raises(SystemExit):
            cli.main()
        assert capsys.readouterr().err.startswith("error: there are no weights at /nowhere")


def test_what_a_system_was_read_from_is_known_by_its_bytes(tmp_path: Path) -> None:
    folder = write_diffusers(tmp_path, "hunyuan", {})[0]
    loading = loading_of("hunyuan", tmp_path, weights=folder)
    system = load("hunyuan/tiny", "cpu", loading)
    files = sorted((folder / "transformer").glob("*.safetensors"))
    known = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    assert system.origin()["network"] == {"from": str(folder), "sha256": known}
    assert len(system.fingerprint) == 64
    assert load("hunyuan/tiny", "cpu", loading).fingerprint == system.fingerprint
    vae = folder / "vae" / "diffusion_pytorch_model.safetensors"
    save_file({name: 2 * part for name, part in vae_names("hunyuan", "diffusers")[0].items()}, vae)
    assert load("hunyuan/tiny", "cpu", loading).fingerprint != system.fingerprint


def test_official_folder_becomes_a_video_whose_command_makes_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers")
    from tests.encoders import hub_folders

    monkeypatch.setitem(hub_folders.LLAMA, "hidden_size", hunyuan.PRESETS["tiny"].text_dim)
    root = write_official(tmp_path, "hunyuan")[0]
    for name in ENCODERS["hunyuan"]:
        (root / "ckpts" / name / "model.safetensors").unlink()
    hub_folders.write_llama(root / "ckpts" / "text_encoder")
    hub_folders.write_clip(root / "ckpts" / "text_encoder_2", root / "ckpts" / "text_encoder_2", projects=False)
    out = tmp_path / "film.mp4"
    words = ["mutoscope", "generate", "a red kite", "--model", "hunyuan/tiny", "--weights", str(root), "--steps", "1"]
    words += ["--template", str(tmp_path / "video.txt"), "--num-frames", "5", "--height", "32", "--width", "48"]
    monkeypatch.setattr("sys.argv", [*words, "--device", "cpu", "--out", str(out)])
    cli.main()
    record = json.loads(Path(f"{out}.json").read_text(encoding="utf-8"))
    assert len(record["weights_sha256"]) == 64
    assert record["weights"]["network"]["sha256"].keys() == {"mp_rank_00_model_states.pt"}
    again = [str(tmp_path / "again.mp4") if word == str(out) else word for word in record["command"]]
    monkeypatch.setattr("sys.argv", again)
    cli.main()
    assert (tmp_path / "again.mp4").read_bytes() == out.read_bytes()
    assert capsys.readouterr().out.split() == [str(out), str(tmp_path / "again.mp4")]
    hub_folders.LLAMA["hidden_size"] = 16
    hub_folders.write_llama(root / "ckpts" / "text_encoder")
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit):
        cli.main()
    assert "make tokens of 16 numbers, and hunyuan/tiny takes 12. Name those" in capsys.readouterr().err


def test_published_configs_are_those_of_the_presets() -> None:
    said = {"num_layers": 20, "num_single_layers": 40, "num_attention_heads": 24, "attention_head_dim": 128}
    said |= {"mlp_ratio": 4.0, "patch_size": 2, "patch_size_t": 1, "in_channels": 16, "out_channels": 16}
    said |= {"rope_axes_dim": [16, 56, 56], "rope_theta": 256.0, "guidance_embeds": True, "num_refiner_layers": 2}
    said |= {"text_embed_dim": 4096, "pooled_projection_dim": 768, "qk_norm": "rms_norm"}
    assert hunyuan.configured(hunyuan.PRESETS["tiny"], said) == hunyuan.PRESETS["t2v"]
    assert hunyuan_i2v.configured(hunyuan_i2v.PRESETS["replace"], said) == hunyuan_i2v.PRESETS["replace"]
    said |= {"in_channels": 33, "guidance_embeds": False, "image_condition_type": "latent_concat"}
    assert hunyuan_i2v.configured(hunyuan_i2v.PRESETS["concat"], said) == hunyuan_i2v.PRESETS["concat"]
    said = {"num_layers": 38, "num_attention_heads": 38, "attention_head_dim": 64, "in_channels": 16, "patch_size": 2}
    said |= {"joint_attention_dim": 4096, "pooled_projection_dim": 2048, "sample_size": 128}
    assert contentv.configured(contentv.PRESETS["tiny"], said) == contentv.PRESETS["8B"]
