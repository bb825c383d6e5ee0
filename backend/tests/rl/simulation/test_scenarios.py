"""Scenario files: what is read back is what was written, and nonsense gets one sentence."""

import pytest
import yaml

from services.rl.errors import ScenarioError
from services.rl.simulation.engine import Engine
from services.rl.simulation.scenarios import (
    RewardWeights,
    load_scenario,
    parse_scenario,
    save_scenario,
    scenario_names,
)
from services.rl.simulation.scenarios import _sha256 as sha256_of

from .worlds import changed, disturbed

FROZEN_WEIGHTS = "b2b16decb0580b607ed0cce81b3a1c9ea658bba8544ac0d12509813851ac856f"


@pytest.mark.parametrize("name", scenario_names())
def test_a_scenario_survives_its_yaml(name, tmp_path):
    scenario = load_scenario(name)
    save_scenario(scenario, tmp_path / "copy.yaml")
    copy = load_scenario(tmp_path / "copy.yaml")
    assert copy == scenario
    assert copy.sha256 == scenario.sha256


def test_a_changed_scenario_survives_its_yaml_and_has_another_hash(tmp_path):
    scenario = disturbed()
    save_scenario(scenario, tmp_path / "disturbed.yaml")
    assert load_scenario(tmp_path / "disturbed.yaml").sha256 == scenario.sha256
    assert scenario.sha256 != load_scenario("geneva").sha256


def test_the_description_does_not_change_the_hash():
    assert changed("geneva", description="x").sha256 == changed("geneva").sha256


@pytest.mark.parametrize("name", [n for n in scenario_names() if n.startswith("geneva")])
def test_reward_weights_of_geneva_are_frozen(name):
    """Results are compared across months: another weight is another scenario, with a new name."""
    weights = load_scenario(name).reward
    assert sha256_of(weights.model_dump(mode="json")) == FROZEN_WEIGHTS
    assert weights == RewardWeights(
        completion=10.0,
        priority=(0.8, 1.0, 1.2, 1.4, 1.6),
        late_per_min=0.3,
        deadhead_per_km=0.5,
        loaded_per_km=0.0,
        cancellation=10.0,
        invalid_action=1.0,
        balance=0.0,
        idle_per_min=0.0,
    )


def spoilt(path, value):
    """The Geneva scenario with one field replaced (or added)."""
    raw = load_scenario("geneva").model_dump(mode="json")
    place = raw
    *parents, last = path
    for key in parents:
        place = place[key]
    place[last] = value
    return raw


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("fleet", "num_drivers"), -1),
        (("fleet", "num_drivers"), 0),
        (("fleet", "num_drivers"), 2.5),
        (("fleet", "num_drivers"), "ten"),
        (("fleet", "patterns"), []),
        (("fleet", "patterns", 0, "start"), "Atlantis"),
        (("fleet", "patterns", 0, "shift_end_min"), -5),
        (("demand", "bookings_per_day"), -85),
        (("demand", "bookings_per_day"), float("nan")),
        (("demand", "bookings_cv"), 2),
        (("demand", "kind"), "magic"),
        (("demand", "streams", 0, "share"), -1),
        (("demand", "streams", 0, "wheelchair_share"), 1.2),
        (("demand", "streams", 0, "hourly_share"), {"9": -1.0, "10": 2.0}),
        (("demand", "streams", 0, "hourly_share"), {"25": 1.0}),
        (("demand", "streams", 0, "priority_share"), [0, 0, 0, 0, 0]),
        (("demand", "streams", 0, "priority_share"), [-0.1, 0.3, 0.4, 0.2, 0.2]),
        (("demand", "streams", 0, "priority_share"), [0.5, 0.5]),
        (("demand", "streams", 0, "lead_min"), [-30, 900, 4000]),
        (("demand", "streams", 0, "lead_min"), [900, 30, 4000]),
        (("demand", "streams", 0, "pickup_service_min"), [-3, 8]),
        (("demand", "streams", 0, "dropoff_service_min"), [8, 3]),
        (("travel", "speed_kmh"), [30.0] * 23),
        (("travel", "speed_kmh"), [0.0] * 24),
        (("travel", "circuity"), 0.5),
        (("travel",), {"kind": "matrix"}),
        (("rules", "epoch_min"), 0),
        (("rules", "epoch_min"), -5),
        (("rules", "horizon_min"), 2000),
        (("rules", "queue"), 4),
        (("rules", "window_min"), -1),
        (("rules", "window_min"), 1e300),
        (("rules", "overtime_min"), 1e300),
        (("rules", "day_start"), "25:00"),
        (("rules", "day_start"), "8h"),
        (("rules", "tea_break_min"), 5),
        (("disturbances", "no_show_share"), -0.1),
        (("disturbances", "breakdown_min"), float("inf")),
        (("reward", "late_per_min"), -0.3),
        (("reward", "priority"), [1, 2, 3]),
        (("place", "timezone"), "Europe/Atlantis"),
        (("place", "base", "lat"), 460),
        (("place", "sites"), []),
        (("name",), "a name with spaces"),
        (("weather",), "rain"),
    ],
)
def test_nonsense_gets_one_sentence_that_names_the_field(path, value):
    with pytest.raises(ScenarioError) as refusal:
        parse_scenario(spoilt(path, value), source="my.yaml")
    message = str(refusal.value)
    assert message.startswith("my.yaml: ")
    assert "\n" not in message
    assert str(path[0]) in message or path == ("place", "sites")


@pytest.mark.parametrize("missing", ["name", "place", "travel", "demand", "fleet"])
def test_a_missing_part_is_named(missing):
    raw = load_scenario("geneva").model_dump(mode="json")
    del raw[missing]
    with pytest.raises(ScenarioError, match=missing):
        parse_scenario(raw, source="my.yaml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1, 2]", "a scenario is a mapping of fields"),
        ("name: {", "not valid YAML"),
        ("extends: geneva\nname: x\nrules: {epoch_min: minus one}", "rules.epoch_min"),
        ("extends: atlantis\nname: x", "unknown scenario 'atlantis'"),
        ("extends: own.yaml\nname: x", "extends itself"),
    ],
)
def test_a_malformed_file_is_named(tmp_path, text, said):
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(ScenarioError) as refusal:
        load_scenario(path)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["atlantis", "", "../geneva", "missing.yaml"])
def test_an_unknown_scenario_is_named(name):
    with pytest.raises(ScenarioError):
        load_scenario(name)


def test_every_synthetic_scenario_of_the_catalogue_starts():
    for name in scenario_names():
        raw = yaml.safe_load(yaml.safe_dump(load_scenario(name).model_dump(mode="json")))
        if raw["demand"]["kind"] == "synthetic":
            engine = Engine(load_scenario(name))
            engine.start([0])
            assert not engine.ended()
