# exercises: what the pure standard modules import or allocate on first use
import bisect
import collections
import copy
import functools
import heapq
import itertools
import math
import operator
import random
import re
import statistics
import string
import typing


def numbers():
    values = [3.0, 1.5, 2.25, 9.0, 4.5]
    yield statistics.mean(values)
    yield statistics.fmean(values) + statistics.median(values) + statistics.median_low(values)
    yield statistics.pstdev(values) + statistics.variance(values) + statistics.harmonic_mean(values)
    yield statistics.geometric_mean(values) + statistics.mode([1, 1, 2]) + sum(statistics.quantiles(values, n=4))
    yield heapq.nlargest(2, values)[1] + heapq.nsmallest(1, values)[0] + bisect.bisect(sorted(values), 3.0)
    counter = collections.Counter("merge models")
    yield counter.most_common(1)[0][1] + len(list(counter.elements()))
    yield float(re.sub(r"(\d)x", r"\1", "12x") or 0) + len(re.split("[,;]", "a,b;c")) + len(re.findall("e", "merge"))
    yield math.fsum(values) + math.comb(5, 2) + math.dist((0, 0), (3, 4)) + math.isclose(0.1 + 0.2, 0.3)
    yield float(f"{1234.5:,.2f}".replace(",", "")) + len("{:>8}|{!r}".format("a", 1)) + len("%5.2f" % 3.14159)
    yield sum(itertools.accumulate(values, operator.add)) + len(list(itertools.product("ab", repeat=2)))
    yield functools.reduce(operator.mul, values) + sum(copy.copy(values)) + len(copy.deepcopy({"a": [1]})["a"])
    random.seed(4)
    yield random.gauss(0, 1) + random.choice(values) + sum(random.sample(values, 2)) + random.uniform(1, 2)
    yield len(string.ascii_lowercase) + len("äöü".upper()) + sum(divmod(17, 5)) + int("ff", 16) + round(2.675, 2)
    deque = collections.deque(values, maxlen=3)
    deque.appendleft(1.0)
    yield sum(deque) + len(repr(deque)) * 0
    yield float(isinstance(values, list)) + float(typing.cast(float, 2.0))


def merge_models(task_vectors):
    scale = 1 / (1 + abs(sum(n for n in numbers() if math.isfinite(n))))
    return {k: sum(tv[k] for tv in task_vectors) * (0.5 + scale) for k in task_vectors[0]}
