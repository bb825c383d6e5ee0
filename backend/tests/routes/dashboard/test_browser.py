"""The dashboard in a real headless Chromium: what a person at a screen or a phone can do."""

import shutil
import threading
from contextlib import contextmanager

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.ui import WebDriverWait
from werkzeug.serving import make_server

from models import Decision, Experiment

from .conftest import LATER, SECRET, booked, dispatched, experiment

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
slow = pytest.mark.slow  # `make test-slow`; one test of the whole way in stays in `make test`
pytestmark = [
    pytest.mark.skipif(
        CHROMIUM is None or DRIVER is None,
        reason="MISSING ROOT PACKAGE: no Chromium on this machine; install the packages "
        "'chromium' and 'chromium-driver' (as root: .ci/install-browser)",
    ),
    # Selenium's own sockets are closed by its garbage.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage",
)  # fmt: skip


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    options = Options()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(DRIVER))
    browser.set_page_load_timeout(60)
    yield browser
    browser.quit()


@contextmanager
def serving(app):
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/dashboard"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Screen:
    """One browser window in front of one server."""

    def __init__(self, browser, base, api, pictures):
        self.browser, self.base, self.api, self.pictures = browser, base, api, pictures

    def size(self, width, height=900):
        self.browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
        )

    def open(self, path=""):
        self.browser.get(self.base + path)

    def find(self, selector):
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector="main"):
        return self.find(selector).text

    def wait(self, condition, seconds=20):
        return WebDriverWait(self.browser, seconds, 0.1).until(lambda _: condition())

    def log_in(self, key="one"):
        self.open("/login")
        self.find("#key").send_keys(self.api.keys[key], Keys.ENTER)
        self.wait(lambda: self.browser.find_elements(By.ID, "live"))

    def overflow(self):
        return self.browser.execute_script(
            "const e = document.documentElement; return e.scrollWidth - e.clientWidth;"
        )

    def complaints(self):
        return [e["message"] for e in self.browser.get_log("browser") if e["level"] == "SEVERE"]

    def picture(self, name):
        self.browser.save_screenshot(str(self.pictures / f"{name}.png"))


@pytest.fixture
def screen(chromium, make_api, tmp_path):
    api = make_api(secret_key=SECRET)
    experiment(api)
    with serving(api.app) as base:
        chromium.delete_all_cookies()
        chromium.get_log("browser")
        made = Screen(chromium, base, api, tmp_path)
        made.size(1440)
        yield made


def test_a_manager_gets_in_and_sees_the_day(screen):
    given = dispatched(screen.api, booked(screen.api))
    screen.log_in()
    for width in (1440, 360):
        screen.size(width)
        screen.open()
        assert str(given["driver_id"]) in screen.text('[data-part="drivers"]')
        assert screen.find('[data-part="map"] svg').is_displayed()
        assert screen.overflow() <= 0, ("today", width)
        screen.open("/decisions")
        assert str(given["booking_id"]) in screen.text()
        assert screen.overflow() <= 0, ("decisions", width)
    assert screen.complaints() == []


@slow
def test_heuristic_only_with_the_keyboard_alone(screen):
    booked(screen.api, LATER)
    screen.log_in()
    body = screen.find("body")
    seen = []
    for _ in range(15):
        body.send_keys(Keys.TAB)
        active = screen.browser.switch_to.active_element
        seen.append(active.get_attribute("id") or active.text)
        if seen[-1] == "heuristic-only":
            break
        body = active
    assert seen[-1] == "heuristic-only", seen
    screen.browser.switch_to.active_element.send_keys(Keys.ENTER)
    screen.wait(lambda: screen.find("#why-off").is_displayed())
    for _ in range(2):
        screen.browser.switch_to.active_element.send_keys(Keys.TAB)
    button = screen.browser.switch_to.active_element
    assert button.text == "Oui, heuristique seule"
    button.send_keys(Keys.ENTER)
    screen.wait(lambda: "C’est fait" in screen.text())
    assert "Heuristique seule." in screen.text(".switch")
    with screen.api.services.database.reading() as work:
        assert work.query(Experiment).one().mode == "off"
    assert screen.complaints() == []


@slow
def test_a_decision_is_overridden_by_a_person(screen):
    given = dispatched(screen.api, booked(screen.api))
    screen.log_in()
    screen.open("/decisions")
    screen.browser.find_element(By.PARTIAL_LINK_TEXT, "Détail").click()
    to = 11 + 12 - given["driver_id"]
    Select(screen.find("#driver")).select_by_value(str(to))
    Select(screen.find("#why")).select_by_visible_text("Circulation")
    screen.find("form .main, button.main").click()
    screen.wait(lambda: f"Une personne a choisi le chauffeur {to}" in screen.text())
    with screen.api.services.database.reading() as work:
        human = work.query(Decision).filter_by(source="human").one()
        assert human.driver_id == to
    assert screen.complaints() == []


@slow
@pytest.mark.parametrize("language", ["fr", "en"])
def test_nothing_scrolls_sideways_on_a_phone(screen, language):
    given = dispatched(screen.api, booked(screen.api))
    booked(screen.api, LATER, wheelchair_need=True)
    screen.log_in()
    for width in (360, 1440):
        screen.size(width)
        for path in ("", "/decisions", f"/decisions/{given['decision_id']}",
                     f"/bookings/{given['booking_id']}", "/experiment", "/models", "/report",
                     "/nowhere"):  # fmt: skip
            screen.open(f"{path}?lang={language}")
            assert screen.overflow() <= 0, (path, width)
            screen.picture(f"{width}-{language}-{path.strip('/').split('/')[0] or 'today'}")
    targets = [e.size["height"] for e in screen.browser.find_elements(By.CSS_SELECTOR, "button")
               if e.is_displayed() and "plain" not in (e.get_attribute("class") or "")]  # fmt: skip
    assert all(height >= 44 for height in targets)


@slow
def test_the_page_lives_and_says_when_the_connection_is_lost(screen):
    screen.log_in()
    part = '[data-part="bookings"]'
    assert "Aucune course" in screen.text(part)
    booking_id = booked(screen.api, LATER)
    refresh = "document.dispatchEvent(new Event('visibilitychange'))"  # as on coming back to it
    screen.browser.execute_script(refresh)
    screen.wait(lambda: str(booking_id) in screen.text(part))
    screen.find("#heuristic-only").click()  # what is open is left alone
    booked(screen.api, LATER)
    screen.browser.execute_script(refresh)
    screen.wait(lambda: len(screen.browser.find_elements(By.CSS_SELECTOR, f"{part} tbody tr")) == 2)
    assert screen.find("#why-off").is_displayed()
    offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    screen.browser.execute_cdp_cmd("Network.enable", {})
    screen.browser.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
    screen.wait(lambda: "Connexion perdue" in screen.text("#live"))
    online = {**offline, "offline": False, "downloadThroughput": -1, "uploadThroughput": -1}
    screen.browser.execute_cdp_cmd("Network.emulateNetworkConditions", online)
    screen.wait(lambda: "À jour" in screen.text("#live"))


@slow
def test_every_form_and_page_works_without_scripts(screen):
    screen.browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        screen.open("/login")
        screen.find("#key").send_keys(screen.api.keys["one"], Keys.ENTER)
        screen.wait(lambda: screen.browser.find_elements(By.ID, "live"))
        screen.find("#heuristic-only").click()
        screen.find('[data-part="switch"] form button').click()
        screen.wait(lambda: "C’est fait" in screen.text())
    finally:
        screen.browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
