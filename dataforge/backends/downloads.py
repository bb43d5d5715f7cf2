"""The one place that downloads weights, and only when a person asks for it: `dataforge doctor --fetch`."""

from __future__ import annotations

from dataforge.backends.checkpoints import Weights
from manifests.errors import EnvironmentFault, UsageError

__all__ = ["download"]


def download(weights: Weights) -> None:
    """Bring a model of the Hub into the local cache: safetensors, JSON and tokenizer files, nothing else.

    Raises `EnvironmentFault` E513 where the way to the Hub fails, `UsageError` E507 where a model is gated or gone.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    try:
        if weights.layout == "diffusers":
            from diffusers import DiffusionPipeline

            DiffusionPipeline.download(
                weights.model, revision=weights.revision, variant=weights.variant, use_safetensors=True
            )
            return
        patterns = ["*.json", "*.txt", "*.model", "*.jinja"]
        patterns += [] if weights.layout == "tokenizer" else ["*.safetensors"]
        snapshot_download(weights.model, revision=weights.revision, allow_patterns=patterns)
    except GatedRepoError as error:
        where = f"accept its terms at https://huggingface.co/{weights.model}, then `hf auth login`"
        raise UsageError(f"{weights.model} is gated: {where}.", code="E507") from error
    except RepositoryNotFoundError as error:
        raise UsageError(f"{weights.model} is not on the Hub, or not for you: `hf auth login`.", code="E507") from error
    except (HfHubHTTPError, OSError) as error:
        reason = str(error).splitlines()[0][:160]
        raise EnvironmentFault(f"{weights.model}: {reason}.", code="E513") from error
