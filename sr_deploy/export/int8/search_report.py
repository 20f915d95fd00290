"""What the search for INT8 or FP8 found: a document, lines for people, and a picture of loss over share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, FiniteFloat, NonNegativeInt

from sr_deploy.bundle.records import Record, Share
from sr_deploy.export.int8.formats import FormatName
from sr_deploy.export.int8.quantization_options import Int8Options
from sr_deploy.page import plots

if TYPE_CHECKING:
    from sr_deploy.export.int8.search import Point


def report_name(precision: FormatName) -> str:
    """The file of a bundle that a search's report lies in, as `int8.json`."""
    return f"{precision}.json"


def search_plot_name(precision: FormatName) -> str:
    """The file of a bundle that a search's plot lies in, as `int8-search.svg`."""
    return f"{precision}-search.svg"


class CurvePoint(Record):
    """One combination of quantized and float layers that was measured during the search."""

    share: Share
    """Share of the multiply-adds that is quantized, 0 to 1."""
    left_out: NonNegativeInt
    """Layers that could be quantized and stay float."""
    drop_db: float
    """PSNR on luma against ground truth lost to FP32, in dB, mean over held-out crops."""
    upper_db: float | None = None
    """Upper end of its 95 % interval. This, `visible` and `high_error` are None in reports of an older sr-deploy."""
    visible: float | None = None
    """Greatest difference from FP32 of any mean over 5x5 pixels of these crops."""
    high_error: float | None = None
    """Difference from FP32 that one sample in a thousand exceeds."""
    max_abs: float
    """Greatest difference from FP32 of a sample of these crops, outputs clamped to [0, 1]."""
    psnr_fp32_db: float
    """PSNR against FP32 on these crops, in dB; 100 stands for equal."""
    search_psnr_db: float | None = None
    """The same on the crops that layers are ranked on, in reports of an older sr-deploy."""
    fits: bool
    """Whether it is within the budget."""


class LayerReport(Record):
    """One convolution."""

    name: str
    """Node of the graph."""
    precision: Literal["int8", "fp8", "float"]
    """What it computes in."""
    why: str
    """Why it is float; empty for what is quantized."""
    share: Share | None = None
    """Of the multiply-adds, 0 to 1; None where a rule keeps it float."""
    error: float | None = None
    """Mean squared error against FP32 with this layer alone quantized, to first order (`sensitivity`); None where a
    rule keeps it float."""
    step: float | None = None
    """One step of its quantized input; None where it is float. This and what follows is None in reports that an older
    sr-deploy wrote."""
    zero_point: int | None = None
    """Of that quantization: 0; None where it is float."""
    bias: tuple[float, ...] | None = None
    """Its bias, with the correction; None where it is float or has none."""


class Int8Report(Record):
    """`int8.json` or `fp8.json` of a bundle."""

    schema_version: Literal[1] = 1
    """Raised when a reader of an older version could misread the file."""
    passed: bool
    """Whether the graph that was written is within the budget."""
    forced: bool
    """Whether it was kept although it is not."""
    share: Share
    """Share of the multiply-adds that is quantized, 0 to 1."""
    drop_db: FiniteFloat
    """Of the graph that was written, as in the curve."""
    upper_db: FiniteFloat | None = None
    """Of the graph that was written, as in the curve."""
    visible: FiniteFloat | None = None
    """Of the graph that was written, as in the curve."""
    high_error: FiniteFloat | None = None
    """Of the graph that was written, as in the curve."""
    max_abs: FiniteFloat
    """Of the graph that was written, as in the curve."""
    psnr_fp32_db: FiniteFloat
    """Of the graph that was written, as in the curve."""
    fp32_psnr_db: FiniteFloat
    """What FP32 reaches against ground truth on the held-out crops, in dB."""
    options: Int8Options
    """What was asked for."""
    photographs: str
    """Where crops came from: the name of the folder, and how many photographs."""
    measured_with: str
    """What ran the graphs, with its version."""
    trained: bool = False
    """Whether steps are those that the network was trained for INT8 with, as its checkpoint has them."""
    equalized: dict[str, tuple[FiniteFloat, ...]]
    """What each channel of a feature map is divided by and the weights that read it multiplied with."""
    learned: dict[str, FiniteFloat] = Field(default={})
    """What the calibrated step of each feature map that quantized convolutions read was multiplied with, by tensor;
    empty where nothing was learned, and then weights are rounded to the nearest."""
    learning: dict[str, FiniteFloat] = Field(default={})
    """PSNR against FP32 on calibration crops, everything quantized: as calibrated (`before`) and learned (`after`)."""
    shifts: dict[str, tuple[FiniteFloat, ...]]
    """What was added to the bias of each quantized convolution, by node; empty where biases stay as they are."""
    corrections: dict[str, tuple[FiniteFloat, FiniteFloat]]
    """With everything quantized, dB lost against ground truth and PSNR against FP32 on calibration crops: with biases
    as they are (`off`) and corrected (`on`); empty where only one was looked at."""
    layers: tuple[LayerReport, ...]
    """In the graph's order."""
    curve: tuple[CurvePoint, ...]
    """From the largest share to the least."""
    picture: str
    """File of the plot, beside the report."""


def make_curve(points: tuple[Point, ...], options: Int8Options) -> tuple[CurvePoint, ...]:
    """The points of a search as they are reported."""
    return tuple(
        CurvePoint(
            share=point.share,
            left_out=len(point.kept),
            drop_db=point.loss.drop_db,
            upper_db=point.loss.upper_db,
            visible=point.loss.visible,
            high_error=point.loss.high_error,
            max_abs=point.loss.max_abs,
            psnr_fp32_db=point.loss.psnr_fp32_db,
            fits=point.fits(options),
        )
        for point in points
    )


def draw_search(report: Int8Report, path: Path) -> None:
    """Draw loss and error over share.

    Raises:
        OutputError: the file cannot be written.
    """
    curve, budget = report.curve, report.options.max_drop_db
    shares = [100 * point.share for point in curve]
    drops = [
        plots.Point(
            share, one.drop_db, (one.upper_db or one.drop_db) - one.drop_db, f"{share:.1f} %: {one.drop_db:.4f} dB"
        )
        for share, one in zip(shares, curve, strict=True)
    ]
    written = plots.Point(100 * report.share, report.drop_db, note=f"{report.drop_db:.4f} dB")
    loss = [
        plots.Series("drop, 95 % interval", drops),
        plots.Series("budget", [plots.Point(share, budget) for share in (min(shares), max(shares))], dashed=True),
        plots.Series("written", [written]),
    ]
    psnr = [
        plots.Point(share, one.psnr_fp32_db, note=f"{share:.1f} %") for share, one in zip(shares, curve, strict=True)
    ]
    x_name = f"multiply-adds in {report.options.format.upper()} (%)"
    drawn = [
        plots.draw_lines(y_name, series, x_name, y_name, log_x=False, log_y=False)
        for y_name, series in (
            ("dB lost against ground truth (luma)", loss),
            ("PSNR against FP32 (dB)", [plots.Series("PSNR to FP32", psnr)]),
        )
    ]
    plots.write_svg(path, f"{report.options.format.upper()} search", drawn)
