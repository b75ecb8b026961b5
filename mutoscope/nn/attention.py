"""The one door through which every attention of every network goes."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

FEW_KEYS = 192  # more than any sequence of the bundled models, fewer than one frame of a published size


def attend(
    q: Float[Tensor, "B N L K"],
    k: Float[Tensor, "B N S K"],
    v: Float[Tensor, "B N S K"],
    mask: Bool[Tensor, "B S"] | None = None,
) -> Float[Tensor, "B N L K"]:
    """Let every query look at every real key of its own sample: softmax(q k' / sqrt(K)) v.

    With few keys the three plain products are used: the scores are small, and the backward pass of the fused kernel is
    slow on a CPU (50 ms against 4 ms for 2048 heads of 16 queries, 16 keys and width 32 in bfloat16).

    Args:
        q: queries.
        k: keys.
        v: values.
        mask: True where a key is real; a sample must have at least one. It says which text is padding, and costs one
            row per sample: there is no door here for a mask over pairs of tokens.

    Returns:
        What each query read, B N L K.
    """
    bias = None if mask is None else mask[:, None, :, None]
    if k.shape[2] > FEW_KEYS:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=None if bias is None else bias.transpose(2, 3))
    # B N S L, keys before queries: on a CPU a softmax down the columns vectorises, along short rows it does not
    scores = (k * k.shape[3] ** -0.5) @ q.transpose(2, 3)
    if bias is not None:
        scores = scores + torch.zeros_like(bias, dtype=scores.dtype).masked_fill(~bias, float("-inf"))
    return scores.softmax(dim=2).transpose(2, 3) @ v
