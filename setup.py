"""The one part of the packaging that pyproject.toml cannot say: a start-up file.

``gymnasium.make("atmr/Dispatch-v1")`` is to work without importing us. Gymnasium loaded the entry
points of the group ``gymnasium.envs`` until version 1.0, which dropped them; the start-up file
takes their place. Being a data file it is installed and uninstalled by pip.
"""

import sysconfig

from setuptools import setup
from setuptools.command.build_py import build_py

SITE_PACKAGES = sysconfig.get_path("purelib", "venv", vars={"base": "", "platbase": ""})


class BuildWithStartupFile(build_py):
    """Installs the data file in editable mode too, where setuptools would leave it out."""

    def run(self) -> None:
        """Build, then copy the data files into the editable wheel."""
        super().run()
        if self.editable_mode:
            self.run_command("install_data")


setup(
    cmdclass={"build_py": BuildWithStartupFile},
    data_files=[(SITE_PACKAGES.lstrip("/\\"), ["startup/atmr_rl_gymnasium.pth"])],
)
