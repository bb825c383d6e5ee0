"""Planted bundles: admitted by everything that checks files, bad by what they decide."""

from datetime import date

import numpy as np
import pytest

from services.rl.errors import BundleError
from services.rl.evaluation.gate_days import fresh_days
from services.rl.evaluation.gate_play import play_days, served_policy
from services.rl.evaluation.planted import PLANTED, planted_bundle
from services.rl.serving.bundle import KINDS, read_bundle
from services.rl.serving.engine import InferenceEngine
from services.rl.serving.policies import warm_state

from ..serving.models import SMALL, bundle_of


@pytest.fixture(scope="module")
def champions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("champions")
    return {kind: bundle_of(kind, folder) for kind in KINDS}


@pytest.mark.parametrize("planted", PLANTED)
@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_bundle_serves_without_a_complaint(champions, kind, planted, tmp_path):
    champion = champions[kind]
    bad = planted_bundle(planted, champion, tmp_path / "bad")
    assert bad.version != champion.version
    assert bad.manifest.parent == champion.version
    assert read_bundle(champion.path).version == champion.version  # the good one is as it was
    engine = InferenceEngine(SMALL, bad)
    engine.warm_up()
    answer = engine.decide(warm_state(SMALL), budget_ms=60_000)
    engine.close()
    assert answer.fallback_reason is None and answer.model == bad.version


@pytest.mark.parametrize("kind", ["planner", "matching", "matching_linear", "dqn_matching"])
def test_far_refuses_far_bookings(champions, kind, tmp_path):
    days = fresh_days(SMALL, date(2026, 3, 2), 10)
    bad = planted_bundle("far", champions[kind], tmp_path / "bad")
    good, far = (
        play_days(served_policy(bundle, SMALL), SMALL, days) for bundle in (champions[kind], bad)
    )
    assert far.of("served").sum() < 0.9 * good.of("served").sum()


def test_the_same_champion_is_spoilt_in_the_same_way(champions, tmp_path):
    a = planted_bundle("shuffled", champions["planner"], tmp_path / "a")
    b = planted_bundle("shuffled", champions["planner"], tmp_path / "b")
    assert a.version == b.version


def test_shuffling_keeps_the_numbers_and_moves_them(champions, tmp_path):
    from services.rl.policies.planner_values import VALUES_FILE, PlannerValues

    bad = planted_bundle("shuffled", champions["planner"], tmp_path / "bad")
    before = PlannerValues.load(champions["planner"].file(VALUES_FILE)).array()
    after = PlannerValues.load(bad.file(VALUES_FILE)).array()
    assert np.array_equal(np.sort(before), np.sort(after))
    assert (before != after).sum() > len(before) / 2


def test_a_planted_bundle_never_overwrites_and_leaves_no_trace(champions, tmp_path):
    (tmp_path / "bad").mkdir()
    with pytest.raises(BundleError, match="never overwritten"):
        planted_bundle("far", champions["planner"], tmp_path / "bad")
    with pytest.raises(BundleError, match="unknown kind of planted bundle 'sleepy'"):
        planted_bundle("sleepy", champions["planner"], tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["bad"]
