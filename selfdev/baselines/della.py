"""DELLA (arXiv 2406.11617): drop by magnitude rank, elect signs, average what agrees.

    keep_i = DENSITY - EPSILON + 2 EPSILON * rank / (columns - 1),  rank of abs(tau_i) in its row, smallest first
    tau_i <- m_i * tau_i / keep_i,  m_i ~ Bernoulli(keep_i)
    merged = SCALE * mean of the non-zero tau_i that have the sign of sum_i tau_i (+ where the sum is 0)

A vector is one row; a row of one value keeps it with probability DENSITY. Equal magnitudes rank in their order.
RESCALE "probability" divides by keep_i (the paper), "norm" restores each tensor's L1 norm (mergekit).
"""

import torch

DENSITY = 0.6
EPSILON = 0.1
SCALE = 1.0
RESCALE = "probability"
SEED = 0


def stream(name: str, source: int) -> int:
    """A seed for one tensor of one source, from its name: a draw does not depend on what else is merged."""
    value = SEED
    for character in f"{name}/{source}":
        value = (1_000_003 * value + ord(character)) % 2_147_483_647
    return value


def keep_probabilities(rows: torch.Tensor, part: int = 1 << 17) -> torch.Tensor:
    """(rows, columns) -> probability to keep each value, by the rank of its magnitude in its row.

    Ranks are what the method is made of, so here is a sort: first by magnitude, then stably by row, some `part` values
    at once, at least a quarter of all. The bits of magnitudes are in their order, and PyTorch sorts integers on the CPU
    in linear time.
    """
    columns = max(1, rows.shape[1])
    share = torch.full((1,), 0.5, device=rows.device)
    if columns > 1:
        share = torch.arange(columns, device=rows.device).float() / (columns - 1)
    by_rank = (DENSITY - EPSILON + 2.0 * EPSILON * share).clamp(1e-6, 1.0)
    together = max(1, min(rows.shape[0], max(part, rows.numel() // 4) // columns))
    row_of = torch.arange(together, dtype=torch.int32, device=rows.device).repeat_interleave(columns)
    made = []
    for block in torch.split(rows, together):
        order = block.abs().reshape(-1).view(torch.int32).sort(stable=True).indices
        order = order.gather(0, row_of[: block.numel()].gather(0, order).sort(stable=True).indices)
        made.append(torch.empty(block.numel(), device=rows.device).scatter_(0, order, by_rank.repeat(block.shape[0])))
    return torch.cat(made).reshape(rows.shape)


def drop(tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Keep each value with a probability that grows with its rank in its row, and rescale what is kept."""
    rows = tensor.reshape(tensor.shape[0], -1) if tensor.dim() > 1 else tensor.reshape(1, -1)
    keep = keep_probabilities(rows)
    drawn = torch.rand(rows.shape, generator=generator).to(rows.device) < keep
    if RESCALE == "probability":
        kept = (rows * drawn).div_(keep)
    else:
        kept = rows * drawn
        size = kept.abs().sum()
        kept *= torch.where(size > 0, rows.abs().sum() / size, 1.0)
    return kept.reshape(tensor.shape)


def merge_models(task_vectors: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    generator = torch.Generator()
    merged = {}
    for name, reference in task_vectors[0].items():
        total = torch.zeros_like(reference, dtype=torch.float32)
        count = torch.zeros_like(total)
        dropped = []
        for index, vector in enumerate(task_vectors):
            generator.manual_seed(stream(name, index))
            dropped.append(drop(vector[name].float(), generator))
            total += dropped[-1]
        sign = (total >= 0).float().mul_(2.0).sub_(1.0)  # (*shape)
        total.zero_()
        for tensor in dropped:
            agreeing = tensor.mul_(sign).clamp_(min=0.0)  # in place: fresh memory costs more than arithmetic
            total += agreeing
            count += agreeing.sign_()
        merged[name] = total.mul_(sign).mul_(SCALE).div_(count.clamp_(min=1.0)).to(reference.dtype)
    return merged
