"""Hypothesis profiles: "ci" (default) draws the same examples each time; HYPOTHESIS_PROFILE=explore
draws new and more ones; HYPOTHESIS_PROFILE=gpu has test_backends.py run the GPU backends alone."""

import os
import sys
from pathlib import Path

from hypothesis import HealthCheck, Phase, settings

# gpu_support.py, device_support.py: for tests of other folders, too
sys.path[:0] = [str(Path(__file__).parent / folder) for folder in ("kernels", "gpu")]

# the first example compiles; drawing problems solves them with the oracle
_slow = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
settings.register_profile(
    "ci", deadline=None, derandomize=True, database=None, suppress_health_check=_slow
)
settings.register_profile(
    "explore", deadline=None, max_examples=1000, print_blob=True, suppress_health_check=_slow
)
# no smaller example is looked for: a device is lent for minutes, and each one compiles
settings.register_profile(
    "gpu", settings.get_profile("ci"), phases=[Phase.explicit, Phase.generate], print_blob=True
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
