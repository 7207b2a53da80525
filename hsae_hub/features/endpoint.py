"""A language model behind any endpoint that speaks OpenAI's chat completions."""

from __future__ import annotations

import ipaddress
import json
import os
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from hsae_hub.errors import CorruptError, DeniedError, NetworkError, UsageError

TOKEN = "HSAE_LLM_TOKEN"
"""Environment variable that holds the endpoint's token; it is read from nowhere else and never written anywhere."""
_TRIES = 4
_TIMEOUT = 120.0  # seconds
_LARGEST = 1 << 20  # bytes of an answer


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the token to another host."""

    def redirect_request(self, *args: Any) -> None:
        return None


class Endpoint:
    """Asks one model at `url`, such as `http://localhost:8000/v1`, at temperature 0.

    Raises:
        UsageError: the address is none, or would send the token unencrypted to another machine.
    """

    def __init__(self, url: str, model: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
            raise UsageError(f"{url!r} is no address such as https://host/v1")
        self.model = model
        self._url = url.rstrip("/") + "/chat/completions"
        self._token = os.environ.get(TOKEN, "")
        if self._token and parts.scheme == "http" and not _is_here(parts.hostname):
            raise UsageError(
                f"{TOKEN} would go to {parts.hostname} unencrypted", fix="an https:// address"
            )
        self._opener = urllib.request.build_opener(_NoRedirect)

    def ask(self, system: str, user: str) -> str:
        """The model's answer; busy servers are asked again a few times.

        Raises:
            DeniedError: the token is wrong or missing.
            NetworkError: it cannot be reached, or keeps failing.
            CorruptError: what it sends is no answer.
        """
        body = {
            "model": self.model,
            "temperature": 0,
            "messages": [
                {"role": "system", "content": system},
                {"role": "user", "content": user},
            ],
        }
        headers = {"Content-Type": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        request = urllib.request.Request(self._url, json.dumps(body).encode(), headers)
        return _answer(self._send(request), self._url)

    def _send(self, request: urllib.request.Request) -> bytes:
        said = ""
        for attempt in range(_TRIES):
            if attempt:
                time.sleep(2.0**attempt)
            try:
                with self._opener.open(request, timeout=_TIMEOUT) as response:
                    content: bytes = response.read(_LARGEST + 1)
                    return content
            except urllib.error.HTTPError as error:
                said = f"HTTP {error.code} {error.reason}"
                error.close()
                if error.code in (401, 403):
                    raise DeniedError(
                        f"{self._url} refuses: {said}", fix=f"set {TOKEN} to its token"
                    ) from None
                if error.code not in (408, 409, 429) and error.code < 500:
                    break
            except (OSError, HTTPException) as error:
                said = str(error) or type(error).__name__
        raise NetworkError(f"{self._url} gives no answer: {said}")


def _is_here(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _answer(content: bytes, url: str) -> str:
    try:
        if len(content) > _LARGEST:
            raise ValueError("it is too long")
        text = json.loads(content)["choices"][0]["message"]["content"]
        if not isinstance(text, str):
            raise ValueError("it is no text")
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise CorruptError(f"{url} sent no chat completion: {error!r}") from None
    return text
