"""Fields in closed form: what a perfect network would answer if the data were Gaussian."""

import torch


def gaussian(mean, std):
    """Velocity of data N(mean, std^2), independent per element: E[noise - data | x]."""

    def field(x, t):
        t = t.view(-1, *[1] * (x.ndim - 1))
        variance = (1 - t) ** 2 * std**2 + t**2
        return (t - (1 - t) * std**2) / variance * (x - (1 - t) * mean) - mean

    return field


def mixture(means, std):
    """Velocity of data drawn from K equally likely N(means[k], std^2); x is B D, means K D."""

    def field(x, t):
        variance = (1 - t) ** 2 * std**2 + t**2
        away = x[:, None] - (1 - t)[:, None, None] * means  # B K D
        share = torch.softmax(-away.square().sum(-1) / (2 * variance[:, None]), dim=-1)  # B K
        each = ((t - (1 - t) * std**2) / variance)[:, None, None] * away - means
        return (share[..., None] * each).sum(1)

    return field
