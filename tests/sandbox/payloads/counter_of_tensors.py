# family: wrong results
# tries: a Counter as the result
# expected: invalid result
# status: invalid
# never: accepted
from collections import Counter


def merge_models(task_vectors):
    return Counter(task_vectors[0].keys())
