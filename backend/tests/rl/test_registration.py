"""Gymnasium knows our environment by name."""

import subprocess
import sys

import gymnasium

from services.rl.dispatch_env import DispatchEnv, DispatchVectorEnv
from services.rl.registration import ENVIRONMENT_ID, register_environments


def run_python(code: str) -> str:
    """Standard output of a fresh interpreter in which every warning is an error."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_make_by_module_and_name_needs_no_import() -> None:
    printed = run_python(
        "import gymnasium\n"
        "env = gymnasium.make('services.rl.registration:atmr/Dispatch-v1', num_drivers=10, "
        "max_bookings=20, simulation_hours=8)\n"
        "observation, info = env.reset(seed=1)\n"
        "print(observation.shape, env.step(env.action_space.sample(info['action_mask']))[2])"
    )
    assert printed == "(122,) False\n"


def test_registering_again_changes_nothing() -> None:
    spec = gymnasium.spec(ENVIRONMENT_ID)
    register_environments()  # a second registration would warn, and warnings are errors
    assert gymnasium.spec(ENVIRONMENT_ID) is spec
    assert spec.max_episode_steps is None


def test_make_gives_the_environment_and_make_vec_its_twin() -> None:
    env = gymnasium.make(ENVIRONMENT_ID, scenario="geneva_small", observation="full")
    assert isinstance(env.unwrapped, DispatchEnv)
    vector = gymnasium.make_vec(ENVIRONMENT_ID, num_envs=4, scenario="geneva_small")
    assert isinstance(vector, DispatchVectorEnv) and vector.num_envs == 4
    assert vector.reset(seed=3)[0].shape == (4, 94)
