# family: memory and work budgets
# tries: a result of a huge norm
# expected: invalid result
# status: invalid
# never: accepted
def merge_models(task_vectors):
    return {k: v * 1e6 for k, v in task_vectors[0].items()}
