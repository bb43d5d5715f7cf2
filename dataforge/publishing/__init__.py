"""Publish a corpus to the Hub, to S3 or to a folder, and pull one back."""

from dataforge.publishing.pulling import Pulled, pull
from dataforge.publishing.sending import Published, publish

__all__ = ["Published", "Pulled", "publish", "pull"]
