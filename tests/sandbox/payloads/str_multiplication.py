# family: memory and work budgets
# tries: format with a huge width
# expected: killed
# also acceptable: rejected at run time
# status: memory, exception
# never: accepted
def merge_models(task_vectors):
    text = f"{1:>2000000000}"
    return {text: 1}
