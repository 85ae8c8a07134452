#!/usr/bin/env python3
"""Opens and makes the sealed payloads of protocol-vectors.json from the layouts in PROTOCOL.md alone.

Run it as `python3 docs/check_sealed.py`. It needs Python 3.11 and the packages `cryptography`, `pynacl`,
`zstandard` and `lz4`; where they are missing it says so, which is a failure where `CI` is set. `open_sealed`
and `seal` are all that a client needs to take part in what others have compressed and encrypted.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import sys

# Nothing is to be left behind beside the documents.
sys.dont_write_bytecode = True

from check_vectors import Reader, Refused

try:
    import tomllib

    import lz4.block
    import zstandard
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF
    from nacl.bindings import (crypto_aead_xchacha20poly1305_ietf_decrypt,
                               crypto_aead_xchacha20poly1305_ietf_encrypt)
    from nacl.exceptions import CryptoError
    from nacl.signing import VerifyKey
except ImportError as error:
    print(f"SKIPPED: needs Python's {error.name} (checks the sealed payloads of docs/protocol-vectors.json)")
    sys.exit(1 if os.environ.get("CI") else 0)

MAGIC, VERSION = b"\xc1\x57", 1
PAYLOAD, COMPRESSION, ENCRYPTION = 0, 1, 2
KINDS = {"publish": 1, "request": 2, "reply": 3, "stream_reply": 4, "error_reply": 5}
ALGORITHMS = {1: "XChaCha20-Poly1305", 2: "ChaCha20-Poly1305", 3: "AES-256-GCM"}
COMPRESSIONS = {0: "stored", 1: "zstd", 2: "lz4"}
ANSWERS, IS_DATED, IS_BARE = 0x80, 0x40, 0x20
IS_PADDED, IS_SIGNED = 1, 2
HEAD, TIME, TAG = 33, 8, 16
SEQUENCES = 1 << 48
FRAME_LIMIT, WINDOW_LIMIT = 16 * 1024 * 1024, 8 * 1024 * 1024


@dataclasses.dataclass(frozen=True)
class Context:
    """What both sides know of a payload without being told."""

    topic: str
    kind: int = 1
    request: tuple[bytes, int] | None = None
    index: int = 0


@dataclasses.dataclass(frozen=True)
class Compressed:
    """How a content was compressed, and what became of it."""

    algorithm: int
    data: bytes


@dataclasses.dataclass(frozen=True)
class Encrypted:
    """How a content was encrypted: all that decides about the bytes."""

    algorithm: int
    key: bytes = dataclasses.field(repr=False)
    sender: bytes
    sequence: int
    zeros: int | None = None
    identity: bytes | None = dataclasses.field(default=None, repr=False)
    signer: bytes | None = None
    is_bare: bool = False
    time: int | None = None

    @property
    def mark(self):
        """What an answer to this is bound to."""
        return self.sender, self.sequence


@dataclasses.dataclass(frozen=True)
class Opened:
    """A payload, and the engines that had sealed it, from the outermost inwards."""

    payload: bytes
    layers: tuple


def key_id(key):
    return hashlib.sha256(b"whispeer key id" + key).digest()[:8]


def message_key(algorithm, key, sender):
    info = b"whispeer message key 1" + bytes([algorithm]) + key_id(key)
    return HKDF(hashes.SHA256(), 32, sender, info).derive(key)


def associated_data(head, context, time=None):
    topic = context.topic.encode()
    data = b"whispeer message 1" + head + bytes([context.kind]) + context.index.to_bytes(8, "little")
    request = bound_request(context)
    if request is not None:
        data += request[0] + request[1].to_bytes(8, "little")
    if time is not None:
        data += time.to_bytes(8, "little")
    return data + len(topic).to_bytes(2, "little") + topic


def bound_request(context):
    return context.request if context.kind >= KINDS["reply"] else None


def statement(associated, tag, content):
    return b"whispeer signature 1" + hashlib.sha512(associated + bytes([tag]) + content).digest()


# Opening


def open_sealed(data, context, keys, requires=(), dictionaries=(), limit=FRAME_LIMIT):
    """Undoes what stands in the envelope. `keys` are those that count for the topic."""
    if not data.startswith(MAGIC):
        if requires:
            raise Refused("missing")
        return Opened(data, ())
    reader = Reader(data[len(MAGIC):])
    version = take(reader, 1)[0]
    if version != VERSION:
        raise Refused("unknown_version")
    tag, content, layers = take(reader, 1)[0], reader.rest, []
    while tag != PAYLOAD:
        if tag not in (COMPRESSION, ENCRYPTION):
            raise Refused("unknown_engine")
        # What encrypts stands without what compresses, and each comes at most once.
        if layers and (tag == ENCRYPTION or isinstance(layers[-1], Compressed)):
            raise Refused("malformed")
        if tag == ENCRYPTION:
            tag, content, layer = decrypt(content, context, keys, limit)
        else:
            tag, content, layer = decompress(content, dictionaries, limit)
        layers.append(layer)
    found = {ENCRYPTION if isinstance(layer, Encrypted) else COMPRESSION for layer in layers}
    if not set(requires) <= found:
        raise Refused("missing")
    return Opened(content, tuple(layers))


def take(reader, count):
    try:
        return reader.take(count)
    except Refused:
        raise Refused("malformed") from None


def decompress(data, dictionaries, limit):
    reader = Reader(data)
    algorithm, tag = take(reader, 1)[0], take(reader, 1)[0]
    compressed = reader.rest
    if algorithm == 0:
        content = within(compressed, limit)
    elif algorithm == 1:
        content = unzstd(compressed, dictionaries, limit)
    elif algorithm == 2:
        length = int.from_bytes(take(reader, 4), "little")
        if length > limit:
            raise Refused("too_large")
        try:
            content = lz4.block.decompress(reader.rest, uncompressed_size=length)
        except lz4.block.LZ4BlockError:
            raise Refused("malformed") from None
        if len(content) != length:
            raise Refused("malformed")
    else:
        raise Refused("malformed")
    return tag, content, Compressed(algorithm, compressed)


def unzstd(frame, dictionaries, limit):
    try:
        head = zstandard.get_frame_parameters(frame)
        if head.content_size == zstandard.CONTENTSIZE_UNKNOWN:
            raise Refused("malformed")
        if head.content_size > limit:
            raise Refused("too_large")
        if head.window_size > WINDOW_LIMIT:
            raise Refused("malformed")
        found = [one for one in dictionaries if one.dict_id() == head.dict_id]
        if head.dict_id and not found:
            raise Refused("unknown_dictionary")
        one_frame = zstandard.ZstdDecompressor(dict_data=found[0] if found else None).decompressobj()
        content = one_frame.decompress(frame)
    except zstandard.ZstdError:
        raise Refused("malformed") from None
    if not one_frame.eof or one_frame.unused_data or len(content) != head.content_size:
        raise Refused("malformed")
    return content


def within(content, limit):
    if len(content) > limit:
        raise Refused("too_large")
    return content


def decrypt(data, context, keys, limit):
    reader = Reader(data)
    head = take(reader, HEAD)
    algorithm = head[0] & 0x0F
    if algorithm not in ALGORITHMS or head[0] & ~(ANSWERS | IS_DATED | IS_BARE | 0x0F):
        raise Refused("malformed")
    # An answer to something else, or to nothing that is known, is none to this.
    if bool(head[0] & ANSWERS) != (bound_request(context) is not None):
        raise Refused("forged")
    sender, sequence = head[9:25], int.from_bytes(head[25:33], "little")
    if sequence >= SEQUENCES:
        raise Refused("malformed")
    time = int.from_bytes(take(reader, TIME), "little") if head[0] & IS_DATED else None
    if len(reader.rest) < TAG:
        raise Refused("malformed")
    key = next((key for key in keys if key_id(key) == head[1:9]), None)
    if key is None:
        raise Refused("unknown_key")
    associated = associated_data(head, context, time)
    try:
        text = aead(algorithm, message_key(algorithm, key, sender), sequence, reader.rest, associated, False)
    except (InvalidTag, CryptoError):
        raise Refused("forged") from None
    is_bare = bool(head[0] & IS_BARE)
    content, tag, zeros, signer = (text, PAYLOAD, None, None) if is_bare else split_trailer(text, associated)
    layer = Encrypted(algorithm, key, sender, sequence, zeros, None, signer, is_bare, time)
    return tag, within(content, limit), layer


def aead(algorithm, key, sequence, data, associated, is_sealing):
    nonce = sequence.to_bytes(8, "little").rjust(24 if algorithm == 1 else 12, b"\0")
    if algorithm == 1:
        work = crypto_aead_xchacha20poly1305_ietf_encrypt if is_sealing \
            else crypto_aead_xchacha20poly1305_ietf_decrypt
        return work(data, associated, nonce, key)
    cipher = {2: ChaCha20Poly1305, 3: AESGCM}[algorithm](key)
    return (cipher.encrypt if is_sealing else cipher.decrypt)(nonce, data, associated)


def split_trailer(text, associated):
    text, (tag, flags) = cut(text, 2)
    if flags & ~(IS_PADDED | IS_SIGNED):
        raise Refused("malformed")
    signed = zeros = None
    if flags & IS_SIGNED:
        text, signed = cut(text, 96)
    if flags & IS_PADDED:
        text, count = cut(text, 4)
        zeros = int.from_bytes(count, "little")
        text, _ = cut(text, zeros)
    if signed is None:
        return text, tag, zeros, None
    signer, signature = signed[:32], signed[32:]
    try:
        # libsodium takes no keys for which one signature fits many messages.
        VerifyKey(signer).verify(statement(associated, tag, text), signature)
    except CryptoError:
        raise Refused("forged") from None
    return text, tag, zeros, signer


def cut(text, count):
    """Takes so many bytes off the end."""
    if len(text) < count:
        raise Refused("malformed")
    return text[:len(text) - count], text[len(text) - count:]


# Sealing


def seal(payload, context, layers):
    """The sealed payload, by these engines from the outermost inwards."""
    tag, content = PAYLOAD, payload
    for layer in reversed(layers):
        if isinstance(layer, Compressed):
            content = bytes([layer.algorithm, tag]) + layer.data
            tag = COMPRESSION
        else:
            content = encrypt(content, tag, context, layer)
            tag = ENCRYPTION
    if tag == PAYLOAD and not content.startswith(MAGIC):
        return content
    return MAGIC + bytes([VERSION, tag]) + content


def compress(payload, name, dictionary=None):
    """A layer that compresses this payload."""
    if name == "zstd":
        return Compressed(1, zstandard.ZstdCompressor(dict_data=dictionary).compress(payload))
    if name == "lz4":
        length = len(payload).to_bytes(4, "little")
        return Compressed(2, length + lz4.block.compress(payload, store_size=False))
    return Compressed(0, payload)


def encrypt(content, tag, context, layer):
    first = layer.algorithm | (ANSWERS if bound_request(context) is not None else 0)
    first |= (IS_DATED if layer.time is not None else 0) | (IS_BARE if layer.is_bare else 0)
    head = bytes([first]) + key_id(layer.key) + layer.sender + layer.sequence.to_bytes(8, "little")
    associated = associated_data(head, context, layer.time)
    text, flags = content, 0
    if layer.zeros is not None:
        text, flags = text + bytes(layer.zeros) + layer.zeros.to_bytes(4, "little"), IS_PADDED
    if layer.identity is not None:
        identity = Ed25519PrivateKey.from_private_bytes(layer.identity)
        text += identity.public_key().public_bytes_raw() + identity.sign(statement(associated, tag, content))
        flags |= IS_SIGNED
    if layer.is_bare:
        assert (tag, flags) == (PAYLOAD, 0), "nothing is said of what stands alone"
    else:
        text += bytes([tag, flags])
    time = b"" if layer.time is None else layer.time.to_bytes(TIME, "little")
    key = message_key(layer.algorithm, layer.key, layer.sender)
    return head + time + aead(layer.algorithm, key, layer.sequence, text, associated, True)


# Keyrings


def read_keyring(path):
    """The keys of a keyring for all topics: the one to send with, and all that read."""
    document = tomllib.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    entries = [entry for entry in document["keys"] if "topics" not in entry]
    keys = [bytes.fromhex(entry["key"]) for entry in entries]
    sending = [key for entry, key in zip(entries, keys) if entry["use"] == "send"]
    return sending[0], keys


# The vectors


def context_of(vector):
    """What a vector says of the frame that it is the payload of."""
    described = vector["context"]
    request = described["request"]
    if request is not None:
        request = bytes.fromhex(request["sender_hex"]), int(request["sequence"])
    return Context(described["topic"], KINDS[described["kind"]], request, int(described["index"]))


def describe(layer):
    """A layer as the vectors describe it, but for what a receiver cannot know."""
    if isinstance(layer, Compressed):
        return {"engine": "compression", "algorithm": COMPRESSIONS[layer.algorithm], "data_hex": layer.data.hex()}
    return {
        "engine": "encryption", "algorithm": ALGORITHMS[layer.algorithm], "key_hex": layer.key.hex(),
        "key_id_hex": key_id(layer.key).hex(), "sender_hex": layer.sender.hex(), "sequence": str(layer.sequence),
        "padding": layer.zeros, "signer_hex": layer.signer.hex() if layer.signer else None,
        "is_bare": layer.is_bare, "time": None if layer.time is None else str(layer.time),
    }


def layer_of(described):
    if described["engine"] == "compression":
        number = {name: number for number, name in COMPRESSIONS.items()}[described["algorithm"]]
        return Compressed(number, bytes.fromhex(described["data_hex"]))
    number = {name: number for number, name in ALGORITHMS.items()}[described["algorithm"]]
    identity = described["signing_key_hex"]
    return Encrypted(number, bytes.fromhex(described["key_hex"]), bytes.fromhex(described["sender_hex"]),
                     int(described["sequence"]), described["padding"], identity and bytes.fromhex(identity),
                     None, described["is_bare"], None if described["time"] is None else int(described["time"]))


def check(vectors):
    """Yields what is wrong, one text for each vector that does not hold."""
    keys = [bytes.fromhex(key) for key in vectors["sealed_keys_hex"]]
    dictionaries = [zstandard.ZstdCompressionDict(bytes.fromhex(vectors["sealed_dictionary_hex"]))]
    for vector in vectors["sealed"]:
        name, context = vector["name"], context_of(vector)
        data, payload = bytes.fromhex(vector["bytes_hex"]), bytes.fromhex(vector["payload_hex"])
        try:
            opened = open_sealed(data, context, keys, (), dictionaries)
        except Refused as refusal:
            yield f"sealed {name}: refused as {refusal}"
            continue
        known = [{key: value for key, value in layer.items() if key != "signing_key_hex"}
                 for layer in vector["layers"]]
        if opened.payload != payload or [describe(layer) for layer in opened.layers] != known:
            yield f"sealed {name}: opened as {opened}"
        if seal(payload, context, [layer_of(layer) for layer in vector["layers"]]) != data:
            yield f"sealed {name}: sealed to other bytes"
    for vector in vectors["refused_sealed"]:
        name, limit = vector["name"], vector.get("limit", vectors["frame_limit"])
        requires = [ENCRYPTION] if vector.get("requires_encryption") else []
        try:
            data = bytes.fromhex(vector["bytes_hex"])
            opened = open_sealed(data, context_of(vector), keys, requires, dictionaries, limit)
            yield f"refused {name}: opened as {opened}"
        except Refused as refusal:
            if str(refusal) != vector["reason"]:
                yield f"refused {name}: refused as {refusal}, not {vector['reason']}"


def main():
    path = pathlib.Path(__file__).with_name("protocol-vectors.json")
    vectors = json.loads(path.read_text(encoding="utf-8"))
    wrong = list(check(vectors))
    for text in wrong:
        print(text, file=sys.stderr)
    total = len(vectors["sealed"]) + len(vectors["refused_sealed"])
    print(f"{total - len(wrong)} of {total} sealed vectors hold")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
