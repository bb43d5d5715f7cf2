"""The card and the report: what people read of a corpus. Both are derived and can be made again at any time."""

from dataforge.report.card import write_card
from dataforge.report.pages import write_report

__all__ = ["write_card", "write_report"]
