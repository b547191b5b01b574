# family: memory and work budgets
# tries: one endless C call
# expected: killed
# status: timeout, memory
# never: accepted
def merge_models(task_vectors):
    return len(task_vectors) ** (10 ** 9) % 7
