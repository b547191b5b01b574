"""Apply any merge algorithm to any models, tensor by tensor where the algorithm allows it.

    with Merge(Request(text, "path/to/seed", ("path/to/a", "path/to/b"))) as merge:
        print(merge.plan)
        with new_directory(Path("merged")) as directory:
            merge.write(directory)

`merge_in_memory` does the same for tensors that are in memory. `study` tells how an algorithm can be applied.
"""
