#!/usr/bin/env python3
"""Decodes every vector of protocol-vectors.json from the layouts in PROTOCOL.md alone.

Run it as `python3 docs/check_vectors.py`; it needs nothing but Python 3. Integers of 64 bits are
decimal strings in the file, since many JSON readers round large numbers.
"""

import json
import pathlib
import sys

HEADER_LEN = 24
KINDS = {
    1: "HELLO", 2: "WELCOME", 3: "GOODBYE", 4: "PING", 5: "PONG", 6: "CREDIT", 7: "ACCEPTED",
    8: "FAILED", 9: "DRAINING", 10: "CONFIRM", 16: "SUBSCRIBE", 17: "UNSUBSCRIBE", 18: "PUBLISH", 19: "DELIVER",
    20: "GAP", 21: "ENDED", 24: "ACK", 25: "WILL", 32: "SERVE", 33: "UNSERVE", 34: "REQUEST", 35: "ASK", 36: "REPLY",
    37: "ANSWER", 38: "CANCEL",
}
POLICIES = ["block", "drop-oldest", "drop-newest", "disconnect"]
MODES = ["join", "take-over"]
QUALITIES = ["at-most-once", "at-least-once", "exactly-once"]
STARTS = ["new", "last", "last-per-topic", "all", "from", "since"]
REASONS = {1: "lagging", 2: "dropped_oldest", 3: "dropped_newest", 5: "retention",
           6: "recreated", 7: "expired", 8: "withheld"}
CODES = {
    1: "INVALID_TOPIC", 2: "RESERVED_TOPIC", 3: "DENIED", 4: "ALREADY_SERVED", 5: "INVALID_SETTINGS",
    6: "FRAME_TOO_LARGE", 7: "HEADERS_TOO_LARGE", 16: "NO_SERVER", 17: "TIMED_OUT", 18: "ABANDONED",
    19: "SERVER_GONE", 20: "CANCELLED", 21: "REPLIED", 22: "OVERLOADED", 23: "LIMIT_REACHED",
    24: "DRAINING", 25: "SLOW_CONSUMER", 26: "TAKEN_OVER", 27: "NOT_DURABLE", 28: "NOT_STORED", 29: "STALE_ACK", 30: "CONSUMER_BUSY", 32: "PROTOCOL", 33: "UNSUPPORTED_VERSION",
    34: "CREDIT_EXCEEDED", 35: "CONTROL_OVERRUN", 36: "STALLED", 37: "KEEP_ALIVE",
    38: "DISCONNECTED", 39: "CLOSED", 44: "REFUSED", 45: "SEALED",
}


class Refused(Exception):
    """Bytes that do not have the form they should; the message is the reason."""


class Reader:
    """Takes little-endian values off the front of some bytes."""

    def __init__(self, data):
        self.rest = data

    def take(self, count):
        if len(self.rest) < count:
            raise Refused("cut_off")
        head, self.rest = self.rest[:count], self.rest[count:]
        return head

    def integer(self, size):
        return int.from_bytes(self.take(size), "little")


def decode_frame(data, limit):
    """The frame as the vectors describe it, or None while more has to arrive."""
    if len(data) < 4:
        return None
    total = int.from_bytes(data[:4], "little") + 4
    if total < HEADER_LEN:
        raise Refused("too_short")
    if total > limit:
        raise Refused("too_long")
    if len(data) < HEADER_LEN:
        return None
    reader = Reader(data[4:])
    kind, flags = reader.integer(1), reader.integer(1)
    topic, fields = reader.integer(2), reader.integer(2)
    reserved = reader.integer(2)
    number, sequence = reader.integer(4), reader.integer(8)
    if HEADER_LEN + fields + topic > total:
        raise Refused("parts")
    if reserved != 0:
        raise Refused("reserved")
    if kind not in KINDS:
        raise Refused("unknown_kind")
    if len(data) < total:
        return None
    section, text = reader.take(fields), reader.take(topic)
    payload = reader.take(total - HEADER_LEN - fields - topic)
    return {
        "kind": KINDS[kind], "flags": flags, "id": number, "sequence": str(sequence),
        "fields": decode_fields(section), "topic": text.decode(), "payload_hex": payload.hex(),
    }


def decode_fields(section):
    reader, fields = Reader(section), []
    while reader.rest:
        tag = reader.integer(1)
        value = reader.take(reader.integer(2))
        try:
            fields.append(decode_field(tag, value))
        except (Refused, UnicodeDecodeError, IndexError):
            fields.append({"type": "unknown", "tag": tag, "value_hex": value.hex()})
    return fields


def decode_field(tag, value):
    reader = Reader(value)
    match tag:
        case 1:
            name = reader.take(reader.integer(1)).decode()
            return {"type": "header", "name": name, "value": reader.rest.decode()}
        case 2:
            return {"type": "origin", "bus": str(reader.integer(8))}
        case 3:
            return {"type": "window", "messages": reader.integer(4), "bytes": str(reader.integer(8))}
        case 4:
            return {"type": "policy", "policy": POLICIES[reader.integer(1)]}
        case 5:
            return {"type": "group", "name": value.decode()}
        case 6:
            return {"type": "block_limit", "milliseconds": reader.integer(4)}
        case 7:
            return {"type": "deadline", "microseconds": str(reader.integer(8))}
        case 8:
            return {"type": "topic", "topic": value.decode()}
        case 9:
            return {"type": "mode", "mode": MODES[reader.integer(1)]}
        case 10:
            return {"type": "quality", "quality": QUALITIES[reader.integer(1)]}
        case 11:
            return {"type": "start", "start": STARTS[reader.integer(1)], "number": str(reader.integer(8))}
        case 12:
            sequence, time = str(reader.integer(8)), str(reader.integer(8))
            return {"type": "position", "sequence": sequence, "time": time,
                    "replayed": reader.integer(1) != 0}
        case 13:
            return {"type": "consumer", "consumer": value.decode()}
        case 14:
            return {"type": "delivery", "ack_wait": reader.integer(4), "max_deliver": reader.integer(4),
                    "max_pending": reader.integer(4)}
        case 15:
            return {"type": "attempt", "token": str(reader.integer(8)), "number": reader.integer(4),
                    "redelivered": reader.integer(1) != 0}
        case 16:
            return {"type": "message_id", "publisher_hex": reader.take(16).hex(),
                    "number": str(reader.integer(8))}
        case 17:
            return {"type": "epoch", "epoch_hex": reader.take(16).hex()}
        case 18:
            return {"type": "limit", "messages": reader.integer(4), "bytes": str(reader.integer(8))}
        case 19:
            return {"type": "expires", "milliseconds": reader.integer(8)}
        case 20:
            return {"type": "deliver_at", "from": ["now", "1970"][reader.integer(1)],
                    "milliseconds": str(reader.integer(8))}
    raise Refused("unknown tag")


def decode_hello(data):
    reader = Reader(data)
    if reader.take(4) != b"WSPR":
        raise Refused("magic")
    hello = {
        "min_version": reader.integer(2), "max_version": reader.integer(2),
        "capabilities": str(reader.integer(8)), "keep_alive_ms": reader.integer(4),
        "name": reader.take(reader.integer(1)).decode(), "resume": None,
        "credentials": None,
    }
    if reader.integer(1) != 0:
        hello["resume"] = {"session": str(reader.integer(8)), "token_hex": reader.take(32).hex(),
                           "received": str(reader.integer(8))}
    match reader.integer(1):
        case 1:
            hello["credentials"] = {"token": reader.take(reader.integer(2)).decode()}
        case 2:
            user = reader.take(reader.integer(2)).decode()
            hello["credentials"] = {"user": user, "password": reader.take(reader.integer(2)).decode()}
    return hello


def decode_welcome(data):
    reader = Reader(data)
    return {
        "version": reader.integer(2), "capabilities": str(reader.integer(8)),
        "bus": str(reader.integer(8)), "session": str(reader.integer(8)),
        "token_hex": reader.take(32).hex(), "resumed": reader.integer(1) != 0,
        "frame_limit": reader.integer(4), "keep_alive_ms": reader.integer(4),
        "block_limit_ms": reader.integer(4), "publish_messages": reader.integer(4),
        "publish_bytes": str(reader.integer(8)), "subscriptions": reader.integer(4),
        "requests": reader.integer(4), "received": str(reader.integer(8)),
    }


def decode_refusal(data):
    reader = Reader(data)
    code = CODES.get(reader.integer(2), "DISCONNECTED")
    return {"code": code, "text": reader.rest.decode()}


def decode_gap(data):
    reader = Reader(data)
    return {"count": str(reader.integer(8)), "reason": REASONS.get(reader.integer(1), "link")}


DECODERS = {
    "hello": decode_hello, "welcome": decode_welcome, "refusals": decode_refusal, "gaps": decode_gap,
    "fields": decode_fields,
}


def check(vectors):
    """Yields what is wrong, one text for each vector that does not hold."""
    limit = vectors["frame_limit"]
    for vector in vectors["frames"]:
        decoded = decode_frame(bytes.fromhex(vector["bytes_hex"]), limit)
        if decoded != vector["frame"]:
            yield f"frame {vector['name']}: {decoded}"
    for section, decode in DECODERS.items():
        for vector in vectors[section]:
            decoded = decode(bytes.fromhex(vector["bytes_hex"]))
            if decoded != vector["value"]:
                yield f"{section} {vector['name']}: {decoded}"
    for vector in vectors["malformed_frames"]:
        yield from refused(vector, lambda data: decode_frame(data, vector["limit"]))
    for vector in vectors["malformed_payloads"]:
        yield from refused(vector, DECODERS[vector["section"]])
    for vector in vectors["incomplete_frames"]:
        if decode_frame(bytes.fromhex(vector["bytes_hex"]), limit) is not None:
            yield f"incomplete {vector['name']}: taken for a whole frame"


def refused(vector, decode):
    try:
        decoded = decode(bytes.fromhex(vector["bytes_hex"]))
        yield f"malformed {vector['name']}: accepted as {decoded}"
    except Refused as refusal:
        if str(refusal) != vector["reason"]:
            yield f"malformed {vector['name']}: refused as {refusal}, not {vector['reason']}"


def main():
    path = pathlib.Path(__file__).with_name("protocol-vectors.json")
    vectors = json.loads(path.read_text(encoding="utf-8"))
    wrong = list(check(vectors))
    for text in wrong:
        print(text, file=sys.stderr)
    sections = ["frames", *DECODERS, "malformed_frames", "malformed_payloads", "incomplete_frames"]
    total = sum(len(vectors[section]) for section in sections)
    kinds = {vector["frame"]["kind"] for vector in vectors["frames"]}
    missing = sorted(set(KINDS.values()) - kinds)
    if missing:
        print(f"no vector for {', '.join(missing)}", file=sys.stderr)
    print(f"{total - len(wrong)} of {total} vectors hold")
    return 1 if wrong or missing else 0


if __name__ == "__main__":
    sys.exit(main())
