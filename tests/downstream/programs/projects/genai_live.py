"""google-genai's live client talks to a local server that speaks its protocol."""

import asyncio
import json
import ssl

import trustme
from google import genai
from google.genai import types
from websockets.asyncio.server import serve


async def gemini(websocket):
    headers = websocket.request.headers
    print(websocket.request.path.split("?")[0], headers.get("x-goog-api-key"))
    setup = json.loads(await websocket.recv())["setup"]
    print(setup["model"], setup["generationConfig"])
    await websocket.send(json.dumps({"setupComplete": {}}).encode())
    async for text in websocket:
        message = json.loads(text)
        if "client_content" in message:
            said = message["client_content"]["turns"][0]["parts"][0]["text"]
            for word in ("you", "said", said):
                turn = {"modelTurn": {"parts": [{"text": word}]}}
                await websocket.send(json.dumps({"serverContent": turn}).encode())
            await websocket.send(json.dumps({"serverContent": {"turnComplete": True}}).encode())
        else:
            print(sorted(message))
            await websocket.close(1011, "enough")


async def main():
    authority = trustme.CA()
    server_ssl = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server_ssl)
    client_ssl = ssl.create_default_context()
    authority.configure_trust(client_ssl)
    async with serve(gemini, "localhost", 0, ssl=server_ssl) as server:
        port = server.sockets[0].getsockname()[1]
        client = genai.Client(
            api_key="key",
            http_options=types.HttpOptions(
                base_url=f"https://localhost:{port}", async_client_args={"ssl": client_ssl}
            ),
        )
        config = {"response_modalities": ["TEXT"]}
        async with client.aio.live.connect(model="gemini-test", config=config) as session:
            for said in ("hello", "bye"):
                turn = types.Content(role="user", parts=[types.Part(text=said)])
                await session.send_client_content(turns=turn)
                print([message.text async for message in session.receive()])
            await session.send_realtime_input(text="realtime")
            try:
                async for message in session.receive():
                    print(message)
            except Exception as exc:
                print(type(exc).__name__, exc)


asyncio.run(asyncio.wait_for(main(), 40))
