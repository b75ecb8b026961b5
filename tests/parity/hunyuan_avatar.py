"""HunyuanVideo-Avatar: the network, whole and with the trunk of an earlier step."""

from torch import Tensor

from mutoscope.core import weights
from mutoscope.models.hunyuan_avatar import Condition, Config, HunyuanAvatar, keys
from tests.parity import hunyuan
from tests.parity.runner import Case


def config_of(case: Case) -> Config:
    published = case.config
    text = {"text_states_dim", "text_states_dim_2"}
    network = published.get("transformer", published)
    text_dim, pooled_dim = (published[name] for name in sorted(text))
    renamed = {
        "heads_num": network["num_heads"],
        "mm_double_blocks_depth": network["depth_double_blocks"],
        "mm_single_blocks_depth": network["depth_single_blocks"],
    }
    projection = published["audio_proj"]
    return Config(
        hunyuan.config_of({**network, **renamed}, text_dim, pooled_dim),
        listeners=tuple(index for index in published["double_stream_list"] if index < network["depth_double_blocks"]),
        listener_dim=published["audio_adapter_blocks"]["dim_head"],
        audio_window=projection["seq_len"],
        audio_layers=projection["blocks"],
        audio_dim=projection["channels"],
        audio_hidden=projection["intermediate_dim"],
        audio_tokens=projection["context_tokens"],
    )


def build(config: Config, official: dict[str, Tensor]) -> HunyuanAvatar:
    """Fill our network; adapters after the last of `listeners` are in the files and change nothing."""
    network = HunyuanAvatar(config)
    names = keys(config)["official"]
    known = {name for key in names for name in key.theirs}
    extra = [name for name in official if name not in known and not name.startswith("audio_adapter_blocks.")]
    assert extra == []
    used = {name: tensor for name, tensor in official.items() if name in known}
    weights.load_into(network, weights.to_ours(used, names, source="golden"), source="golden")
    return network


def transformer(case: Case) -> dict[str, Tensor]:
    config = config_of(case)
    network = build(config, case.weights)
    cond = Condition(
        hunyuan.condition_of(case, ("text_states", "text_mask", "text_states_2")),
        case.input("ref_latents"),
        case.input("audio_prompts"),
        case.input("face_mask"),
        case.input("motion_pose").float(),
        case.input("motion_exp").float(),
        case.input("fps").float(),
    )
    x, t = case.input("x"), hunyuan.thousandths(case.input("t"))
    vec, layout = network.vec(t, cond), network.layout(x.shape[2:], cond)
    trunk = network.trunk(x, t, cond, vec, layout)
    found = {"out.x": network.tip(trunk, vec, layout)}
    if "in.t_cached" in case.io:
        later = network.vec(hunyuan.thousandths(case.input("t_cached")), cond)
        found["out.x_is_cache"] = network.tip(trunk, later, layout)
    return found


COMPONENTS = {("HunyuanVideo-Avatar", "transformer"): transformer}
