"""Keys from the command line: printed once, listed without secrets, revoked."""

import json

import pytest

from access import find_caller
from clock import SystemClock
from config import Config
from extensions import Database
from scripts.rl import migrate
from scripts.rl.api_keys import main
from scripts.rl.command import exit_code


@pytest.fixture
def database(atmr_home):
    assert exit_code(migrate.main, ["--quiet"]) == 0
    database = Database(Config.from_environment().database_url.get_secret_value())
    yield database
    database.dispose()


def caller_of(database, key):
    with database.engine.connect() as connection:
        return find_caller(connection, key, SystemClock().now())


def test_a_key_is_made_works_and_is_revoked(database, tmp_path, capsys):
    out = tmp_path / "key.json"
    arguments = ["create", "--company-id", "7", "--name", "backend", "--json", str(out)]
    assert exit_code(main, arguments) == 0
    assert "cannot be read again" in capsys.readouterr().out
    key = json.loads(out.read_text())["keys"][0]["key"]
    found = caller_of(database, key)
    assert found is not None
    assert (found[0].company_id, found[0].scopes) == (7, {"dispatch", "read"})
    assert exit_code(main, ["list"]) == 0
    listed = capsys.readouterr().out
    assert found[0].prefix in listed
    assert key not in listed
    assert exit_code(main, ["revoke", "--prefix", found[0].prefix]) == 0
    assert caller_of(database, key) is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["create", "--name", "x"], "--company-id and --name"),
        (["create", "--company-id", "1", "--name", "x", "--scopes", "root"], "got root"),
        (["create", "--company-id", "1", "--name", "a\nb"], "printable"),
        (["revoke"], "--prefix"),
        (["revoke", "--prefix", "nobody"], "no API key with prefix 'nobody'"),
    ],
)
def test_what_cannot_be_is_one_sentence(database, capsys, arguments, said):
    assert exit_code(main, arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_database_without_tables_says_what_to_run(atmr_home, capsys):
    assert exit_code(main, ["list"]) == 2
    assert "migrate.py" in capsys.readouterr().err
