"""Client for the Autobahn Testsuite in fuzzingserver mode.

Usage: WSAPI_MAX_FRAGMENTS=100000 client.py asyncio|sync|trio URL

Cases 9.3.1 and 9.4.1 send 65,536 fragments.
"""

import sys
from collections.abc import Iterator

from wsapi.exceptions import WebSocketException

BOUND = 120  # seconds per case
# The report tells whether an exception was right.
EXPECTED = (WebSocketException, OSError, EOFError)


def cases(url: str, count: int, agent: str) -> Iterator[str]:
    """Yield the URLs of all cases."""
    return (f"{url}/runCase?case={case}&agent={agent}" for case in range(1, count + 1))


def run_asyncio(url: str, agent: str) -> None:
    import asyncio

    from wsapi.asyncio.client import connect

    async def echo(url: str) -> None:
        async with connect(url, max_size=None) as connection:
            async for message in connection:
                await connection.send(message)

    async def main() -> None:
        async with connect(f"{url}/getCaseCount") as connection:
            count = int(await connection.recv())
        for case in cases(url, count, agent):
            try:
                await asyncio.wait_for(echo(case), BOUND)
            except EXPECTED as exc:
                print(f"{case}: {type(exc).__name__}: {exc}", flush=True)
        async with connect(f"{url}/updateReports?agent={agent}", open_timeout=60):
            pass

    asyncio.run(main())


def run_sync(url: str, agent: str) -> None:
    from wsapi.sync.client import connect

    with connect(f"{url}/getCaseCount") as connection:
        count = int(connection.recv(BOUND))
    for case in cases(url, count, agent):
        try:
            with connect(case, max_size=None) as connection:
                for message in connection:
                    connection.send(message)
        except EXPECTED as exc:
            print(f"{case}: {type(exc).__name__}: {exc}", flush=True)
    with connect(f"{url}/updateReports?agent={agent}", open_timeout=60):
        pass


def run_trio(url: str, agent: str) -> None:
    import trio

    from wsapi.trio.client import connect

    async def main() -> None:
        async with connect(f"{url}/getCaseCount") as connection:
            count = int(await connection.recv())
        for case in cases(url, count, agent):
            try:
                with trio.fail_after(BOUND):
                    async with connect(case, max_size=None) as connection:
                        async for message in connection:
                            await connection.send(message)
            except* (*EXPECTED, trio.TooSlowError) as group:
                print(f"{case}: {group.exceptions}", flush=True)
        async with connect(f"{url}/updateReports?agent={agent}", open_timeout=60):
            pass

    trio.run(main)


if __name__ == "__main__":
    globals()[f"run_{sys.argv[1]}"](sys.argv[2].rstrip("/"), f"wsapi-{sys.argv[1]}")
