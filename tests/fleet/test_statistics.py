"""Statistics by a real coordinator: over HTTP, with updates as devices make them."""

import asyncio
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from coordinator.export import complete_model
from fleet.clients import Device
from fleet.learner import Learner
from tests.coordinator.serving import Serving, serving
from wire import checkpoint

pytest.importorskip("onnx")  # the compiler's

Array = np.ndarray

ROUND = '[round]\ngoal = 3\ndeadline = "1h"\nover_selection = 1.0\nrounds = 2\n'
MOMENTS = 'name = "known"\n[statistics]\nkind = "moments"\nshape = [3]\n' + ROUND
KMEANS = (
    'name = "known"\n[statistics]\nkind = "kmeans"\nshape = [3]\nclusters = 2\n'
    'centres = "centres.npy"\n' + ROUND
)


async def gathered(served: Serving, text: str, folder: Path, shares: list[Array]) -> bytes:
    """Run a task to its end; its last model, as `coordinator export` writes it."""
    from coordinator import taskfile
    from coordinator.compiler.compile import compile_beside
    from coordinator.compiler.folder import write_plan_dir

    plan = await asyncio.to_thread(compile_beside, taskfile.parse(text), folder)
    await asyncio.to_thread(write_plan_dir, plan, folder / "plan")
    blobs = [*plan.files.values(), plan.initial]
    await served.admin.create(text, plan.manifest.to_bytes(), blobs)
    devices: list[Device] = [await served.device() for _ in shares]
    for number in (1, 2):
        for seed, (device, share) in enumerate(zip(devices, shares, strict=True)):
            await Learner(device, folder / "plan", {"x": share}, (seed,)).learn()
        await served.round_ends(number, "known")
    assert not served.task("known").running
    weights = checkpoint.write(await served.model("known"))
    return await asyncio.to_thread(complete_model, plan.files["model.onnx"], weights, None)


def shares() -> list[Array]:
    rng = np.random.default_rng(0)
    found = rng.normal([1000.0, -3.0, 0.0], [1.0, 2.0, 0.1], size=(400, 3))
    found[::2] += np.array([2.0, 8.0, 0.0])
    return np.split(found.astype(np.float32), [1, 150])


async def test_moments_of_a_fleet(tmp_path: Path):
    async with serving(tmp_path / "state") as served:
        model = await gathered(served, MOMENTS, tmp_path, shares())
        assert served.task("known").codec == "float32"
    x = np.concatenate(shares())
    mean, variance = onnxruntime.InferenceSession(model).run(["mean", "variance"], {"x": x})
    np.testing.assert_allclose(mean, x.astype(np.float64).mean(0), rtol=2e-7, atol=1e-7)
    np.testing.assert_allclose(variance, x.astype(np.float64).var(0), rtol=3e-6)


async def test_kinds_of_a_fleet(tmp_path: Path):
    first = np.float64([[1000, 0, 0], [1000, 3, 0]])
    await asyncio.to_thread(np.save, tmp_path / "centres.npy", first)
    async with serving(tmp_path / "state") as served:
        model = await gathered(served, KMEANS, tmp_path, shares())
    x, centres = np.concatenate(shares()).astype(np.float64), first
    for _ in range(2):
        nearest = ((x[:, None] - centres) ** 2).sum(-1).argmin(1)
        centres = np.array([x[nearest == j].mean(0) for j in range(2)])
    feed = {"x": x.astype(np.float32)}
    found, cluster = onnxruntime.InferenceSession(model).run(["centres", "cluster"], feed)
    np.testing.assert_allclose(found, centres, rtol=2e-7, atol=1e-6)
    np.testing.assert_array_equal(cluster, ((x[:, None] - centres) ** 2).sum(-1).argmin(1))
