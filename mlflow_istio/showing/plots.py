"""A history, or a rehearsal, as a plot. Needs matplotlib, which only this needs: ``pip install 'mlflow-istio[plot]'``."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_istio.errors import InvalidInput, Unsupported

if TYPE_CHECKING:
    from matplotlib.figure import Figure

View = Mapping[str, Any]

FORMATS = ("svg", "png")

_ABSENT = "a plot needs matplotlib: pip install 'mlflow-istio[plot]'"

_STYLES: tuple[tuple[str, Any], ...] = (
    # Colours that people with any colour vision can tell apart, each with a dash pattern of its own.
    ("#0b5cad", "solid"),
    ("#c2410c", (0, (6, 3))),
    ("#00755e", (0, (1, 2))),
    ("#8b3fa8", (0, (8, 3, 1, 3))),
    ("#7a5c00", (0, (3, 2))),
    ("#3b4754", (0, (1, 4))),
)
_SHORTEST = 10 / 86_400
"""Days that the time axis shows at least."""

_MOST_LABELS = 12
"""Changes that are named in the plot; more would cover each other."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plot:
    """A plot that a notebook shows by itself.

    Attributes:
        figure: The matplotlib figure, for changes of your own.
    """

    figure: Figure

    def image(self, kind: str) -> bytes:
        """The plot as ``svg`` or ``png``."""
        import matplotlib as mpl

        out = io.BytesIO()
        # Text stays text in an SVG: small, searchable, and read aloud.
        settings = {"svg.fonttype": "none", "svg.hashsalt": "mlflow-istio"}
        metadata = {"Date": None} if kind == "svg" else None
        with mpl.rc_context(settings):
            self.figure.savefig(out, format=kind, metadata=metadata, dpi=144, facecolor="white")
        return out.getvalue()

    def save(self, file: str | Path) -> Path:
        """Write the plot; the name's end says as what.

        Raises:
            InvalidInput: It ends neither with ``.svg`` nor with ``.png``, or can't be written.
        """
        path = Path(file)
        kind = format_of(path)
        try:
            path.write_bytes(self.image(kind))
        except OSError as exc:
            raise InvalidInput(f"the plot can't be written to '{path}': {exc.strerror}") from exc
        return path

    def _repr_svg_(self) -> str:
        return self.image("svg").decode()

    def _repr_png_(self) -> bytes:
        return self.image("png")


def format_of(file: Path) -> str:
    """What a file's name says it is.

    Raises:
        InvalidInput: Neither SVG nor PNG.
    """
    kind = file.suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        raise InvalidInput(f"plot file '{file}' must end with .svg or .png")
    return kind


def check_plot(file: str) -> None:
    """Refuse what could not be drawn or written.

    Raises:
        Unsupported: matplotlib is not installed.
        InvalidInput: The name ends neither with ``.svg`` nor with ``.png``, or its folder is not there.
    """
    format_of(Path(file))
    folder = Path(file).parent
    if not folder.is_dir() or Path(file).is_dir():
        why = "it is a folder" if folder.is_dir() else f"there is no folder '{folder}'"
        raise InvalidInput(f"the plot can't be written to '{file}': {why}")
    if importlib.util.find_spec("matplotlib") is None:
        raise Unsupported(_ABSENT)


def plot_history(endpoint: str, changes: Sequence[View]) -> Plot:
    """Weights over time, one line for each deployment, with what was done.

    Args:
        endpoint: The endpoint.
        changes: Its history, oldest first, as the verb ``history`` gives it.

    Raises:
        Unsupported: matplotlib is not installed.
        InvalidInput: The history is empty.
    """
    try:
        from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
        from matplotlib.figure import Figure
    except ImportError as exc:
        raise Unsupported(_ABSENT) from exc
    if not changes:
        raise InvalidInput(f"endpoint '{endpoint}' has no history to plot")
    times = [float(date2num(datetime.fromisoformat(change["time"]))) for change in changes]  # days
    length = max(times[-1] - times[0], _SHORTEST)
    end = times[-1] + length * 0.08
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for index, (name, weights) in enumerate(_weights(changes).items()):
        colour, dashes = _STYLES[index % len(_STYLES)]
        axes.step(
            [*times, end],
            [*weights, weights[-1]],
            where="post",
            label=_text(f"{name} ({weights[-1]:g}%)"),
            color=colour,
            linestyle=dashes,
            linewidth=2,
        )
    if len(changes) <= _MOST_LABELS:
        for time, change in zip(times, changes, strict=True):
            axes.axvline(time, color="#dde2e8", linewidth=0.8, zorder=0)
            axes.annotate(
                _text(change["action"]),
                (time, 104),
                xycoords=("data", "data"),
                rotation=40,
                fontsize=8,
                color="#566372",
                annotation_clip=False,
            )
    axes.set_ylim(-3, 103)
    axes.set_xlim(times[0] - length * 0.02, end)
    axes.set_ylabel("percent of the live traffic")
    axes.set_title(_text(f"Traffic of endpoint {endpoint}"), loc="left", fontweight="bold", pad=34)
    locator = AutoDateLocator(minticks=3, maxticks=7, tz=timezone.utc)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, tz=timezone.utc))
    axes.set_xlabel("time (UTC)")
    axes.grid(axis="y", color="#e6eaef")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    return Plot(figure=figure)


def plot_rehearsal(view: View) -> Plot:
    """When rehearsed releases end: the share of an equal version's that is promoted, and of worse ones' that is rolled back.

    Args:
        view: A rehearsal, as the verb ``rehearse`` gives it.

    Raises:
        Unsupported: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as exc:
        raise Unsupported(_ABSENT) from exc
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for index, case in enumerate(view["cases"]):
        colour, dashes = _STYLES[index % len(_STYLES)]
        times = [0.0, *(seconds / 60 for seconds in case["seconds"]), view["horizon"] / 60]
        shares = [100 * count / case["runs"] for count in range(len(case["seconds"]) + 1)]
        ends = "promoted" if case["odds"] == 1 else "rolled back"
        version = "the same version" if case["odds"] == 1 else f"errors, odds x{case['odds']:g}"
        axes.step(
            times,
            [*shares, shares[-1]],
            where="post",
            label=f"{version}: {ends}",
            color=colour,
            linestyle=dashes,
            linewidth=2,
        )
    axes.set_ylim(-3, 103)
    axes.set_xlim(0, view["horizon"] / 60)
    axes.set_ylabel("percent of the releases")
    axes.set_xlabel("minutes")
    false_alarms = 100 * view["cases"][0]["rolled_back"]["share"]
    title = f"Rehearsal at endpoint {view['endpoint']}: {false_alarms:.1f}% of equal versions rolled back"
    axes.set_title(_text(title), loc="left", fontweight="bold")
    axes.grid(axis="y", color="#e6eaef")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    return Plot(figure=figure)


def _weights(changes: Sequence[View]) -> dict[str, list[float]]:
    """Deployment to its percent after each change; those that never had traffic are left out."""
    names = dict.fromkeys(name for change in changes for name in change["after"] or {})
    lines = {name: [float((change["after"] or {}).get(name, 0)) for change in changes] for name in names}
    return {name: line for name, line in lines.items() if any(line)}


def _text(text: str) -> str:
    """Text as it is: matplotlib would read dollar signs as mathematics, and hides labels that begin with ``_``."""
    escaped = text.replace("\\", "\\\\").replace("$", r"\$") if "$" in text else text
    return f"\u200b{escaped}" if escaped.startswith("_") else escaped
