"""Folders as the hub holds them, made up: tiny networks of random weights, and tokenizers of whole words."""

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors

WORDS = ["a", "red", "kite", "flies", "over", "the", "sea", "at", "dawn", "describe", ":", "END", "assistant"]


def write_tokenizer(folder: Path, before: str = "", after: str = "", special: tuple[str, ...] = ()) -> None:
    """Write a tokenizer of `WORDS`, with at most one special token before each text and one after."""
    marks = ["<pad>", "<unk>", *special, *filter(None, [before, after])]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(marks + WORDS)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in marks])
    around = [(mark, tokenizer.token_to_id(mark)) for mark in (before, after) if mark]
    tokenizer.post_processor = processors.TemplateProcessing(f"{before} $A {after}".strip(), special_tokens=around)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")
    fast.save_pretrained(folder)


def write_network(folder: Path, network: transformers.PreTrainedModel) -> None:
    """Give a network weights that all matter, and write it."""
    rng = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data += torch.randn(parameter.shape, generator=rng) * 0.3
    network.save_pretrained(folder)


def clip_config(dim: int, **more: Any) -> Any:
    marks = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    return transformers.CLIPTextConfig(
        vocab_size=40,
        hidden_size=dim,
        intermediate_size=2 * dim,
        num_hidden_layers=3,
        num_attention_heads=2,
        projection_dim=dim + 2,
        **marks,
        **more,
    )


def vision_config() -> Any:
    """A tower for pictures of 28 x 28 pixels, of which it makes 4 tokens."""
    return transformers.CLIPVisionConfig(
        hidden_size=8, intermediate_size=16, num_hidden_layers=3, num_attention_heads=2, image_size=28, patch_size=14
    )


def write_clip(folder: Path, tokenizer: Path, dim: int = 8, projects: bool = True) -> None:
    kind = transformers.CLIPTextModelWithProjection if projects else transformers.CLIPTextModel
    write_network(folder, kind(clip_config(dim)))
    write_tokenizer(tokenizer, "<start>", "<end>")


def write_whole_clip(folder: Path) -> Any:
    """Write a CLIP with both towers, and return it."""
    config = transformers.CLIPConfig(text_config=clip_config(8), vision_config=vision_config(), projection_dim=10)
    network = transformers.CLIPModel(config).eval()
    write_network(folder, network)
    return network


def write_t5(folder: Path, tokenizer: Path, dim: int = 24) -> None:
    config = transformers.T5Config(
        vocab_size=40, d_model=dim, d_kv=4, d_ff=16, num_layers=2, num_heads=2, feed_forward_proj="gated-gelu"
    )
    write_network(folder, transformers.T5EncoderModel(config))
    write_tokenizer(tokenizer, after="</s>")


LLAMA: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


def write_llama(folder: Path) -> None:
    write_network(folder, transformers.LlamaModel(transformers.LlamaConfig(**LLAMA)))
    write_tokenizer(folder, "<bos>", special=("<eot>",))


def write_llava(folder: Path) -> None:
    config = transformers.LlavaConfig(
        vision_config=vision_config(), text_config=transformers.LlamaConfig(**LLAMA), image_token_index=2
    )
    write_network(folder, transformers.LlavaForConditionalGeneration(config))
    write_tokenizer(folder, "<bos>", special=("<image>", "<line>", "<eot>", "<head>", "<tail>"))
