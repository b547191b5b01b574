# tries: climb frames from an exception
# outcomes: violation
def merge_models(task_vectors):
    try:
        1 / 0
    except ZeroDivisionError as error:
        error.__traceback__.tb_frame.f_globals.clear()
    return dict(task_vectors[0])
