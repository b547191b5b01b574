# family: wrong results
# tries: prose
# expected: rejected at compile
# status: syntax
# never: accepted
Here is the merge function you asked for:
def merge_models(task_vectors): pass
