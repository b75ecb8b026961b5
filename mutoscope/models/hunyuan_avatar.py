"""HunyuanVideo-Avatar: a picture of somebody and a voice to a video of them speaking; HunyuanVideo with an ear.

Paper: Chen et al., "HunyuanVideo-Avatar: High-Fidelity Audio-Driven Human Animation for Multiple Characters", arXiv
2505.20156. The network is that of the released code, which differs from the paper's. The weights are under the Tencent
Hunyuan Community License, with its limits on territory and use: see `hunyuan`.

    reference B C T H W -> patches of its own, added to those of the noisy latents; and its first frame once more, as
                           one frame of tokens before all others, at time -1
    audio B F 10 5 Da   -> 4 tokens of each video frame -> 16 tokens of each latent frame
    vec B D             <- time + pooled text + strength of head movement + of expression + frames a second
    double blocks       as in `hunyuan`; after every second one the tokens of a latent frame read its audio, where the
                        face is
    single blocks, head as in `hunyuan`; the tokens of the reference are left out at the end

The published sampling loop recomputes only the last single block in some steps. Here that is to keep what `trunk`
returned and to call `tip` alone. The loop itself is `tasks.avatar`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from mutoscope.autoencoders.hunyuan import HunyuanAutoencoder
from mutoscope.core.errors import RecipeError, RequestError
from mutoscope.core.weights import Key
from mutoscope.diffusion.flow import FlowMatching
from mutoscope.diffusion.guidance import Guidance
from mutoscope.encoders.base import TextTokens
from mutoscope.encoders.llm import published_template, read_template
from mutoscope.encoders.person import FOLDERS, LOOKS, PersonClip
from mutoscope.models import hunyuan
from mutoscope.models.family import Accepts, Clips, Facts, Family, Reader, Release, Sampling
from mutoscope.models.hunyuan import FREQUENCIES, Hunyuan, Layout, PatchEmbed
from mutoscope.nn.attention import attend
from mutoscope.nn.embed import Embed, sinusoid

VIDEO_FRAMES = 4  # of one latent frame; the first latent frame is one video frame, whose audio counts four times
POSE, EXPRESSION, FPS = 25.0, 30.0, 25.0  # what the published commands say unless asked otherwise
STRENGTHS = 4  # numbers that say how strong a movement is
NEGATIVE = f"{hunyuan.NEGATIVE}, blurring, Lens changes"


@dataclass(frozen=True)
class Config:
    """The shape of the network.

    Args:
        base: of the network that it grew from, without guidance.
        listeners: double blocks after which the tokens read the audio, counted from 0.
        listener_dim: width of that one head of attention.
        audio_window: features of sound around each video frame.
        audio_layers: layers of the audio encoder that they come from, its embedding included.
        audio_dim: width of the features.
        audio_hidden: width inside the projection of audio.
        audio_tokens: tokens made of each window.
    """

    base: hunyuan.Config
    listeners: tuple[int, ...] = (1, 3, 5, 7, 9, 11, 13, 15, 17, 19)
    listener_dim: int = 1024
    audio_window: int = 10
    audio_layers: int = 5
    audio_dim: int = 384
    audio_hidden: int = 1024
    audio_tokens: int = 4

    def __post_init__(self) -> None:
        if self.base.embeds_guidance:
            raise RecipeError("base is told a scale of guidance. Use embeds_guidance=False.")
        if any(not 0 <= index < self.base.depth for index in self.listeners):
            raise RecipeError(
                f"listeners={list(self.listeners)} name double blocks, but base has {self.base.depth}. Use 0 to "
                f"{self.base.depth - 1}."
            )

    @property
    def patch_size(self) -> tuple[int, int, int]:
        """Latent frames, rows and columns of a token."""
        return self.base.patch_size

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        return self.base.latent_channels

    @property
    def text_dim(self) -> int:
        """Width of the text tokens."""
        return self.base.text_dim

    @property
    def pooled_dim(self) -> int:
        """Width of the pooled text."""
        return self.base.pooled_dim


PRESETS = MappingProxyType(
    {
        "base": Config(hunyuan.Config(embeds_guidance=False)),
        "tiny": Config(
            hunyuan.Config(
                depth=2,
                single_depth=2,
                dim=32,
                num_heads=2,
                rope_dims=(4, 6, 6),
                latent_channels=4,
                text_dim=12,
                pooled_dim=8,
                embeds_guidance=False,
            ),
            listeners=(1,),
            listener_dim=8,
            audio_window=3,
            audio_layers=2,
            audio_dim=4,
            audio_hidden=16,
        ),
    }
)


@dataclass(frozen=True)
class Condition:
    """What the network sees besides latents and time; `condition` makes one.

    Args:
        text: as in `hunyuan`.
        reference: latents of the picture, repeated for as many frames as the video has.
        audio: features of sound around each of the F = 4 T - 3 video frames.
        face: how far each latent may follow the audio, 0 to 1; of one frame, or of each.
        pose: strength of head movement, as four numbers.
        expression: strength of facial expression, as four numbers.
        fps: frames a second.
    """

    text: hunyuan.Condition
    reference: Float[Tensor, "B C T H W"]
    audio: Float[Tensor, "B F window layers Da"]
    face: Float[Tensor, "B 1 f H W"]
    pose: Float[Tensor, "B 4"]
    expression: Float[Tensor, "B 4"]
    fps: Float[Tensor, " B"]

    def _tensors(self) -> tuple[Tensor, ...]:
        return self.reference, self.audio, self.face, self.pose, self.expression, self.fps

    def __getitem__(self, rows: slice) -> "Condition":
        return Condition(self.text[rows], *(tensor[rows] for tensor in self._tensors()))

    def to(self, device: torch.device | str) -> "Condition":
        """Return the same on another device."""
        return Condition(self.text.to(device), *(tensor.to(device) for tensor in self._tensors()))

    @classmethod
    def cat(cls, parts: Sequence["Condition"]) -> "Condition":
        """Join batches along the samples, padding text to the longest."""
        tensors = zip(*(part._tensors() for part in parts), strict=True)
        return cls(hunyuan.Condition.cat([part.text for part in parts]), *map(torch.cat, tensors))


class HunyuanAvatar(nn.Module):
    """The network. Clock and sign are those of `diffusion.process`: t = 1 is noise, velocity = noise - data.

    `forward` is `trunk` and then `tip`, as in `hunyuan.Hunyuan`.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        dim = config.base.dim
        self.base = Hunyuan(config.base)
        self.reference = PatchEmbed(config.latent_channels, dim, config.patch_size)
        self.reference_out = nn.Linear(dim, dim)
        self.pose = Embed(FREQUENCIES, dim // STRENGTHS)
        self.expression = Embed(FREQUENCIES, dim // STRENGTHS)
        self.fps = Embed(FREQUENCIES, dim)
        self.audio = AudioTokens(config)
        self.listeners = nn.ModuleList(Listener(dim, config.listener_dim) for _ in config.listeners)
        nn.init.xavier_uniform_(self.reference.weight.data.flatten(1))

    def forward(
        self, x: Float[Tensor, "B C T H W"], t: Float[Tensor, " B"], cond: Condition
    ) -> Float[Tensor, "B C T H W"]:
        """Return the velocity.

        Args:
            x: noisy latents; T, H, W multiples of the patch.
            t: time of each sample, in [0, 1].
            cond: of the same samples.

        Returns:
            The velocity, in the dtype of `x`.
        """
        vec, layout = self.vec(t, cond), self.layout(x.shape[2:], cond)
        return self.tip(self.trunk(x, t, cond, vec, layout), vec, layout).to(x.dtype)

    def vec(self, t: Float[Tensor, " B"], cond: Condition) -> Float[Tensor, "B 1 D"]:
        """Return what modulates every block."""
        vec, dtype = self.base.time_and_text(t, cond.text), self.base.dtype
        for embed, strengths in ((self.pose, cond.pose), (self.expression, cond.expression)):
            vec = vec + embed(sinusoid(strengths, FREQUENCIES).to(dtype)).flatten(1)
        return F.silu(vec + self.fps(sinusoid(cond.fps, FREQUENCIES).to(dtype)))[:, None]

    def layout(self, size: Sequence[int], cond: Condition) -> Layout:
        """Say where the tokens are, of latents of `size` T H W, after the one frame of the reference."""
        return self.base.layout(size, cond.text, earlier=1)

    def trunk(
        self,
        x: Float[Tensor, "B C T H W"],
        t: Float[Tensor, " B"],
        cond: Condition,
        vec: Float[Tensor, "B 1 D"],
        layout: Layout,
    ) -> Float[Tensor, "B M D"]:
        """Return the tokens before the last single block: of the reference, of the video, then of the text."""
        frames, height, width = layout.grid
        reference = cond.reference.to(self.base.dtype)
        image = torch.cat(
            [
                self.base.patch(reference[:, :, :1]),
                self.base.patch(x.to(self.base.dtype)) + self.reference_out(self.reference(reference)),
            ],
            dim=1,
        )
        text = self.base.refine(cond.text, t, layout)
        audio = self.audio(cond.audio.to(self.base.dtype))
        face = F.interpolate(cond.face.to(self.base.dtype), (frames - 1, height, width)).flatten(2).mT  # nearest
        listeners = dict(zip(self.config.listeners, self.listeners, strict=True))
        for index, block in enumerate(self.base.doubles):
            image, text = block(image, text, vec, layout)
            if index in listeners:
                anchor, video = image[:, : height * width], image[:, height * width :]
                image = torch.cat([anchor, torch.addcmul(video, face, listeners[index](video, audio))], dim=1)
        return self.base.merge(image, text, vec, layout)

    def tip(
        self, tokens: Float[Tensor, "B M D"], vec: Float[Tensor, "B 1 D"], layout: Layout
    ) -> Float[Tensor, "B C T H W"]:
        """Return the velocity that the tokens before the last single block come to."""
        _, height, width = layout.grid
        tokens = self.base.singles[-1](tokens, vec, layout)
        return self.base.draw(tokens[:, height * width : layout.image_length], vec, layout)


class AudioTokens(nn.Module):
    """Windows of audio features to tokens of each latent frame, by a perceptron with ReLU."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.tokens, dim = config.audio_tokens, config.base.dim
        window = config.audio_window * config.audio_layers * config.audio_dim
        self.project = nn.Sequential(
            nn.Linear(window, config.audio_hidden),
            nn.ReLU(),
            nn.Linear(config.audio_hidden, config.audio_hidden),
            nn.ReLU(),
            nn.Linear(config.audio_hidden, self.tokens * dim),
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, audio: Float[Tensor, "B F window layers Da"]) -> Float[Tensor, "B T m D"]:
        x = self.norm(rearrange(self.project(audio.flatten(2)), "B F (m D) -> B F m D", m=self.tokens))
        x = torch.cat([x[:, :1].expand(-1, VIDEO_FRAMES - 1, -1, -1), x], dim=1)
        return rearrange(x, "B (T f) m D -> B T (f m) D", f=VIDEO_FRAMES)


class Listener(nn.Module):
    """Attention, with one head and no biases, from the tokens of each latent frame to those of its audio."""

    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        self.audio_norm = nn.LayerNorm(dim)
        self.video_norm = nn.LayerNorm(dim)
        self.q = nn.Linear(dim, inner, bias=False)
        self.kv = nn.Linear(dim, 2 * inner, bias=False)
        self.out = nn.Linear(inner, dim, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, video: Float[Tensor, "B L D"], audio: Float[Tensor, "B T m D"]) -> Float[Tensor, "B L D"]:
        q = rearrange(self.q(self.video_norm(video)), "B (T L) K -> (B T) 1 L K", T=audio.shape[1])
        k, v = rearrange(self.kv(self.audio_norm(audio)), "B T m (two K) -> two (B T) 1 m K", two=2)
        return self.out(rearrange(attend(q, k, v), "(B T) 1 L K -> B (T L) K", B=len(video)))


def condition(
    text: TextTokens,
    facts: Sequence[Facts],
    *,
    reference: Float[Tensor, "B C T H W"] | None = None,
    audio: Float[Tensor, "B F window layers Da"] | None = None,
    face: Float[Tensor, "B 1 f H W"] | None = None,
    pose: float = POSE,
    expression: float = EXPRESSION,
    fps: float = FPS,
) -> Condition:
    """Make the condition of a batch.

    Args:
        text: encoded prompts.
        facts: of each sample; not looked at.
        reference: latents of the picture, repeated in time.
        audio: features of sound around each video frame.
        face: where the face is, in latents; None for everywhere.
        pose: strength of head movement.
        expression: strength of facial expression.
        fps: frames a second.

    Raises:
        RequestError: there is no picture or no sound.
    """
    if reference is None or audio is None:
        missing = "picture of somebody" if reference is None else "voice"
        raise RequestError(f"hunyuan_avatar needs a {missing}, beside the prompt. Give it, or use the model hunyuan.")
    count = len(reference)
    return Condition(
        hunyuan.condition(text, facts),
        reference,
        audio,
        reference.new_ones(count, 1, 1, *reference.shape[3:]) if face is None else face,
        reference.new_full((count, STRENGTHS), pose),
        reference.new_full((count, STRENGTHS), expression),
        reference.new_full((count,), fps),
    )


def example(config: Config, text: TextTokens, facts: Sequence[Facts], size: Sequence[int]) -> Condition:
    """Make up a condition for latents of `size` T H W, from nothing but the text: for tests and timings."""
    rng, count = torch.Generator().manual_seed(0), len(text.pooled)
    frames = VIDEO_FRAMES * size[0] - (VIDEO_FRAMES - 1)
    windows = (frames, config.audio_window, config.audio_layers, config.audio_dim)
    return condition(
        text,
        facts,
        reference=torch.randn(count, config.latent_channels, *size, generator=rng),
        audio=torch.randn(count, *windows, generator=rng),
        face=torch.rand(count, 1, 1, *size[1:], generator=rng),
    )


def reader(config: Config, template: Path | None) -> Reader:
    """Say how prompts are read: in HunyuanVideo's template, with the person that they are about."""
    del config
    around = published_template("video") if template is None else read_template(template, ("video",))
    return Reader(lambda path: PersonClip.load(path, around), (around.text, LOOKS), FOLDERS)


_OWN = {  # our modules -> their official names
    "reference": "ref_in.proj",
    "reference_out": "before_proj",
    "pose.0": "motion_pose.mlp.0",
    "pose.2": "motion_pose.mlp.2",
    "expression.0": "motion_exp.mlp.0",
    "expression.2": "motion_exp.mlp.2",
    "fps.0": "fps_proj.mlp.0",
    "fps.2": "fps_proj.mlp.2",
    "audio.project.0": "audio_proj.proj1",
    "audio.project.2": "audio_proj.proj2",
    "audio.project.4": "audio_proj.proj3",
    "audio.norm": "audio_proj.norm",
}
_LISTENER = {  # the same, of each listener, without and with biases
    "q": "to_q",
    "kv": "to_kv",
    "out": "to_out",
    "audio_norm": "norm1",
    "video_norm": "norm2",
}


def keys(config: Config) -> Mapping[str, tuple[Key, ...]]:
    """Return the names of all our tensors in the official files."""
    base = [key._replace(ours=f"base.{key.ours}") for key in hunyuan.keys(config.base)["official"]]
    own = [Key(f"{ours}.{end}", (f"{theirs}.{end}",)) for ours, theirs in _OWN.items() for end in ("weight", "bias")]
    listeners = [
        Key(f"listeners.{index}.{ours}.{end}", (f"audio_adapter_blocks.{index}.{theirs}.{end}",))
        for index in range(len(config.listeners))
        for ours, theirs in _LISTENER.items()
        for end in (("weight", "bias") if ours.endswith("norm") else ("weight",))
    ]
    return {"official": (*base, *own, *listeners)}


FAMILY = Family(
    name="hunyuan_avatar",
    network=HunyuanAvatar,
    presets=PRESETS,
    default="base",
    parameters=MappingProxyType({"base": 12_991_493_184, "tiny": 181_072}),
    process=FlowMatching(),
    autoencoder=HunyuanAutoencoder,
    encoder=PersonClip,
    condition=condition,
    sampling=Sampling(steps=50, sampler="euler", guidance=Guidance(text_scale=7.5), shift=5.0),  # as in its scripts
    accepts=Accepts(given="none"),
    keys=keys,
    example=example,
    negative=NEGATIVE,
    sees_pictures=True,
    speaks=True,
    reader=reader,
    quantized=("base.doubles.", "base.singles."),  # as in the published code
    release=Release(
        weights=MappingProxyType({"base": ("hub:tencent/HunyuanVideo-Avatar/ckpts/hunyuan-video-t2v-720p",)}),
        licence="Tencent Hunyuan Community License (not for use in the EU, the UK and South Korea)",
        url="https://huggingface.co/tencent/HunyuanVideo-Avatar",
        clips=Clips(num_frames=129, height=704, width=1216, fps=25),
        text_tokens=831,  # 255 of the prompt, 576 of the picture
        encoder_parameters=7_952_734_464,  # the language model of 7.505B, its eye, and CLIP-L
        autoencoder_dtype=torch.float16,
    ),
)
