"""A client of a bus over QUIC that has nothing of whispeer but its test vectors.

It says HELLO and prints what it is told: `alpn NAME`, `ticket` for each offer of resumption, `frame KIND` for each
frame, and `ended CODE REASON` when the connection ends. It asks for an echo of a PING and says GOODBYE.

usage: quic_peer.py PORT VECTORS CA [--alpn NAME] [--cert FILE --key FILE] [--streams COUNT] [--name NAME]
"""

import argparse
import asyncio
import json
import ssl

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, HandshakeCompleted, StreamDataReceived

HEADER = 24


class Peer(QuicConnectionProtocol):
    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.received = b""
        self.frames = asyncio.Queue()
        self.ended = asyncio.Event()

    def quic_event_received(self, event):
        if isinstance(event, HandshakeCompleted):
            print("alpn", event.alpn_protocol)
        elif isinstance(event, StreamDataReceived):
            self.received += event.data
            while len(self.received) >= HEADER:
                size = int.from_bytes(self.received[:4], "little") + 4
                if len(self.received) < size:
                    break
                self.frames.put_nowait(self.received[:size])
                self.received = self.received[size:]
        elif isinstance(event, ConnectionTerminated):
            print("ended", event.error_code, event.reason_phrase)
            self.frames.put_nowait(None)
            self.ended.set()


async def next_frame(peer, kinds):
    frame = await asyncio.wait_for(peer.frames.get(), 20)
    if frame is not None:
        print("frame", kinds.get(frame[4], frame[4]))
    return frame


async def run(options):
    with open(options.vectors) as file:
        vectors = json.load(file)
    frames = {vector["name"]: bytes.fromhex(vector["bytes_hex"]) for vector in vectors["frames"]}
    kinds = {bytes.fromhex(vector["bytes_hex"])[4]: vector["frame"]["kind"] for vector in vectors["frames"]}
    by_kind = {frame[4]: frame for frame in reversed(frames.values())}
    configuration = QuicConfiguration(
        is_client=True, alpn_protocols=[options.alpn], cafile=options.ca, server_name=options.name
    )
    configuration.verify_mode = ssl.CERT_REQUIRED
    if options.cert:
        configuration.load_cert_chain(options.cert, options.key)
    tickets = lambda ticket: print("ticket")
    try:
        async with connect(
            "127.0.0.1",
            options.port,
            configuration=configuration,
            create_protocol=Peer,
            session_ticket_handler=tickets,
        ) as peer:
            await talk(peer, options, kinds, frames, by_kind)
    except ConnectionError:
        # What ended it has been printed.
        pass


async def talk(peer, options, kinds, frames, by_kind):
    numbers = {name: number for number, name in kinds.items()}
    for stream in range(options.streams):
        # Streams that a client opens in both directions have the numbers 0, 4, 8 and so on.
        peer._quic._remote_max_streams_bidi = options.streams
        peer._quic.send_stream_data(4 * stream, frames["hello"])
    peer.transmit()
    if await next_frame(peer, kinds) is None:
        return
    peer._quic.send_stream_data(0, by_kind[numbers["PING"]])
    peer.transmit()
    while True:
        frame = await next_frame(peer, kinds)
        if frame is None or kinds[frame[4]] == "PONG":
            break
    if frame is None:
        return
    peer._quic.send_stream_data(0, by_kind[numbers["GOODBYE"]], end_stream=True)
    peer.transmit()
    while await next_frame(peer, kinds) is not None:
        pass


parser = argparse.ArgumentParser()
parser.add_argument("port", type=int)
parser.add_argument("vectors")
parser.add_argument("ca")
parser.add_argument("--alpn", default="whispeer/1")
parser.add_argument("--cert")
parser.add_argument("--key")
parser.add_argument("--streams", type=int, default=1)
parser.add_argument("--name", default="localhost")
asyncio.run(run(parser.parse_args()))
