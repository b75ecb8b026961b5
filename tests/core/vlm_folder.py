"""A vision-language model as the hub holds one, made up: Qwen2-VL's network, tiny and random, and a tokenizer."""

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

MARKS = [
    "<pad>",
    "<unk>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
WORDS = ["user", "assistant", "system", "a", "red", "kite", "flies", "over", "the", "sea", "what", "is", "seen"]
TEMPLATE = """{%- for turn in messages -%}
<|im_start|> {{ turn.role }} {% if turn.content is string %}{{ turn.content }}{% else -%}
{%- for part in turn.content -%}
{%- if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %} {{ part.text }}{% endif -%}
{%- endfor -%}
{%- endif %} <|im_end|>{%- endfor -%}
{%- if add_generation_prompt %}<|im_start|> assistant{% endif -%}"""

LANGUAGE: dict[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "pad_token_id": 0,
}


def write_vlm(folder: Path) -> None:
    """Write a tiny Qwen2-VL; a picture of 28 x 28 pixels is one token to it."""
    text: dict[str, Any] = LANGUAGE | {
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
    }
    vision = {"depth": 1, "embed_dim": 8, "hidden_size": 16, "num_heads": 2, "patch_size": 14}
    marks: dict[str, Any] = {
        "image_token_id": 6,
        "video_token_id": 7,
        "vision_start_token_id": 4,
        "vision_end_token_id": 5,
    }
    config = transformers.Qwen2VLConfig(text_config=text, vision_config=vision, **marks)
    network = _write(folder, transformers.Qwen2VLForConditionalGeneration(config))
    network.generation_config.eos_token_id = [3]
    network.generation_config.save_pretrained(folder)
    transformers.Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=4 * 28 * 28).save_pretrained(folder)


def write_llm(folder: Path) -> None:
    """Write a tiny Llama with the same words."""
    _write(folder, transformers.LlamaForCausalLM(transformers.LlamaConfig(**LANGUAGE)))


def _write(folder: Path, network: transformers.PreTrainedModel) -> Any:
    rng = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data += torch.randn(parameter.shape, generator=rng) * 0.3
    network.save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(MARKS + WORDS)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in MARKS])
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")
    fast.eos_token = "<|im_end|>"
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    return network
