"""A small world with a base model of its own, so that the method can be seen and measured with no downloads.

The world is drawn, not photographed: `render` paints captioned scenes of six shapes in seven colours and four textures,
standing before a wall on one of four surfaces, and knows the mask and the box of everything in them. Some things carry
a *mark*, a look outside the vocabulary, which a nonsense word names; a *subject* is a thing known by its mark, whose
colour and texture can be edited. `toyworld/base` is an inpainting model in diffusers format that was trained on such
scenes from scratch, and `toyworld/judge.safetensors` a classifier that reads what a picture shows without asking it.

Read top to bottom:

    words         what can be said: shapes, colours, textures, surfaces; which combinations are held out; captions
    marks         looks outside the vocabulary, those of base training and those kept for subjects
    shapes        the six silhouettes as functions of the plane
    render        a scene -> pixels, masks, boxes
    scenes        random scenes, each a function of (seed, number)
    subjects      subject folders for `dataforge build`, and the exact picture an edit should give
    fitting       what a painted picture shows, by comparing its pixels with renders
    tokenizer     a CLIP vocabulary made by hand
    autoencoder   AutoencoderKL whose encoder is set by hand and whose decoder is trained
    model         text encoder, 9-channel UNet, scheduler; the pipeline
    batches       scenes -> what one step of training sees
    denoiser      one step of training: what is drawn, and the loss
    run, decoder  the two parts of a training run, each resumable
    train         the training script: `python -m toyworld.train --help`
    judge         the classifier
    evaluate      scores with intervals: `python -m toyworld.evaluate --help`
    card          the model card made of both

`words` to `fitting` need numpy and Pillow only; the rest needs the `models` extra. Of the other packages only `tour`
imports this one, and it imports none of them.
"""
