"""The webhook: where it may go, what arrives, what failing costs."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from services.rl.ab_dispatcher import ExperimentError, NullNotifier, WebhookNotifier, notifier_for


@pytest.fixture
def server():
    """A real server on this machine: (url, what arrived)."""
    arrived = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            arrived.append((self.path, json.loads(body)))
            if "slow" in self.path:
                time.sleep(0.6)
            status = 302 if "redirect" in self.path else 500 if "broken" in self.path else 204
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_POST  # noqa: N815 - the name is the library's

        def log_message(self, *args):
            pass

    httpd = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}", arrived
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def test_a_message_arrives_as_json(server):
    url, arrived = server
    notifier = WebhookNotifier(f"{url}/hook?key=1")
    notifier.notify({"reason": "zu spät", "rate": 0.25})
    notifier.wait()
    assert arrived == [("/hook?key=1", {"reason": "zu spät", "rate": 0.25})]
    assert (notifier.sent, notifier.failed) == (1, 0)


@pytest.mark.parametrize("path", ["/broken", "/redirect"])
def test_a_failure_is_counted_and_a_redirect_not_followed(server, path):
    url, arrived = server
    notifier = WebhookNotifier(url + path)
    notifier.notify({})
    notifier.wait()
    assert (notifier.sent, notifier.failed) == (0, 1)
    assert notifier.last_error.startswith("answered ")
    assert [where for where, _ in arrived] == [path]


def test_nobody_waits_for_a_slow_or_absent_receiver(server):
    url, _ = server
    slow = WebhookNotifier(f"{url}/slow", timeout_s=0.2)
    absent = WebhookNotifier("http://127.0.0.1:9")
    begun = time.perf_counter()
    slow.notify({})
    absent.notify({})
    assert time.perf_counter() - begun < 0.15
    slow.wait()
    absent.wait()
    assert slow.failed == absent.failed == 1


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/hook",
        "http://10.0.0.1/hook",
        "http://127.0.0.1.example.org/",
        "ftp://localhost/",
        "file:///etc/passwd",
        "https://",
        "https://user:secret@example.org/",
        "https://example.org:99999/",
        "https://example.org/a b",
        "https://example.org/\r\nX: 1",
        "nonsense",
    ],
)
def test_other_urls_are_refused_without_repeating_them(url):
    with pytest.raises(ExperimentError, match=r"^webhook: ") as caught:
        WebhookNotifier(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["https://example.org/hook", "http://localhost:8000/", "http://[::1]:8000/x"]
)
def test_https_and_this_machine_are_allowed(url):
    assert isinstance(notifier_for(url), WebhookNotifier)


def test_without_a_url_nobody_is_told():
    assert isinstance(notifier_for(None), NullNotifier)
