import torch

from mutoscope.nn.mlp import MLP


def test_tokens_do_not_see_each_other() -> None:
    mlp, x = MLP(8, 32), torch.randn(2, 5, 8)
    changed = x.clone()
    changed[:, 3] += 1
    same = (mlp(x) == mlp(changed)).all(-1)
    assert same.tolist() == [[True, True, True, False, True]] * 2
