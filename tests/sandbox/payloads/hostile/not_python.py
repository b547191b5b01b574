# tries: prose
# outcomes: syntax
Here is the merge function you asked for:
def merge_models(task_vectors): pass
