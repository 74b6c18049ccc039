"""A boot report as a picture: the waterfall of its phases as PNG, and as a Chrome trace."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

_COLOURS = {"restore": "#2a9d8f", "handler": "#3a6ea5", "wheel": "#b5838d"}
_OTHER_COLOUR = "#8d99ae"
_ROW_INCHES, _WIDTH_INCHES = 0.34, 11.0


def chrome_trace(boot: Mapping[str, Any]) -> dict[str, Any]:
    """Complete events of the Trace Event Format, one row a lane; times in microseconds."""
    lanes = sorted({p["lane"] for p in boot["phases"]})
    events = [
        {
            "name": p["name"],
            "ph": "X",
            "ts": round(p["start_s"] * 1e6),
            "dur": round((p["end_s"] - p["start_s"]) * 1e6),
            "pid": 1,
            "tid": lanes.index(p["lane"]) + 1,
            "args": {"bytes": p["bytes"], "source": p["source"]},
        }
        for p in boot["phases"]
    ]
    names = [{"name": "thread_name", "ph": "M", "pid": 1, "tid": i + 1, "args": {"name": lane}} for i, lane in enumerate(lanes)]
    return {"traceEvents": names + events, "displayTimeUnit": "ms"}


def png(boots: Sequence[Mapping[str, Any]]) -> bytes:
    """One or more boots under each other on one time axis; needs matplotlib (requirements-dev.txt).

    Args:
        boots: Boot reports; an optional `title` names each.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 - a tool of operators, not of the worker's image

    rows = sum(len(b["phases"]) for b in boots)
    figure = Figure(figsize=(_WIDTH_INCHES, 1.1 * len(boots) + _ROW_INCHES * rows), layout="constrained")
    axes = figure.subplots(len(boots), 1, sharex=True, squeeze=False, height_ratios=[len(b["phases"]) + 1 for b in boots])[:, 0]
    for axis, boot in zip(axes, boots, strict=True):
        for row, phase in enumerate(boot["phases"]):
            seconds = phase["end_s"] - phase["start_s"]
            axis.barh(row, seconds, left=phase["start_s"], color=_COLOURS.get(phase["lane"], _OTHER_COLOUR), height=0.7)
            size = f", {phase['bytes'] / 1e6:,.0f} MB" if phase["bytes"] else ""
            axis.text(phase["end_s"], row, f" {seconds:.2f} s{size}", va="center", fontsize=8)
        axis.axvline(boot["ready_s"], color="#d62828", linestyle="--", linewidth=1)
        axis.set_yticks(range(len(boot["phases"])), [f"{p['name']} [{p['lane']}]" for p in boot["phases"]], fontsize=8)
        axis.invert_yaxis()
        axis.set_title(f"{boot.get('title', boot['model'])}: ready after {boot['ready_s']:.2f} s", fontsize=10, loc="left")
        axis.margins(x=0.12)
    axes[-1].set_xlabel("seconds since the start of the boot's first process")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
