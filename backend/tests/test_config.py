"""Settings: defaults work alone, a wrong value is one sentence, a secret is never shown."""

import pytest

from config import Config
from services.rl.errors import UsageError


@pytest.fixture(autouse=True)
def _home(atmr_home, monkeypatch):
    for name in ("ATMR_DATABASE_URL", "ATMR_SECRET_KEY", "ATMR_REDIS_URL"):
        monkeypatch.delenv(name, raising=False)


def test_without_any_setting_a_sqlite_file_under_home_is_used(atmr_home):
    url = Config.from_environment().database_url.get_secret_value()
    assert url == f"sqlite:///{atmr_home}/data/atmr.sqlite"


def test_a_bare_postgresql_url_gets_the_driver_we_have(monkeypatch):
    monkeypatch.setenv("DATABASE_URL", "postgres://u:hunter2@host/db")
    config = Config.from_environment()
    assert config.database_url.get_secret_value() == "postgresql+psycopg://u:hunter2@host/db"
    assert "hunter2" not in repr(config)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("ATMR_BUDGET_MS", "-3", "ATMR_BUDGET_MS: input should be greater than 0"),
        ("ATMR_BUDGET_MS", "nan", "ATMR_BUDGET_MS"),
        ("ATMR_TIMEZONE", "Geneva", "ATMR_TIMEZONE: 'Geneva' is no time zone"),
        ("ATMR_RATE_LIMIT", "many", "ATMR_RATE_LIMIT: 'many' is no rate limit"),
        ("ATMR_DEVICE", "tpu", "ATMR_DEVICE"),
        ("ATMR_SECRET_KEY", "hunter2", "ATMR_SECRET_KEY: needs at least 32"),
        ("ATMR_REDIS_URL", "hunter2", "ATMR_REDIS_URL: is no Redis URL"),
        ("ATMR_DATABASE_URL", "mysql+pymysql://u:hunter2@h/db", "ATMR_DATABASE_URL"),
        ("ATMR_DATABASE_URL", "sqlite://", "ATMR_DATABASE_URL: an in-memory"),
        ("ATMR_DATABASE_URL", "hunter2", "ATMR_DATABASE_URL: the database URL cannot"),
    ],
)
def test_a_wrong_value_is_one_sentence_that_names_it(monkeypatch, name, value, said):
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError) as error:
        Config.from_environment()
    assert said in str(error.value)
    assert "hunter2" not in str(error.value)
    assert "\n" not in str(error.value)


def test_settings_do_not_change_once_read():
    with pytest.raises(ValueError, match="frozen"):
        Config.from_environment().budget_ms = 1.0
