# family: memory and work budgets
# tries: one huge string
# expected: killed
# status: memory
# never: accepted
def merge_models(task_vectors):
    return "x" * 10 ** 11
