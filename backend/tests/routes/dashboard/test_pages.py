"""What the pages show and do, for whom, in which language."""

import csv
import io
from datetime import timedelta

import pytest
from sqlalchemy import select

from models import Booking, Decision, Experiment, ExperimentEvent
from routes.dashboard.words import _ALL, words_of
from services.learning import task_runs

from ..conftest import NOW, commit
from .conftest import LATER, booked, dispatched, experiment, other

PAGES = ("", "/decisions", "/decisions?all=1", "/experiment", "/models", "/report")


def rows(api, model):
    with api.services.database.reading() as work:
        return list(work.scalars(select(model)))


@pytest.mark.parametrize("path", PAGES)
def test_every_page_answers_for_an_empty_company_in_both_languages(manager, path):
    assert 'lang="fr"' in manager.text(path)
    manager.text("?lang=en")
    page = manager.text(path)
    assert 'lang="en"' in page and "Log out" in page  # the language is kept


def test_words_exist_in_both_languages_with_the_same_places():
    import string

    for key, (french, english) in _ALL.items():
        assert french and english, key
        places = [{f for _, f, _, _ in string.Formatter().parse(t) if f} for t in (french, english)]
        assert places[0] == places[1], key
    with pytest.raises(KeyError):
        words_of("fr")("no such sentence")


def test_open_bookings_stand_by_urgency_the_overdue_first_in_words(manager):
    api = manager.api
    calm, soon = booked(api, LATER), booked(api)
    late = booked(api, "2026-03-02T10:05:00+01:00")
    stuck = booked(api, LATER, wheelchair_need=True)  # neither driver has a wheelchair van
    api.clock.advance(minutes=60)  # 11:00: those of 10:05 and 10:10 are over
    page = manager.text()
    table = page[page.index('id="h-open"') :]
    places = [table.index(f'/bookings/{n}"') for n in (late, soon, stuck, calm)]
    assert places == sorted(places)
    assert "En retard de 25 min : avertir le patient" in table
    assert "Aucun véhicule adapté" in table and "A le temps jusqu’à 1" in table


def test_times_are_those_of_the_configured_zone(manager):
    booked(manager.api, LATER)
    assert "13:00" in manager.text() and "12:00" not in manager.text("/experiment")


def test_the_live_view_gives_the_same_parts(manager):
    booked(manager.api, LATER)
    told = manager.get("/live").get_json()
    assert told["at"] == "10:00"
    page = manager.text()
    assert set(told["parts"]) == {
        "switch", "tiles", "map", "bookings", "kpis", "charts", "drivers",
    }  # fmt: skip
    for name in ("map", "bookings", "drivers"):
        assert told["parts"][name].strip() in page


def test_heuristic_only_stops_the_learned_arm_and_says_who_and_why(manager):
    experiment(manager.api)
    assert "Expérience A/B en cours" in manager.text()
    assert manager.post("/heuristic-only", why="").status_code == 422
    answer = manager.post("/heuristic-only", why="late_pickups")
    assert answer.status_code == 303
    page = manager.text()
    assert "C’est fait" in page and "Heuristique seule." in page
    assert "C’est fait" not in manager.text()  # said once
    [row] = rows(manager.api, Experiment)
    [event] = rows(manager.api, ExperimentEvent)
    assert row.mode == "off"
    assert (event.kind, event.who, event.why) == ("heuristic_only", "one", "late_pickups")
    manager.post("/heuristic-only", page="/experiment", why="late_pickups")
    assert len(rows(manager.api, ExperimentEvent)) == 1  # twice is once
    assert "Trop de retards" in manager.text("/experiment")


def test_a_company_on_the_default_experiment_switches_off_itself_alone(manager):
    experiment(manager.api, company_id=None)
    manager.post("/heuristic-only", why="precaution")
    modes = {row.company_id: row.mode for row in rows(manager.api, Experiment)}
    assert modes == {None: "ab", 1: "off"}
    assert "Expérience A/B en cours" in other(manager, "two").text()


def test_without_an_experiment_there_is_nothing_to_switch_off(manager):
    assert "Heuristique seule." in manager.text()
    manager.post("/heuristic-only", why="precaution")
    assert rows(manager.api, Experiment) == []


def test_a_stopped_experiment_is_resumed_by_an_admin_who_looked(manager):
    experiment(manager.api, stopped_at=NOW, stop_reason="Too many <late> bookings.")
    page = manager.text("/experiment")
    assert "Arrêté par un garde-fou" in page and "Too many &lt;late&gt; bookings." in page
    refused = manager.post("/experiment/resume", mode="ab", why="checked")
    assert refused.status_code == 422
    manager.post("/experiment/resume", mode="shadow", why="checked", sure="yes")
    [row] = rows(manager.api, Experiment)
    assert row.mode == "shadow" and row.stopped_at is None


def test_readers_see_and_cannot_touch(manager):
    experiment(manager.api)
    decision = dispatched(manager.api, booked(manager.api))["decision_id"]
    reader = other(manager, "reader")
    assert (
        "droit admin" in reader.text() and 'action="/dashboard/heuristic-only"' not in reader.text()
    )
    assert "droit dispatch" in reader.text(f"/decisions/{decision}")
    for path, fields in (
        ("/heuristic-only", {"why": "precaution"}),
        ("/experiment/resume", {"mode": "ab", "why": "checked", "sure": "yes"}),
        (f"/decisions/{decision}/override", {"driver": "12", "why": "other"}),
        ("/models/aaaaaaaaaaaa/promote", {"why": "other"}),
        ("/models/aaaaaaaaaaaa/rollback", {"why": "other"}),
    ):
        assert reader.post(path, **fields).status_code == 403, path
    assert rows(manager.api, ExperimentEvent) == []


def test_a_decision_is_explained_and_overridden_as_through_the_api(manager):
    api = manager.api
    given = dispatched(api, booked(api))
    driver, page = given["driver_id"], f"/decisions/{given['decision_id']}"
    text = manager.text(page)
    assert f"Chauffeur {driver} envoyé." in text and "à l’heure" in text
    assert f"Chauffeur {driver} envoyé." in manager.text("/decisions")
    for to, why in (("x", "traffic"), ("12", "bad"), ("99999999999", "other"), ("", "other")):
        refused = manager.post(f"{page}/override", page=page, driver=to, why=why)
        assert refused.status_code == 422
    assert manager.post(f"{page}/override", page=page, driver="21", why="other").status_code == 404
    to = 11 + 12 - driver
    answer = manager.post(f"{page}/override", page=page, driver=str(to), why="traffic")
    assert answer.status_code == 303, answer.get_data(as_text=True)
    booking = manager.text(f"/bookings/{given['booking_id']}")
    assert f"Une personne a choisi le chauffeur {to} : circulation." in booking
    human = next(d for d in rows(api, Decision) if d.source == "human")
    assert human.driver_id == to and human.reason_code == "traffic" and human.arm == given["arm"]
    again = manager.post(f"{page}/override", driver=str(driver), why="other")
    assert again.status_code == 409


def test_only_the_latest_decision_can_be_overridden(manager):
    api = manager.api
    booking_id = booked(api, LATER)
    first = dispatched(api, booking_id)
    assert first["action"] == "defer"
    api.clock.advance(minutes=5)
    second = dispatched(api, booking_id)
    old, new = (f"/decisions/{d['decision_id']}" for d in (first, second))
    assert "il y en a une plus récente" in manager.text(old) and new in manager.text(old)
    assert manager.post(f"{old}/override", driver="11", why="other").status_code == 409
    assert manager.post(f"{new}/override", page=new, driver="11", why="other").status_code == 303


def test_an_open_booking_shows_who_could_take_it(manager):
    booking_id = booked(manager.api)
    dispatched(manager.api, booked(manager.api, LATER))
    page = manager.text(f"/bookings/{booking_id}")
    assert "Chauffeurs possibles maintenant" in page and "min de route du patient" in page


def test_other_companies_rows_do_not_exist(manager):
    api = manager.api
    mine = dispatched(api, booked(api))
    stranger = other(manager, "two")
    for path in (f"/bookings/{mine['booking_id']}", f"/decisions/{mine['decision_id']}"):
        assert manager.get(path).status_code == 200
        assert stranger.get(path).status_code == 404
    override = f"/decisions/{mine['decision_id']}/override"
    assert stranger.post(override, driver="21", why="other").status_code == 404
    for path in PAGES:
        text = stranger.text(path)
        assert mine["decision_id"] not in text
        assert f'/bookings/{mine["booking_id"]}"' not in text
    assert "Chauffeur 11" not in stranger.text() and "Chauffeur 21" in stranger.text()


def test_why_a_booking_was_late_is_said_from_the_log(manager):
    api = manager.api
    booking_id = booked(api)
    given = dispatched(api, booking_id)
    api.clock.advance(minutes=40)
    api("POST", f"assignments/{given['assignment_id']}/outcome",
        {"outcome": "picked_up", "at": "2026-03-02T10:37:00+01:00"})  # fmt: skip
    page = manager.text(f"/bookings/{booking_id}")
    assert "Pourquoi en retard ?" in page and "Le plan était bon" in page
    assert "En retard : le patient a attendu" in page
    manager.text("?lang=en")
    assert "The plan was good" in manager.text(f"/bookings/{booking_id}")


def test_a_booking_nobody_could_reach_says_so(manager):
    api = manager.api
    booking_id = booked(api, wheelchair_need=True)
    dispatched(api, booking_id)
    api.clock.advance(minutes=60)
    page = manager.text(f"/bookings/{booking_id}")
    assert "Personne n’est venu dans le délai." in page
    assert "aucun chauffeur ne pouvait être là" in page


def test_models_are_promoted_and_rolled_back(manager):
    registry = manager.api.services.registry
    page = manager.text("/models")
    assert "aaaaaaaaaaaa" in page and "bbbbbbbbbbbb" in page
    assert manager.post("/models/aaaaaaaaaaaa/promote", why="free text").status_code == 422
    assert "endommagé" in page  # the third one
    for version, status in (("dddddddddddd", 404), ("cccccccccccc", 409)):
        refused = manager.post(f"/models/{version}/promote", why="gate_passed")
        assert refused.status_code == status
        assert "/srv/models" not in refused.get_data(as_text=True)
    for version in ("aaaaaaaaaaaa", "bbbbbbbbbbbb"):
        answer = manager.post(f"/models/{version}/promote", why="gate_passed")
        assert answer.status_code == 303, answer.get_data(as_text=True)
    assert registry.alias(1, "champion") == "bbbbbbbbbbbb"
    assert manager.post("/models/bbbbbbbbbbbb/rollback", why="incident").status_code == 303
    assert registry.alias(1, "champion") == "aaaaaaaaaaaa"
    page = manager.text("/models")
    assert "Contrôle réussi" in page and "bbbbbbbbbbbb → aaaaaaaaaaaa" in page


def test_the_loop_tells_its_last_collection_its_last_verdict_and_what_was_given_up(manager):
    page = manager.text("/models")
    assert "Boucle d’apprentissage" in page and page.count("jamais") == 2
    database, clock = manager.api.services.database, manager.api.clock

    def begin(task, key, most=2):
        return task_runs.begin(
            database, clock, task, key, most_attempts=most, lease=timedelta(minutes=1)
        )

    task_runs.finish(begin("collection", "1/09:00"), {"put": 5})
    task_runs.finish(begin("retraining", "1/2026-03-02"), {"registered": "bbbbbbbbbbbb"})
    task_runs.finish(begin("retraining", "2/2026-03-02"), {"registered": "other-company"})
    task_runs.fail(begin("report", "2026-03-01", 1), "disk full")
    task_runs.fail(begin("collection", "2/09:00", 1), "of another company")
    page = manager.text("/models")
    assert "candidat bbbbbbbbbbbb" in page and "other-company" not in page
    assert "1, en attente d’une personne" in page and "en retard" not in page
    clock.advance(minutes=121)
    task_runs.fail(begin("retraining", "1/2026-03-03"), "no")
    manager.text("?lang=en")
    page = manager.text("/models")
    assert "failed, will be tried again" in page and "! late" in page


def test_the_report_has_the_same_figures_as_a_page_a_file_and_a_table(manager):
    api = manager.api
    done = dispatched(api, booked(api))
    api.clock.advance(minutes=30)
    api("POST", f"assignments/{done['assignment_id']}/outcome",
        {"outcome": "completed", "at": "2026-03-02T10:29:00+01:00",
         "picked_up_at": "2026-03-02T10:12:00+01:00"})  # fmt: skip
    file = manager.get("/report.html")
    assert file.headers["Content-Disposition"] == 'attachment; filename="atmr-1-2026-03-02.html"'
    assert "trop peu de données (1 sur 1)" in file.get_data(as_text=True)
    assert "<script" not in file.get_data(as_text=True)
    table = list(csv.DictReader(io.StringIO(manager.get("/report.csv").get_data(as_text=True))))
    [share] = [r for r in table if r["arm"] == "all" and r["figure"] == "on_time_share"]
    assert (share["value"], share["count"], share["of"]) == ("1.0", "1", "1")
    wait = [r for r in table if r["arm"] == "all" and r["figure"] == "wait_mean_min"]
    assert wait[0]["value"] == "12.0"  # asked for at short notice: counted from the request
    assert "2 mars 2026" in manager.text("/report?day=nonsense")
    assert "1 mars 2026" in manager.text("/report?day=2026-03-01")


def test_drivers_appear_with_what_they_do(manager):
    commit(manager.api, booked(manager.api), driver_id=11)
    part = manager.get("/live").get_json()["parts"]["drivers"]
    assert "en route vers le patient" in part and "libre" in part


def test_names_of_keys_are_escaped(manager):
    from access import create_key

    api = manager.api
    with api.services.database.writing() as work:
        _, api.keys["evil"] = create_key(
            work, api.clock, company_id=1, name="<b>x</b>", scopes=("admin",)
        )
    page = other(manager, "evil").text()
    assert "<b>x</b>" not in page and "&lt;b&gt;x&lt;/b&gt;" in page


@pytest.mark.parametrize(
    "path",
    ["/nowhere", "/bookings/0", "/bookings/99", "/bookings/9999999999", "/decisions/none",
     "/decisions/" + "a" * 64, "/bookings/-1", "/bookings/%00", "/models/x/promote"],
)  # fmt: skip
def test_nothing_there_is_a_page_not_an_error(manager, path):
    answer = manager.get(path)
    assert answer.status_code in (404, 405)
    assert answer.content_type.startswith("text/html")


@pytest.mark.parametrize(
    "path",
    ["/decisions?until=x", "/decisions?until=1e400", "/decisions?until=-99999999999999",
     "/decisions?until=nan", "?lang=<script>", "/report?day=0001-01-01",
     "/report.csv?day=9999-12-31"],
)  # fmt: skip
def test_odd_parameters_do_no_harm(manager, path):
    assert manager.get(path).status_code == 200


def test_the_dashboard_hangs_in_a_hosts_app_too(migrated_sqlite, tmp_path, atmr_home):
    import shutil

    from flask import Flask

    from app import init_app
    from clock import FixedClock
    from config import Config
    from extensions import EXTENSION

    from ..conftest import GENEVA, fill
    from .conftest import SECRET

    copy = shutil.copy(migrated_sqlite, tmp_path / "host.sqlite")
    host = Flask("host")
    config = Config.from_environment(database_url=f"sqlite:///{copy}", secret_key=SECRET)
    clock = FixedClock(NOW)
    init_app(host, config, url_prefix="/atmr", scenario=GENEVA, clock=clock)
    database = host.extensions[EXTENSION].database
    key = fill(database, clock)["one"]
    client = host.test_client()
    page = client.get("/atmr/dashboard/login").get_data(as_text=True)
    token = page.split('name="csrf" value="')[1][:64]
    answer = client.post("/atmr/dashboard/login", data={"csrf": token, "key": key})
    assert answer.location == "/atmr/dashboard"
    assert client.get("/atmr/dashboard").status_code == 200
    database.dispose()


def test_bookings_that_nobody_closed_are_named_until_somebody_does(manager):
    old = booked(manager.api, when=LATER)
    page = manager.text("/")
    assert "plus d'un jour" not in page and "plus d&#39;un jour" not in page
    with manager.api.services.database.writing() as work:
        work.get(Booking, old).scheduled_time -= timedelta(days=3)
    page = manager.text("/").replace("&#39;", "'")
    assert "Promises il y a plus d'un jour" in page and f"réservations {old}. Personne" in page
