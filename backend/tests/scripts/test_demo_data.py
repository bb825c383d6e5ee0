"""demo_data.py: a company to look at, once."""

import json

import pytest

from scripts.rl import demo_data
from scripts.rl.command import exit_code


@pytest.fixture
def small(atmr_home, monkeypatch):
    monkeypatch.setenv("ATMR_SCENARIO", "geneva_small")
    monkeypatch.delenv("ATMR_SECRET_KEY", raising=False)
    return atmr_home


def test_a_company_is_filled_once_and_its_key_works(small, capsys):
    from app import create_app
    from config import Config

    arguments = ["--days", "1", "--hour", "10", "--company-id", "4", "--quiet"]
    told = small / "told.json"
    assert exit_code(demo_data.main, [*arguments, "--json", str(told)]) == 0
    result = json.loads(told.read_text())
    assert result["bookings"] > 10
    app = create_app(Config.from_environment())
    registry = app.extensions["atmr_rl"].registry
    assert registry.alias(4, "champion") == result["champion"]
    assert [e.who for e in registry.history()] == ["demo"] * 3
    headers = {"Authorization": f"Bearer {result['reader_key']}"}
    assert app.test_client().get("/api/v1/bookings", headers=headers).get_json()["bookings"]
    app.extensions["atmr_rl"].database.dispose()
    assert exit_code(demo_data.main, arguments) == 2
    assert "company 4 has drivers already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--hour", "3"], "--hour 3"), (["--serve", "8000"], "ATMR_SECRET_KEY")],
)
def test_what_cannot_be_is_said_in_a_sentence(small, capsys, arguments, said):
    assert exit_code(demo_data.main, arguments) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error
