# tries: catastrophic regular expression
# outcomes: timeout
import re


def merge_models(task_vectors):
    return re.match(r"(a+)+$", "a" * 40 + "b")
