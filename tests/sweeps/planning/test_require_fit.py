"""What is too large for its GPUs is refused, by whatever would run it."""

from __future__ import annotations

import pytest

from llama.errors import UserError
from sweeps.hardware.calibration import Calibration
from sweeps.planning.prepare import require_fit
from tests.sweeps.examples import design, plan_on_cpus


def test_a_size_that_does_not_fit_is_named_with_what_would_help() -> None:
    plan = plan_on_cpus(design(), Calibration(points=()))
    require_fit([plan])
    small, large = plan.sizes
    large = large.model_copy(update={"fits": False, "layout": "too large: needs 4 GPUs a run"})
    with pytest.raises(UserError, match=rf"^example does not fit .*: {large.size}: too large: needs 4 GPUs a run$"):
        require_fit([plan.model_copy(update={"sizes": [small, large]})])
