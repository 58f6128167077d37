"""The goals of docs/scan.md, each held against what was measured."""

import math
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter

from benchmarks.contenders import RELEASED
from benchmarks.gpu import Figures, Row
from benchmarks.models import ModelRow

NOT_MEASURED = math.nan  # what is computed of it is not a number either
Setting = tuple[int, int]  # image size and batch
ROWS: list[Setting] = [(448, 16), (224, 128)]
LARGE, SMALL = (1024, 6), (224, 128)


def goals(rows: Iterable[Row], models: Iterable[ModelRow]) -> list[str]:
    """One line a goal: what it asks, the worst measured case, and met, not met or not measured."""
    measured = {
        (row.contender, row.cut, row.size.stage, row.size.image, row.size.b): row.figures
        for row in rows
        if row.figures is not None and row.dtype == "bfloat16"
    }
    by_model = {(m.network, m.variant, m.task): m for m in models if m.ms is not None and m.dtype == "bfloat16"}

    def over(contender: str, cut: str, settings: Sequence[Setting], value: Callable[[Figures], float]) -> list[float]:
        keys = [(contender, cut, stage, *setting) for setting in settings for stage in range(1, 5)]
        return [value(measured[key]) if key in measured else NOT_MEASURED for key in keys]

    def times_as_fast(settings: Sequence[Setting], value: Callable[[Figures], float]) -> list[float]:
        theirs, ours = (over(contender, "ss2d", settings, value) for contender in (RELEASED, "triton"))
        return [a / b for a, b in zip(theirs, ours, strict=True)]

    def of_model(variant: str, task: str, value: Callable[[ModelRow], float | None]) -> float:
        row = by_model.get(("VMamba small", variant, task))
        return (value(row) if row else None) or NOT_MEASURED

    def model_ratio(task: str, value: Callable[[ModelRow], float | None]) -> float:
        return of_model(RELEASED, task, value) / of_model("triton", task, value)

    forward, both = attrgetter("forward_ms"), attrgetter("forward_backward_ms")
    large, small = (over("triton", "scan", [setting], both) for setting in (LARGE, SMALL))
    tokens = [b * image**2 for image, b in (LARGE, SMALL)]  # but for a factor that a stage has
    growth = [(a / tokens[0]) / (b / tokens[1]) for a, b in zip(large, small, strict=True)]
    memory = [1 / model_ratio(task, lambda m: m.peak_bytes) for task in ("inference", "training")]
    kept = over("triton", "scan", ROWS, lambda f: f.kept_an_element)
    over_special = over("triton", "scan", ROWS, lambda f: f.forward_ms / f.floors_forward.special)
    over_special_both = over(
        "triton", "scan", ROWS, lambda f: f.forward_backward_ms / f.floors_forward_backward.special
    )
    return [
        at_least("SS2D forward at least 6 times as fast as the released pipeline", 6, times_as_fast(ROWS, forward)),
        at_least("SS2D forward+backward at least 5 times as fast", 5, times_as_fast(ROWS, both)),
        at_most("scan forward within 2 times the special-function floor", 2, over_special),
        at_most("scan forward+backward within 2 times it", 2, over_special_both),
        at_most("scan keeps at most 4 bytes an element", 4, kept),
        at_most("scan's time a token at 1024 x 1024 within 1.1 times that at 224 x 224", 1.1, growth),
        at_least("SS2D forward, batch 1 at 448 x 448, at least 3 times as fast", 3, times_as_fast([(448, 1)], forward)),
        at_least("VMamba-S training at least 1.5 times as fast", 1.5, [model_ratio("training", lambda m: m.ms)]),
        at_least("VMamba-S inference at least 1.5 times as fast", 1.5, [model_ratio("inference", lambda m: m.ms)]),
        at_most("VMamba-S at no more than 0.6 of the memory", 0.6, memory),
    ]


def at_least(what: str, goal: float, values: list[float]) -> str:
    """The line of a goal that every value must reach."""
    return _line(what, values, min, lambda worst: worst >= goal)


def at_most(what: str, goal: float, values: list[float]) -> str:
    """The line of a goal that no value may pass."""
    return _line(what, values, max, lambda worst: worst <= goal)


def _line(what: str, values: list[float], worst: Callable[[list[float]], float], met: Callable[[float], bool]) -> str:
    known = [v for v in values if not math.isnan(v)]
    if not known:
        return f"goal: {what}  measured: -  not measured"
    value = worst(known)
    verdict = "not met" if not met(value) else "met" if len(known) == len(values) else "met where measured"
    return f"goal: {what}  measured: {value:.2f} (worst of {len(known)} of {len(values)} cases)  {verdict}"
