"""A program that has nothing but NATS's client for Python. Each line that it reads is something to do, each that it writes something that has come."""

import asyncio
import sys

import nats


async def main(url: str, prefix: str) -> None:
    client = await nats.connect(url)

    async def came(message) -> None:
        kind = (message.headers or {}).get("kind", "-")
        print("message", message.subject, kind, message.data.decode(), flush=True)

    async def asked(message) -> None:
        await message.respond(b"42 for " + message.data)

    await client.subscribe(f"{prefix}.t.news.*", cb=came)
    await client.subscribe(f"{prefix}.r.price", queue="whispeer", cb=asked)
    # The server knows of both by then.
    await client.flush()
    print("ready", flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        what, subject, text = line.split(maxsplit=2)
        if what == "publish":
            await client.publish(subject, text.strip().encode(), headers={"kind": "python"})
        else:
            answer = await client.request(subject, text.strip().encode(), timeout=20)
            print("answer", answer.data.decode(), flush=True)
    await client.drain()


asyncio.run(main(*sys.argv[1:]))
