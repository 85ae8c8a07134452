"""A client of whispeer by Python's `websockets`, which knows the protocol from its test vectors alone.

Arguments: the address of the bus, one that it must not answer at, and the file of vectors. It prints "ok" when
everything was as docs/PROTOCOL.md says.
"""

import json
import struct
import sys

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import CloseCode
from websockets.sync.client import connect

PROTOCOL = "whispeer.v1"
WELCOME, CREDIT, ACCEPTED, PONG, DELIVER = 2, 6, 7, 5, 19


def vectors(path):
    with open(path, encoding="utf-8") as file:
        return {vector["name"]: bytes.fromhex(vector["bytes_hex"]) for vector in json.load(file)["frames"]}


class Bus:
    """Frames that come in messages, however they are divided."""

    def __init__(self, socket):
        self.socket, self.arrived = socket, b""

    def frame(self):
        while len(self.arrived) < 4 or len(self.arrived) < self.size():
            message = self.socket.recv(timeout=30)
            assert isinstance(message, bytes), message
            self.arrived += message
        frame, self.arrived = self.arrived[:self.size()], self.arrived[self.size():]
        kind, _, topic, fields, _, number, sequence = struct.unpack_from("<BBHHHIQ", frame, 4)
        rest = frame[24 + fields:]
        return kind, number, sequence, rest[:topic].decode(), rest[topic:]

    def size(self):
        return struct.unpack_from("<I", self.arrived)[0] + 4

    def expect(self, kind):
        while True:
            frame = self.frame()
            if frame[0] == kind:
                return frame
            assert frame[0] == CREDIT, frame


def refused(address, status, **options):
    try:
        with connect(address, **options):
            raise AssertionError(f"{address} {options} was let in")
    except InvalidStatus as error:
        assert error.response.status_code == status, error
        return error.response.body.decode()


def main():
    address, elsewhere, path = sys.argv[1:]
    known = vectors(path)
    hello, subscribe, publish = known["hello"], known["subscribe"], known["publish"]

    with connect(address, subprotocols=[PROTOCOL]) as socket:
        assert socket.subprotocol == PROTOCOL
        bus = Bus(socket)
        socket.send(hello)
        assert bus.expect(WELCOME)
        # Two frames in a message.
        socket.send(subscribe + publish)
        assert bus.expect(ACCEPTED)[1] == 1
        assert bus.expect(DELIVER)[1:] == (1, 1, "price/eth", b"hello")
        # One frame in several messages, and in one that is divided into frames of WebSocket.
        socket.send(known["publish_without_payload"][:10])
        socket.send(known["publish_without_payload"][10:])
        assert bus.expect(DELIVER)[1:] == (1, 2, "price/eth", b"")
        ping = known["ping"]
        socket.send(iter([ping[:3], b"", ping[3:]]))
        assert bus.expect(PONG)[2] == 42
        # A ping of WebSocket's own.
        assert socket.ping(b"anybody there?").wait(30)
        socket.close(CloseCode.GOING_AWAY, "done")
        assert socket.close_code == CloseCode.GOING_AWAY, socket.close_code

    # A text is against the protocol.
    with connect(address, subprotocols=[PROTOCOL]) as socket:
        socket.send("hello")
        try:
            socket.recv(timeout=30)
            raise AssertionError("a text was taken")
        except ConnectionClosed as error:
            assert error.rcvd.code == CloseCode.UNSUPPORTED_DATA, error

    assert "whispeer.v1" in refused(address, 400)
    for origin in ["https://evil.example.com", "http://localhost"]:
        assert "--websocket-origins" in refused(address, 403, subprotocols=[PROTOCOL], origin=origin)
    with connect(address, subprotocols=[PROTOCOL], origin="https://app.example.com"):
        pass
    refused(elsewhere, 404, subprotocols=[PROTOCOL])
    print("ok")


main()
