"""What CI installs on a fresh machine."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / ".ci" / "install-browser"


@pytest.fixture
def machine(tmp_path):
    """A machine whose only programs are those that a test puts there."""
    log = tmp_path / "log"
    log.write_text("")
    programs = tmp_path / "bin"
    programs.mkdir()

    def program(name, body=""):
        path = programs / name
        path.write_text(f'#!/bin/bash\necho "{name} $*" >> {log}\n{body}\n')
        path.chmod(0o755)

    def run():
        done = subprocess.run(
            ["/bin/bash", str(SCRIPT)], env={"PATH": str(programs)}, capture_output=True, text=True
        )
        return done, log.read_text().splitlines()

    program("id", "echo 0")
    (programs / "env").symlink_to("/usr/bin/env")
    program.folder = programs
    return program, run


def test_a_browser_that_is_there_is_left_alone(machine):
    program, run = machine
    for name in ("chromium", "chromedriver", "apt-get"):
        program(name)
    done, said = run()
    assert (done.returncode, said) == (0, [])


def test_root_installs_it_after_one_update(machine):
    program, run = machine
    made = "; ".join(
        f"/bin/echo > {program.folder}/{name}; /bin/chmod +x {program.folder}/{name}"
        for name in ("chromium", "chromedriver")
    )
    program("apt-get", made)
    done, said = run()
    assert done.returncode == 0, done.stderr
    assert [line.split()[1] for line in said if line.startswith("apt-get")] == ["update", "install"]
    assert said[-1].endswith("chromium chromium-driver")


def test_others_ask_sudo_without_a_password(machine):
    program, run = machine
    program("id", "echo 1000")
    program("apt-get")
    program("sudo", "exit 1")
    done, said = run()
    assert done.returncode != 0
    assert said[-1] == "sudo -n apt-get update -qq"


def test_without_a_way_to_install_it_says_what_is_missing(machine):
    done, _ = machine[1]()
    assert done.returncode == 1
    assert "install chromium and chromedriver" in done.stderr


def test_it_may_be_run():
    assert os.access(SCRIPT, os.X_OK)
