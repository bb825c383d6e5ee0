"""What tests of serving share."""

import pytest

from .models import bundle_of, states_of_days


@pytest.fixture(scope="session")
def states():
    """Real states of geneva_small."""
    return states_of_days()


@pytest.fixture(scope="session")
def bundles(tmp_path_factory):
    """A bundle of each kind, and a second network."""
    folder = tmp_path_factory.mktemp("bundles")
    made = {
        kind: bundle_of(kind, folder)
        for kind in ("dqn_matching", "planner", "matching", "matching_linear")
    }
    return {**made, "other": bundle_of("dqn_matching", folder, seed=1)}
