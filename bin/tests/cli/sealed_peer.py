"""A client of whispeer in Python over a Unix socket, which compresses and encrypts as docs/PROTOCOL.md describes it.

Arguments: the folder of the documents, the socket of the bus, a keyring, what to do, a topic or pattern, and how
often or what.

    publish TOPIC JSON    publishes the value in every way that there is; prints in how many
    receive PATTERN N     prints what it opens of N messages, and how each was sealed
    ask TOPIC JSON        asks in every way; prints the answers
    fail TOPIC JSON       asks once; prints the error that it is answered with
    stream TOPIC JSON     asks once for several answers; prints them
    serve TOPIC N         answers N requests with what was asked, each time in another way; "fail" with an error,
                          and who asks for several answers with three
"""

import dataclasses
import itertools
import json
import os
import socket
import sys
import time

import msgpack

sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[1])

from check_sealed import (ALGORITHMS, ENCRYPTION, KINDS, MAGIC, Context, Encrypted, Refused,
                          compress, describe, open_sealed, read_keyring, seal)
from check_vectors import decode_frame, decode_refusal

HELLO, GOODBYE, PING, PONG = 1, 3, 4, 5
SUBSCRIBE, PUBLISH, SERVE, REQUEST, REPLY = 16, 18, 32, 34, 36
STREAM, MORE, ERROR, END = 1, 1, 2, 4
FRAME_LIMIT = 16 * 1024 * 1024 + 2048
REPLIED = 21
# What everybody here signs with.
IDENTITY = bytes([3] * 32)
WAYS = list(itertools.product(ALGORITHMS, ["stored", "zstd", "lz4"], [None, 100], [False, True]))


class Bus:
    """A link to the bus."""

    def __init__(self, address):
        self.socket, self.arrived = socket.socket(socket.AF_UNIX), b""
        self.socket.settimeout(60)
        self.socket.connect(address)
        name = b"python"
        hello = b"WSPR" + bytes([1, 0, 1, 0]) + bytes(8) + (10_000).to_bytes(4, "little")
        self.send(HELLO, payload=hello + bytes([len(name)]) + name + bytes([0, 0]))
        self.expect("WELCOME")

    def send(self, kind, flags=0, number=0, sequence=0, topic="", payload=b""):
        topic = topic.encode()
        head = bytes([kind, flags]) + len(topic).to_bytes(2, "little") + bytes(4) + number.to_bytes(4, "little")
        frame = head + sequence.to_bytes(8, "little") + topic + payload
        self.socket.sendall(len(frame).to_bytes(4, "little") + frame)

    def expect(self, *kinds):
        """The next frame of these kinds, and its payload; signs of life and credit are passed over."""
        while True:
            frame = decode_frame(self.arrived, FRAME_LIMIT)
            if frame is None:
                data = self.socket.recv(1 << 16)
                assert data, "the bus has closed the link"
                self.arrived += data
                continue
            self.arrived = self.arrived[int.from_bytes(self.arrived[:4], "little") + 4:]
            if frame["kind"] in kinds:
                return frame, bytes.fromhex(frame["payload_hex"])
            if frame["kind"] == "PING":
                self.send(PONG, sequence=int(frame["sequence"]))
            else:
                assert frame["kind"] in ("CREDIT", "ACCEPTED"), frame

    def close(self):
        # Behind all that was sent before.
        self.send(PING, sequence=1)
        self.expect("PONG")
        self.send(GOODBYE)
        self.socket.close()


class Member:
    """Who has the keys."""

    def __init__(self, keyring):
        self.sending, self.reading = read_keyring(keyring)
        self.sender, self.sequence = os.urandom(16), 0

    def seal(self, payload, context, way):
        """The sealed payload, and the layer that encrypts."""
        algorithm, compression, zeros, is_signed = way
        is_bare = (compression, zeros, is_signed) == ("stored", None, False)
        date = time.time_ns() // 1_000_000 if self.sequence % 2 else None
        encrypted = Encrypted(algorithm, self.sending, self.sender, self.sequence, zeros,
                              IDENTITY if is_signed else None, None, is_bare, date)
        self.sequence += 1
        layers = [encrypted]
        if compression != "stored":
            layers.append(compress(payload, compression))
        return seal(payload, context, layers), encrypted

    def open(self, data, context):
        return open_sealed(data, context, self.reading, [ENCRYPTION])

    def open_answer(self, data, context):
        """Opens an answer, which has to be one to this request and to no other."""
        sender, sequence = context.request
        for request in [(sender, sequence + 1), (bytes(16), sequence), None]:
            self.refused(data, Context(context.topic, context.kind, request, context.index))
        self.refused(data, Context(context.topic, context.kind, context.request, context.index + 1))
        return self.open(data, context)

    def refused(self, data, context):
        try:
            raise AssertionError(f"opened as {self.open(data, context)} in {context}")
        except Refused as refusal:
            assert str(refusal) == "forged", refusal


def sealed_again(opened, context):
    """What has been opened, sealed anew in its sender's name."""
    layers = [dataclasses.replace(layer, identity=IDENTITY) if isinstance(layer, Encrypted) and layer.signer
              else layer for layer in opened.layers]
    return seal(opened.payload, context, layers)


def described(opened):
    layers = [describe(layer) for layer in opened.layers]
    encryption = next(layer for layer in layers if layer["engine"] == "encryption")
    compression = [layer["algorithm"] for layer in layers if layer["engine"] == "compression"]
    return {"payload": msgpack.unpackb(opened.payload), "algorithm": encryption["algorithm"],
            "compression": compression[0] if compression else None,
            "padded": encryption["padding"] is not None, "signer": encryption["signer_hex"]}


def say(value):
    print(json.dumps(value), flush=True)


def publish(bus, member, topic, value):
    payload = msgpack.packb(json.loads(value))
    for number, way in enumerate(WAYS, 1):
        sealed, _ = member.seal(payload, Context(topic), way)
        bus.send(PUBLISH, sequence=number, topic=topic, payload=sealed)
    bus.close()
    say(len(WAYS))


def receive(bus, member, pattern, count):
    bus.send(SUBSCRIBE, number=1, topic=pattern)
    bus.expect("ACCEPTED")
    say("subscribed")
    for _ in range(int(count)):
        frame, data = bus.expect("DELIVER")
        context = Context(frame["topic"])
        opened = member.open(data, context)
        assert sealed_again(opened, context) == data, "sealed to other bytes"
        member.refused(data, Context(frame["topic"] + "/x"))
        member.refused(data, Context(frame["topic"], KINDS["request"]))
        say({"topic": frame["topic"], **described(opened)})
    bus.close()


def ask(bus, member, topic, value):
    payload = msgpack.packb(json.loads(value))
    for number, way in enumerate(WAYS, 1):
        sealed, asked = member.seal(payload, Context(topic, KINDS["request"]), way)
        bus.send(REQUEST, number=number, sequence=30_000_000, topic=topic, payload=sealed)
        frame, data = bus.expect("ANSWER")
        assert (frame["id"], frame["flags"]) == (number, 0), frame
        opened = member.open_answer(data, Context(topic, KINDS["reply"], asked.mark))
        say(described(opened))
    bus.close()


def fail(bus, member, topic, value):
    payload = msgpack.packb(json.loads(value))
    sealed, asked = member.seal(payload, Context(topic, KINDS["request"]), WAYS[0])
    bus.send(REQUEST, number=1, sequence=30_000_000, topic=topic, payload=sealed)
    frame, data = bus.expect("ANSWER")
    assert frame["flags"] == ERROR and data.startswith(MAGIC), frame
    opened = member.open_answer(data, Context(topic, KINDS["error_reply"], asked.mark))
    say(decode_refusal(opened.payload))
    bus.close()


def stream(bus, member, topic, value):
    payload = msgpack.packb(json.loads(value))
    sealed, asked = member.seal(payload, Context(topic, KINDS["request"]), WAYS[0])
    bus.send(REQUEST, STREAM, number=1, sequence=30_000_000, topic=topic, payload=sealed)
    for index in itertools.count():
        frame, data = bus.expect("ANSWER")
        if frame["flags"] == END:
            break
        assert frame["flags"] == MORE, frame
        opened = member.open_answer(data, Context(topic, KINDS["stream_reply"], asked.mark, index))
        say(described(opened))
    bus.close()


def serve(bus, member, topic, count):
    bus.send(SERVE, number=1, topic=topic)
    bus.expect("ACCEPTED")
    say("serving")
    for way in itertools.islice(itertools.cycle(WAYS), int(count)):
        frame, data = bus.expect("ASK")
        opened = member.open(data, Context(frame["topic"], KINDS["request"]))
        request = next(layer.mark for layer in opened.layers if isinstance(layer, Encrypted))
        token = int(frame["sequence"])

        def reply(kind, flags, payload, index=0):
            sealed, _ = member.seal(payload, Context(topic, KINDS[kind], request, index), way)
            bus.send(REPLY, flags, sequence=token, payload=sealed)

        if msgpack.unpackb(opened.payload) == "fail":
            reply("error_reply", ERROR, REPLIED.to_bytes(2, "little") + b"tired\0no more")
        elif frame["flags"] == STREAM:
            for index in range(3):
                reply("stream_reply", MORE, msgpack.packb(index), index)
            bus.send(REPLY, END, sequence=token)
        else:
            reply("reply", 0, opened.payload)
    bus.close()


def main():
    _, _, address, keyring, what, *rest = sys.argv
    roles = {"publish": publish, "receive": receive, "ask": ask, "fail": fail, "stream": stream, "serve": serve}
    roles[what](Bus(address), Member(keyring), *rest)


main()
