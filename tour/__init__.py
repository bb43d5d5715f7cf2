"""The whole way on the toy world: photographs, corpus, adapters, edits and scores, with a page that shows it all.

Read top to bottom:

    walk       photographs -> corpus -> adapters -> pictures -> readings: `dataforge tour`
    reading    what the painted pictures show: the judge, and a comparison of pixels with renders
    plain_things  a corpus whose regular pictures are other things of the class
    questions  the ablations as data, and what the papers report
    study      their answers: the same steps for many subjects, seeds and settings: `dataforge study`
    page       static pages of all that
    cli        the verbs

This package stands above all others: it calls them as a user would, and only through what they offer everybody.
"""
