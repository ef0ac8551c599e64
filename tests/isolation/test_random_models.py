"""Random encoders in every layout: what is accepted gives each sample the answer of its single run, beside anyone.

``make search`` goes on for longer; ``python -m tests.isolation.search --seed N`` tries one of these again.
"""

from __future__ import annotations

import numpy as np
import pytest

from tests.isolation.random_models import random_model
from tests.isolation.search import verdicts

_FIRST, _MODELS, _AT_A_TIME = 0, 100, 5


@pytest.mark.parametrize("first", range(_FIRST, _FIRST + _MODELS, _AT_A_TIME))
def test_what_is_accepted_depends_on_nobody_and_equals_the_single_run(first: int) -> None:
    wrong = []
    for seed in range(first, first + _AT_A_TIME):
        case = random_model(seed)
        with np.errstate(all="ignore"):
            wrong += [f"--seed {seed} ({case.story}): {v}" for v in verdicts(case) if v.failed]
    assert not wrong, "\n".join(wrong)
