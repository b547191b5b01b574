# family: input and output
# tries: probe forbidden functions and carry on
# expected: rejected at run time
# status: violation
# never: accepted
import torch


def merge_models(task_vectors):
    for name in ["lo" + "ad", "h" + "ub"]:
        try:
            getattr(torch, name)
        except:
            continue
    return dict(task_vectors[0])
