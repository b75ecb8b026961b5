"""A language model as text encoder: Llama for HunyuanVideo, and Llava, which sees a picture too, for its I2V.

    template with the prompt in it -> ids -> Llama, but for its last two layers and norm -> what follows the opening of
    the template: tokens B S 4096, S as the longest prompt needs; and CLIP-L's pooled state: pooled B 768

    with a picture: `<image>` in the template becomes 576 tokens of it, of which every 4th (or 2nd) goes in front of the
    prompt's; the four tokens of the assistant's header, near the end, are dropped

Weights: xtuner/llava-llama-3-8b-v1_1-transformers (Llama 3 Community Licence) and openai/clip-vit-large-patch14 (MIT).
The templates are not ours to copy: they are read out of the source of an installed `diffusers`, which is not imported,
or from a file, and known by their hash (`published_template`, `read_template`).

Ours differs in what it does not compute, padding and unread layers, and in refusing a prompt that is too long, of which
the published code cuts off the end.
"""

import ast
import hashlib
import importlib.util
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from mutoscope.core.errors import RequestError, WeightsError
from mutoscope.encoders.base import TextTokens
from mutoscope.encoders.clip import ClipText, clip_pixels
from mutoscope.encoders.pretrained import (
    load_config,
    load_network,
    load_tokenizer,
    needs_transformers,
    pad,
    token_ids,
)

LENGTH = 256  # tokens of a prompt, what closes the template among them
SKIPPED = 2  # layers of the language model above the one that is read
HEADER = 4  # tokens of the assistant's header; the published code drops those before the last empty line
EMPTY_LINE = 271  # number of the token that is two line feeds
STRIDE = 4  # of the picture's tokens

TemplateName = Literal["video", "image", "video_i2v", "image_i2v"]


class Published(NamedTuple):
    """What is known of a template without having it."""

    sha256: str
    opening: int
    """Tokens in front of the prompt, the one that opens every text included."""
    module: str | None = None
    """Where `diffusers` has it."""


PUBLISHED: Mapping[TemplateName, Published] = MappingProxyType(
    {
        "video": Published(
            "a52f68dde3637b127592fffe9e2483a5d0563987a49db6ddb9b06146f2ba7cb5", 95, "pipeline_hunyuan_video"
        ),
        "image": Published("e6794c248e31c8efee73f33028bbb095324ec79e0b05dfae78b373b0abd4fb98", 36),
        "video_i2v": Published(
            "7f45a330cc8fa70b613010c4fb6b4315a991c39eef7a405df46cb2591a547a21",
            103,
            "pipeline_hunyuan_video_image2video",
        ),
        "image_i2v": Published("d5e508d91078ada4bb3ad22cf2508816eb89f99f332d382b9aa041580dc29ea5", 36),
    }
)


@dataclass(frozen=True)
class Template:
    """What stands around a prompt.

    Args:
        text: with ``{}`` where the prompt goes.
        opening: tokens in front of the prompt, which are not read.
    """

    text: str
    opening: int

    def around(self, prompt: str) -> str:
        """Return the template with a prompt in it."""
        return self.text.format(prompt.strip())


def published_template(name: TemplateName) -> Template:
    """Take a template out of the source of an installed `diffusers`, of which nothing is run.

    Raises:
        RequestError: `diffusers` is not installed, or does not have the template as it was published.
    """
    known = PUBLISHED[name]
    advice = "Type: pip install 'diffusers>=0.33', or give the template in a file (--template)."
    if known.module is None:
        raise RequestError(f"HunyuanVideo's template {name!r} is not in diffusers either. Give it in a file.")
    package = importlib.util.find_spec("diffusers")
    if package is None or not package.submodule_search_locations:
        raise RequestError(f"HunyuanVideo's prompt template does not come with this package. {advice}")
    folder = Path(package.submodule_search_locations[0])
    source = folder / "pipelines" / "hunyuan_video" / f"{known.module}.py"
    text = _assigned(source, "DEFAULT_PROMPT_TEMPLATE").get("template") if source.is_file() else None
    if not isinstance(text, str) or _sha256(text) != known.sha256:
        raise RequestError(f"the diffusers in {folder} does not have HunyuanVideo's template as published. {advice}")
    return Template(text, known.opening)


def read_template(path: Path, among: Collection[TemplateName] = tuple(PUBLISHED)) -> Template:
    """Read a template from a file, and tell by its hash which it is.

    Args:
        path: UTF-8 text; one line feed at the end may be too many.
        among: the templates that will do.

    Raises:
        RequestError: it cannot be read, or is not as published.
    """
    try:
        text = path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"cannot read the template {path}: {error}. Give a file of UTF-8 text.") from error
    for name, known in PUBLISHED.items():
        for candidate in (text, text.removesuffix("\n")):
            if _sha256(candidate) == known.sha256:
                if name not in among:
                    raise RequestError(f"{path} is the template {name}; this model needs {' or '.join(among)}.")
                return Template(candidate, known.opening)
    raise RequestError(
        f"{path} is none of HunyuanVideo's templates: each has its own SHA-256, and not {_sha256(text)[:12]}... "
        "Copy one from hyvideo/constants.py of the published code, to the letter."
    )


def _assigned(source: Path, name: str) -> dict[str, Any]:
    """Return the literal that a module assigns to a name, without running the module."""
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            try:
                value = ast.literal_eval(node.value)
            except ValueError:
                return {}
            return value if isinstance(value, dict) else {}
    return {}


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class Llama(nn.Module):
    """A frozen Llama that is read below its top.

    Args:
        network: `LlamaModel` of `transformers`, its last layer the one to read.
        tokenizer: its tokenizer; None to encode numbers only.
    """

    def __init__(self, network: nn.Module, tokenizer: Any = None) -> None:
        super().__init__()
        self.network: Any = network
        self.tokenizer = tokenizer

    @classmethod
    def load(
        cls,
        folder: Path,
        tokenizer: Path | None,
        *,
        skipped: int = SKIPPED,
        normed: bool = False,
        dtype: torch.dtype | None = None,
    ) -> "Llama":
        """Read a model without what lies above the layer that is read.

        Args:
            folder: with config and weights.
            tokenizer: folder of its tokenizer; None to encode numbers only.
            skipped: layers left out at the top.
            normed: put the model's final norm on the layer that is read.
            dtype: to run in; None for that of the weights.

        Raises:
            MissingExtra: `transformers` is not installed.
            WeightsError: a folder does not hold what it should.
        """
        with needs_transformers("Llama"):
            from transformers import LlamaModel
        words = load_tokenizer(tokenizer) if tokenizer is not None else None
        config = load_config(folder)
        unread = _shorten(config, skipped)
        network = load_network(LlamaModel, folder, config, unread=unread, dtype=dtype)
        if not normed:
            network.norm = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
        return cls(network, words)

    def forward(self, ids: Int[Tensor, "B S"], mask: Bool[Tensor, "B S"]) -> Float[Tensor, "B S D"]:
        """Return the states of numbers of tokens, padded behind."""
        return self.network(input_ids=ids, attention_mask=mask.long(), use_cache=False).last_hidden_state


class Llava(nn.Module):
    """A frozen Llama, read below its top, that sees a picture in the place of one token.

    Args:
        network: `LlavaModel` of `transformers`, the last layer of its language model the one to read.
        tokenizer: its tokenizer; None to encode numbers only.
        empty_line: number of the token that is two line feeds.
    """

    def __init__(self, network: nn.Module, tokenizer: Any = None, empty_line: int = EMPTY_LINE) -> None:
        super().__init__()
        self.network: Any = network
        self.tokenizer, self.empty_line = tokenizer, empty_line
        self.side = self.network.config.vision_config.image_size  # of its pictures, in pixels

    @classmethod
    def load(
        cls,
        folder: Path,
        tokenizer: Path | None,
        *,
        skipped: int = SKIPPED,
        empty_line: int = EMPTY_LINE,
        dtype: torch.dtype | None = None,
    ) -> "Llava":
        """Read a model without what lies above the layer that is read.

        Args:
            folder: with config and weights.
            tokenizer: folder of its tokenizer; None to encode numbers only.
            skipped: layers of the language model left out at the top.
            empty_line: number of the token that is two line feeds.
            dtype: to run in; None for that of the weights.

        Raises:
            MissingExtra: `transformers` is not installed.
            WeightsError: a folder does not hold what it should.
        """
        with needs_transformers("Llava"):
            from transformers import LlavaModel
        words = load_tokenizer(tokenizer) if tokenizer is not None else None
        config = load_config(folder)
        unread = _shorten(config.text_config, skipped)
        network = load_network(LlavaModel, folder, config, unread=unread, dtype=dtype)
        network.language_model.norm = nn.Identity()
        return cls(network, words, empty_line)

    def forward(
        self, ids: Int[Tensor, "B S"], mask: Bool[Tensor, "B S"], pixels: Float[Tensor, "B 3 side side"]
    ) -> tuple[Float[Tensor, "B I D"], Float[Tensor, "B S D"]]:
        """Return the states of the picture's tokens and of the text's.

        Args:
            ids: numbers of tokens with one `<image>` in each row, all in the same place; padded behind.
            mask: True where a token is real.
            pixels: the pictures, from `clip.clip_pixels`.

        Returns:
            The states of the picture, and those of the text; there, `<image>` itself holds the picture's last.
        """
        places = (ids == self.network.config.image_token_id).nonzero()
        place = int(places[0, 1]) if len(places) else 0
        if len(places) != len(ids) or bool((places[:, 1] != place).any()):
            raise RequestError("The prompt template needs `<image>` once, in its opening. Give one for I2V.")
        seen = self.see(pixels)
        words = self.network.language_model.embed_tokens(ids) * mask[..., None]  # padding is zero, as in the release
        tokens = torch.cat([words[:, :place], seen, words[:, place + 1 :]], dim=1)
        real = torch.cat([mask[:, :place], mask.new_ones(seen.shape[:2]), mask[:, place + 1 :]], dim=1)
        positions = (real.long().cumsum(1) - 1).masked_fill(~real, 1)
        states = self.network.language_model(
            inputs_embeds=tokens, attention_mask=real.long(), position_ids=positions, use_cache=False
        ).last_hidden_state
        end = place + seen.shape[1]
        return states[:, place:end], torch.cat([states[:, :place], states[:, end - 1 :]], dim=1)

    def read(
        self,
        ids: Int[Tensor, "B S"],
        mask: Bool[Tensor, "B S"],
        pixels: Float[Tensor, "B 3 side side"],
        *,
        opening: int,
        stride: int = STRIDE,
    ) -> tuple[Float[Tensor, "B R D"], Bool[Tensor, "B R"]]:
        """Return what is kept of the picture's and the prompt's tokens, and which of it is real.

        The assistant's header is the four tokens before the last empty line. Where a cut prompt has lost that line,
        there are three empty lines, and the last four tokens go instead.

        Args:
            ids: as `forward` takes them.
            mask: the same.
            pixels: the same.
            opening: tokens of the template in front of the prompt.
            stride: keep every so manieth token of the picture, at least 1.
        """
        seen, states = self(ids, mask, pixels)
        seen = seen[:, ::stride]
        place = torch.arange(ids.shape[1], device=ids.device)
        lines = ids == self.empty_line
        last = torch.where(lines.sum(1) > 3, (lines * place).amax(1), ids.shape[1])[:, None]
        kept = (place >= opening) & ~((place >= last - HEADER) & (place < last))
        text, real = states[kept].unflatten(0, (len(ids), -1)), mask[kept].unflatten(0, (len(ids), -1))
        return torch.cat([seen, text], dim=1), torch.cat([real.new_ones(seen.shape[:2]), real], dim=1)

    def see(self, pixels: Float[Tensor, "B 3 side side"]) -> Float[Tensor, "B I D"]:
        """Return a picture's tokens as the language model takes them."""
        tower = self.network.vision_tower
        states = tower(pixel_values=pixels.to(tower.dtype), output_hidden_states=True).hidden_states
        return self.network.multi_modal_projector(states[self.network.config.vision_feature_layer][:, 1:])


def _shorten(config: Any, skipped: int) -> str:
    """Leave layers out of a config at the top, and return the pattern of what then stays unread."""
    total = config.num_hidden_layers
    config.num_hidden_layers = total - skipped
    tops = "|".join(map(str, range(total - skipped, total))) or "none"
    return rf"(language_model\.)?(model\.)?(layers\.({tops})\.|lm_head\.)"


class LlamaClip(nn.Module):
    """Llama's tokens and CLIP's pooled state as one encoder. The interface is ``encoders.base.Encoder``.

    Args:
        llama: the language model.
        clip: CLIP-L, without projection.
        template: what stands around a prompt.
    """

    def __init__(self, llama: Llama, clip: ClipText, template: Template) -> None:
        super().__init__()
        self.llama, self.clip, self.template = llama, clip, template

    @classmethod
    def load(cls, path: Path, template: Template | None = None, *, dtype: torch.dtype | None = None) -> "LlamaClip":
        """Read both from a released folder.

        Args:
            path: holds ``text_encoder`` and ``text_encoder_2``, and their tokenizers there, or in ``tokenizer`` and
                ``tokenizer_2``.
            template: None for that of videos, from `published_template`.
            dtype: to run in; None for that of the weights.

        Raises:
            MissingExtra: `transformers` is not installed.
            RequestError: there is no template.
            WeightsError: a folder does not hold what it should.
        """
        template = template or published_template("video")
        llama = Llama.load(path / "text_encoder", _tokenizer_folder(path, ""), dtype=dtype)
        return cls(llama, _load_clip(path, dtype), template)

    def encode(self, texts: Sequence[str]) -> TextTokens:
        """Encode prompts.

        Raises:
            RequestError: if one is too long; none is ever cut off.
        """
        ids, mask = _ids(self.llama.tokenizer, self.template, texts, _device(self))
        states = self.llama(ids, mask)
        return _read(states, mask, self.template.opening, _pool(self.clip, texts))

    def null(self, count: int) -> TextTokens:
        """Encode the empty prompt ``count`` times."""
        return self.encode([""] * count)

    def unknown(self, text: str) -> list[tuple[str, list[str]]]:
        """Return nothing: this vocabulary spells every word, byte by byte if need be."""
        return []


class LlavaClip(nn.Module):
    """Llava's tokens of a prompt and a picture, and CLIP's pooled state of the prompt, as one encoder.

    Args:
        llava: the language model that sees.
        clip: CLIP-L, without projection.
        template: what stands around a prompt, `<image>` among it.
        stride: keep every so manieth token of the picture; 4 as published for token replace, 2 for latent concat.
    """

    def __init__(self, llava: Llava, clip: ClipText, template: Template, stride: int = STRIDE) -> None:
        super().__init__()
        self.llava, self.clip, self.template, self.stride = llava, clip, template, stride

    @classmethod
    def load(
        cls, path: Path, template: Template | None = None, *, stride: int = STRIDE, dtype: torch.dtype | None = None
    ) -> "LlavaClip":
        """Read both from a released folder, where the first may be called ``text_encoder_i2v``; as `LlamaClip.load`."""
        template = template or published_template("video_i2v")
        first = path / "text_encoder_i2v"
        if first.exists():
            llava = Llava.load(first, first, dtype=dtype)
        else:
            llava = Llava.load(path / "text_encoder", _tokenizer_folder(path, ""), dtype=dtype)
        return cls(llava, _load_clip(path, dtype), template, stride)

    def encode(self, texts: Sequence[str], pictures: Sequence[UInt8[np.ndarray, "H W 3"]] | None = None) -> TextTokens:
        """Encode prompts with the pictures that they speak of.

        Args:
            texts: prompts.
            pictures: one for each.

        Raises:
            RequestError: if a prompt is too long, or has no picture.
        """
        if pictures is None or len(pictures) != len(texts):
            raise RequestError("This model animates a picture. Give one picture with each prompt.")
        device = _device(self)
        ids, mask = _ids(self.llava.tokenizer, self.template, texts, device)
        pixels = torch.stack([clip_pixels(picture, self.llava.side) for picture in pictures]).to(device)
        tokens, real = self.llava.read(ids, mask, pixels, opening=self.template.opening, stride=self.stride)
        return TextTokens(tokens * real[..., None], real, _pool(self.clip, texts))

    def null(self, count: int) -> TextTokens:
        """Encode the empty prompt ``count`` times, with a black picture."""
        return self.encode([""] * count, [np.zeros((self.llava.side, self.llava.side, 3), np.uint8)] * count)

    def unknown(self, text: str) -> list[tuple[str, list[str]]]:
        """Return nothing: this vocabulary spells every word, byte by byte if need be."""
        return []


def _tokenizer_folder(path: Path, nth: str) -> Path:
    own = path / f"tokenizer{nth}"
    return own if own.exists() else path / f"text_encoder{nth}"


def _load_clip(path: Path, dtype: torch.dtype | None) -> ClipText:
    folder = path / "text_encoder_2"
    if not folder.exists():
        raise WeightsError(f"there is no CLIP-L at {folder}. Download it again, or check the name.")
    return ClipText.load(folder, _tokenizer_folder(path, "_2"), projects=False, dtype=dtype)


def _ids(
    tokenizer: Any, template: Template, texts: Sequence[str], device: torch.device
) -> tuple[Int[Tensor, "B S"], Bool[Tensor, "B S"]]:
    """Return the numbers of prompts in their template, padded to the longest, and which are real."""
    rows = token_ids(tokenizer, [template.around(text) for text in texts], LENGTH + template.opening, "its template")
    ids, mask = pad(rows, tokenizer.pad_token_id or 0)
    return ids.to(device), mask.to(device)


def _read(
    states: Float[Tensor, "B S D"], mask: Bool[Tensor, "B S"], opening: int, pooled: Float[Tensor, "B P"]
) -> TextTokens:
    states, mask = states[:, opening:], mask[:, opening:]
    return TextTokens(states * mask[..., None], mask, pooled)


def _pool(clip: ClipText, texts: Sequence[str]) -> Float[Tensor, "B P"]:
    return clip(*clip.ids([text.strip() for text in texts])).pooled


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device
