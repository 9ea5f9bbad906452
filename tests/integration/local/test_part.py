"""What all parts of a home share: asking a server, waiting for its start, stopping several."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import pytest

from nightshift_local.part import Part, get, stop_parts
from nightshift_local.ports import is_free


class Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 503)
        self.end_headers()
        self.wfile.write(b"well")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def port():
    server = HTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def test_answer_counts_only_when_its_status_is_200(port):
    assert get(port, "/health") == b"well"
    assert get(port, "/other") is None


def test_no_proxy_of_the_environment_sees_the_request(port, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert get(port, "/health") == b"well"


def test_nobody_answers_on_a_free_port(port):
    free = next(number for number in range(port + 1, port + 1000) if is_free(number))
    assert get(free, "/health") is None


def part_that(answers: list[bool], *, runs: bool) -> SimpleNamespace:
    process = SimpleNamespace(find=lambda: object() if runs else None)
    return SimpleNamespace(is_healthy=lambda: answers.pop(0), process=process)


def test_part_is_waited_for_until_it_is_healthy():
    assert Part.becomes_healthy(part_that([False, False, True], runs=True), 60)


def test_part_is_not_waited_for_when_its_process_is_gone():
    answers = [False, True]
    assert not Part.becomes_healthy(part_that(answers, runs=False), 60)
    assert answers == [True]


def test_part_is_not_waited_for_beyond_the_time():
    assert not Part.becomes_healthy(part_that([False] * 100, runs=True), 0.1)


def test_every_part_is_stopped_when_the_first_one_fails():
    stopped, lines = [], []

    def fail() -> None:
        raise OSError("it does not end")

    parts = [
        SimpleNamespace(name="first", stop=fail),
        SimpleNamespace(name="second", stop=lambda: stopped.append("second")),
    ]
    with pytest.raises(OSError, match="does not end"):
        stop_parts(parts, lines.append)
    assert stopped == ["second"]
    assert [line.split() for line in lines] == [["second", "stopped"]]
