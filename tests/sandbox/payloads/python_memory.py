# family: memory and work budgets
# tries: fill the child's memory
# expected: killed
# status: memory, timeout
# never: accepted
def merge_models(task_vectors):
    hoard = [0]
    while True:
        hoard = hoard + hoard
