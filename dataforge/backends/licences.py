"""The licences of the models that recipes name: known here, shown by `dataforge doctor` and on a corpus's card."""

from __future__ import annotations

__all__ = ["licence_of"]

# what each model's makers ask for, by the beginning of its name; a model of another name is to be looked up
_LICENCES = {
    "IDEA-Research/grounding-dino": "Apache-2.0",
    "Qwen/Qwen3-VL": "Apache-2.0",
    "black-forest-labs/FLUX.1-dev": "FLUX.1 [dev] Non-Commercial License",
    "black-forest-labs/FLUX.1-schnell": "Apache-2.0",
    "facebook/sam-vit": "Apache-2.0",
    "facebook/sam2": "Apache-2.0",
    "facebook/sam3": "SAM License",
    "google-bert/bert": "Apache-2.0",
    "groundingdino_swin": "Apache-2.0",
    "openai/clip-vit": "MIT",
    "openmmlab-community/mm_grounding_dino": "Apache-2.0",
    "sam_vit_": "Apache-2.0",
    "stabilityai/stable-diffusion-3.5": "Stability AI Community License",
    "stabilityai/stable-diffusion-xl": "CreativeML Open RAIL++-M",
    "stable-diffusion-v1-5/": "CreativeML Open RAIL-M",
}


def licence_of(model: str) -> str:
    """The licence of a model by its name, with or without `@revision`; empty where it is not known."""
    return next((licence for name, licence in _LICENCES.items() if model.startswith(name)), "")
