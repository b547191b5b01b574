# family: memory and work budgets
# tries: an enormous error text with control characters
# expected: rejected at run time
# status: exception
# never: accepted
def merge_models(task_vectors):
    raise ValueError("\x1b[2J\u202e" + "A" * 10 ** 6)
