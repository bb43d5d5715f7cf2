"""Static pages from templates; every text in them is escaped."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import jinja2

__all__ = ["render"]


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipelines.evaluate"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _number
    return environment


def _number(value: float, digits: int = 3) -> str:
    """A number as a table shows it; a dash for NaN."""
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def render(template: str, **values: Any) -> str:
    """The text of a page."""
    return _environment().get_template(template).render(**values)
