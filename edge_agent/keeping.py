"""Whether a newly published model takes the place of the one that local programs have. Pure.

Both are measured on the same held-out examples, now: what was measured once was over other ones.
The plan's first metric decides; the plan's tolerance says how much worse it may be.
"""

import math
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum

import msgspec

from edge_agent.models import Info
from schedules.duration import human
from wire.digest import Digest
from wire.messages import Identifier
from wire.plan import Manifest, Metric


class Why(StrEnum):
    """Why a model was adopted, or was not."""

    FIRST = "first"
    NOT_WORSE = "not_worse"
    NO_HOLD_OUT = "no_hold_out"
    OTHER_MODEL = "other_model"
    UNREADABLE = "unreadable"

    THE_SAME = "the_same"
    TOO_SOON = "too_soon"
    LATER = "later"
    SET_ASIDE = "set_aside"
    WORSE = "worse"
    NOT_FINITE = "not_finite"
    ROLLED_BACK = "rolled_back"
    FAILED = "failed"


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of an offered model; `detail` is for people, with the figures. `wait`: seconds
    until it is worth offering again."""

    keep: bool
    why: Why
    detail: str
    wait: float = 0.0


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """A published model, offered to local programs; `folder` is the task's folder of models. In
    `every` seconds one is adopted at most: each is a file that an SD card must take."""

    folder: str
    task: Identifier
    version: int
    plan: Digest
    model: Digest
    now: str
    every: float = 0.0


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """A model that is not to be adopted: it was worse, or the owner went back from it."""

    version: int
    model: str
    why: Why
    detail: str
    when: str


def foregone(
    offer: Offer,
    manifest: Manifest,
    new: float | None,
    kept: Info | None,
    refused: Sequence[Refused],
) -> Decision | None:
    """The decision where no comparison is needed.

    `new` is the offered model's metric, `None` when no examples are held out; `kept` is the model
    that local programs have, if any.
    """
    if kept and (kept.graph, kept.model) == (graph_of(manifest), offer.model):
        return _no(Why.THE_SAME, f"version {kept.version} is what local programs have")
    if before := next((r for r in refused if r.model == offer.model), None):
        return _no(Why.SET_ASIDE, f"{before.why} on {before.when}: {before.detail}")
    if kept and (left := _too_soon(kept, offer)):
        why = f"version {kept.version} came lately: {human(left)} to wait"
        return Decision(keep=False, why=Why.TOO_SOON, detail=why, wait=left)
    if new is not None and not math.isfinite(new):
        return _no(Why.NOT_FINITE, f"its {manifest.metrics[0].name} is {new}")
    if kept is None:
        return _yes(Why.FIRST, "there was none before")
    if kept.graph != graph_of(manifest):
        return _yes(Why.OTHER_MODEL, f"the task's model is another one than in {kept.version}")
    if new is None:
        return _yes(Why.NO_HOLD_OUT, "no examples are held out to compare models on")
    return None


def compare(metric: Metric, tolerance: float, new: float, old: float | None) -> Decision:
    """The decision by the metric of both models; `old` is `None` when the kept one cannot be
    measured. `tolerance` is in the metric's own unit."""
    if old is None:
        return _yes(Why.UNREADABLE, "the model before it cannot be measured any more")
    figures = f"{metric.name} {new:.6g}, before {old:.6g}"
    if not math.isfinite(old):
        return _yes(Why.NOT_WORSE, figures)
    worse_by = new - old if metric.better == "lower" else old - new
    # 0.90 - 0.89 is a little more than 0.01 in binary: it is meant to be 0.01.
    if worse_by <= tolerance or math.isclose(worse_by, tolerance, rel_tol=1e-6):
        return _yes(Why.NOT_WORSE, figures)
    return _no(Why.WORSE, f"{figures}; tolerance {tolerance:g}")


def _too_soon(kept: Info, offer: Offer) -> float:
    """Seconds until another model may be adopted; 0 when one may be, or nobody can tell."""
    try:
        elapsed = datetime.fromisoformat(offer.now) - datetime.fromisoformat(kept.adopted)
    except (ValueError, TypeError):
        return 0.0
    seconds = elapsed.total_seconds()
    return offer.every - seconds if 0 <= seconds < offer.every else 0.0


def graph_of(manifest: Manifest) -> str:
    """What two models must have in common to be compared: all but their weights."""
    return manifest.files["model.onnx"].digest


def _yes(why: Why, detail: str) -> Decision:
    return Decision(keep=True, why=why, detail=detail)


def _no(why: Why, detail: str) -> Decision:
    return Decision(keep=False, why=why, detail=detail)
