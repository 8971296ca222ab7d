"""A charge point and a central system of ocpp, with calls in both directions."""

import asyncio
import logging

from ocpp.exceptions import NotSupportedError
from ocpp.routing import on
from ocpp.v16 import ChargePoint, call, call_result
from ocpp.v16.enums import Action, RegistrationStatus, ResetStatus, ResetType
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed, InvalidStatus

TOLD = []  # by two sides, in an order that may vary


def tell(*values):
    TOLD.append(" ".join(map(str, values)))


logging.getLogger("ocpp").setLevel(logging.ERROR)


class Central(ChargePoint):
    @on(Action.boot_notification)
    async def on_boot(self, charge_point_vendor, charge_point_model, **details):
        tell("boot", charge_point_vendor, charge_point_model, details)
        return call_result.BootNotification("2026-01-01T00:00:00Z", 10, RegistrationStatus.accepted)

    @on(Action.heartbeat)
    async def on_heartbeat(self):
        return call_result.Heartbeat("2026-01-01T00:00:01Z")


class Point(ChargePoint):
    @on(Action.reset)
    async def on_reset(self, type, **_):
        tell("reset", type)
        return call_result.Reset(ResetStatus.accepted)


async def on_connect(websocket):
    if websocket.subprotocol is None:
        return await websocket.close()
    central = Central(websocket.request.path.strip("/"), websocket)
    listening = asyncio.create_task(central.start())
    answer = await central.call(call.Reset(ResetType.soft))
    tell("central got", answer.status, central.id)
    try:
        await listening
    except ConnectionClosed as exc:
        tell("central:", exc)


async def main():
    async with serve(
        on_connect, "127.0.0.1", 0, subprotocols=["ocpp1.6"], ping_interval=0.2
    ) as server:
        uri = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with connect(f"{uri}/CP_1", subprotocols=["ocpp1.6"]) as websocket:
            point = Point("CP_1", websocket, response_timeout=5)
            listening = asyncio.create_task(point.start())
            booted = await point.call(call.BootNotification("Model", "Vendor"))
            tell(booted.status, booted.interval)
            tell((await point.call(call.Heartbeat())).current_time)
            try:
                await point.call(call.Authorize("tag"), suppress=False)
            except Exception as exc:
                tell(type(exc).__name__, isinstance(exc, NotSupportedError))
            await asyncio.sleep(0.5)  # over two pings
            await websocket.close(1000, "leaving")
            tell((await asyncio.gather(listening, return_exceptions=True))[0])
        try:
            await connect(f"{uri}/CP_2", subprotocols=["ocpp2.0.1"])
        except InvalidStatus as exc:
            tell(exc)


asyncio.run(main())
print("\n".join(sorted(TOLD)))
