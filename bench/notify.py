"""Sends alerts on, each once: by mail, to a webhook, and into alerts.jsonl of the campaign folder."""

from __future__ import annotations

import json
import os
import smtplib
import socket
import time
import urllib.request
from collections.abc import Sequence
from email.message import EmailMessage

from paceline.bench import jsontext
from paceline.bench.campaignfile import CampaignDir
from paceline.bench.errors import LaunchError

_TIMEOUT_S = 10.0
_AGAIN_S = 6 * 3600.0


class Notifier:
    """Knows which alerts of a campaign were told; several watchers of one campaign share that through its folder."""

    def __init__(self, folder: CampaignDir, mail: str | None = None, webhook: str | None = None) -> None:
        self._folder = folder
        self._mail = mail
        self._webhook = webhook
        if webhook is not None and not webhook.startswith(("http://", "https://")):
            raise LaunchError(f"--webhook {webhook}: must begin with http:// or https://")
        self._raised: dict[str, float] = self._known()

    def raise_alerts(self, alerts: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        """Tell the alerts (rule, reason) that are new and return them; one that lasts is told again after 6 hours."""
        now = time.time()
        new = [(rule, reason) for rule, reason in alerts if now - self._raised.get(rule, 0.0) >= _AGAIN_S]
        standing = {rule for rule, _ in alerts}
        over = [rule for rule in self._raised if rule not in standing]
        for rule in over:
            del self._raised[rule]
        if not new and not over:
            return []
        for rule, _ in new:
            self._raised[rule] = now
        self._note([{"t_unix_s": now, "rule": rule, "reason": reason} for rule, reason in new])
        self._note([{"t_unix_s": now, "rule": rule, "over": True} for rule in over])
        if new:
            self._send(new)
        return new

    def _known(self) -> dict[str, float]:
        known: dict[str, float] = {}
        try:
            lines = self._folder.alerts_jsonl.read_text(encoding="utf-8").splitlines()
        except OSError:
            return known
        for line in lines:
            try:
                entry = jsontext.loads(line)
            except ValueError:
                entry = {}
            if entry.get("over"):
                known.pop(str(entry.get("rule")), None)
            elif "rule" in entry:
                known[str(entry["rule"])] = float(entry["t_unix_s"])
        return known

    def _note(self, entries: Sequence[dict[str, object]]) -> None:
        if not entries:
            return
        try:
            with open(self._folder.alerts_jsonl, "a", encoding="utf-8") as stream:
                stream.writelines(json.dumps(entry) + "\n" for entry in entries)
        except OSError:
            pass  # the folder of someone else, or a full disk: the alerts are shown all the same

    def _send(self, alerts: Sequence[tuple[str, str]]) -> None:
        text = "\n".join(f"{rule}: {reason}" for rule, reason in alerts)
        if self._webhook is not None:
            body = {"text": f"{self._folder.path.name}: {text}", "campaign": str(self._folder.path)}
            body["alerts"] = [{"rule": rule, "reason": reason} for rule, reason in alerts]  # type: ignore[assignment]
            request = urllib.request.Request(
                self._webhook, json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
            )
            try:
                urllib.request.urlopen(request, timeout=_TIMEOUT_S).close()
            except OSError as error:
                self._note([{"t_unix_s": time.time(), "error": f"webhook: {error}"}])
        if self._mail is not None:
            message = EmailMessage()
            message["Subject"] = f"paceline: {self._folder.path.name}: {', '.join(rule for rule, _ in alerts)}"
            message["From"] = f"paceline@{socket.getfqdn()}"
            message["To"] = self._mail
            message.set_content(f"{text}\n\n{self._folder.path}\n")
            host, _, port = os.environ.get("PACELINE_SMTP", "localhost:25").partition(":")
            try:
                with smtplib.SMTP(host, int(port or 25), timeout=_TIMEOUT_S) as server:
                    server.send_message(message)
            except (OSError, smtplib.SMTPException) as error:
                self._note([{"t_unix_s": time.time(), "error": f"mail: {error}"}])
