"""Gymnasium knows our environment by name."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import gymnasium

from services.rl.dispatch_env import DispatchEnv, DispatchVectorEnv
from services.rl.registration import ENVIRONMENT_ID, register_environments

REPOSITORY = Path(__file__).resolve().parents[3]
SITE_PACKAGES = sysconfig.get_path("purelib")

MAKE_AND_STEP = """
import gymnasium
env = gymnasium.make({name!r}, num_drivers=10, max_bookings=20, simulation_hours=8)
observation, info = env.reset(seed=1)
print(observation.shape, env.step(env.action_space.sample(info["action_mask"]))[2])
"""


def run_python(code: str, python: str = sys.executable, *path: str) -> str:
    """Standard output of a fresh interpreter in which every warning is an error."""
    return run([python, "-W", "error", "-c", code], *path)


def run(command: list[str], *path: str, ours: bool = True) -> str:
    """Standard output of a command that must succeed in silence, with our code first on its path.

    Not so for pip: beside our code lies the egg-info of the project's own installation, and pip
    would take it for the one under test.

    ``-W error`` is not inherited, and a start-up file that fails speaks on standard error.
    """
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(REPOSITORY / "backend"), *path] if ours else path),
        },
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_make_by_module_and_name_needs_no_import() -> None:
    code = MAKE_AND_STEP.format(name=f"services.rl.registration:{ENVIRONMENT_ID}")
    assert run_python(code) == "(122,) False\n"


def test_an_installed_project_is_known_as_soon_as_gymnasium_is_imported(tmp_path: Path) -> None:
    """Really installed, editable, by pip into an environment of its own, and removed again."""
    venv.create(tmp_path / "venv", symlinks=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check", "-q"]
    run([*pip, "install", "--no-index", "--no-deps", str(built_for_editing(tmp_path))], ours=False)
    code = MAKE_AND_STEP.format(name=ENVIRONMENT_ID)
    assert run_python(code, python, SITE_PACKAGES) == "(122,) False\n"
    vector = "import gymnasium; print(gymnasium.make_vec('atmr/Dispatch-v1', num_envs=4))"
    assert "DispatchVectorEnv" in run_python(vector, python, SITE_PACKAGES)
    (startup_file,) = (tmp_path / "venv").rglob("atmr_rl_gymnasium.pth")
    run([*pip, "uninstall", "-y", "atmr-rl"], ours=False)
    assert not startup_file.exists()


def built_for_editing(folder: Path) -> Path:
    """The editable wheel that the repository's own packaging builds."""
    project = folder / "project"
    (project / "backend" / "services").mkdir(parents=True)
    (project / "backend" / "services" / "__init__.py").touch()
    (project / "README.md").touch()
    for name in ("pyproject.toml", "setup.py", "LICENSE"):
        shutil.copy(REPOSITORY / name, project)
    for lines in REPOSITORY.glob("requirements*.txt"):
        shutil.copy(lines, project)
    for module in (REPOSITORY / "backend").glob("*.py"):
        shutil.copy(module, project / "backend")
    shutil.copytree(REPOSITORY / "startup", project / "startup")
    build = "from setuptools import build_meta; build_meta.build_editable('.')"
    subprocess.run(
        [sys.executable, "-c", build], cwd=project, check=True, capture_output=True, timeout=120
    )
    (wheel,) = project.glob("*.whl")
    return wheel


def test_starting_python_loads_nothing_for_it() -> None:
    printed = run_python(
        "import sys; before = set(sys.modules)\n"
        "import services.rl.gymnasium_startup\n"
        "print({'gymnasium', 'numpy', 'numba'} & set(sys.modules))\n"
        "import importlib.util; importlib.util.find_spec('gymnasium')\n"
        "import services.rl.gymnasium_startup as again; again.watch_for_gymnasium()\n"
        "import gymnasium; print('atmr/Dispatch-v1' in gymnasium.registry)\n"
        "print('services.rl.dispatch_env' in sys.modules)"
    )
    assert printed == "set()\nTrue\nFalse\n"


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
