# family: introspection
# tries: an async function
# expected: rejected at compile
# status: unsupported
# never: accepted
async def merge_models(task_vectors):
    return task_vectors[0]
