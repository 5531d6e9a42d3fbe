"""The comparison that holds refactorings to the same bits."""

from itertools import islice

import pytest
import torch
from torch import Tensor

from vaegan_pl.model.algorithm import VAEGAN

from .bit_identity import combinations, digests


def test_digests_repeat_and_see_one_changed_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    every = [*combinations()]
    assert len(every) == 2 * 2 * 2 * 3 * 2 * (3 * 4 * 2 * 2 * 2 + 1) + 4
    chosen = [*islice(every, 0, None, 999)]
    before = [digests(options) for options in chosen]
    assert [digests(options) for options in chosen] == before
    likelihood = VAEGAN.l_llike

    def changed(self: VAEGAN, dis_l_x: Tensor, dis_l_x_tilde: Tensor) -> Tensor:
        return likelihood(self, dis_l_x, dis_l_x_tilde) * (1 + torch.finfo(torch.float32).eps)

    monkeypatch.setattr(VAEGAN, "l_llike", changed)
    after = [digests(options) for options in chosen]
    assert all(a != b for a, b, options in zip(after, before, chosen, strict=True) if options["kind"] == "VAE/GAN")
