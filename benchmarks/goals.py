"""The goals of the issue "How fast", each held against what was measured."""

from collections.abc import Callable, Iterable

from benchmarks.contenders import RELEASED
from benchmarks.gpu import Row
from benchmarks.models import ModelRow

ROWS = ((448, 16), (224, 128))


def goals(rows: Iterable[Row], models: Iterable[ModelRow]) -> list[str]:
    """One line a goal: what it asks, the worst measured case, and met, not met or not measured."""
    measured = {
        (row.contender, row.cut, row.size.stage, row.size.image, row.size.b): row
        for row in rows
        if row.forward_ms is not None and row.dtype == "bfloat16"
    }

    def over(contender: str, cut: str, settings: Iterable[tuple[int, int]], value: Callable[[Row], float | None]
             ) -> list[float | None]:  # fmt: skip
        keys = [(contender, cut, stage, *setting) for setting in settings for stage in range(1, 5)]
        return [value(measured[key]) if key in measured else None for key in keys]

    def ratios(settings: Iterable[tuple[int, int]], value: Callable[[Row], float | None]) -> list[float | None]:
        settings = list(settings)
        pairs = zip(over(RELEASED, "ss2d", settings, value), over("triton", "ss2d", settings, value), strict=True)
        return [None if a is None or b is None else a / b for a, b in pairs]

    def forward(row: Row) -> float | None:
        return row.forward_ms

    def both(row: Row) -> float | None:
        return row.forward_backward_ms

    def per_token(row: Row) -> float | None:
        return None if row.forward_backward_ms is None else row.forward_backward_ms / row.size.elements

    def over_special(row: Row) -> float | None:
        floor = row.floors_forward
        return None if floor is None or row.forward_ms is None else row.forward_ms / floor.special

    def over_special_both(row: Row) -> float | None:
        floor = row.floors_forward_backward
        if floor is None or row.forward_backward_ms is None:
            return None
        return row.forward_backward_ms / floor.special

    large = over("triton", "scan", [(1024, 6)], per_token)
    small = over("triton", "scan", [(224, 128)], per_token)
    growth = [None if a is None or b is None else a / b for a, b in zip(large, small, strict=True)]
    by_model = {(m.network, m.variant, m.task): m for m in models if m.ms is not None and m.dtype == "bfloat16"}

    def model_ratio(task: str, value: Callable[[ModelRow], float | None]) -> list[float | None]:
        ours, theirs = (by_model.get(("VMamba small", variant, task)) for variant in ("triton", RELEASED))
        a, b = (None if m is None else value(m) for m in (theirs, ours))
        return [None if a is None or b is None else a / b]

    inverse_memory = [
        None if v is None else 1 / v
        for task in ("inference", "training")
        for v in model_ratio(task, lambda m: m.peak_bytes)
    ]
    return [
        at_least("SS2D forward at least 6 times as fast as the released pipeline", 6, ratios(ROWS, forward)),
        at_least("SS2D forward+backward at least 5 times as fast", 5, ratios(ROWS, both)),
        at_most(
            "scan forward within 2 times the special-function floor", 2, over("triton", "scan", ROWS, over_special)
        ),
        at_most("scan forward+backward within 2 times it", 2, over("triton", "scan", ROWS, over_special_both)),
        at_most(
            "scan keeps at most 4 bytes an element", 4, over("triton", "scan", ROWS, lambda row: row.kept_an_element)
        ),
        at_most("scan's time a token at 1024 x 1024 within 1.1 times that at 224 x 224", 1.1, growth),
        at_least("SS2D forward, batch 1 at 448 x 448, at least 3 times as fast", 3, ratios([(448, 1)], forward)),
        at_least("VMamba-S training at least 1.5 times as fast", 1.5, model_ratio("training", lambda m: m.ms)),
        at_least("VMamba-S inference at least 1.5 times as fast", 1.5, model_ratio("inference", lambda m: m.ms)),
        at_most("VMamba-S at no more than 0.6 of the memory", 0.6, inverse_memory),
    ]


def at_least(what: str, goal: float, values: list[float | None]) -> str:
    """The line of a goal that every value must reach."""
    return _line(what, values, lambda known: min(known), lambda worst: worst >= goal)


def at_most(what: str, goal: float, values: list[float | None]) -> str:
    """The line of a goal that no value may pass."""
    return _line(what, values, lambda known: max(known), lambda worst: worst <= goal)


def _line(
    what: str, values: list[float | None], worst: Callable[[list[float]], float], met: Callable[[float], bool]
) -> str:
    known = [v for v in values if v is not None]
    if not known:
        return f"goal: {what}  measured: -  not measured"
    value = worst(known)
    verdict = "not met" if not met(value) else "met" if len(known) == len(values) else "met where measured"
    return f"goal: {what}  measured: {value:.2f} (worst of {len(known)} of {len(values)} cases)  {verdict}"
