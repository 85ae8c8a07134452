#!/usr/bin/env python3
"""Plays transcripts against a gateway, by `websockets`. Their form is told in ../transcripts/README.md.

    play.py URL TRANSCRIPT... [NAME=VALUE...]

It needs Python 3.9 and the package `websockets`, 15 or later. It ends with 1 if a transcript went otherwise.
"""

import contextlib
import http.client
import json
import re
import sys
import urllib.parse

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

PATIENCE = 20


class Fault(Exception):
    """A line went otherwise."""


class Refused:
    """A socket that was not let in."""

    def __init__(self, status):
        self.status = status


class Player:
    def __init__(self, url, variables):
        self.url = urllib.parse.urlsplit(url)
        self.known = dict(variables)
        self.sockets = {}
        self.open_sockets = contextlib.ExitStack()
        self.answer = None
        self.pings = 0

    def play(self, transcript):
        with open(transcript, encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                line = line.strip()
                if not line or line.startswith("#"):
                    continue
                try:
                    self.step(line)
                except (Fault, TimeoutError, ConnectionClosed, ValueError) as fault:
                    raise Fault(f"line {number}: {line}\n{fault or 'nothing came in time'}") from None

    def close(self):
        self.open_sockets.close()

    def step(self, line):
        if line.startswith("="):
            return self.check_answer(line[1:].strip())
        first, _, rest = line.partition(" ")
        if re.fullmatch("[A-Z]+", first):
            return self.ask(first, rest)
        parts = re.fullmatch(r"([a-z0-9]+)(>x|[-+><.!])", first)
        if not parts:
            raise Fault("this line means nothing")
        name, mark = parts.groups()
        if mark == "+":
            self.open(name, rest)
        elif mark == ">":
            self.socket(name).send(self.filled(rest))
        elif mark == ">x":
            self.socket(name).send(bytes.fromhex(rest))
        elif mark == "<":
            self.check(rest, self.text(name))
        elif mark == ".":
            self.check_silent(name)
        elif mark == "!":
            self.check_closed(name, int(rest))
        else:
            self.socket(name).close()
            del self.sockets[name]

    def open(self, name, rest):
        path, _, headers = rest.partition(" ")
        headers = json.loads(self.filled(headers or "{}"))
        scheme = "wss" if self.url.scheme == "https" else "ws"
        try:
            # A proxy of the environment is not meant for what is on this host.
            opening = connect(
                f"{scheme}://{self.url.netloc}{path}",
                additional_headers=headers,
                open_timeout=PATIENCE,
                compression=None,
                proxy=None,
            )
            socket = self.open_sockets.enter_context(opening)
        except InvalidStatus as refused:
            socket = Refused(refused.response.status_code)
        self.sockets[name] = (socket, path == "/ws")

    def socket(self, name):
        if name not in self.sockets:
            raise Fault(f"there is no socket {name!r}")
        socket, _ = self.sockets[name]
        if isinstance(socket, Refused):
            raise Fault(f"it was refused with status {socket.status}")
        return socket

    def text(self, name):
        message = self.socket(name).recv(timeout=PATIENCE)
        if not isinstance(message, str):
            raise Fault(f"there came the binary {message.hex()}")
        return message

    def check_silent(self, name):
        socket = self.socket(name)
        if self.sockets[name][1]:
            self.pings += 1
            number = f"ping {self.pings}"
            socket.send(json.dumps({"id": number, "method": "ping"}))
            text = self.text(name)
            if json.loads(text).get("id") != number:
                raise Fault(f"there came {text}")
            return
        if not socket.ping().wait(PATIENCE):
            raise Fault("no pong came")
        try:
            raise Fault(f"there came {socket.recv(timeout=0)}")
        except TimeoutError:
            pass

    def check_closed(self, name, code):
        socket, _ = self.sockets.pop(name, (None, False))
        if isinstance(socket, Refused):
            found = socket.status
        elif socket is None:
            raise Fault(f"there is no socket {name!r}")
        else:
            try:
                raise Fault(f"there came {socket.recv(timeout=PATIENCE)}")
            except ConnectionClosed as closed:
                found = closed.rcvd.code if closed.rcvd else 1006
        if found != code:
            raise Fault(f"the code is {found}")

    def ask(self, method, rest):
        path, _, rest = rest.partition(" ")
        rest = self.filled(rest.strip() or "{}")
        headers, end = json.JSONDecoder().raw_decode(rest)
        body = rest[end:].strip().encode()
        if body and not any(header.lower() == "content-type" for header in headers):
            headers["content-type"] = "application/json"
        tls = self.url.scheme == "https"
        kind = http.client.HTTPSConnection if tls else http.client.HTTPConnection
        connection = kind(self.url.netloc, timeout=PATIENCE)
        connection.request(method, path, body or None, headers)
        answer = connection.getresponse()
        self.answer = (answer.status, answer.read().decode())
        connection.close()

    def check_answer(self, expected):
        if self.answer is None:
            raise Fault("nothing was asked")
        (status, body), self.answer = self.answer, None
        code, _, expected = expected.partition(" ")
        if status != int(code):
            raise Fault(f"the status is {status}: {body}")
        if expected:
            self.check(expected, body)

    def check(self, expected, found):
        try:
            wanted = json.loads(expected)
        except ValueError:
            fits = expected == found
        else:
            try:
                fits = self.fits(wanted, json.loads(found))
            except ValueError:
                fits = False
        if not fits:
            raise Fault(f"there came {found}")

    def fits(self, expected, found):
        if isinstance(expected, str):
            if expected == "$*":
                return True
            if re.fullmatch(r"\$[A-Za-z][A-Za-z0-9_]*", expected):
                return self.fits_exactly(self.known.setdefault(expected[1:], found), found)
            return isinstance(found, str) and self.filled_in_string(expected) == found
        if isinstance(expected, list):
            return (
                isinstance(found, list)
                and len(expected) == len(found)
                and all(map(self.fits, expected, found))
            )
        if isinstance(expected, dict):
            return (
                isinstance(found, dict)
                and expected.keys() == found.keys()
                and all(self.fits(value, found[key]) for key, value in expected.items())
            )
        return self.fits_exactly(expected, found)

    @staticmethod
    def fits_exactly(expected, found):
        # True is 1 in Python, and no number in JSON.
        return json.dumps(expected, sort_keys=True) == json.dumps(found, sort_keys=True)

    def filled(self, text):
        for name in sorted(self.known, reverse=True):
            text = text.replace(f'"${name}"', json.dumps(self.known[name], ensure_ascii=False))
            text = text.replace(f"${name}", plain(self.known[name]))
        return text

    def filled_in_string(self, text):
        for name in sorted(self.known, reverse=True):
            text = text.replace(f"${name}", plain(self.known[name]))
        return text


def plain(value):
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    url, *rest = sys.argv[1:]
    variables = [one.split("=", 1) for one in rest if re.match("[A-Z][A-Z0-9_]*=", one)]
    transcripts = [one for one in rest if not re.match("[A-Z][A-Z0-9_]*=", one)]
    failed = 0
    for transcript in transcripts:
        player = Player(url, variables)
        try:
            player.play(transcript)
        except Fault as fault:
            failed += 1
            print(f"{transcript}: {fault}", file=sys.stderr)
        finally:
            player.close()
    print(f"{len(transcripts) - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
