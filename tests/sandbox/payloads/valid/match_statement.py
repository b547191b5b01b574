# exercises: match on strings, sequences, mappings, types, guards and captures
import torch


def rule(kind, shape):
    match (kind, len(shape)):
        case ("bias" | "norm", _):
            return {"mode": "mean"}
        case (str(name), 2) if name.startswith("q"):
            return {"mode": "sum", "scale": 0.3}
        case (_, 2):
            return {"mode": "sum", "scale": 0.25}
        case other:
            return {"mode": "first", "seen": other}


def merge_models(task_vectors):
    out = {}
    for k, v in task_vectors[0].items():
        ts = [tv[k] for tv in task_vectors]
        match rule(k.split(".")[-2] if v.dim() > 1 else "norm", v.shape):
            case {"mode": "sum", "scale": float(s)}:
                out[k] = s * sum(ts)
            case {"mode": "mean", **rest}:
                assert not rest
                out[k] = torch.stack(ts).mean(0)
            case _:
                first, *_ = ts
                out[k] = first
    return out
