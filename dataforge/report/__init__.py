"""The card, the description for machines and the report: what is read of a corpus. All can be made again."""

from dataforge.report.card import card_bytes, write_card
from dataforge.report.croissant import croissant_bytes
from dataforge.report.descriptions import thumbnails_bytes, write_descriptions
from dataforge.report.pages import write_report

__all__ = [
    "card_bytes",
    "croissant_bytes",
    "thumbnails_bytes",
    "write_card",
    "write_descriptions",
    "write_report",
]
