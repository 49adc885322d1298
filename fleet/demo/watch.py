"""Keeps the board true: asks the coordinator and the devices, evaluates each new model."""

import asyncio
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from coordinator.client import AdminClient
from edge_agent.evaluation import evaluate
from edge_agent.examples import Examples
from fleet.demo.board import Board
from fleet.demo.devices import Device
from fleet.digits.data import Share
from wire import checkpoint
from wire.plan import parse_manifest

TASK = "digits"


class Watch:
    """The demo's eyes. `version` and `state` are the task's, as last seen."""

    def __init__(
        self, client: AdminClient, board: Board, devices: list[Device], plan: Path, held_out: Share
    ) -> None:
        self._client = client
        self._board = board
        self._devices = devices
        self._plan = plan
        self._held_out = Examples(dict(held_out))
        self.version = -1
        self.state = "running"

    async def look(self) -> None:
        """Bring the board up to date."""
        detail = await self._client.task(TASK)
        self.state = detail.task.state
        for record in detail.rounds:
            known = self._board.rounds.get(record.number)
            if known is None or known.round.phase not in ("closed", "abandoned"):
                self._board.rounds[record.number] = await self._client.round(TASK, record.number)
        if detail.task.version > self.version:
            self.version = detail.task.version
            model = await self._client.blob(detail.task.model)
            self._board.accuracy[self.version] = await asyncio.to_thread(self._evaluate, model)
        await self._count_bytes()
        for device in self._devices:
            self._board.doing[device.name] = await device.doing()

    async def finish_rounds(self) -> None:
        """Read the last round once more, now that it has ended."""
        for number in self._board.rounds:
            self._board.rounds[number] = await self._client.round(TASK, number)

    def _evaluate(self, model: bytes) -> float:
        manifest = parse_manifest((self._plan / "manifest.json").read_bytes())
        weights = checkpoint.read(model, manifest.checkpoint)
        found = evaluate(manifest, self._plan, weights, self._held_out, threads=1)
        return found["accuracy"]

    async def _count_bytes(self) -> None:
        totals = {
            sample.name: sample.value
            for family in text_string_to_metric_families(await self._client.metrics())
            for sample in family.samples
        }
        self._board.bytes_up = int(totals.get("lamplighter_upload_bytes_total", 0))
        self._board.bytes_down = int(totals.get("lamplighter_download_bytes_total", 0))
