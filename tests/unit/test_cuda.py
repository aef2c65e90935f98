"""`benchmarks.cuda`: what can be told without a GPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.cuda import log_losses, need_cuda
from recsys.errors import UserError
from recsys.models.fit.layers import device
from recsys.models.fit.ranker import Rows


def test_who_has_no_gpu_is_told_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device().type == "cpu"
    with pytest.raises(UserError, match="no CUDA device"):
        need_cuda()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device().type == "cuda"
    need_cuda()


def test_a_log_loss_is_that_of_the_chance_that_a_logit_stands_for() -> None:
    logits = np.array([[0.0], [2.0], [-3.0]], dtype=np.float32)
    rows = Rows(logits, np.array([True, False, True]), np.array([1.0, 2.0, 1.0], dtype=np.float32), ("logit",))
    chances = 1 / (1 + np.exp(-logits[:, 0].astype(np.float64)))
    expected = [-np.log(chances[0]), -2 * np.log(1 - chances[1]), -np.log(chances[2])]
    found = log_losses(lambda x: x[:, 0], rows)
    assert np.allclose(found * 4 / 3, expected)  # weights' mean is 4/3
