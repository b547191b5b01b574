# tries: an async function
# outcomes: unsupported
async def merge_models(task_vectors):
    return task_vectors[0]
