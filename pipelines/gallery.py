"""One page with every result: scene and boxes, reference or a photograph of the subject, result, prompt, words removed.

Static HTML without scripts, pictures beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from manifests.fsops import write_atomic

if TYPE_CHECKING:
    from pipelines.results import Row

__all__ = ["write_gallery"]

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Results</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src 'self'; style-src 'unsafe-inline'">
<style>
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem; color: #222; background: #fff; }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(20rem, 1fr)); gap: 1.5rem; }
figure { margin: 0; border: 1px solid #ddd; border-radius: 6px; padding: .75rem; }
.result { width: 100%; display: block; image-rendering: auto; }
.given { display: flex; gap: .5rem; margin-top: .5rem; align-items: flex-start; } .given img { max-height: 8rem; }
.picture { position: relative; } .picture img { display: block; }
.box { position: absolute; border: 2px solid #d33; box-sizing: border-box; }
figcaption { margin-top: .5rem; overflow-wrap: anywhere; } small { color: #666; }
</style></head><body>
<h1>{{ rows|length }} results</h1>
<main>
{% for row in rows %}<figure id="{{ row.job }}">
<img class="result" src="{{ row.image }}" alt="{{ row.prompt }}" loading="lazy">
<div class="given"><div class="picture"><img src="thumbs/{{ row.job }}-scene.jpg" alt="the scene" loading="lazy">
{% for region in [row] + row.also|list %}{% set box = region.box_xyxy %}
<div class="box" style="left: {{ 100 * box[0] / row.width }}%; top: {{ 100 * box[1] / row.height }}%;
width: {{ 100 * (box[2] - box[0]) / row.width }}%; height: {{ 100 * (box[3] - box[1]) / row.height }}%"></div>
{% endfor %}</div>
{% if row.reference %}<img src="thumbs/{{ row.job }}-reference.jpg" alt="the reference" loading="lazy">
{% elif row.job in subjects %}
<img src="thumbs/{{ row.job }}-subject.jpg" alt="a photograph of the subject" loading="lazy">
{% endif %}</div>
<figcaption>{{ row.prompt }}<br>
{% if row.edit %}edit: {% for name, word in row.edit %}{{ name }} = {{ word }} {% endfor %}<br>{% endif %}
{% if row.removed_words %}removed: {{ row.removed_words|join(", ") }}<br>{% endif %}
{% for region in row.also %}and {{ region.prompt }}<br>
{% if region.removed_words %}removed: {{ region.removed_words|join(", ") }}<br>{% endif %}{% endfor %}
<small>{{ row.id }}<br>scene {{ row.scene }}{% if row.reference %}<br>reference {{ row.reference }}{% endif %}
<br>{{ row.method }}, seed {{ row.seed }}, {{ "%.2f"|format(row.seconds) }} s</small></figcaption></figure>
{% endfor %}</main></body></html>
"""


def write_gallery(output: Path, rows: Sequence[Row]) -> None:
    """Write `index.html` beside the results; text from jobs and records is escaped."""
    from jinja2 import Environment

    subjects = {row.job for row in rows if (output / "thumbs" / f"{row.job}-subject.jpg").is_file()}
    page = Environment(autoescape=True, trim_blocks=True).from_string(_PAGE).render(rows=rows, subjects=subjects)
    write_atomic(output / "index.html", page.encode())
