"""Lets a cluster reach the API server, which listens on 127.0.0.1 only: hands each connection on, byte by byte.

A program, not a module. It listens on the host's end of the cluster's link, which nothing outside the cluster reaches.

    python hermetic_forwarder.py ADDRESS PORT
"""

import asyncio
import contextlib
import sys

CHUNK = 1 << 16


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    # A peer that resets ends its connection and no other.
    with contextlib.suppress(OSError):
        while data := await source.read(CHUNK):
            sink.write(data)
            await sink.drain()
        sink.write_eof()


async def _serve(address: str, port: int) -> None:
    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError), contextlib.closing(writer):
            api_reader, api_writer = await asyncio.open_connection("127.0.0.1", port)
            with contextlib.closing(api_writer):
                await asyncio.gather(_copy(reader, api_writer), _copy(api_reader, writer))

    server = await asyncio.start_server(accept, address, port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], int(sys.argv[2])))
