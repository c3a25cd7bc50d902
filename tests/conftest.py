"""Hypothesis profiles: "ci" (default) draws the same examples each time; HYPOTHESIS_PROFILE=explore
draws new and more ones."""

import os

from hypothesis import HealthCheck, settings

# the first example compiles; drawing problems solves them with the oracle
_slow = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
settings.register_profile(
    "ci", deadline=None, derandomize=True, database=None, suppress_health_check=_slow
)
settings.register_profile(
    "explore", deadline=None, max_examples=1000, print_blob=True, suppress_health_check=_slow
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
