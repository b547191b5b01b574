# family: hang
# tries: catastrophic regular expression
# expected: killed
# status: timeout
# never: accepted
import re


def merge_models(task_vectors):
    return re.match(r"(a+)+$", "a" * 40 + "b")
