# exercises: asynchronous errors are raised inside the try they belong to
import torch


def attempt(x, y):
    try:
        return x @ y
    except RuntimeError:
        return None


def merge_models(task_vectors):
    out = {}
    failed = 0
    for k, v in task_vectors[0].items():
        if attempt(torch.ones(2, 3), torch.ones(2, 3)) is None:
            failed += 1
        try:
            bad = v.reshape(7, 7, 7)
            out[k] = bad
        except (RuntimeError, ValueError) as error:
            assert "shape" in str(error)
            out[k] = v * 0.5
        else:
            raise AssertionError("no error")
        finally:
            failed += 1
    for _ in range(3):
        try:
            torch.ones(3)[5]
            break
        except IndexError:
            continue
    assert failed == 2 * len(out)
    return out
