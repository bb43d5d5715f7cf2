"""What every group of settings is: closed, frozen, and with a digest that names its results."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from manifests.ids import digest_of

__all__ = ["Section", "Share"]

Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A closed, frozen group of settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @property
    def digest(self) -> str:
        """16 hex digits that change with any setting of the section."""
        return digest_of(self.model_dump(mode="json"))[:16]
