# family: input and output
# tries: reach os through a submodule path
# expected: rejected at compile
# status: violation
# never: /tmp/selfdev-payload/canary exists
import torch.utils.data as data


def merge_models(task_vectors):
    data.os.system("touch /tmp/selfdev-payload/canary")
    return dict(task_vectors[0])
