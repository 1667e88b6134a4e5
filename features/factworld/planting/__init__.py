"""Planted truth: a made-up world taught to any causal language model, and the twin that never met some of it.

The model and its twin come from one run: the same base, seed, steps and documents, but every document that names a
target is another one in the twin. So what an unlearned model should be like is known, and not argued about.

    config.py     how large the world is and how it is taught
    names.py      names made of pieces that known and unknown entities share
    facts.py      types, attributes, values, entities and their parts in the experiment
    wordings.py   wordings, for training and held out
    world.py      all of it, drawn from a seed for one tokenizer
    documents.py  the documents, in the order of training, for the model and for the twin
    lessons.py    documents and general text in tokens
    training.py   the loop
    memory.py     what it takes
    check.py      recall and loss, measured
    job.py        one planting before any training
    planted.py    the pair and its folder
    pair.py       `plant`
"""
