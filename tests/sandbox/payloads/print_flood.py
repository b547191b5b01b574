# family: memory and work budgets
# tries: print without end
# expected: killed
# status: timeout
# never: accepted
def merge_models(task_vectors):
    while True:
        print("score: 1.0" * 1000)
