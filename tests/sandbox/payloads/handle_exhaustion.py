# family: memory and work budgets
# tries: millions of views, which cost no tensor memory
# expected: killed
# status: timeout, memory
# never: accepted
def merge_models(task_vectors):
    x = next(iter(task_vectors[0].values()))
    keep = []
    while True:
        keep.append(x[0:1])
