"""Self-improvement of a solver on its own verified answers (Sun et al., arXiv 2507.00075), with cross-improvement.

settings   the configuration and what must not change
problems   training and measurement questions, external answers
sampler    many prompts, many samples each, in batches
selection  which sample the model's own verifier picks; pure
measure    solver and verifier capability on a question, a point, a curve; pure
directory  files: what is there is not done again
improve    the method, in order
summary    tables, fits, forecasts
"""
