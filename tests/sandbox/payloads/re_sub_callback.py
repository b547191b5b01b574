# family: introspection
# tries: get objects from the frames of a callback of re.sub
# expected: rejected at compile
# status: violation
# never: accepted
import re


def merge_models(task_vectors):
    seen = []
    re.sub("a", lambda m: seen.append(m.__init__.__self__) or "b", "aaa")
    return seen[0]
