# tries: an enormous error text with control characters
# outcomes: exception
def merge_models(task_vectors):
    raise ValueError("\x1b[2J\u202e" + "A" * 10 ** 6)
