# SPDX-License-Identifier: Apache-2.0
"""The client for asyncio: the same, awaited."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterable
from types import TracebackType
from typing import Any

from .client import Client
from .columns import EventLike, Tracks
from .errors import TrackmillError


class AsyncClient:
    """Takes what Client takes. Cancelling a task that awaits an answer cancels the request."""

    def __init__(self, brokers: str | Iterable[str], **options: Any) -> None:
        self._client = Client(brokers, **options)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """As Client.close."""
        await asyncio.to_thread(self._client.close)

    def submit(self, event: EventLike, **options: Any) -> asyncio.Future[Tracks]:
        """As Client.submit: does not wait, gives a future of this loop."""
        return asyncio.wrap_future(self._client.submit(event, **options))

    async def find(self, event: EventLike, **options: Any) -> Tracks:
        """The tracks of one event. TrackmillError: why not."""
        return await self.submit(event, **options)

    async def as_completed(
        self, events: Iterable[EventLike], *, in_flight: int = 8, **options: Any
    ) -> AsyncIterator[tuple[int, asyncio.Future[Tracks]]]:
        """As Client.as_completed: (number of the event, its ended future)."""
        if in_flight < 1:
            raise ValueError("in_flight must be 1 or more")
        numbers: dict[asyncio.Future[Tracks], int] = {}
        source = enumerate(events)
        try:
            while True:
                for number, event in itertools.islice(source, in_flight - len(numbers)):
                    try:
                        future = self.submit(event, **options)
                    except TrackmillError as error:
                        future = asyncio.get_running_loop().create_future()
                        future.set_exception(error)
                    numbers[future] = number
                if not numbers:
                    return
                done, _ = await asyncio.wait(numbers, return_when=asyncio.FIRST_COMPLETED)
                for future in done:
                    yield numbers.pop(future), future
        finally:
            for future in numbers:
                future.cancel()
