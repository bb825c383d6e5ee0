"""What pyproject.toml cannot say: a start-up file, and requirements that include others.

``gymnasium.make("atmr/Dispatch-v1")`` is to work without importing us. Gymnasium loaded the entry
points of the group ``gymnasium.envs`` until version 1.0, which dropped them; the start-up file
takes their place. Being a data file it is installed and uninstalled by pip.
"""

import sysconfig
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SITE_PACKAGES = sysconfig.get_path("purelib", "venv", vars={"base": "", "platbase": ""})

HERE = Path(__file__).parent


def requirements(name: str) -> list[str]:
    """Lines of a requirements file and of those that it includes, without comments."""
    found = []
    for line in (HERE / name).read_text(encoding="utf-8").splitlines():
        line = line.partition("#")[0].strip()
        if line.startswith("-r "):
            found += requirements(line.removeprefix("-r ").strip())
        elif line:
            found.append(line)
    return found


class BuildWithStartupFile(build_py):
    """Installs the data file in editable mode too, where setuptools would leave it out."""

    def run(self) -> None:
        """Build, then copy the data files into the editable wheel."""
        super().run()
        if self.editable_mode:
            self.run_command("install_data")


setup(
    install_requires=requirements("requirements-rl.txt"),
    cmdclass={"build_py": BuildWithStartupFile},
    data_files=[(SITE_PACKAGES.lstrip("/\\"), ["startup/atmr_rl_gymnasium.pth"])],
)
