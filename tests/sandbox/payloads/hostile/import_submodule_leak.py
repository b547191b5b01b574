# tries: reach os through a submodule path
# outcomes: violation
import torch.utils.data as data


def merge_models(task_vectors):
    data.os.system("touch CANARY")
    return dict(task_vectors[0])
