"""Dockerfile and docker-compose.yml, as far as they can be tried without a container engine."""

import json
import os
import re
import shlex
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import click
import pytest
import redis
import yaml

from celery_app import alive_file
from config import Config
from services.rl.training.tuning.storage import STORAGE_VARIABLE

from .redis_server import find_redis

ROOT = Path(__file__).parents[2]
BACKEND = ROOT / "backend"
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
OURS = ("api", "worker", "worker-train", "beat", "tick", "tensorboard")
"""Services that run our image."""

TMP = "/tmp"  # noqa: S108 - of a container: memory of its own
WITH_PORTS = ("api", "tensorboard")


def instructions():
    """(instruction, rest) of the Dockerfile, continued lines joined."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    return [tuple(line.split(None, 1)) for line in text.splitlines() if line.strip()]


def stages():
    """Instructions by stage, and the stage that each begins from."""
    found, parents, name = {}, {}, ""
    for word, rest in instructions():
        if word == "FROM":
            parent, _, name = rest.partition(" AS ")
            found[name], parents[name] = [], parent
        else:
            found[name].append((word, rest))
    return found, parents


def with_parents(name):
    found, parents = stages()
    lines = []
    while name in found:
        lines = found[name] + lines
        name = parents[name]
    return lines


def pinned(image):
    return re.fullmatch(r"[a-z]+:\d+\.\d+(\.\d+)?-[a-z-]+", image)


@pytest.mark.parametrize("target", ["serving", "full"])
def test_an_image_is_pinned_serves_as_nobody_special_and_says_whether_it_is_ready(target):
    _, parents = stages()
    assert pinned(parents["base"]) and parents[target] == "base"
    lines = with_parents(target)
    users = [rest for word, rest in lines if word == "USER"]
    assert users == ["atmr"]
    last = [word for word, _ in lines]
    assert last.index("USER") < last.index("CMD") and "HEALTHCHECK" in last
    assert ("WORKDIR", "/app/backend") in lines
    command = json.loads(dict(lines)["CMD"])
    assert command == ["gunicorn", "-c", "gunicorn.conf.py", "wsgi:create()"]
    # After the packages' stages only: an address with a password never gets into what is kept.
    assert not [rest for word, rest in lines if word == "ARG"]


def test_a_plain_build_makes_the_small_image_without_torch():
    found, _ = stages()
    assert list(found)[-1] == "serving"
    names = (ROOT / "requirements-serving.txt").read_text(encoding="utf-8").lower()
    for heavy in ("torch", "tensorboard", "pyvrp", "pytest", "matplotlib"):
        assert heavy not in re.sub(r"#.*", "", names)
    copied = [rest for word, rest in with_parents("serving") if word == "COPY"]
    assert not [rest for rest in copied if "full" in rest]


def test_everything_that_the_dockerfile_copies_or_runs_is_there():
    for word, rest in instructions():
        if word == "COPY" and "--from" not in rest:
            *sources, _ = [part for part in rest.split() if not part.startswith("--")]
            assert all((ROOT / source).exists() for source in sources), rest
        for script in re.findall(r"scripts/rl/\w+\.py", rest):
            assert (BACKEND / script).is_file()


def test_serving_requirements_are_a_part_of_all():
    lines = (ROOT / "requirements-rl.txt").read_text(encoding="utf-8").splitlines()
    assert "-r requirements-serving.txt" in lines
    code = "import sys; sys.argv[1:] = ['--quiet', '--version']; import setup; print(len("
    code += "setup.requirements('requirements-rl.txt')))"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert int(done.stdout.split()[-1]) > 25, done.stderr


def test_secrets_and_results_stay_out_of_the_image():
    ignored = set((ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines())
    assert {".git", ".env", ".env.*", ".venv", "data", "models", "results"} <= ignored
    assert "backend/models" not in ignored  # the package of the tables
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert not re.search(r"(?i)(secret|password|token)\w*=", text)
    assert ".env" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()


def test_compose_has_no_name_and_a_version_that_old_ones_take():
    assert "name" not in COMPOSE and COMPOSE["version"] == "2.4"


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_every_service_is_pinned_limited_unprivileged_and_watched(name):
    service = COMPOSE["services"][name]
    assert service["healthcheck"]["test"] and service["mem_limit"] and service["cpus"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    if name in OURS:
        assert service["build"]["target"] in stages()[0]  # which ends as a user of its own
    else:
        assert pinned(service["image"])
        assert service["user"] not in ("root", "0")
        assert "ports" not in service
        assert service["networks"] == ["inside"]
        assert any(volume.startswith(f"{name}:") for volume in service["volumes"])
    assert ("ports" in service) == (name in WITH_PORTS)
    if name not in ("api", "postgres"):  # `exec api` runs tests and training: caches, plots
        assert service["read_only"] is True and service["tmpfs"] == [TMP]
    for volume in service["volumes"]:
        assert volume.split(":")[0] in COMPOSE["volumes"]
    for other in service.get("depends_on", {}):
        assert "healthcheck" in COMPOSE["services"][other]
    assert COMPOSE["networks"]["inside"] == {"internal": True}


def test_every_command_of_ours_is_there():
    for name in OURS:
        service = COMPOSE["services"][name]
        words = " ".join([*service["command"], *service["healthcheck"]["test"]])
        scripts = re.findall(r"scripts/rl/\w+\.py", words)
        assert scripts or service["command"][0] in ("celery", "tensorboard")
        assert all((BACKEND / script).is_file() for script in scripts)
    served = COMPOSE["services"]["api"]["command"][2]
    assert served.index("migrate.py") < served.index("gunicorn")
    assert shlex.split(served)[-1] == "wsgi:create()"
    assert (BACKEND / "gunicorn.conf.py").is_file()


def test_every_variable_is_documented_and_every_setting_is_one():
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    used = set(re.findall(r"(?<!\$)\$\{(\w+)", text))
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    lines = example.splitlines()
    documented = {line.split("=")[0]: n for n, line in enumerate(lines) if re.match(r"\w+=", line)}
    assert set(documented) == used
    for name in ("POSTGRES_PASSWORD", "REDIS_PASSWORD", "ATMR_SECRET_KEY"):
        assert f"{name}=" in lines  # no default that anyone else knows
        assert f"${{{name}:?" in text
    settings = {f"ATMR_{field}".upper() for field in Config.model_fields}
    settings |= {"DATABASE_URL", "ATMR_WORKERS", "ATMR_BIND", "ATMR_THREADS"}
    settings.add(STORAGE_VARIABLE)  # of the auto-tuner, which is no part of the app
    for name in OURS:
        assert set(COMPOSE["services"][name].get("environment", {})) <= settings


def celery_of(name):
    """A service's Celery command as Celery itself reads it: (sub-command, its options)."""
    from celery.bin.celery import celery as program

    words = COMPOSE["services"][name]["command"]
    assert words[0] == "celery" and words[words.index("-A") + 1] == "celery_app:app"
    what, *options = words[words.index("-A") + 2 :]
    command = program.commands[what]
    parsed = {}
    parser = command.make_parser(click.Context(command))
    given, left, _ = parser.parse_args(list(options))
    parsed.update(given)
    assert not left
    return what, parsed


def test_workers_and_beat_are_started_as_celery_understands_it():
    what, options = celery_of("worker")
    assert (what, options["queues"]) == ("worker", "default")
    what, options = celery_of("worker-train")
    assert (what, options["queues"], options["concurrency"]) == ("worker", "train", "1")
    assert options["max_tasks_per_child"] == "1"  # its memory is given back
    assert celery_of("beat")[0] == "beat"


def test_each_signs_of_life_are_looked_for_where_they_are_given(monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", TMP)
    for name, role in (("worker", "worker"), ("worker-train", "worker"), ("beat", "beat")):
        checked = COMPOSE["services"][name]["healthcheck"]["test"][1]
        assert f"find {alive_file(role)} " in checked


def test_patients_are_dispatched_without_redis():
    """The tick's own service asks for no Redis, and leaves epochs to workers for a while."""
    command = COMPOSE["services"]["tick"]["command"]
    assert command[1].endswith("tick.py") and "--stand-by" in command
    assert "redis" not in COMPOSE["services"]["tick"]["depends_on"]


def test_what_compiles_finds_a_place_to_keep_it():
    """On a read-only image a function that is to be cached cannot be imported otherwise."""
    caches = [rest for word, rest in instructions() if "NUMBA_CACHE_DIR" in rest]
    assert "NUMBA_CACHE_DIR=/var/cache/atmr" in caches[0]
    for name in OURS:
        service = COMPOSE["services"][name]
        if service.get("read_only") and name != "tensorboard":
            assert "compiled:/var/cache/atmr" in service["volumes"]


def test_redis_takes_its_password_from_a_file_that_no_list_of_processes_shows(tmp_path):
    program = find_redis()
    if program is None:
        pytest.skip("MISSING ROOT PACKAGE: no Redis on this machine")
    password, socket = "letters4ndDigits", tmp_path / "redis.sock"
    text = COMPOSE["services"]["redis"]["command"][2].replace("$$", "$")
    text = text.replace("'appendonly yes'", f"'appendonly yes' 'port 0' 'unixsocket {socket}'")
    environment = {
        "PATH": f"{program.parent}:{os.environ['PATH']}", "TMPDIR": str(tmp_path),
        "REDISCLI_AUTH": password,
    }  # fmt: skip
    server = subprocess.Popen(
        ["sh", "-c", text], cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 20
        while not socket.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        nobody = redis.Redis(unix_socket_path=str(socket))
        with nobody, pytest.raises(redis.AuthenticationError):
            nobody.ping()
        with redis.Redis(unix_socket_path=str(socket), password=password) as link:
            assert link.ping()
            assert link.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        # `exec`: the server is the process that is told to stop, and it shows no password.
        shown = Path(f"/proc/{server.pid}/cmdline").read_bytes().decode()
        assert "redis-server" in shown and password not in shown
        (settings,) = tmp_path.glob("tmp.*")
        assert settings.stat().st_mode & 0o077 == 0
    finally:
        server.terminate()
        server.wait(20)


def test_the_roadmaps_commands_work_in_the_images_working_directory():
    """In `backend`, by the names that the roadmap uses."""
    for script in (
        "deploy_agent.py", "train_dqn.py", "collect_historical_data.py", "tick.py", "demo.py",
        "test_env_quick.py", "loop.py", "task_runs.py", "api_keys.py",
    ):  # fmt: skip
        assert (BACKEND / "scripts" / "rl" / script).is_file()
    links = next(rest for _, rest in instructions() if "ln -s" in rest)
    assert "ln -s /app/data /app/results /app/backend/" in links  # data/rl/tensorboard, from there
    assert "--logdir=data/rl/tensorboard" in COMPOSE["services"]["tensorboard"]["command"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "tests/rl/test_sum_tree.py", "-q", "--collect-only"],
        cwd=BACKEND, capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": str(BACKEND)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_the_health_check_asks_readyz(status, code):
    asked = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps({"ready": status == 200, "problems": {}}).encode())

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        done = subprocess.run(
            [sys.executable, "scripts/rl/healthy.py"], cwd=BACKEND, timeout=60,
            env={**os.environ, "PYTHONPATH": str(BACKEND),
                 "ATMR_BIND": f"0.0.0.0:{server.server_port}"},
        )  # fmt: skip
        thread.join()
    assert (done.returncode, asked) == (code, ["/readyz"])
