"""The interactive client of the command line, as a child process."""

import asyncio
import re
import subprocess
import sys

from websockets.asyncio.server import serve


async def echo(websocket):
    async for message in websocket:
        await websocket.send(message.upper())


def run(uri, lines):
    client = subprocess.Popen(
        [sys.executable, "-m", "websockets", uri],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    shown = []

    def wait_for(text):
        while text not in "".join(shown):
            character = client.stdout.read(1)
            if not character:
                break
            shown.append(character)

    wait_for("Connected to")
    for line in lines:
        client.stdin.write(line + "\n")
        wait_for(line.upper())
    client.stdin.close()
    wait_for("Connection closed")
    shown.append(client.stdout.read())
    client.wait(30)
    text = re.sub(r"\x1b(\[[0-9;]*[A-Za-z]|[78])", "", "".join(shown)).replace(uri, "URI")
    print(re.findall("Connected to URI|HELLO|WORLD|Connection closed.*", text))


async def main():
    async with serve(echo, "127.0.0.1", 0) as server:
        uri = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await asyncio.to_thread(run, uri, ["hello", "world"])


asyncio.run(main())
