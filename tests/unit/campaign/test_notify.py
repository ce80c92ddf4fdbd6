"""Alerts sent on, to a real HTTP server and a real SMTP conversation on this machine."""

from __future__ import annotations

import http.server
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from paceline.bench.campaignfile import CampaignDir
from paceline.bench.errors import LaunchError
from paceline.bench.notify import Notifier

HOT = ("hot_gpu", "a GPU is at 91 °C, above 85")
FLAT = ("flat_reward", "the mean reward has not risen")


@pytest.fixture
def webhook() -> Iterator[tuple[str, list[Any]]]:
    """Return the address of a server and the list of what is posted to it."""
    posted: list[Any] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/hook", posted
        server.shutdown()
        thread.join()


def mail_server(received: list[str]) -> tuple[int, threading.Thread]:
    """Take one mail by SMTP (RFC 5321); return the port and the thread."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listener, listener.accept()[0] as connection, connection.makefile("rwb") as stream:

            def answer(text: str) -> None:
                stream.write(text.encode() + b"\r\n")
                stream.flush()

            answer("220 test")
            for line in iter(stream.readline, b""):
                verb = line[:4].upper()
                if verb == b"DATA":
                    answer("354 go on")
                    body = list(iter(stream.readline, b".\r\n"))
                    received.append(b"".join(body).decode())
                    answer("250 taken")
                elif verb == b"QUIT":
                    answer("221 bye")
                    return
                else:
                    answer("250 ok")

    thread = threading.Thread(target=serve)
    thread.start()
    return listener.getsockname()[1], thread


def test_each_alert_is_posted_once(tmp_path: Path, webhook: tuple[str, list[Any]]) -> None:
    url, posted = webhook
    notifier = Notifier(CampaignDir(tmp_path), webhook=url)
    assert notifier.raise_alerts([HOT]) == [HOT]
    assert notifier.raise_alerts([HOT]) == []
    assert notifier.raise_alerts([HOT, FLAT]) == [FLAT]
    assert [[a["rule"] for a in body["alerts"]] for body in posted] == [["hot_gpu"], ["flat_reward"]]
    assert "91 °C" in posted[0]["text"] and posted[0]["campaign"] == str(tmp_path)


def test_another_watcher_knows_what_was_told_and_what_is_over(tmp_path: Path) -> None:
    folder = CampaignDir(tmp_path)
    assert Notifier(folder).raise_alerts([HOT]) == [HOT]
    assert Notifier(folder).raise_alerts([HOT]) == []
    assert Notifier(folder).raise_alerts([]) == []
    assert Notifier(folder).raise_alerts([HOT]) == [HOT]


def test_mail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[str] = []
    port, thread = mail_server(received)
    monkeypatch.setenv("PACELINE_SMTP", f"127.0.0.1:{port}")
    Notifier(CampaignDir(tmp_path), mail="me@example.org").raise_alerts([FLAT])
    thread.join(10)
    assert "To: me@example.org" in received[0] and "flat_reward: the mean reward has not risen" in received[0]


def test_a_post_that_fails_is_noted_and_disturbs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    monkeypatch.setenv("PACELINE_SMTP", f"127.0.0.1:{port}")
    folder = CampaignDir(tmp_path)
    notifier = Notifier(folder, mail="me@example.org", webhook=f"http://127.0.0.1:{port}/")
    assert notifier.raise_alerts([HOT]) == [HOT]
    notes = folder.alerts_jsonl.read_text()
    assert "webhook: " in notes and "mail: " in notes


def test_a_webhook_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="must begin with http"):
        Notifier(CampaignDir(tmp_path), webhook="file:///etc/passwd")
