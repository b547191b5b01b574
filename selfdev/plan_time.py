"""How long a plan would take on a GPU: estimates from public figures of the devices, never measured here.

Each phase takes the longer of reading memory and computing. Tokens are upper bounds: every sample valid and new, every
answer to its limit, so real runs are shorter. Left out: loading models, training's start, several devices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from selfdev.config import RunConfig
from selfdev.plan import Plan, Shape


@dataclass(frozen=True, slots=True)
class DeviceClass:
    """Public figures of one GPU: memory bandwidth (bytes/s), dense bfloat16 rate (FLOP/s)."""

    name: str
    gigabytes: int
    bandwidth: float
    flops: float


# Vendors' data sheets; without sparsity.
DEVICES = (
    DeviceClass("H100 SXM 80 GB", 80, 3.35e12, 989e12),
    DeviceClass("A100 SXM 80 GB", 80, 2.04e12, 312e12),
    DeviceClass("A100 40 GB", 40, 1.56e12, 312e12),
    DeviceClass("L40S 48 GB", 48, 0.86e12, 362e12),
    DeviceClass("RTX 4090 24 GB", 24, 1.01e12, 165e12),
)
BANDWIDTH_SHARE, FLOPS_SHARE, TRAIN_FLOPS_SHARE = 0.7, 0.55, 0.4  # of the figures above, as usually reached
LAYER_SECONDS = 0.8e-3  # launching the kernels of one layer from Python (transformers); vLLM replays graphs
PROGRAM_PASSES = 10  # passes of one merge program over the task vectors
HOST_BANDWIDTH = 50e9  # bytes/s that element-wise operations reach in the main memory of a server with some 16 threads


def seconds(plan: Plan, config: RunConfig, seed: Shape, generator: Shape, device: DeviceClass) -> dict[str, float]:
    """Estimated seconds of the phases over a whole run, at the shares above of the vendor's figures."""
    work = plan.work
    rows, prompt = min(config.evaluate.batch_size, work.rows), work.shared + work.own
    answer = _decode_seconds(seed, rows, work.rows, prompt, work.answer, device, config.evaluate.engine)
    prefill = 2 * seed.parameters * (work.shared + work.rows * work.own) / (FLOPS_SHARE * device.flops)
    vectors = (len(config.models.sources) + 2) * seed.merged * seed.bytes
    bandwidth = HOST_BANDWIDTH if config.models.merge_on == "host" else BANDWIDTH_SHARE * device.bandwidth
    merging = PROGRAM_PASSES * vectors / bandwidth
    sampling = sum(
        _decode_seconds(generator, rows, count, work.prompt, work.program, device, config.generate.engine)
        for rows, count in (
            (config.generate.batch_size, work.samples),
            (min(config.generate.batch_size, max(1, config.gap.samples)), work.measured),
        )
    )
    # Two sequences a pair; forward and backward of policy (frozen weights: 4 x parameters), forward of the reference.
    flops = (8 if config.train.gradient_checkpointing else 6) * generator.parameters  # per token
    passes = 2 * work.pairs * (work.prompt + work.program) * flops
    return {
        "evaluate": work.evaluations * (answer + prefill + merging),
        "generate": sampling,
        "train": passes / (TRAIN_FLOPS_SHARE * device.flops),
    }


def _decode_seconds(
    shape: Shape, batch: int, rows: int, prompt: int, new: int, device: DeviceClass, engine: str
) -> float:
    """Each step reads the weights once and the cache of every row, on average half filled with new tokens."""
    cache = batch * (prompt + new / 2) * shape.kv_bytes_per_token
    step = (shape.parameters * shape.bytes + cache) / (BANDWIDTH_SHARE * device.bandwidth)
    if engine == "transformers":
        step = max(step, shape.layers * LAYER_SECONDS)
    return math.ceil(rows / batch) * new * step
